//! Which device code stays: [`Plan`].

use std::ops::Range;

use super::error::FatbinError;
use super::format::{CodeKind, Container, Entry};
use super::library::Fatbins;
use super::sm::{Architecture, Sm};

/// What becomes of the regions of a library.
pub(super) struct Plan<'a> {
    /// One for each region, in order.
    pub(super) choices: Vec<Choice<'a>>,
    /// What containers hold that have nothing for any of the GPUs: the smallest entry that none of them can run. The driver
    /// then finds, as before, a container without code for it.
    pub(super) donor: Option<Entry<'a>>,
    /// Payloads in containers elsewhere that none of the GPUs would use, as ranges of memory.
    pub(super) unused: Vec<Range<u64>>,
}

/// What becomes of a region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice<'a> {
    /// It stays where it is, as it is.
    Whole,
    /// It keeps these entries.
    Keep(Vec<Entry<'a>>),
    /// Its wrappers share a container with the donor.
    Donor,
}

impl<'a> Plan<'a> {
    /// Decides for some GPUs.
    ///
    /// # Errors
    /// Where there is no GPU, or no container has code for one of them.
    pub(super) fn new(fatbins: &Fatbins<'a>, gpus: &[Sm]) -> Result<Self, FatbinError> {
        if gpus.is_empty() {
            return Err(FatbinError::NoGpu);
        }
        if let Some(&gpu) = gpus.iter().find(|&&gpu| !fatbins.containers().any(|(_, container)| has_code(container, gpu))) {
            return Err(FatbinError::NoCode { gpu, available: architectures(fatbins) });
        }
        let choices: Vec<Choice<'a>> = fatbins
            .regions
            .iter()
            .map(|region| match region.movable() {
                None => Choice::Whole,
                Some(container) => match kept(container, gpus) {
                    kept if kept.is_empty() => Choice::Donor,
                    kept => Choice::Keep(kept),
                },
            })
            .collect();
        let uncovered = fatbins.regions.iter().zip(&choices).filter(|(_, choice)| **choice == Choice::Donor);
        let unusable = uncovered.filter_map(|(region, _)| region.movable()).flat_map(|container| &container.entries);
        let donor = unusable.min_by_key(|entry| entry.bytes.len()).copied();
        let unused = fatbins.embedded.iter().flat_map(|embedded| {
            let kept = kept(&embedded.container, gpus);
            embedded.payloads(|entry| !kept.iter().any(|kept| kept.bytes.as_ptr() == entry.bytes.as_ptr()))
        });
        Ok(Self { choices, donor, unused: unused.collect() })
    }
}

fn has_code(container: &Container<'_>, gpu: Sm) -> bool {
    !best(container, gpu).is_empty()
}

/// The entries that any of the GPUs would use, in their order.
fn kept<'a>(container: &Container<'a>, gpus: &[Sm]) -> Vec<Entry<'a>> {
    let mut indexes: Vec<usize> = gpus.iter().flat_map(|&gpu| best(container, gpu)).collect();
    indexes.sort_unstable();
    indexes.dedup();
    indexes.into_iter().map(|index| container.entries[index]).collect()
}

/// What one GPU would use: of the machine code that it runs, that for the highest architecture, in all its variants; where there
/// is none, the PTX that it can compile, likewise.
fn best(container: &Container<'_>, gpu: Sm) -> Vec<usize> {
    let highest = |kind: CodeKind, can: fn(Sm, Architecture) -> bool| -> Vec<usize> {
        let usable = |entry: &Entry<'_>| entry.kind == kind && can(gpu, entry.architecture);
        let highest = container.entries.iter().filter(|entry| usable(entry)).map(|entry| entry.architecture.sm).max();
        let is_best = |entry: &Entry<'_>| usable(entry) && Some(entry.architecture.sm) == highest;
        (0..container.entries.len()).filter(|&index| is_best(&container.entries[index])).collect()
    };
    let cubins = highest(CodeKind::Elf, Sm::runs);
    if cubins.is_empty() { highest(CodeKind::Ptx, Sm::compiles) } else { cubins }
}

/// Everything that there is code for, in order.
fn architectures(fatbins: &Fatbins<'_>) -> Vec<Architecture> {
    let entries = fatbins.containers().flat_map(|(_, container)| &container.entries);
    let mut found: Vec<Architecture> = entries.map(|entry| entry.architecture).collect();
    found.sort_unstable();
    found.dedup();
    found
}

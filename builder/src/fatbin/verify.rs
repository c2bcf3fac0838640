//! Proves that a pruned library is the original for the GPUs that it is for.
//!
//! Both files are read anew; nothing is taken over from the plan or the writer. The rule of what a GPU needs is put here in
//! another form: an entry that it can use, where the container has none that it would rather use.

use std::collections::HashMap;
use std::ops::Range;

use super::error::{FatbinDifference, FatbinError};
use super::format::{CodeKind, Container, Entry};
use super::library::Fatbins;
use super::sm::Sm;
use crate::rewrite::{Memory, same_outside};

/// Verifies a pruned library.
///
/// # Errors
/// The first difference, or why one of the two cannot be read.
pub(super) fn verify(before: &[u8], after: &[u8], gpus: &[Sm]) -> Result<(), FatbinError> {
    let (old_memory, new_memory) = (Memory::parse(before)?, Memory::parse(after)?);
    let (old, new) = (Fatbins::read(&old_memory)?, Fatbins::read(&new_memory)?);
    let mut words: Vec<u64> =
        old.regions.iter().filter(|region| region.movable().is_some()).flat_map(|region| region.wrappers.clone()).collect();
    words.sort_unstable();
    // Elsewhere, what no GPU would use may be anything.
    let unused =
        old.embedded.iter().flat_map(|embedded| embedded.payloads(|entry| user(entry, &embedded.container, gpus).is_none()));
    let mut free: Vec<Range<u64>> = old.runs.iter().cloned().chain(unused).collect();
    free.sort_unstable_by_key(|range| range.start);
    same_outside(before, after, &free, &words)?;

    for region in old.regions.iter().filter(|region| region.movable().is_none()) {
        if new_memory.bytes(region.address..region.end()) != Some(region.bytes) {
            return Err(FatbinDifference::Changed { address: region.address, bytes: region.bytes.len() as u64 }.into());
        }
    }
    let targets: HashMap<u64, u64> = new_memory.pointers()?.iter().map(|pointer| (pointer.address, pointer.target)).collect();
    // Containers without use share one: it is looked for once.
    let mut unused = None;
    for region in &old.regions {
        let Some(container) = region.movable() else { continue };
        for &address in &region.wrappers {
            let target = targets.get(&address).copied().unwrap_or(0);
            let found = new.at(target).and_then(|region| region.movable());
            let found = found.ok_or(FatbinDifference::Astray { address, target })?;
            if container.entries.iter().any(|entry| user(entry, container, gpus).is_some()) {
                same_use(region.address, container, found, gpus)?;
            } else if unused != Some(target) {
                same_uselessness(region.address, &old, found, gpus)?;
                unused = Some(target);
            }
        }
    }
    Ok(())
}

/// A GPU that would use an entry.
fn user(entry: &Entry<'_>, container: &Container<'_>, gpus: &[Sm]) -> Option<Sm> {
    let is_usable = |entry: &Entry<'_>, gpu: Sm| match entry.kind {
        CodeKind::Elf => gpu.runs(entry.architecture),
        CodeKind::Ptx => gpu.compiles(entry.architecture),
    };
    let is_preferred = |other: &Entry<'_>| match (other.kind, entry.kind) {
        (CodeKind::Elf, CodeKind::Ptx) => true,
        (CodeKind::Ptx, CodeKind::Elf) => false,
        _ => other.architecture.sm > entry.architecture.sm,
    };
    let uses =
        |&gpu: &Sm| is_usable(entry, gpu) && !container.entries.iter().any(|other| is_usable(other, gpu) && is_preferred(other));
    gpus.iter().copied().find(uses)
}

/// What is there comes from the container, in its order, and everything that a GPU would use is there.
fn same_use(address: u64, old: &Container<'_>, new: &Container<'_>, gpus: &[Sm]) -> Result<(), FatbinDifference> {
    let mut left = new.entries.iter().peekable();
    for entry in &old.entries {
        if left.next_if(|found| found.bytes == entry.bytes).is_none()
            && let Some(gpu) = user(entry, old, gpus)
        {
            return Err(FatbinDifference::Missing { container: address, architecture: entry.architecture, gpu });
        }
    }
    match left.next() {
        Some(entry) => Err(FatbinDifference::Foreign { container: address, architecture: entry.architecture }),
        None => Ok(()),
    }
}

/// What is there comes from the library, and no GPU can use it.
fn same_uselessness(address: u64, old: &Fatbins<'_>, new: &Container<'_>, gpus: &[Sm]) -> Result<(), FatbinDifference> {
    for entry in &new.entries {
        let is_original =
            || old.containers().flat_map(|(_, container)| &container.entries).any(|known| known.bytes == entry.bytes);
        if user(entry, new, gpus).is_some() || !is_original() {
            return Err(FatbinDifference::Foreign { container: address, architecture: entry.architecture });
        }
    }
    Ok(())
}

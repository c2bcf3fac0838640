//! Where the fatbins of a library are, and what uses them: [`Fatbins`].

use std::collections::BTreeMap;
use std::ops::Range;

use super::embedded::Embedded;
use super::error::FatbinError;
use super::format::{ALIGN, Container, Flaw};
use crate::rewrite::{Memory, Pointer};

/// Bytes of a wrapper: magic, version, the address of the data, the address of a file name or list.
const WRAPPER: usize = 24;
/// Magic and version of a wrapper whose data is one container.
const WRAPPER_HEAD: [u8; 8] = [0xb1, 0x43, 0x62, 0x46, 1, 0, 0, 0];
/// Offset of the data's address.
const WRAPPER_DATA: u64 = 8;

/// The device code of a library.
pub(super) struct Fatbins<'a> {
    /// The section's memory: sorted, apart, more than one where holes were cut out.
    pub(super) runs: Vec<Range<u64>>,
    /// Everything in it but padding, by address.
    pub(super) regions: Vec<Region<'a>>,
    /// Containers elsewhere, by address.
    pub(super) embedded: Vec<Embedded<'a>>,
}

/// A part of the section that is kept or given up as one.
pub(super) struct Region<'a> {
    pub(super) address: u64,
    pub(super) bytes: &'a [u8],
    /// Which run it is in.
    pub(super) run: usize,
    /// The words of wrappers that point at it.
    pub(super) wrappers: Vec<u64>,
    pub(super) content: Content<'a>,
}

/// What a region holds.
pub(super) enum Content<'a> {
    /// A container that only wrappers use.
    Movable(Container<'a>),
    /// Something that has to stay, and what could be read of it.
    Whole(Option<Container<'a>>, WhyWhole),
}

/// Why a part of the device code stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WhyWhole {
    /// It is damaged, or of an unknown kind.
    #[error(transparent)]
    Flaw(#[from] Flaw),
    /// Nothing that is known uses it, so something unknown may.
    #[error("no wrapper points at it")]
    NoWrapper,
    /// Something else than a wrapper uses it.
    #[error("the word at {address:#x} points at it, which is no wrapper of version 1")]
    Pointer {
        /// Address of the word.
        address: u64,
    },
    /// Other libraries can look it up.
    #[error("a dynamic symbol names it")]
    Symbol,
    /// Containers start at multiples of eight.
    #[error("its address is no multiple of 8")]
    Unaligned,
}

impl<'a> Fatbins<'a> {
    /// Reads the device code of a library.
    ///
    /// # Errors
    /// Where there is none, or it lies in writable memory, or the library is damaged.
    pub(super) fn read(memory: &Memory<'a>) -> Result<Self, FatbinError> {
        let runs = memory.section(b".nv_fatbin");
        if let Some(run) = runs.iter().find(|run| !run.is_read_only) {
            return Err(FatbinError::Writable { address: run.address });
        }
        let ranges: Vec<Range<u64>> = runs.iter().map(|run| run.address..run.address + run.bytes.len() as u64).collect();
        let is_inside = |address: u64| ranges.iter().any(|range| range.contains(&address));
        let (pointers, symbols) = (memory.pointers()?, memory.definitions()?);
        let embedded = Embedded::find(memory, &pointers, &symbols);
        let pointers: Vec<Pointer> = pointers.into_iter().filter(|pointer| is_inside(pointer.target)).collect();
        let symbols: Vec<u64> = symbols.into_iter().filter(|&address| is_inside(address)).collect();
        let mut starts: Vec<u64> = pointers.iter().map(|pointer| pointer.target).chain(symbols.iter().copied()).collect();
        starts.sort_unstable();
        starts.dedup();

        let mut regions = Vec::new();
        for (index, run) in runs.iter().enumerate() {
            scan(run.address, run.bytes, index, &starts, &mut regions);
        }
        if regions.is_empty() {
            return Err(FatbinError::NoDeviceCode);
        }
        use_by_pointers(&mut regions, &pointers, &wrapper_words(memory));
        let mut symbols = symbols;
        symbols.sort_unstable();
        for region in &mut regions {
            if symbols.binary_search(&region.address).is_ok() {
                region.keep_whole(WhyWhole::Symbol);
            } else if !region.address.is_multiple_of(ALIGN) {
                region.keep_whole(WhyWhole::Unaligned);
            } else if region.wrappers.is_empty() {
                region.keep_whole(WhyWhole::NoWrapper);
            }
        }
        Ok(Self { runs: ranges, regions, embedded })
    }

    /// A library without any that can be pruned.
    pub(super) fn none() -> Self {
        Self { runs: Vec::new(), regions: Vec::new(), embedded: Vec::new() }
    }

    /// The containers that can be read, with their regions.
    pub(super) fn containers(&self) -> impl Iterator<Item = (&Region<'a>, &Container<'a>)> {
        self.regions.iter().filter_map(|region| match &region.content {
            Content::Movable(container) | Content::Whole(Some(container), _) => Some((region, container)),
            Content::Whole(None, _) => None,
        })
    }

    /// The region that starts at an address.
    pub(super) fn at(&self, address: u64) -> Option<&Region<'a>> {
        self.regions.binary_search_by_key(&address, |region| region.address).ok().map(|index| &self.regions[index])
    }
}

impl<'a> Region<'a> {
    /// The container, if it can be moved.
    pub(super) fn movable(&self) -> Option<&Container<'a>> {
        match &self.content {
            Content::Movable(container) => Some(container),
            Content::Whole(..) => None,
        }
    }

    /// Where it ends in memory.
    pub(super) fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }

    /// The first reason counts.
    fn keep_whole(&mut self, because: WhyWhole) {
        let nothing = Content::Whole(None, WhyWhole::NoWrapper);
        self.content = match std::mem::replace(&mut self.content, nothing) {
            Content::Movable(container) => Content::Whole(Some(container), because),
            whole @ Content::Whole(..) => whole,
        };
    }
}

/// Divides a run into regions. No region extends over an address that something points at.
fn scan<'a>(address: u64, bytes: &'a [u8], run: usize, starts: &[u64], regions: &mut Vec<Region<'a>>) {
    let mut at = 0;
    loop {
        let next_start =
            |at: u64| starts.get(starts.partition_point(|&start| start < at)).map(|start| (start - address) as usize);
        let next_byte = bytes[at..].iter().position(|&byte| byte != 0).map(|zeros| at + zeros);
        let Some(start) = next_byte.into_iter().chain(next_start(address + at as u64).filter(|&start| start < bytes.len())).min()
        else {
            return;
        };
        let limit = next_start(address + start as u64 + 1).map_or(bytes.len(), |start| start.min(bytes.len()));
        let room = &bytes[start..limit];
        let (length, content) = match Container::size(room) {
            Ok(size) => match Container::parse(room) {
                Ok(container) => (size, Content::Movable(container)),
                Err(flaw) => (size, Content::Whole(None, flaw.into())),
            },
            Err(flaw) => (room.len(), Content::Whole(None, flaw.into())),
        };
        let bytes = &room[..length];
        regions.push(Region { address: address + start as u64, bytes, run, wrappers: Vec::new(), content });
        at = start + length;
    }
}

/// The words of all wrappers of version 1 that hold the address of their data.
fn wrapper_words(memory: &Memory<'_>) -> Vec<u64> {
    let mut words = Vec::new();
    for run in memory.section(b".nvFatBinSegment") {
        for (index, wrapper) in run.bytes.chunks_exact(WRAPPER).enumerate() {
            if wrapper.starts_with(&WRAPPER_HEAD) {
                words.push(run.address + (index * WRAPPER) as u64 + WRAPPER_DATA);
            }
        }
    }
    words.sort_unstable();
    words
}

/// Tells regions which words point at them.
fn use_by_pointers(regions: &mut [Region<'_>], pointers: &[Pointer], wrappers: &[u64]) {
    let by_address: BTreeMap<u64, usize> = regions.iter().enumerate().map(|(index, region)| (region.address, index)).collect();
    for pointer in pointers {
        // Every target within the section is the start of a region.
        let Some(&index) = by_address.get(&pointer.target) else { continue };
        if pointer.is_relative && wrappers.binary_search(&pointer.address).is_ok() {
            regions[index].wrappers.push(pointer.address);
        } else {
            regions[index].keep_whole(WhyWhole::Pointer { address: pointer.address });
        }
    }
}

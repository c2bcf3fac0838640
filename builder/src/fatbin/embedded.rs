//! Containers that a library finds by itself, without wrappers: [`Embedded`].
//!
//! cuBLASLt keeps some in a section of its own, `.cask_resource`, and hands them to the driver by tables that are not understood
//! here. They stay where they are, with all their headers: what a GPU would pick of each is untouched, and the payloads that it
//! would pass over read as zeros, so that their pages need not be in the file.

use std::ops::Range;

use super::format::{ALIGN, CONTAINER_HEADER, Container, Entry, MAGIC};
use crate::rewrite::{Memory, Pointer};

/// The sections that are searched.
const SECTION: &[u8] = b".cask_resource";

/// A container that stays in its place.
pub(super) struct Embedded<'a> {
    pub(super) address: u64,
    pub(super) container: Container<'a>,
}

impl<'a> Embedded<'a> {
    /// Finds them in read-only memory, by their headers. What is damaged, or is pointed into, is none and stays as it is.
    pub(super) fn find(memory: &Memory<'a>, pointers: &[Pointer], symbols: &[u64]) -> Vec<Self> {
        let mut targets: Vec<u64> = pointers.iter().map(|pointer| pointer.target).chain(symbols.iter().copied()).collect();
        targets.sort_unstable();
        let mut found = Vec::new();
        for run in memory.section(SECTION).into_iter().filter(|run| run.is_read_only) {
            let aligned = run.address.next_multiple_of(ALIGN) - run.address;
            let mut at = aligned as usize;
            while at < run.bytes.len() {
                let container = match run.bytes[at..].starts_with(&MAGIC) {
                    true => Container::parse(&run.bytes[at..]).ok(),
                    false => None,
                };
                let Some(container) = container else {
                    at += ALIGN as usize;
                    continue;
                };
                let address = run.address + at as u64;
                let end = address + container.bytes.len() as u64;
                at += container.bytes.len();
                let inside = targets.partition_point(|&target| target <= address);
                if targets.get(inside).is_none_or(|&target| target >= end) {
                    found.push(Self { address, container });
                }
            }
        }
        found
    }

    /// The payloads of the entries that are of no use, as ranges of memory.
    pub(super) fn payloads(&self, is_unused: impl Fn(&Entry<'a>) -> bool) -> Vec<Range<u64>> {
        let mut ranges = Vec::new();
        let mut at = self.address + CONTAINER_HEADER as u64;
        for entry in &self.container.entries {
            let end = at + entry.bytes.len() as u64;
            if is_unused(entry) {
                ranges.push(end - entry.payload().len() as u64..end);
            }
            at = end;
        }
        ranges
    }
}

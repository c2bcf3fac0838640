//! Device code outside of the sections that are pruned, which is listed alone: [`Found`].
//!
//! cuFFT keeps its containers in `.data`, 18,000 of them in version 12.5. That memory can be written to, so that nothing in the file
//! proves that the library does not read or change what a GPU would pass over.

use super::format::{ALIGN, Container, MAGIC};
use crate::rewrite::Memory;

/// The sections that are searched.
const SECTIONS: [&str; 6] = [".data", ".ldata", ".data.rel.ro", ".rodata", ".lrodata", ".cask_resource"];

/// The containers of one section.
pub(super) struct Found<'a> {
    pub(super) section: &'static str,
    pub(super) is_read_only: bool,
    pub(super) containers: Vec<Container<'a>>,
}

/// Finds containers by their headers, section by section. What is damaged is passed over, as are those at `known` addresses.
pub(super) fn find<'a>(memory: &Memory<'a>, known: &[u64]) -> Vec<Found<'a>> {
    let mut all = Vec::new();
    for section in SECTIONS {
        let mut found = Found { section, is_read_only: true, containers: Vec::new() };
        for run in memory.section(section.as_bytes()) {
            let mut at = (run.address.next_multiple_of(ALIGN) - run.address) as usize;
            while at < run.bytes.len() {
                let is_known = known.contains(&(run.address + at as u64));
                let container = match run.bytes[at..].starts_with(&MAGIC) && !is_known {
                    true => Container::parse(&run.bytes[at..]).ok(),
                    false => None,
                };
                let Some(container) = container else {
                    at += ALIGN as usize;
                    continue;
                };
                at += container.bytes.len().next_multiple_of(ALIGN as usize);
                found.is_read_only &= run.is_read_only;
                found.containers.push(container);
            }
        }
        if !found.containers.is_empty() {
            all.push(found);
        }
    }
    all
}

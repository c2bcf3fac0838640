//! Packs what stays to the front of the section, and clears what stays elsewhere in vain.

use std::fs::File;

use super::error::FatbinError;
use super::format::{ALIGN, CONTAINER_HEADER, Entry, MAGIC};
use super::library::Fatbins;
use super::plan::{Choice, Plan};
use crate::rewrite::{Arrangement, Memory};

/// Writes the planned library to an empty file.
///
/// No container moves to a higher address than it had, so what is packed never reaches what stays in its place.
///
/// # Errors
/// Where the library cannot be rearranged so, or the file cannot be written.
pub(super) fn write<'a>(
    memory: &Memory<'a>,
    fatbins: &Fatbins<'a>,
    plan: &Plan<'a>,
    target: &mut File,
) -> Result<(), FatbinError> {
    let mut arrangement = Arrangement::default();
    let mut donor_at = None;
    let mut regions = fatbins.regions.iter().zip(&plan.choices).peekable();
    for (index, run) in fatbins.runs.iter().enumerate() {
        let mut cursor = run.start;
        while let Some((region, choice)) = regions.next_if(|(region, _)| region.run == index) {
            let at = match choice {
                Choice::Whole => {
                    arrangement.free.push(cursor..region.address);
                    cursor = region.end();
                    continue;
                }
                Choice::Keep(entries) => put(&mut arrangement, &mut cursor, entries),
                Choice::Donor => {
                    let mut place = || put(&mut arrangement, &mut cursor, plan.donor.as_slice());
                    *donor_at.get_or_insert_with(&mut place)
                }
            };
            arrangement.pointers.extend(region.wrappers.iter().map(|&word| (word, at)));
        }
        arrangement.free.push(cursor..run.end);
    }
    arrangement.free.extend(plan.unused.iter().cloned());
    arrangement.free.retain(|range| !range.is_empty());
    Ok(memory.rearrange(arrangement, target)?)
}

/// Puts a container where the cursor is, and says where.
fn put<'a>(arrangement: &mut Arrangement<'a>, cursor: &mut u64, entries: &[Entry<'a>]) -> u64 {
    let at = cursor.next_multiple_of(ALIGN);
    if at > *cursor {
        arrangement.free.push(*cursor..at);
    }
    let size: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
    let mut header = Vec::with_capacity(CONTAINER_HEADER);
    header.extend(MAGIC);
    header.extend(1u16.to_le_bytes());
    header.extend((CONTAINER_HEADER as u16).to_le_bytes());
    header.extend((size as u64).to_le_bytes());
    arrangement.blocks.push((at, header.into()));
    let mut address = at + CONTAINER_HEADER as u64;
    for entry in entries {
        arrangement.blocks.push((address, entry.bytes.into()));
        address += entry.bytes.len() as u64;
    }
    *cursor = address;
    at
}

//! The one writer that all transformations share: [`Draft`].
//!
//! A draft starts as the library itself. Transformations vacate the ranges of memory whose tables they replace, place new
//! tables in the vacant room, patch writable memory, clear what nothing uses any more, and drop sections. No address that is
//! still used ever moves. [`Draft::finish`] then lays the file out anew: page-aligned runs that are vacant or cleared are cut
//! out of it, and their segments are split around them, so that they read as zeros without taking room in the file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use object::elf;

use super::error::RewriteError;
use super::layout::{self, Image};
use super::library::{HEADER_BYTES, Library, Table};
use super::record::{Entry, Record, Section, Segment, to_bytes};

/// Shorter runs stay in the file: each cut costs a mapping when the library is loaded.
const SHORTEST_CUT: u64 = 64 << 10;

/// A library that is being changed.
pub(super) struct Draft<'a> {
    pub(super) library: &'a Library<'a>,
    /// Bytes of the writable segments that were patched, by position in the program headers.
    patched: BTreeMap<usize, Vec<u8>>,
    /// Ranges of read-only memory that are free: sorted, apart.
    vacant: Vec<Range<u64>>,
    /// Ranges that shall read as zeros, and hold nothing else.
    cleared: Vec<Range<u64>>,
    /// New tables and other replaced bytes by address.
    placed: BTreeMap<u64, Cow<'a, [u8]>>,
    pub(super) rows: Vec<Row>,
    pub(super) program_headers: ProgramHeaders,
    /// Needed libraries that are taken off the list.
    pub(super) dropped: Vec<String>,
}

/// A section header of the draft.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) section: Section,
    pub(super) name: Vec<u8>,
    pub(super) is_dropped: bool,
}

/// Where the program headers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgramHeaders {
    /// Where they were, as many as there were.
    InPlace,
    /// At an address, with room for some.
    Placed { address: u64, capacity: usize },
    /// Behind everything else, not in memory.
    Appended,
}

/// What lies in a part of memory instead of the library's own bytes.
pub(super) enum Edit<'a> {
    Bytes(Cow<'a, [u8]>),
    Zeros,
}

impl<'a> Draft<'a> {
    pub(super) fn new(library: &'a Library<'a>) -> Self {
        let row = |section: &Section| Row {
            section: *section,
            name: library.section_name(section).to_vec(),
            is_dropped: section.kind == elf::SHT_NULL.0,
        };
        Self {
            library,
            patched: BTreeMap::new(),
            vacant: Vec::new(),
            cleared: Vec::new(),
            placed: BTreeMap::new(),
            rows: library.sections.iter().map(row).collect(),
            program_headers: ProgramHeaders::InPlace,
            dropped: Vec::new(),
        }
    }

    /// Frees a range of read-only memory.
    ///
    /// # Errors
    /// Where it is not read-only memory with bytes in the file, or free already.
    pub(super) fn vacate(&mut self, range: Range<u64>, field: &'static str) -> Result<(), RewriteError> {
        let wrong = |problem| RewriteError::Inconsistent { field, found: range.start, problem };
        let holds = |segment: &&Segment| {
            segment.is_load() && segment.address <= range.start && range.end <= segment.address + segment.file_size
        };
        match self.library.segments.iter().find(holds) {
            Some(segment) if !segment.is_writable() => {}
            _ => return Err(wrong("is not in read-only memory")),
        }
        if range.start < self.base() + HEADER_BYTES {
            return Err(wrong("overlaps the header"));
        }
        let at = self.vacant.partition_point(|free| free.start < range.start);
        let before = at.checked_sub(1).and_then(|before| self.vacant.get(before));
        let after = self.vacant.get(at);
        if before.is_some_and(|free| range.start < free.end) || after.is_some_and(|free| free.start < range.end) {
            return Err(wrong("overlaps another table"));
        }
        self.vacant.insert(at, range);
        let library = self.library;
        self.vacant.dedup_by(|next, free| {
            let is_one = free.end == next.start || library.is_padding(free.end..next.start);
            if is_one {
                free.end = next.end;
            }
            is_one
        });
        Ok(())
    }

    /// Lets a range read as zeros. Nothing may be placed there.
    pub(super) fn clear(&mut self, range: Range<u64>) -> Result<(), RewriteError> {
        self.vacate(range.clone(), "cleared range")?;
        self.cleared.push(range);
        Ok(())
    }

    /// Puts a new table into the first vacant range that has room, and says at which address.
    ///
    /// # Errors
    /// Where no range has room.
    pub(super) fn place(&mut self, bytes: Vec<u8>, align: u64, table: &'static str) -> Result<u64, RewriteError> {
        let size = bytes.len() as u64;
        let is_cleared =
            |range: &Range<u64>| self.cleared.iter().any(|cleared| cleared.start < range.end && range.start < cleared.end);
        let fits = |range: &Range<u64>| {
            let start = range.start.next_multiple_of(align);
            (!is_cleared(range) && start.checked_add(size)? <= range.end).then_some(start)
        };
        let found = self.vacant.iter().enumerate().find_map(|(index, range)| fits(range).map(|start| (index, start)));
        let Some((index, start)) = found else {
            let available = self.vacant.iter().map(|range| range.end - range.start).max().unwrap_or(0);
            return Err(RewriteError::NoRoom { table, needed: size, available });
        };
        let range = self.vacant[index].clone();
        let rest = [range.start..start, start + size..range.end];
        self.vacant.splice(index..=index, rest.into_iter().filter(|rest| !rest.is_empty()));
        if size > 0 {
            self.placed.insert(start, bytes.into());
        }
        Ok(start)
    }

    /// Puts other bytes in the place of those at an address of read-only memory.
    ///
    /// # Errors
    /// Where it is not read-only memory with bytes in the file, or is free or replaced already.
    pub(super) fn replace(&mut self, address: u64, bytes: Cow<'a, [u8]>) -> Result<(), RewriteError> {
        let wrong = |problem| RewriteError::Inconsistent { field: "replaced range", found: address, problem };
        let end = address.checked_add(bytes.len() as u64).ok_or_else(|| wrong("is larger than any memory"))?;
        let is_read_only = self.library.segments.iter().any(|segment| {
            segment.is_load()
                && !segment.is_writable()
                && segment.address <= address
                && end <= segment.address + segment.file_size
        });
        if !is_read_only || address < self.base() + HEADER_BYTES {
            return Err(wrong("is not in read-only memory"));
        }
        let before = self.placed.range(..end).next_back();
        let is_placed = before.is_some_and(|(&start, bytes)| address < start + bytes.len() as u64);
        if is_placed || self.vacant.iter().any(|free| free.start < end && address < free.end) {
            return Err(wrong("overlaps another one"));
        }
        if !bytes.is_empty() {
            self.placed.insert(address, bytes);
        }
        Ok(())
    }

    /// Makes sure that the program headers have room for every split that may become necessary. Called before anything
    /// else is placed, it keeps them in the file's first page.
    pub(super) fn reserve_program_headers(&mut self) -> Result<(), RewriteError> {
        if let Some(range) = self.library.program_headers() {
            self.vacate(range, "program headers")?;
        }
        let capacity = self.library.segments.len() + self.vacant.len() + 1;
        let room = vec![0; Segment::BYTES * capacity];
        self.program_headers = match self.place(room, 8, "program headers") {
            Ok(address) => ProgramHeaders::Placed { address, capacity },
            Err(_) => ProgramHeaders::Appended,
        };
        Ok(())
    }

    /// Does so where enough room became free for a cut.
    pub(super) fn reserve_program_headers_for_cuts(&mut self) -> Result<(), RewriteError> {
        if self.holes().is_empty() { Ok(()) } else { self.reserve_program_headers() }
    }

    /// The address at which the file's header is.
    pub(super) fn base(&self) -> u64 {
        self.library.segments.iter().find(|segment| segment.is_load()).map_or(0, |segment| segment.address)
    }

    /// Whether the word at an address can be patched.
    pub(super) fn is_patchable(&self, address: u64) -> bool {
        self.patchable(address, 8).is_some()
    }

    /// The writable segment that has some bytes at an address.
    fn patchable(&self, address: u64, size: u64) -> Option<usize> {
        self.library.segments.iter().position(|segment| {
            let has = |end: u64| segment.address <= address && end <= segment.address + segment.file_size;
            segment.is_load() && segment.is_writable() && address.checked_add(size).is_some_and(has)
        })
    }

    /// Overwrites bytes of writable memory.
    ///
    /// # Errors
    /// Where they are not in the file, or not writable.
    pub(super) fn patch(&mut self, address: u64, bytes: &[u8]) -> Result<(), RewriteError> {
        let wrong = || RewriteError::Inconsistent { field: "patch", found: address, problem: "is not in writable memory" };
        let index = self.patchable(address, bytes.len() as u64).ok_or_else(wrong)?;
        let segment = &self.library.segments[index];
        let original = self.library.slice(segment.offset, segment.file_size).ok_or_else(wrong)?;
        let copy = self.patched.entry(index).or_insert_with(|| original.to_vec());
        let at = (address - segment.address) as usize;
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Writes the dynamic segment.
    ///
    /// # Errors
    /// Where it has too few entries, or cannot be written to.
    pub(super) fn set_dynamic(&mut self, entries: &[Entry]) -> Result<(), RewriteError> {
        let range = self.library.dynamic_range.clone();
        let available = range.end - range.start;
        let mut bytes = to_bytes(entries);
        let needed = (bytes.len() + Entry::BYTES) as u64;
        if needed > available {
            return Err(RewriteError::NoRoom { table: ".dynamic", needed, available });
        }
        bytes.resize(available as usize, 0);
        self.patch(range.start, &bytes)
    }

    /// The section header of a table of the original.
    pub(super) fn row(&mut self, table: Table) -> Option<&mut Row> {
        let address = self.library.tag(table.tag())?;
        self.rows.iter_mut().find(|row| {
            row.section.kind == kind_of(table) && row.section.address == address && row.section.is_allocated() && !row.is_dropped
        })
    }

    /// The page-aligned ranges that are cut out of the file.
    pub(super) fn holes(&self) -> Vec<Range<u64>> {
        let page = self.library.kinds.page;
        let aligned = |range: &Range<u64>| range.start.next_multiple_of(page)..range.end / page * page;
        self.vacant.iter().map(aligned).filter(|hole| hole.end.saturating_sub(hole.start) >= SHORTEST_CUT).collect()
    }

    /// Lays the new file out.
    ///
    /// # Errors
    /// Where the headers do not fit together.
    pub(super) fn finish(mut self) -> Result<Image<'a>, RewriteError> {
        if self.program_headers == ProgramHeaders::InPlace && !self.holes().is_empty() {
            self.reserve_program_headers()?;
        }
        layout::lay_out(self)
    }

    /// What changed in memory, by address.
    pub(super) fn take_edits(&mut self) -> BTreeMap<u64, (u64, Edit<'a>)> {
        let vacant = std::mem::take(&mut self.vacant).into_iter().map(|range| (range.start, (range.end, Edit::Zeros)));
        let placed = std::mem::take(&mut self.placed).into_iter();
        let placed = placed.map(|(start, bytes)| (start, (start + bytes.len() as u64, Edit::Bytes(bytes))));
        vacant.chain(placed).collect()
    }

    /// The patched bytes of a segment.
    pub(super) fn patched(&self, segment: usize) -> Option<&[u8]> {
        self.patched.get(&segment).map(Vec::as_slice)
    }
}

/// The section type of a table.
pub(super) fn kind_of(table: Table) -> u32 {
    match table {
        Table::Symbols => elf::SHT_DYNSYM,
        Table::Versions => elf::SHT_GNU_VERSYM,
        Table::VersionDefinitions => elf::SHT_GNU_VERDEF,
        Table::VersionNeeds => elf::SHT_GNU_VERNEED,
        Table::GnuHash => elf::SHT_GNU_HASH,
        Table::SysVHash => elf::SHT_HASH,
        Table::Strings => elf::SHT_STRTAB,
        Table::Relocations | Table::SlotRelocations => elf::SHT_RELA,
        Table::PackedRelocations => elf::SHT_RELR,
    }
    .0
}

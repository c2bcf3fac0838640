//! Compares what a loader makes of a library with what it makes of its rewritten form.
//!
//! Both files are read anew. Every byte of memory must be equal but for the tables that only the loader reads; every word
//! that the loader fills in must get the same content, with lookups resolved over the closure; every lookup of the neighbours,
//! and of the names that the rules keep, must end at the same definition; and what the dynamic segment says must be the same.
//! Where a caller rearranges memory and checks that itself, it says so by [`Exempt`].

use std::ops::Range;

use object::elf;

use super::bind::BindRules;
use super::error::{Difference, RewriteError};
use super::library::{HEADER_BYTES, Library, Table};
use super::neighbours::{Neighbours, PACKED_VERSION};
use super::record::{Record, Segment, Symbol};
use super::tables::TABLES;
use super::words::{Word, words};
use crate::elf::{Dynamic, SymbolName, VersionNeed, WantedVersion};

/// What may differ because someone else compares it.
#[derive(Debug, Default)]
pub(super) struct Exempt<'a> {
    /// Ranges of memory: sorted, apart.
    pub(super) ranges: &'a [Range<u64>],
    /// Addresses of words that hold an address before and after: sorted.
    pub(super) pointers: &'a [u64],
    /// Names that are no longer needed.
    pub(super) dropped: &'a [String],
}

/// Verifies that a rewritten library is the original once it is loaded.
///
/// # Errors
/// The first [`Difference`], or why one of the two cannot be read.
pub(super) fn verify(
    before: &[u8],
    after: &[u8],
    rules: &BindRules,
    dropped: &[String],
    neighbours: &Neighbours<'_>,
) -> Result<(), RewriteError> {
    verify_but(before, after, rules, neighbours, &Exempt { dropped, ..Exempt::default() })
}

/// Verifies so all but what is exempt.
///
/// # Errors
/// As [`verify`].
pub(super) fn verify_but(
    before: &[u8],
    after: &[u8],
    rules: &BindRules,
    neighbours: &Neighbours<'_>,
    exempt: &Exempt<'_>,
) -> Result<(), RewriteError> {
    let (before, after) = (Library::parse(before)?, Library::parse(after)?);
    same_shape(&before, &after)?;
    same_dynamic_segment(&before, &after, exempt.dropped)?;
    let tables = tables(&before)?;
    for range in self::tables(&after)? {
        if !tables.iter().any(|old| old.start <= range.start && range.end <= old.end) {
            let found = format!("{range:x?}");
            return Err(property("new table", found, "in the room of the old ones").into());
        }
    }
    let (old_words, new_words) = (words(&before, neighbours)?, words(&after, neighbours)?);
    same_words(&after, &old_words, &new_words, &tables, exempt)?;
    let word_ranges = merged_words(&old_words, &new_words);
    same_memory(&before, &after, [&tables, &word_ranges, exempt.ranges])?;
    same_lookups(&before, &after, rules, neighbours)?;
    Ok(())
}

fn property(field: &'static str, found: impl ToString, expected: impl ToString) -> Difference {
    Difference::Property { field, found: found.to_string(), expected: expected.to_string() }
}

/// Compares two values of a property.
fn same<T: PartialEq + std::fmt::Debug>(field: &'static str, before: T, after: T) -> Result<(), Difference> {
    if before == after { Ok(()) } else { Err(property(field, format!("{after:x?}"), format!("{before:x?}"))) }
}

/// The segments must put the same memory at the same place with the same rights, in a way that a loader takes.
fn same_shape(before: &Library<'_>, after: &Library<'_>) -> Result<(), Difference> {
    same("header", (before.header.kind, before.header.machine, before.header.entry, before.header.flags), {
        (after.header.kind, after.header.machine, after.header.entry, after.header.flags)
    })?;
    same("memory", memory(before), memory(after))?;
    let others = |library: &Library<'_>| -> Vec<(u32, u32, u64, u64, u64, u64)> {
        let is_other = |segment: &&Segment| !segment.is_load() && segment.kind != elf::PT_PHDR.0;
        let fields = |segment: &Segment| {
            (segment.kind, segment.flags, segment.address, segment.file_size, segment.memory_size, segment.align)
        };
        library.segments.iter().filter(is_other).map(fields).collect()
    };
    same("segments", others(before), others(after))?;
    table_is_readable(after)?;
    let loads = before.segments.iter().filter(|segment| segment.is_load());
    let page = loads.map(|load| load.align).min().unwrap_or(1).clamp(1, after.kinds.page);
    let mut pages_end = 0;
    for segment in &after.segments {
        if segment.is_load() {
            if segment.align < page || segment.offset % segment.align != segment.address % segment.align {
                return Err(property("segment alignment", format!("{:#x}", segment.align), format!("{page:#x}")));
            }
            // What one segment maps may not lie over what the one before it has in memory.
            if segment.address / page * page < pages_end && segment.file_size > 0 {
                return Err(property("segment", format!("{:#x}", segment.address), format!("at least {pages_end:#x}")));
            }
            pages_end = segment.end();
        } else if segment.file_size > 0 {
            let range = segment.address..segment.address + segment.file_size;
            let in_file = after.slice(segment.offset, segment.file_size).map(<[u8]>::as_ptr);
            same("segment offset", after.bytes(range).map(<[u8]>::as_ptr), in_file)?;
        }
    }
    Ok(())
}

/// A loader looks for the program headers in the pages that it maps, up to the end of a segment's last page, and zeroes what
/// lies behind the segment's bytes there. So they are within the bytes of a segment or on none of its pages.
fn table_is_readable(library: &Library<'_>) -> Result<(), Difference> {
    let page = library.kinds.page;
    let start = library.header.segments_offset;
    let end = start.saturating_add((library.segments.len() * Segment::BYTES) as u64);
    for segment in library.segments.iter().filter(|segment| segment.is_load()) {
        let bytes = segment.offset..segment.offset + segment.file_size;
        let pages = bytes.start / page * page..bytes.end.next_multiple_of(page);
        let is_apart = end <= pages.start || pages.end <= start;
        let is_within = bytes.start <= start && end <= bytes.end;
        if !(is_apart || is_within) {
            return Err(property("program headers", format!("{start:#x}"), format!("not in the pages {pages:#x?}")));
        }
    }
    Ok(())
}

/// Runs of memory with their rights.
fn memory(library: &Library<'_>) -> Vec<(Range<u64>, u32)> {
    let mut runs: Vec<(Range<u64>, u32)> = Vec::new();
    for segment in library.segments.iter().filter(|segment| segment.is_load()) {
        match runs.last_mut() {
            Some((run, flags)) if run.end == segment.address && *flags == segment.flags => run.end = segment.end(),
            _ => runs.push((segment.address..segment.end(), segment.flags)),
        }
    }
    runs
}

/// What the dynamic segment says apart from where its tables are.
fn same_dynamic_segment(before: &Library<'_>, after: &Library<'_>, dropped: &[String]) -> Result<(), Difference> {
    same("dynamic segment", &before.dynamic_range, &after.dynamic_range)?;
    let (Some(old), Some(new)) = (&before.object.dynamic, &after.object.dynamic) else {
        return Err(property("dynamic segment", "absent", "present"));
    };
    same("DT_SONAME", &old.soname, &new.soname)?;
    let needed: Vec<&String> = old.needed.iter().filter(|name| !dropped.contains(name)).collect();
    same("DT_NEEDED", needed, new.needed.iter().collect())?;
    same("DT_RPATH", &old.rpath, &new.rpath)?;
    same("DT_RUNPATH", &old.runpath, &new.runpath)?;
    same("DT_FLAGS", old.flags, new.flags)?;
    let stays_loaded = elf::DF_1_NODELETE.0;
    same("DT_FLAGS_1", old.flags_1 | stays_loaded, new.flags_1 | stays_loaded)?;
    same("DT_VERDEF", &old.version_definitions, &new.version_definitions)?;
    same("DT_VERNEED", without_packed(old), without_packed(new))?;
    if new.has_packed_relocations && !declares_packed(new) && !old.has_packed_relocations {
        return Err(property("DT_VERNEED", "without the version for packed relocations", PACKED_VERSION));
    }
    for (tag, field) in [
        (elf::DT_INIT, "DT_INIT"),
        (elf::DT_FINI, "DT_FINI"),
        (elf::DT_INIT_ARRAY, "DT_INIT_ARRAY"),
        (elf::DT_INIT_ARRAYSZ, "DT_INIT_ARRAYSZ"),
        (elf::DT_FINI_ARRAY, "DT_FINI_ARRAY"),
        (elf::DT_FINI_ARRAYSZ, "DT_FINI_ARRAYSZ"),
        (elf::DT_PREINIT_ARRAY, "DT_PREINIT_ARRAY"),
        (elf::DT_SYMBOLIC, "DT_SYMBOLIC"),
        (elf::DT_PLTGOT, "DT_PLTGOT"),
    ] {
        same(field, before.tag(tag.0), after.tag(tag.0))?;
    }
    Ok(())
}

fn without_packed(dynamic: &Dynamic) -> Vec<VersionNeed> {
    let mut needs = dynamic.version_needs.clone();
    needs.iter_mut().for_each(|need| need.versions.retain(|version| version.name != PACKED_VERSION));
    needs
}

fn declares_packed(dynamic: &Dynamic) -> bool {
    dynamic.version_needs.iter().any(|need| need.versions.iter().any(|version| version.name == PACKED_VERSION))
}

/// Where the tables lie that only the loader reads, and the headers: sorted, merged.
pub(super) fn tables(library: &Library<'_>) -> Result<Vec<Range<u64>>, RewriteError> {
    let base = library.segments.iter().find(|segment| segment.is_load()).map_or(0, |segment| segment.address);
    let mut ranges: Vec<Range<u64>> = library.program_headers().into_iter().collect();
    ranges.push(base..base + HEADER_BYTES);
    for table in TABLES {
        ranges.extend(library.table(table)?);
    }
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end || library.is_padding(last.end..range.start) => {
                last.end = last.end.max(range.end)
            }
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

/// Compares the words that the loader fills in, or filled in before.
fn same_words(
    after: &Library<'_>,
    old: &[(u64, Word<'_>)],
    new: &[(u64, Word<'_>)],
    tables: &[Range<u64>],
    exempt: &Exempt<'_>,
) -> Result<(), Difference> {
    let mut rest = new;
    for (address, expected) in old {
        let found = match rest.split_first() {
            Some(((at, _), _)) if at < address => break,
            Some(((at, word), others)) if at == address => {
                rest = others;
                *word
            }
            _ => plain(after, *address),
        };
        let is_exempt =
            matches!((found, expected), (Word::Address(_), Word::Address(_))) && exempt.pointers.binary_search(address).is_ok();
        if found != *expected && !is_exempt {
            return Err(Difference::Word { address: *address, found: found.to_string(), expected: expected.to_string() });
        }
        if let Word::Address(target) = found
            && tables.iter().any(|table| table.start.max(HEADER_BYTES) <= target && target < table.end)
        {
            return Err(Difference::Dangling { address: *address, target });
        }
    }
    match rest.first() {
        Some((address, word)) => {
            Err(Difference::Word { address: *address, found: word.to_string(), expected: "its own bytes".to_owned() })
        }
        None => Ok(()),
    }
}

/// The word that lies in the file.
fn plain(library: &Library<'_>, address: u64) -> Word<'static> {
    let bytes = library.bytes(address..address.saturating_add(8)).and_then(|bytes| bytes.first_chunk());
    Word::Plain(bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

/// The ranges of all words of both, sorted and apart.
fn merged_words(old: &[(u64, Word<'_>)], new: &[(u64, Word<'_>)]) -> Vec<Range<u64>> {
    let mut addresses: Vec<u64> = old.iter().chain(new).map(|(address, _)| *address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().map(|address| address..address.saturating_add(8)).collect()
}

/// Compares every byte of memory outside of some ranges (the tables, the words) and the dynamic segment.
fn same_memory(before: &Library<'_>, after: &Library<'_>, outside: [&[Range<u64>]; 3]) -> Result<(), Difference> {
    let mut masks: Vec<&Range<u64>> = outside.into_iter().flatten().chain([&before.dynamic_range]).collect();
    masks.sort_by_key(|range| range.start);
    let mut masks = masks.into_iter().peekable();
    for (run, _) in memory(before) {
        let mut at = run.start;
        while at < run.end {
            match masks.next_if(|mask| mask.start <= at) {
                Some(mask) => at = at.max(mask.end),
                None => {
                    let end = masks.peek().map_or(run.end, |mask| mask.start.min(run.end));
                    same_bytes(before, after, at..end)?;
                    at = end;
                }
            }
        }
    }
    Ok(())
}

fn same_bytes(before: &Library<'_>, after: &Library<'_>, range: Range<u64>) -> Result<(), Difference> {
    let mut at = range.start;
    while at < range.end {
        let (old, old_end) = stretch(before, at);
        let (new, new_end) = stretch(after, at);
        let end = range.end.min(old_end).min(new_end);
        let length = (end - at) as usize;
        // The stretches are at least as long as both their ends say.
        let (old, new) = (old.map(|bytes| &bytes[..length]), new.map(|bytes| &bytes[..length]));
        let is_same = match (old, new) {
            (Some(old), Some(new)) => old == new,
            (Some(bytes), None) | (None, Some(bytes)) => bytes.iter().all(|&byte| byte == 0),
            (None, None) => true,
        };
        if !is_same {
            let byte = |bytes: Option<&[u8]>, index: usize| bytes.map_or(0, |bytes| bytes[index]);
            let index = (0..length).find(|&index| byte(old, index) != byte(new, index)).unwrap_or(0);
            let address = at + index as u64;
            return Err(Difference::Byte { address, found: byte(new, index), expected: byte(old, index) });
        }
        at = end;
    }
    Ok(())
}

/// The bytes of the file from an address on, or `None` where memory is zero, and where that ends.
fn stretch<'a>(library: &Library<'a>, address: u64) -> (Option<&'a [u8]>, u64) {
    let within = |segment: &&Segment| segment.is_load() && segment.address <= address && address < segment.end();
    let Some(segment) = library.segments.iter().find(within) else { return (None, u64::MAX) };
    let file_end = segment.address + segment.file_size;
    if address < file_end { (library.bytes(address..file_end), file_end) } else { (None, segment.end()) }
}

/// What lookups by name find must be the same definition.
fn same_lookups(
    before: &Library<'_>,
    after: &Library<'_>,
    rules: &BindRules,
    neighbours: &Neighbours<'_>,
) -> Result<(), RewriteError> {
    let (old, new) = (Definitions::of(before)?, Definitions::of(after)?);
    let mut difference = None;
    let mut compare = |name: &[u8], version: Option<WantedVersion<'_>>| {
        let (expected, found) = (old.find(name, version), new.find(name, version));
        if expected != found && difference.is_none() {
            difference = Some(Difference::Symbol {
                name: String::from_utf8_lossy(name).into_owned(),
                found: format!("{found:x?}"),
                expected: format!("{expected:x?}"),
            });
        }
    };
    neighbours.each_wanted(&mut compare);
    let exports = before.object.dynamic.iter().flat_map(|dynamic| dynamic.symbols.exports());
    for export in exports.filter(|export| rules.keeps(export.name)) {
        compare(export.name, None);
        compare(export.name, export.version.map(|name| WantedVersion { name, file: None, is_hidden: true }));
    }
    match difference {
        Some(difference) => Err(difference.into()),
        None => Ok(()),
    }
}

/// The definitions of a library, found by its hash table.
struct Definitions<'a> {
    dynamic: Option<&'a Dynamic>,
    symbols: Vec<Symbol>,
}

impl<'a> Definitions<'a> {
    fn of(library: &'a Library<'_>) -> Result<Self, RewriteError> {
        library.table(Table::Symbols)?;
        Ok(Self { dynamic: library.object.dynamic.as_ref(), symbols: library.symbols()? })
    }

    /// The definition without its name's offset and its section, which say nothing to a loader.
    fn find(&self, name: &[u8], version: Option<WantedVersion<'_>>) -> Option<Symbol> {
        let index = self.dynamic?.symbols.definition(SymbolName::new(name), version)?;
        let symbol = *self.symbols.get(index as usize)?;
        let section = if symbol.section == elf::SHN_ABS.0 { symbol.section } else { 0 };
        Some(Symbol { name: 0, section, ..symbol })
    }
}

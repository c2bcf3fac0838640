//! A shared library as it lies in its file: every header, every table, nothing interpreted away.

use std::ops::Range;

use object::elf;

use super::error::RewriteError;
use super::kinds::Kinds;
use super::record::{Entry, Fields, Header, Record, Relocation, Section, Segment, Symbol, records, u16_at, u32_at};
use super::relr;
use crate::elf::{ByteOrder, Class, ElfObject, Kind};

/// Bytes of the identification at the head of the file.
const IDENTIFICATION: usize = 16;
/// Bytes of the whole header.
pub(super) const HEADER_BYTES: u64 = (IDENTIFICATION + Header::BYTES) as u64;

/// A shared library of 64 bits.
pub(super) struct Library<'a> {
    pub(super) data: &'a [u8],
    pub(super) header: Header,
    pub(super) segments: Vec<Segment>,
    pub(super) sections: Vec<Section>,
    /// The entries of the dynamic segment before the one that ends it.
    pub(super) dynamic: Vec<Entry>,
    /// Where the dynamic segment is in memory.
    pub(super) dynamic_range: Range<u64>,
    pub(super) kinds: Kinds,
    /// What a loader reads in it.
    pub(super) object: ElfObject,
}

/// A table that only the loader uses, and that the dynamic segment points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Table {
    Symbols,
    Versions,
    VersionDefinitions,
    VersionNeeds,
    GnuHash,
    SysVHash,
    Strings,
    Relocations,
    SlotRelocations,
    PackedRelocations,
}

impl Table {
    /// The tag that gives its address.
    pub(super) fn tag(self) -> i64 {
        match self {
            Self::Symbols => elf::DT_SYMTAB.0,
            Self::Versions => elf::DT_VERSYM.0,
            Self::VersionDefinitions => elf::DT_VERDEF.0,
            Self::VersionNeeds => elf::DT_VERNEED.0,
            Self::GnuHash => elf::DT_GNU_HASH.0,
            Self::SysVHash => elf::DT_HASH.0,
            Self::Strings => elf::DT_STRTAB.0,
            Self::Relocations => elf::DT_RELA.0,
            Self::SlotRelocations => elf::DT_JMPREL.0,
            Self::PackedRelocations => elf::DT_RELR.0,
        }
    }

    /// Its name in messages, and the name of its section.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Symbols => ".dynsym",
            Self::Versions => ".gnu.version",
            Self::VersionDefinitions => ".gnu.version_d",
            Self::VersionNeeds => ".gnu.version_r",
            Self::GnuHash => ".gnu.hash",
            Self::SysVHash => ".hash",
            Self::Strings => ".dynstr",
            Self::Relocations => ".rela.dyn",
            Self::SlotRelocations => ".rela.plt",
            Self::PackedRelocations => ".relr.dyn",
        }
    }
}

impl<'a> Library<'a> {
    /// Reads a library.
    ///
    /// # Errors
    /// Where it is damaged, or something else than a shared library of a known machine.
    pub(super) fn parse(data: &'a [u8]) -> Result<Self, RewriteError> {
        let object = ElfObject::parse(data)?;
        let kinds = supported(&object)?;
        let header = data
            .get(IDENTIFICATION..HEADER_BYTES as usize)
            .map(|bytes| Header::read(&mut Fields::new(bytes)))
            .ok_or(RewriteError::Inconsistent { field: "file", found: data.len() as u64, problem: "ends in its header" })?;
        let segments = array(data, header.segments_offset, header.segment_count.into(), "program headers")?;
        let sections = if header.sections_offset == 0 {
            Vec::new()
        } else {
            array(data, header.sections_offset, header.section_count.into(), "section headers")?
        };
        let mut library = Self { data, header, segments, sections, dynamic: Vec::new(), dynamic_range: 0..0, kinds, object };
        library.check_segments()?;
        library.check_sections()?;
        library.read_dynamic()?;
        Ok(library)
    }

    /// Checks what this module counts on: sums that do not overflow, segments in order and apart, the header in memory.
    fn check_segments(&self) -> Result<(), RewriteError> {
        let wrong =
            |segment: &Segment, problem| Err(RewriteError::Inconsistent { field: "segment", found: segment.address, problem });
        let most = i64::MAX as u64;
        let mut end = None;
        for segment in &self.segments {
            let in_memory = segment.address.checked_add(segment.memory_size).is_some_and(|end| end < most);
            let in_file = segment.offset.checked_add(segment.file_size).is_some_and(|end| end < most);
            if !in_memory || !in_file {
                return wrong(segment, "is larger than any memory");
            }
            if segment.align > 1 << 30 || (segment.align > 1 && !segment.align.is_power_of_two()) {
                return wrong(segment, "has an alignment that is no small power of two");
            }
            if !segment.is_load() {
                continue;
            }
            if segment.file_size > segment.memory_size {
                return wrong(segment, "has more bytes in the file than in memory");
            }
            if segment.offset.wrapping_sub(segment.address) & (segment.align.max(1) - 1) != 0 {
                return wrong(segment, "is aligned otherwise in the file than in memory");
            }
            if end.is_some_and(|end| segment.address < end) {
                return wrong(segment, "does not follow the one before it in memory");
            }
            if end.is_none() && (segment.offset != 0 || segment.file_size < HEADER_BYTES || segment.is_writable()) {
                return wrong(segment, "comes first without the file's header, or is writable");
            }
            end = Some(segment.end());
        }
        Ok(())
    }

    fn check_sections(&self) -> Result<(), RewriteError> {
        for section in &self.sections {
            let wrong = |problem| Err(RewriteError::Inconsistent { field: "section", found: section.address, problem });
            let most = i64::MAX as u64;
            let in_memory = section.address.checked_add(section.size).is_some_and(|end| end < most);
            if !in_memory || (section.has_bytes() && self.slice(section.offset, section.size).is_none()) {
                return wrong("reaches beyond the file");
            }
            if section.align > 1 && !section.align.is_power_of_two() {
                return wrong("has an alignment that is no power of two");
            }
            // A segment that is split is mapped page by page; only what is aligned to a page at most stays where it must.
            if section.is_allocated() && section.align > self.kinds.page {
                return wrong("is aligned to more than a page");
            }
        }
        Ok(())
    }

    fn read_dynamic(&mut self) -> Result<(), RewriteError> {
        let outside = |address| RewriteError::Inconsistent { field: "dynamic segment", found: address, problem: "is not there" };
        let segment = self.segments.iter().find(|segment| segment.kind == elf::PT_DYNAMIC.0).ok_or_else(|| outside(0))?;
        let range = segment.address..segment.address + segment.file_size;
        let bytes = self.bytes(range.clone()).ok_or_else(|| outside(range.start))?;
        self.dynamic = records::<Entry>(bytes).take_while(|entry| entry.tag != elf::DT_NULL.0).collect();
        self.dynamic_range = range;
        Ok(())
    }

    /// Where the program headers are in memory, if they are.
    pub(super) fn program_headers(&self) -> Option<Range<u64>> {
        let first = self.segments.iter().find(|segment| segment.is_load())?;
        let start = self.header.segments_offset;
        let end = start + (self.segments.len() * Segment::BYTES) as u64;
        (HEADER_BYTES <= start && end <= first.file_size).then(|| first.address + start..first.address + end)
    }

    /// Bytes at an offset of the file.
    pub(super) fn slice(&self, offset: u64, size: u64) -> Option<&'a [u8]> {
        let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(offset.checked_add(size)?).ok()?);
        self.data.get(start..end)
    }

    /// The bytes of the file that are mapped at an address range, which lies in one segment.
    pub(super) fn bytes(&self, range: Range<u64>) -> Option<&'a [u8]> {
        let within = |segment: &&Segment| {
            segment.is_load() && segment.address <= range.start && range.end <= segment.address + segment.file_size
        };
        let segment = self.segments.iter().find(within)?;
        self.slice(segment.offset + (range.start - segment.address), range.end.checked_sub(range.start)?)
    }

    /// Whether a range between two tables only aligns the second one.
    pub(super) fn is_padding(&self, range: Range<u64>) -> bool {
        range.start < range.end
            && range.end - range.start < 8
            && self.bytes(range).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }

    /// The bytes from an address to the end of its segment.
    fn rest(&self, address: u64) -> Option<&'a [u8]> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.is_load() && segment.address <= address && address < segment.address + segment.file_size)?;
        self.bytes(address..segment.address + segment.file_size)
    }

    /// The value of a tag; the loader takes the last one.
    pub(super) fn tag(&self, tag: i64) -> Option<u64> {
        self.dynamic.iter().rev().find(|entry| entry.tag == tag).map(|entry| entry.value)
    }

    /// Where a table lies in memory, `None` if the library has none.
    ///
    /// # Errors
    /// Where its bytes are not in the file.
    pub(super) fn table(&self, table: Table) -> Result<Option<Range<u64>>, RewriteError> {
        let Some(address) = self.tag(table.tag()) else { return Ok(None) };
        let wrong = |problem| RewriteError::Inconsistent { field: table.name(), found: address, problem };
        let outside = || wrong("is not in the file");
        let count = self.symbol_count();
        let size = match table {
            Table::Symbols => count.checked_mul(Symbol::BYTES as u64),
            Table::Versions => count.checked_mul(2),
            Table::VersionDefinitions => version_definitions(self.rest(address).ok_or_else(outside)?).map(|walk| walk.bytes),
            Table::VersionNeeds => version_needs(self.rest(address).ok_or_else(outside)?).map(|walk| walk.bytes),
            Table::GnuHash => self.gnu_hash_bytes(address),
            Table::SysVHash => {
                let bytes = self.rest(address).ok_or_else(outside)?;
                u32_at(bytes, 0).zip(u32_at(bytes, 4)).map(|(buckets, chains)| 4 * (2 + u64::from(buckets) + u64::from(chains)))
            }
            Table::Strings => self.tag(elf::DT_STRSZ.0),
            Table::Relocations => Some(self.tag(elf::DT_RELASZ.0).unwrap_or(0)),
            Table::SlotRelocations => Some(self.tag(elf::DT_PLTRELSZ.0).unwrap_or(0)),
            Table::PackedRelocations => Some(self.tag(elf::DT_RELRSZ.0).unwrap_or(0)),
        };
        let end = size.and_then(|size| address.checked_add(size)).ok_or_else(|| wrong("has no length that makes sense"))?;
        if end == address {
            return Ok(None);
        }
        self.bytes(address..end).ok_or_else(outside)?;
        Ok(Some(address..end))
    }

    /// The bytes of a table, none where there is none.
    pub(super) fn table_bytes(&self, table: Table) -> Result<&'a [u8], RewriteError> {
        Ok(self.table(table)?.and_then(|range| self.bytes(range)).unwrap_or(&[]))
    }

    fn gnu_hash_bytes(&self, address: u64) -> Option<u64> {
        let bytes = self.rest(address)?;
        let (buckets, first) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?);
        let chained = self.symbol_count().saturating_sub(first.into());
        Some(16 + 8 * u64::from(u32_at(bytes, 8)?) + 4 * u64::from(buckets) + 4 * chained)
    }

    /// Number of dynamic symbols.
    pub(super) fn symbol_count(&self) -> u64 {
        self.object.dynamic.as_ref().map_or(0, |dynamic| dynamic.symbols.len() as u64)
    }

    /// The dynamic symbols.
    pub(super) fn symbols(&self) -> Result<Vec<Symbol>, RewriteError> {
        Ok(records(self.table_bytes(Table::Symbols)?).collect())
    }

    /// The version index of every symbol; empty without versions.
    pub(super) fn versions(&self) -> Result<Vec<u16>, RewriteError> {
        let bytes = self.table_bytes(Table::Versions)?;
        Ok((0..bytes.len() / 2).filter_map(|index| u16_at(bytes, 2 * index)).collect())
    }

    /// All relocations that are not packed, in the order in which the loader applies them.
    pub(super) fn relocations(&self) -> Result<Vec<Relocation>, RewriteError> {
        let tables = [self.table_bytes(Table::Relocations)?, self.table_bytes(Table::SlotRelocations)?];
        let found: Vec<Relocation> = tables.into_iter().flat_map(records).collect();
        let count = self.symbol_count();
        if let Some(wrong) = found.iter().find(|relocation| u64::from(relocation.symbol) >= count.max(1)) {
            let problem = "refers to a symbol that is not in the table";
            return Err(RewriteError::Inconsistent { field: "relocation", found: wrong.address, problem });
        }
        Ok(found)
    }

    /// The addresses of packed relative relocations.
    pub(super) fn packed(&self) -> Result<Vec<u64>, RewriteError> {
        let bytes = self.table_bytes(Table::PackedRelocations)?;
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        relr::unpack(words, self.data.len()).ok_or(RewriteError::Inconsistent {
            field: "DT_RELR",
            found: self.tag(elf::DT_RELR.0).unwrap_or(0),
            problem: "does not unpack",
        })
    }

    /// The name at an offset of a string table, without its zero.
    pub(super) fn text(strings: &'a [u8], offset: u64) -> Option<&'a [u8]> {
        let rest = strings.get(usize::try_from(offset).ok()?..)?;
        rest.iter().position(|&byte| byte == 0).map(|end| &rest[..end])
    }

    /// The name of a section.
    pub(super) fn section_name(&self, section: &Section) -> &'a [u8] {
        let names = self.sections.get(usize::from(self.header.names_section)).filter(|names| names.has_bytes());
        let strings = names.and_then(|names| self.slice(names.offset, names.size)).unwrap_or(&[]);
        Self::text(strings, section.name.into()).unwrap_or(&[])
    }
}

/// The machine's kinds of relocation, if the object is a shared library that can be rewritten.
fn supported(object: &ElfObject) -> Result<Kinds, RewriteError> {
    let refuse = |field, found: String, expected| Err(RewriteError::Unsupported { field, found, expected });
    if object.class != Class::Elf64 {
        return refuse("class", object.class.to_string(), "64-bit");
    }
    if object.byte_order != ByteOrder::Little {
        return refuse("byte order", "big-endian".to_owned(), "little-endian");
    }
    let Some(kinds) = Kinds::of(object.machine) else {
        return refuse("machine", object.machine.to_string(), "x86_64 or aarch64");
    };
    let is_program = object.dynamic.as_ref().is_none_or(|dynamic| dynamic.is_executable());
    if object.kind != Kind::Shared || is_program || object.interpreter.is_some() {
        return refuse("kind", "a program".to_owned(), "a shared library");
    }
    Ok(kinds)
}

/// A table of headers.
fn array<T: Record>(data: &[u8], offset: u64, count: u64, field: &'static str) -> Result<Vec<T>, RewriteError> {
    let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(count as usize * T::BYTES)?));
    match range.and_then(|range| data.get(range)) {
        Some(bytes) => Ok(records(bytes).collect()),
        None => Err(RewriteError::Inconsistent { field, found: offset, problem: "reach beyond the file" }),
    }
}

/// What a walk over a version table finds.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Length of the table.
    pub(super) bytes: u64,
    /// Offsets in the table of the 32-bit fields that name a string.
    pub(super) names: Vec<usize>,
    /// For version needs: where each library's entry is, and where its last version is.
    pub(super) needs: Vec<(usize, usize)>,
}

/// More steps than any honest table has.
const MOST_STEPS: usize = 1 << 16;

/// Walks `DT_VERDEF`; `None` where it leaves its segment.
pub(super) fn version_definitions(bytes: &[u8]) -> Option<Walk> {
    let mut walk = Walk::default();
    let mut at = 0;
    loop {
        let mut aux = at + u32_at(bytes, at + 12)? as usize;
        walk.reach(at + 20);
        for _ in 0..u16_at(bytes, at + 6)? {
            walk.name(aux)?;
            walk.reach(aux + 8);
            match u32_at(bytes, aux + 4)? {
                0 => break,
                next => aux += next as usize,
            }
        }
        match u32_at(bytes, at + 16)? {
            0 => return Some(walk),
            next => at += next as usize,
        }
    }
}

/// Walks `DT_VERNEED`; `None` where it leaves its segment.
pub(super) fn version_needs(bytes: &[u8]) -> Option<Walk> {
    let mut walk = Walk::default();
    let mut at = 0;
    loop {
        walk.name(at + 4)?;
        walk.reach(at + 16);
        let mut aux = at + u32_at(bytes, at + 8)? as usize;
        loop {
            walk.name(aux + 8)?;
            walk.reach(aux + 16);
            match u32_at(bytes, aux + 12)? {
                0 => break,
                next => aux += next as usize,
            }
        }
        walk.needs.push((at, aux));
        match u32_at(bytes, at + 12)? {
            0 => return Some(walk),
            next => at += next as usize,
        }
    }
}

impl Walk {
    fn reach(&mut self, end: usize) {
        self.bytes = self.bytes.max(end as u64);
    }

    fn name(&mut self, at: usize) -> Option<()> {
        self.names.push(at);
        (self.names.len() <= MOST_STEPS).then_some(())
    }
}

//! From a draft to the pieces of the new file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;

use object::elf;

use super::draft::{Draft, Edit, ProgramHeaders, Row};
use super::error::RewriteError;
use super::library::{HEADER_BYTES, Library};
use super::record::{Record, Section, Segment, to_bytes};

/// A file in pieces, most of them borrowed from the original.
pub(super) struct Image<'a> {
    pieces: Vec<Piece<'a>>,
    bytes: u64,
}

enum Piece<'a> {
    Bytes(Cow<'a, [u8]>),
    Zeros(u64),
}

impl<'a> Image<'a> {
    fn push(&mut self, piece: Piece<'a>) {
        self.bytes += match &piece {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Zeros(count) => *count,
        };
        self.pieces.push(piece);
    }

    fn pad_to(&mut self, offset: u64) {
        if offset > self.bytes {
            self.push(Piece::Zeros(offset - self.bytes));
        }
    }

    fn align(&mut self, align: u64) {
        self.pad_to(self.bytes.next_multiple_of(align.max(1)));
    }

    /// Writes the file.
    pub(super) fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(bytes) => out.write_all(bytes)?,
                Piece::Zeros(count) => {
                    io::copy(&mut io::Read::take(io::repeat(0), *count), out)?;
                }
            }
        }
        Ok(())
    }
}

/// A part of a loadable segment: bytes of the file, then a hole or the segment's own zeros.
struct Part {
    segment: usize,
    address: u64,
    file_size: u64,
    memory_size: u64,
    offset: u64,
    align: u64,
}

/// The parts of all loadable segments, by address.
struct Parts(Vec<Part>);

impl Parts {
    fn around(library: &Library<'_>, holes: &[Range<u64>]) -> Self {
        let mut parts = Vec::new();
        let mut offset = 0;
        for (index, segment) in library.segments.iter().enumerate().filter(|(_, segment)| segment.is_load()) {
            let file_end = segment.address + segment.file_size;
            let align = if holes.is_empty() { segment.align } else { segment.align.min(library.kinds.page) }.max(1);
            let mut put = |start: u64, file_end: u64, end: u64| {
                // The smallest offset that is aligned as the address is.
                let at = offset + start.wrapping_sub(offset) % align;
                let file_size = file_end.saturating_sub(start);
                parts.push(Part { segment: index, address: start, file_size, memory_size: end - start, offset: at, align });
                if file_size > 0 {
                    offset = at + file_size;
                }
            };
            let mut start = segment.address;
            for hole in holes.iter().filter(|hole| segment.address <= hole.start && hole.end <= file_end) {
                put(start, hole.start, hole.end);
                start = hole.end;
            }
            if start < segment.end() {
                put(start, file_end, segment.end());
            }
        }
        Self(parts)
    }

    /// Where the byte at an address is in the new file; for the end of a part, where it would be.
    fn offset_of(&self, address: u64) -> Option<u64> {
        let within = |part: &&Part| part.address <= address && address < part.address + part.file_size;
        let at_end = |part: &&Part| part.address <= address && address <= part.address + part.memory_size;
        let part = self.0.iter().find(within).or_else(|| self.0.iter().find(at_end))?;
        Some(part.offset + (address - part.address).min(part.file_size))
    }

    /// Whether all bytes of a range follow one another in the file.
    fn holds(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|part| part.address <= range.start && range.end <= part.address + part.file_size)
    }
}

/// Lays a draft out.
pub(super) fn lay_out<'a>(mut draft: Draft<'a>) -> Result<Image<'a>, RewriteError> {
    let library = draft.library;
    let parts = Parts::around(library, &draft.holes());
    let headers_at = match draft.program_headers {
        ProgramHeaders::InPlace => library.program_headers().map(|range| range.start),
        ProgramHeaders::Placed { address, .. } => Some(address),
        ProgramHeaders::Appended => None,
    };
    let segments = program_headers(library, &parts, headers_at)?;
    check_capacity(&draft, segments.len())?;

    let mut edits = draft.take_edits();
    let table = to_bytes(&segments);
    let mut header = library.header;
    header.segment_count = segments.len() as u16;
    let loads_end = parts.0.iter().map(|part| part.offset + part.file_size).max().unwrap_or(0);
    let mut tail = Image { pieces: Vec::new(), bytes: loads_end };
    let in_memory = headers_at.and_then(|address| Some((address, parts.offset_of(address)?)));
    if let Some((address, offset)) = in_memory.filter(|(address, _)| parts.holds(&(*address..*address + table.len() as u64))) {
        header.segments_offset = offset;
        overwrite(&mut edits, address, table);
    } else {
        // On a page of its own: in the last page of a segment, the loader would take it for a part of that, which it zeroes.
        tail.align(library.kinds.page);
        header.segments_offset = tail.bytes;
        tail.push(Piece::Bytes(table.into()));
    }
    let sections = section_table(&draft, &parts, &mut tail)?;
    header.sections_offset = sections.offset;
    header.section_count = sections.count;
    header.names_section = sections.names;

    let mut head = library.data[..16].to_vec();
    header.write(&mut head);
    edits.insert(draft.base(), (draft.base() + HEADER_BYTES, Edit::Bytes(head.into())));
    let mut image = Image { pieces: Vec::new(), bytes: 0 };
    for part in parts.0.iter().filter(|part| part.file_size > 0) {
        image.pad_to(part.offset);
        emit(&draft, part, &mut edits, &mut image);
    }
    for piece in tail.pieces {
        image.push(piece);
    }
    Ok(image)
}

fn check_capacity(draft: &Draft<'_>, count: usize) -> Result<(), RewriteError> {
    let capacity = match draft.program_headers {
        ProgramHeaders::InPlace => draft.library.segments.len(),
        ProgramHeaders::Placed { capacity, .. } => capacity,
        ProgramHeaders::Appended => usize::from(elf::PN_XNUM) - 1,
    };
    if count > capacity {
        let bytes = |count: usize| (count * Segment::BYTES) as u64;
        return Err(RewriteError::NoRoom { table: "program headers", needed: bytes(count), available: bytes(capacity) });
    }
    Ok(())
}

/// Writes over the head of what was placed at an address, or over the library's own bytes.
fn overwrite(edits: &mut BTreeMap<u64, (u64, Edit<'_>)>, address: u64, bytes: Vec<u8>) {
    let end = address + bytes.len() as u64;
    match edits.get_mut(&address) {
        Some((_, Edit::Bytes(placed))) => placed.to_mut()[..bytes.len()].copy_from_slice(&bytes),
        _ => {
            edits.insert(address, (end, Edit::Bytes(bytes.into())));
        }
    }
}

/// The new program headers.
fn program_headers(library: &Library<'_>, parts: &Parts, at: Option<u64>) -> Result<Vec<Segment>, RewriteError> {
    let mut segments = Vec::new();
    for (index, segment) in library.segments.iter().enumerate() {
        if segment.is_load() {
            segments.extend(parts.0.iter().filter(|part| part.segment == index).map(|part| Segment {
                offset: part.offset,
                address: part.address,
                physical: segment.physical.wrapping_add(part.address - segment.address),
                file_size: part.file_size,
                memory_size: part.memory_size,
                align: part.align,
                ..*segment
            }));
        } else if segment.kind == elf::PT_PHDR.0 {
            // The count is put in below, once it is known.
            if let Some(address) = at {
                let offset = parts.offset_of(address).unwrap_or(0);
                segments.push(Segment { offset, address, physical: address, ..*segment });
            }
        } else if segment.file_size == 0 && segment.memory_size == 0 {
            segments.push(*segment);
        } else {
            let range = segment.address..segment.address + segment.file_size;
            let offset = parts.offset_of(segment.address).filter(|_| range.is_empty() || parts.holds(&range));
            let problem = "is not in the memory of one loadable segment";
            let offset = offset.ok_or(RewriteError::Inconsistent { field: "segment", found: segment.address, problem })?;
            segments.push(Segment { offset, ..*segment });
        }
    }
    let bytes = (segments.len() * Segment::BYTES) as u64;
    for segment in segments.iter_mut().filter(|segment| segment.kind == elf::PT_PHDR.0) {
        (segment.file_size, segment.memory_size) = (bytes, bytes);
    }
    Ok(segments)
}

/// Appends the bytes of a part.
fn emit<'a>(draft: &Draft<'a>, part: &Part, edits: &mut BTreeMap<u64, (u64, Edit<'a>)>, image: &mut Image<'a>) {
    let end = part.address + part.file_size;
    let mut at = part.address;
    let segment = &draft.library.segments[part.segment];
    let own = |from: u64, to: u64| -> Piece<'a> {
        let within = (from - segment.address) as usize..(to - segment.address) as usize;
        match draft.patched(part.segment) {
            Some(bytes) => Piece::Bytes(bytes[within].to_vec().into()),
            None => {
                let start = segment.offset as usize;
                Piece::Bytes(draft.library.data[start + within.start..start + within.end].into())
            }
        }
    };
    for (&start, (edit_end, edit)) in edits.range_mut(..end) {
        if *edit_end <= at {
            continue;
        }
        if start > at {
            image.push(own(at, start));
            at = start;
        }
        let until = (*edit_end).min(end);
        image.push(match edit {
            Edit::Bytes(bytes) => Piece::Bytes(std::mem::take(bytes)),
            Edit::Zeros => Piece::Zeros(until - at),
        });
        at = until;
    }
    if at < end {
        image.push(own(at, end));
    }
}

/// Where the section headers are.
struct SectionTable {
    offset: u64,
    count: u16,
    names: u16,
}

/// Appends the sections that are not in memory, and the section headers. Those of a library without any stay away.
fn section_table<'a>(draft: &Draft<'a>, parts: &Parts, tail: &mut Image<'a>) -> Result<SectionTable, RewriteError> {
    let library = draft.library;
    if draft.rows.is_empty() {
        return Ok(SectionTable { offset: 0, count: 0, names: 0 });
    }
    let (kept, indexes) = number(&draft.rows);
    let index = |old: u32| indexes.get(old as usize).copied().unwrap_or(0);
    let (names, name_offsets) = names(&kept);
    let mut sections = Vec::with_capacity(kept.len());
    for (row, name) in kept.into_iter().zip(name_offsets) {
        let Some(row) = row else {
            sections.push(Section::default());
            continue;
        };
        let mut section = Section { name, link: index(row.section.link), ..row.section };
        let refers = section.flags & elf::SHF_INFO_LINK.0 != 0 || section.kind == elf::SHT_RELA.0;
        if refers {
            section.info = index(section.info);
        }
        if section.is_allocated() {
            let end = section.address + section.size;
            let problem = "is in memory, but in no loadable segment";
            let wrong = RewriteError::Inconsistent { field: "section", found: section.address, problem };
            section.offset = parts.offset_of(section.address).ok_or(wrong)?;
            if section.has_bytes() && !parts.holds(&(section.address..end)) {
                // Holes were cut out of it: what is left lies in one run of the file.
                section.size = parts.offset_of(end).unwrap_or(section.offset).saturating_sub(section.offset);
            }
        } else if section.has_bytes() {
            tail.align(section.align);
            section.offset = tail.bytes;
            if is_names(library, &row.section) {
                section.size = names.len() as u64;
                tail.push(Piece::Bytes(names.clone().into()));
            } else if let Some(bytes) = library.slice(row.section.offset, row.section.size) {
                tail.push(Piece::Bytes(bytes.into()));
            }
        } else {
            section.offset = tail.bytes;
        }
        sections.push(section);
    }
    tail.align(8);
    let offset = tail.bytes;
    tail.push(Piece::Bytes(to_bytes(&sections).into()));
    Ok(SectionTable { offset, count: sections.len() as u16, names: index(library.header.names_section.into()) as u16 })
}

fn is_names(library: &Library<'_>, section: &Section) -> bool {
    library.sections.get(usize::from(library.header.names_section)) == Some(section)
}

/// The rows that are left, and the new index of each old one. Symbols refer to sections by index, so those in memory keep
/// theirs: a row that is dropped before the last of them leaves an empty one.
fn number(rows: &[Row]) -> (Vec<Option<&Row>>, Vec<u32>) {
    let last = rows.iter().rposition(|row| row.section.is_allocated() && !row.is_dropped).unwrap_or(0);
    let mut kept = Vec::new();
    let mut indexes = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if !row.is_dropped {
            indexes.push(kept.len() as u32);
            kept.push(Some(row));
        } else {
            indexes.push(0);
            if index <= last {
                kept.push(None);
            }
        }
    }
    (kept, indexes)
}

/// The table of section names, and the offset of each name.
fn names(rows: &[Option<&Row>]) -> (Vec<u8>, Vec<u32>) {
    let mut strings = super::strings::Strings::default();
    let offsets = rows.iter().map(|row| row.map_or(0, |row| strings.add(&row.name))).collect();
    (strings.into_bytes(), offsets)
}

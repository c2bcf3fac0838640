//! Bounds-checked reading of a file through its loadable segments.

use std::cell::Cell;
use std::ops::Range;
use std::str;

use object::endian::Endianness;
use object::pod::{self, Pod};

use super::error::ElfError;

/// The file's bytes and where its segments put them in memory.
pub(super) struct Image<'data> {
    pub(super) data: &'data [u8],
    pub(super) endian: Endianness,
    pub(super) segments: Vec<Segment>,
}

/// A `PT_LOAD` segment, all in bytes. The range in the file has been checked against the file's length.
pub(super) struct Segment {
    pub(super) address: u64,
    pub(super) offset: usize,
    pub(super) file_size: usize,
}

impl<'data> Image<'data> {
    /// The part of the file that is mapped from an address to the end of its segment, at least `expected` bytes.
    fn rest(&self, table: &'static str, address: u64, expected: u64) -> Result<Range<usize>, ElfError> {
        let rest = self.segments.iter().find_map(|segment| {
            let within = usize::try_from(address.checked_sub(segment.address)?).ok()?;
            (within < segment.file_size).then(|| segment.offset + within..segment.offset + segment.file_size)
        });
        let rest = rest.unwrap_or(0..0);
        if (rest.len() as u64) < expected {
            return Err(ElfError::TableOutside { table, address, expected, found: rest.len() as u64 });
        }
        Ok(rest)
    }

    /// The bytes of that part.
    pub(super) fn bytes_at(&self, table: &'static str, address: u64, expected: u64) -> Result<&'data [u8], ElfError> {
        Ok(&self.data[self.rest(table, address, expected)?])
    }

    /// Exactly `bytes` bytes at an address, as a range in the file.
    pub(super) fn range(&self, table: &'static str, address: u64, bytes: u64) -> Result<Range<usize>, ElfError> {
        let rest = self.rest(table, address, bytes)?;
        Ok(rest.start..rest.start + bytes as usize)
    }

    /// `count` records of one type at an address.
    pub(super) fn records<T: Pod>(&self, table: &'static str, address: u64, count: u64) -> Result<&'data [T], ElfError> {
        let expected = count.saturating_mul(size_of::<T>() as u64);
        let bytes = self.bytes_at(table, address, expected)?;
        let outside = || ElfError::TableOutside { table, address, expected, found: bytes.len() as u64 };
        let count = usize::try_from(count).map_err(|_| outside())?;
        pod::slice_from_bytes(bytes, count).map(|(records, _)| records).map_err(|()| outside())
    }

    /// One record at an offset into a table.
    pub(super) fn record<'a, T: Pod>(
        &self,
        table: &'static str,
        address: u64,
        bytes: &'a [u8],
        at: usize,
    ) -> Result<&'a T, ElfError> {
        let rest = bytes.get(at..).unwrap_or(&[]);
        pod::from_bytes(rest).map(|(record, _)| record).map_err(|()| ElfError::TableOutside {
            table,
            address: address.saturating_add(at as u64),
            expected: size_of::<T>() as u64,
            found: rest.len() as u64,
        })
    }
}

/// The dynamic string table.
pub(super) struct Strings<'data> {
    bytes: &'data [u8],
    /// Bytes of text that may still be copied out of it. A hostile file can name one long string any number of times.
    left: Cell<usize>,
}

impl<'data> Strings<'data> {
    /// All file, version and directory names of any honest file, many times over.
    const MOST_TEXT: usize = 16 << 20;

    pub(super) fn new(bytes: &'data [u8]) -> Self {
        Self { bytes, left: Cell::new(Self::MOST_TEXT) }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The text that starts at an offset, up to its terminating zero.
    pub(super) fn text(&self, table: &'static str, offset: u64) -> Result<String, ElfError> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).filter(|rest| !rest.is_empty());
        let rest = rest.ok_or(ElfError::NameOutside { table, offset, bytes: self.bytes.len() as u64 })?;
        let name = until_zero(rest);
        let Some(left) = self.left.get().checked_sub(name.len()) else {
            let expected = "at most 16 MiB";
            return Err(ElfError::Table {
                table,
                field: "text in all",
                found: (Self::MOST_TEXT + name.len() - self.left.get()) as u64,
                expected,
            });
        };
        self.left.set(left);
        match str::from_utf8(name) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(ElfError::NotText { table, found: String::from_utf8_lossy(&name[..name.len().min(256)]).into_owned() }),
        }
    }
}

/// Cuts bytes at the first zero.
pub(super) fn until_zero(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

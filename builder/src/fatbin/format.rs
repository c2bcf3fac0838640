//! The bytes of a fatbin: a [`Container`] with its [`Entry`] values. Little-endian throughout.
//!
//! | container | | entry | | entry | |
//! |---|---|---|---|---|---|
//! | +0 | magic `0xBA55ED50` | +0 | kind (1 PTX, 2 ELF) | +28 | architecture |
//! | +4 | version (1) | +2 | version (`0x0101`) | +32 | offset of a name |
//! | +6 | bytes of this header (16) | +4 | bytes of this header | +36 | bytes of the name |
//! | +8 | bytes of all entries | +8 | bytes of the payload | +40 | flags |
//! | | | +16 | bytes compressed | +56 | bytes uncompressed |
//! | | | +20 | offset of options | | |

use serde::{Deserialize, Serialize};

use super::sm::{Architecture, Variant};

/// The first four bytes of a container.
pub(super) const MAGIC: [u8; 4] = 0xBA55_ED50u32.to_le_bytes();
/// Bytes of a container's header.
pub(super) const CONTAINER_HEADER: usize = 16;
/// Bytes of the shortest header of an entry.
const SHORTEST_HEADER: usize = 64;
/// Bytes of the longest one that was ever seen, and some.
const LONGEST_HEADER: usize = 4096;
/// Containers, entries and payloads start at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// `e_machine` of a cubin.
const EM_CUDA: [u8; 2] = 190u16.to_le_bytes();
/// The first bytes of a zstd frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_SPECIFIC: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;
/// 64-bit, debug, CUDA, host Linux, and the one that entries with options have.
const FLAGS_WITHOUT_MEANING_HERE: u64 = 0x1 | 0x2 | 0x4 | 0x10 | 0x100_0000;
const KNOWN_FLAGS: u64 = FLAG_LZ4 | FLAG_ZSTD | FLAG_SPECIFIC | FLAG_FAMILY | FLAGS_WITHOUT_MEANING_HERE;

/// What is wrong with a fatbin, or unknown about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// A field has another value than the format allows.
    #[error("{field} at byte {at} is {found:#x}, expected {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its offset in the container.
        at: usize,
        /// The value found.
        found: u64,
        /// What is allowed.
        expected: &'static str,
    },
    /// A part reaches beyond the whole.
    #[error("{part} at byte {at} needs {needed} bytes, {available} are left")]
    Short {
        /// The part.
        part: &'static str,
        /// Its offset in the container.
        at: usize,
        /// Bytes that it says it has.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// A payload is something else than its header says.
    #[error("payload at byte {at} starts with `{found}`, expected {expected}")]
    Payload {
        /// Its offset in the container.
        at: usize,
        /// The first bytes, escaped.
        found: String,
        /// What the header says.
        expected: &'static str,
    },
    /// A container holds nothing.
    #[error("it has no entries")]
    Empty,
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CodeKind {
    /// Text that the driver compiles.
    Ptx,
    /// Machine code for one architecture (a cubin).
    Elf,
}

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// As it is.
    Plain,
    /// Compressed with LZ4.
    Lz4,
    /// Compressed with zstd.
    Zstd,
}

/// Code for one architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Header and payload.
    pub bytes: &'a [u8],
    /// What it is.
    pub kind: CodeKind,
    /// What it is for.
    pub architecture: Architecture,
    /// How it is stored.
    pub storage: Storage,
    /// Bytes of the code once uncompressed.
    pub uncompressed: u64,
}

/// A fatbin: the same kernels for several architectures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container<'a> {
    /// Header and entries.
    pub bytes: &'a [u8],
    /// The entries, one after another without gaps.
    pub entries: Vec<Entry<'a>>,
}

impl<'a> Container<'a> {
    /// Reads the container at the front of some bytes, which may go on behind it.
    ///
    /// # Errors
    /// The first [`Flaw`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let size = Self::size(bytes)?;
        let bytes = &bytes[..size];
        let mut entries = Vec::new();
        let mut at = CONTAINER_HEADER;
        while at < bytes.len() {
            let entry = Entry::parse(bytes, at)?;
            at += entry.bytes.len();
            entries.push(entry);
        }
        if entries.is_empty() { Err(Flaw::Empty) } else { Ok(Self { bytes, entries }) }
    }

    /// How many bytes the container at the front of some bytes has.
    ///
    /// # Errors
    /// Where its header is none, or it has more bytes than there are.
    pub fn size(bytes: &[u8]) -> Result<usize, Flaw> {
        let available = bytes.len() as u64;
        let Some(header) = bytes.first_chunk::<CONTAINER_HEADER>() else {
            return Err(Flaw::Short { part: "container header", at: 0, needed: CONTAINER_HEADER as u64, available });
        };
        let wrong = |field, at, found: u64, expected| Err(Flaw::Field { field, at, found, expected });
        if header[..4] != MAGIC {
            return wrong("container magic", 0, u32_at(header, 0).into(), "0xba55ed50");
        }
        if u16_at(header, 4) != 1 {
            return wrong("container version", 4, u16_at(header, 4).into(), "1");
        }
        if usize::from(u16_at(header, 6)) != CONTAINER_HEADER {
            return wrong("container header size", 6, u16_at(header, 6).into(), "16");
        }
        let needed = u64_at(header, 8).saturating_add(CONTAINER_HEADER as u64);
        match usize::try_from(needed).ok().filter(|&size| size <= bytes.len()) {
            Some(size) => Ok(size),
            None => Err(Flaw::Short { part: "container", at: 0, needed, available }),
        }
    }
}

impl<'a> Entry<'a> {
    /// The code without its header.
    pub(super) fn payload(&self) -> &'a [u8] {
        let header = (u32_at(self.bytes, 4) as usize).min(self.bytes.len());
        &self.bytes[header..]
    }

    /// Reads the entry at an offset of a container.
    fn parse(container: &'a [u8], at: usize) -> Result<Self, Flaw> {
        let rest = &container[at..];
        let available = rest.len() as u64;
        let short = |part, needed| Flaw::Short { part, at, needed, available };
        let wrong = |field, offset, found: u64, expected| Flaw::Field { field, at: at + offset, found, expected };
        let header = rest.first_chunk::<SHORTEST_HEADER>().ok_or(short("entry header", SHORTEST_HEADER as u64))?;
        let kind = match u16_at(header, 0) {
            1 => CodeKind::Ptx,
            2 => CodeKind::Elf,
            other => return Err(wrong("entry kind", 0, other.into(), "1 (PTX) or 2 (ELF)")),
        };
        if u16_at(header, 2) != 0x0101 {
            return Err(wrong("entry version", 2, u16_at(header, 2).into(), "0x101"));
        }
        let header_size = u32_at(header, 4) as usize;
        if !(SHORTEST_HEADER..=LONGEST_HEADER).contains(&header_size) || !header_size.is_multiple_of(ALIGN as usize) {
            return Err(wrong("entry header size", 4, header_size as u64, "a multiple of 8 from 64 to 4096"));
        }
        let payload_size = u64_at(header, 8);
        let needed = payload_size.saturating_add(header_size as u64);
        if needed > available {
            return Err(short("entry", needed));
        }
        if !payload_size.is_multiple_of(ALIGN) {
            return Err(wrong("payload size", 8, payload_size, "a multiple of 8"));
        }
        let flags = u64_at(header, 40);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(wrong("entry flags", 40, flags, "none outside of 0x130a017"));
        }
        let variant = match (flags & FLAG_SPECIFIC != 0, flags & FLAG_FAMILY != 0) {
            (false, false) => Variant::Plain,
            (true, false) => Variant::Specific,
            (false, true) => Variant::Family,
            (true, true) => return Err(wrong("entry flags", 40, flags, "one variant of an architecture")),
        };
        let storage = match (flags & FLAG_LZ4 != 0, flags & FLAG_ZSTD != 0) {
            (false, false) => Storage::Plain,
            (true, false) => Storage::Lz4,
            (false, true) => Storage::Zstd,
            (true, true) => return Err(wrong("entry flags", 40, flags, "one kind of compression")),
        };
        let sm = u32_at(header, 28);
        if !(10..1000).contains(&sm) {
            return Err(wrong("architecture", 28, sm.into(), "a number from 10 to 999"));
        }
        let compressed = u64::from(u32_at(header, 16));
        if storage != Storage::Plain && (compressed == 0 || compressed > payload_size) {
            return Err(wrong("compressed size", 16, compressed, "at most the payload's"));
        }
        let bytes = &rest[..needed as usize];
        check_payload(kind, storage, &bytes[header_size..], at + header_size)?;
        let uncompressed = if storage == Storage::Plain { payload_size } else { u64_at(header, 56) };
        Ok(Self { bytes, kind, architecture: Architecture { sm, variant }, storage, uncompressed })
    }
}

/// Checks that a payload starts as its header says; LZ4 has no such mark.
fn check_payload(kind: CodeKind, storage: Storage, payload: &[u8], at: usize) -> Result<(), Flaw> {
    let (is_right, expected) = match (storage, kind) {
        (Storage::Zstd, _) => (payload.starts_with(&ZSTD), "a zstd frame"),
        (Storage::Plain, CodeKind::Elf) => {
            (payload.starts_with(b"\x7fELF") && payload.get(18..20) == Some(&EM_CUDA[..]), "an ELF file for CUDA")
        }
        (Storage::Plain, CodeKind::Ptx) | (Storage::Lz4, _) => (!payload.is_empty(), "any byte"),
    };
    if is_right {
        return Ok(());
    }
    let found = payload[..payload.len().min(4)].escape_ascii().to_string();
    Err(Flaw::Payload { at, found, expected })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

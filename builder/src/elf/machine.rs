use std::fmt;

use object::elf;
use serde::Serialize;

use super::error::ElfError;

/// The processor that a file's code is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// 64-bit x86 (`EM_X86_64`).
    X86_64,
    /// 64-bit Arm (`EM_AARCH64`).
    Aarch64,
    /// Any other `e_machine` value.
    Other(u16),
}

impl Machine {
    pub(super) fn from_raw(raw: u16) -> Self {
        match elf::Machine(raw) {
            elf::EM_X86_64 => Self::X86_64,
            elf::EM_AARCH64 => Self::Aarch64,
            _ => Self::Other(raw),
        }
    }

    /// The value of `e_machine`.
    pub fn raw(self) -> u16 {
        match self {
            Self::X86_64 => elf::EM_X86_64.0,
            Self::Aarch64 => elf::EM_AARCH64.0,
            Self::Other(raw) => raw,
        }
    }

    /// The relocation type that copies a variable out of a library into the executable, where it is known.
    pub(super) fn copy_relocation(self) -> Option<u32> {
        match self {
            Self::X86_64 => Some(elf::R_X86_64_COPY.0),
            Self::Aarch64 => Some(elf::R_AARCH64_COPY.0),
            Self::Other(_) => None,
        }
    }

    /// The word that the loader puts in the place of `$PLATFORM`.
    pub fn platform(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Other(_) => "",
        }
    }

    /// The multiarch name under which Debian keeps the machine's libraries, empty for an unknown machine.
    pub fn multiarch(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
            Self::Other(_) => "",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X86_64 => f.write_str("x86_64"),
            Self::Aarch64 => f.write_str("aarch64"),
            Self::Other(raw) => write!(f, "machine {raw}"),
        }
    }
}

/// The width of a file's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// `ELFCLASS32`.
    Elf32,
    /// `ELFCLASS64`.
    Elf64,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf32 => "32-bit",
            Self::Elf64 => "64-bit",
        })
    }
}

/// The order of bytes in a file's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// What a file is, among the types that a loader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `ET_EXEC`: an executable at a fixed address.
    Executable,
    /// `ET_DYN`: a shared library or a position-independent executable.
    Shared,
}

/// What the first bytes of a file say about it: all that a loader looks at before it decides whether the file concerns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Identity {
    /// Width of its addresses.
    pub class: Class,
    /// Order of its bytes.
    pub byte_order: ByteOrder,
    /// The processor it is for.
    pub machine: Machine,
}

impl Identity {
    /// Bytes at the head of a file that [`Identity::parse`] needs.
    pub const BYTES: usize = 20;

    /// Reads the head of a file.
    pub fn parse(head: &[u8]) -> Result<Self, ElfError> {
        if head.is_empty() {
            return Err(ElfError::Empty);
        }
        let magic = &head[..head.len().min(4)];
        if magic != elf::ELFMAG {
            return Err(ElfError::NotElf { found: magic.escape_ascii().to_string() });
        }
        let Some(head) = head.first_chunk::<{ Self::BYTES }>() else {
            return Err(ElfError::HeaderTruncated { found: head.len(), expected: Self::BYTES });
        };
        let class = match elf::FileClass(head[4]) {
            elf::ELFCLASS32 => Class::Elf32,
            elf::ELFCLASS64 => Class::Elf64,
            other => {
                return Err(ElfError::Header { field: "EI_CLASS", found: other.0.into(), expected: "1 (32-bit) or 2 (64-bit)" });
            }
        };
        let (byte_order, number): (_, fn([u8; 2]) -> u16) = match elf::DataEncoding(head[5]) {
            elf::ELFDATA2LSB => (ByteOrder::Little, u16::from_le_bytes),
            elf::ELFDATA2MSB => (ByteOrder::Big, u16::from_be_bytes),
            other => {
                return Err(ElfError::Header {
                    field: "EI_DATA",
                    found: other.0.into(),
                    expected: "1 (little-endian) or 2 (big-endian)",
                });
            }
        };
        if elf::FileVersion(head[6]) != elf::EV_CURRENT {
            return Err(ElfError::Header { field: "EI_VERSION", found: head[6].into(), expected: "1" });
        }
        Ok(Self { class, byte_order, machine: Machine::from_raw(number([head[18], head[19]])) })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.byte_order {
            ByteOrder::Little => "",
            ByteOrder::Big => ", big-endian",
        };
        write!(f, "{} ({}{order})", self.machine, self.class)
    }
}

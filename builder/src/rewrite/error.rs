use std::io;

use crate::elf::ElfError;

/// Why a library is left as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// It is no ELF file, or a damaged one.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// It is of a kind that is not rewritten.
    #[error("{field} is {found}, expected {expected}")]
    Unsupported {
        /// What was looked at.
        field: &'static str,
        /// The value found.
        found: String,
        /// What can be rewritten.
        expected: &'static str,
    },
    /// A table or segment contradicts itself or the rest of the file.
    #[error("{field} at {found:#x} {problem}")]
    Inconsistent {
        /// What was looked at.
        field: &'static str,
        /// The address or offset found.
        found: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// A library that is to be taken off the list of needed ones is used.
    #[error("it uses {by} of `{needed}`, which was to be taken off its needed libraries")]
    Used {
        /// The needed library.
        needed: String,
        /// What is used of it.
        by: String,
    },
    /// A new table does not fit in where the old ones were.
    #[error("{table} needs {needed} bytes, at most {available} are free")]
    NoRoom {
        /// The table.
        table: &'static str,
        /// Bytes needed.
        needed: u64,
        /// Bytes of the largest free range.
        available: u64,
    },
    /// The result would not load as the original does.
    #[error("the rewritten library is not the same when loaded: {0}")]
    Verification(#[from] Difference),
    /// The result could not be written or read back.
    #[error("cannot write the rewritten library: {0}")]
    Write(#[from] io::Error),
}

/// The first difference between a library and its rewritten form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// A property of the whole file.
    #[error("{field} is {found}, expected {expected}")]
    Property {
        /// Which one.
        field: &'static str,
        /// The value found.
        found: String,
        /// The original's value.
        expected: String,
    },
    /// A byte of memory.
    #[error("byte {address:#x} of memory is {found:#04x}, expected {expected:#04x}")]
    Byte {
        /// Its address.
        address: u64,
        /// The value found.
        found: u8,
        /// The original's value.
        expected: u8,
    },
    /// A word that the loader fills in.
    #[error("word {address:#x} becomes {found}, expected {expected}")]
    Word {
        /// Its address.
        address: u64,
        /// What it becomes.
        found: String,
        /// What the original's becomes.
        expected: String,
    },
    /// A word that points at something that is no longer there.
    #[error("word {address:#x} points at {target:#x}, where a table was")]
    Dangling {
        /// Its address.
        address: u64,
        /// Where it points.
        target: u64,
    },
    /// A symbol that others look up.
    #[error("symbol `{name}` is {found}, expected {expected}")]
    Symbol {
        /// Its name.
        name: String,
        /// What a lookup finds.
        found: String,
        /// What it finds in the original.
        expected: String,
    },
}

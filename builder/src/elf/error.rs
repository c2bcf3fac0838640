use std::io;
use std::path::PathBuf;

/// Why a file could not be read as an ELF object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The file could not be opened or mapped.
    #[error("cannot read `{}`: {source}", path.display())]
    Unreadable {
        /// The file on disk.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path names something else than a regular file.
    #[error("`{}` is {found}, expected a regular file", path.display())]
    NotRegular {
        /// The path on disk.
        path: PathBuf,
        /// What lies there.
        found: &'static str,
    },
    /// There are no bytes at all.
    #[error("the file is empty, expected an ELF file")]
    Empty,
    /// The first four bytes are not those of an ELF file.
    #[error("the file starts with `{found}`, expected the ELF magic `\\x7fELF`")]
    NotElf {
        /// The first bytes, escaped.
        found: String,
    },
    /// The file ends inside its own header.
    #[error("the file has {found} bytes, expected an ELF header of {expected}")]
    HeaderTruncated {
        /// Length of the file in bytes.
        found: usize,
        /// Length of the header in bytes.
        expected: usize,
    },
    /// A field of the header has a value that no loader takes.
    #[error("header field {field} is {found}, expected {expected}")]
    Header {
        /// The field's name in the ELF specification.
        field: &'static str,
        /// The value found.
        found: u64,
        /// The values taken.
        expected: &'static str,
    },
    /// The program headers lie outside the file, or there is none to load.
    #[error("the file has no loadable segment within its {bytes} bytes")]
    NoSegments {
        /// Length of the file in bytes.
        bytes: u64,
    },
    /// A segment reaches beyond the end of the file: the file was cut short.
    #[error("segment {index} ends at byte {end}, but the file has only {bytes}: it was cut short")]
    SegmentTruncated {
        /// Position in the program header table.
        index: usize,
        /// End of the segment in the file, in bytes.
        end: u64,
        /// Length of the file in bytes.
        bytes: u64,
    },
    /// A table lies where no segment maps the file's bytes, or reaches beyond them.
    #[error("{table} at address {address:#x} needs {expected} bytes, {found} are mapped there")]
    TableOutside {
        /// The dynamic tag or program header that points at it.
        table: &'static str,
        /// Its virtual address.
        address: u64,
        /// Bytes that it needs.
        expected: u64,
        /// Bytes that the segment has from there on.
        found: u64,
    },
    /// A table contradicts itself.
    #[error("{table} has {field} {found}, expected {expected}")]
    Table {
        /// The dynamic tag or program header that points at it.
        table: &'static str,
        /// The part of it that is wrong.
        field: &'static str,
        /// The value found.
        found: u64,
        /// What it must be.
        expected: &'static str,
    },
    /// A tag that others rest on is absent from the dynamic segment.
    #[error("the dynamic segment has {present} without {absent}")]
    TagAbsent {
        /// The tag that needs the other.
        present: &'static str,
        /// The tag that is not there.
        absent: &'static str,
    },
    /// A name starts outside the string table.
    #[error("{table} names a string at {offset}, the string table has {bytes} bytes")]
    NameOutside {
        /// The table that holds the offset.
        table: &'static str,
        /// Offset into the string table.
        offset: u64,
        /// Length of the string table.
        bytes: u64,
    },
    /// A file or version name is not UTF-8.
    #[error("{table} holds the name `{found}`, which is not UTF-8")]
    NotText {
        /// The table that names it.
        table: &'static str,
        /// The name, with the foreign bytes replaced.
        found: String,
    },
}

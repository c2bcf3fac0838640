//! Tar archives of images: [`TarMap`] finds files in one without unpacking it, [`TarWriter`] writes one whose bytes depend on nothing
//! but its content.
//!
//! Reading knows ustar, GNU long names and PAX paths, sizes and links. Nothing is ever extracted under a name that an archive gives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::error::{ArchiveProblem, TransportError, io_error};

const BLOCK: u64 = 512;
const MAX_ENTRIES: usize = 1 << 20;
const MAX_EXTENDED: u64 = 1 << 20;
const MAX_LINKS: usize = 8;
/// Largest size that fits the eleven octal digits of a header.
const MAX_OCTAL: u64 = (1 << 33) - 1;

/// Where a file's bytes lie in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes.
    pub size: u64,
}

#[derive(Debug, Clone)]
enum Entry {
    File(Part),
    Link(String),
}

/// The files of an uncompressed archive by their names.
#[derive(Debug)]
pub(super) struct TarMap {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// What extended headers say about the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl TarMap {
    /// Reads the headers of an archive.
    pub fn scan(path: &Path) -> Result<Self, TransportError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let length = file.metadata().map_err(io_error("read", path))?.len();
        let mut scanner = Scanner { path, reader: BufReader::with_capacity(4096, file), offset: 0, length };
        let mut map = Self { path: path.to_owned(), entries: BTreeMap::new() };
        let mut extended = Extended::default();
        while let Some(header) = scanner.header()? {
            let kind = header.entry_type();
            let offset = scanner.offset - BLOCK;
            let problem =
                |field| TransportError::Archive { path: path.to_owned(), offset, problem: ArchiveProblem::Header { field } };
            let mut size = header.entry_size().map_err(|_| problem("size"))?;
            if kind.is_pax_local_extensions() {
                extended.read_pax(&scanner.extended(size)?).map_err(problem)?;
                continue;
            }
            if kind.is_gnu_longname() || kind.is_gnu_longlink() {
                let mut name = scanner.extended(size)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                *(if kind.is_gnu_longname() { &mut extended.name } else { &mut extended.link }) = Some(name);
                continue;
            }
            if kind.is_gnu_sparse() {
                return Err(scanner.problem(ArchiveProblem::Sparse));
            }
            let Extended { name, link, size: long_size } = std::mem::take(&mut extended);
            size = long_size.unwrap_or(size);
            let is_link = kind.is_symlink() || kind.is_hard_link();
            let has_no_bytes =
                is_link || kind.is_dir() || kind.is_character_special() || kind.is_block_special() || kind.is_fifo();
            if has_no_bytes {
                size = 0;
            }
            let part = Part { offset: scanner.offset, size };
            scanner.skip(size)?;
            if kind.is_pax_global_extensions() {
                continue;
            }
            let name = map.clean(&name.unwrap_or_else(|| header.path_bytes().into_owned()), "")?;
            if kind.is_file() || kind.is_contiguous() {
                map.insert(name, Entry::File(part), &scanner)?;
            } else if is_link {
                let target = link.or_else(|| header.link_name_bytes().map(|bytes| bytes.into_owned())).unwrap_or_default();
                let folder = if kind.is_symlink() { name.rsplit_once('/').map_or("", |(folder, _)| folder) } else { "" };
                // A link out of the archive matters only to who follows it.
                let target = map.clean(&target, folder).unwrap_or_default();
                map.insert(name, Entry::Link(target), &scanner)?;
            }
        }
        Ok(map)
    }

    fn insert(&mut self, name: String, entry: Entry, scanner: &Scanner) -> Result<(), TransportError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(scanner.problem(ArchiveProblem::Entries { limit: MAX_ENTRIES }));
        }
        // Blobs are checked by their digests; two versions of a document are two images in one archive.
        if self.entries.contains_key(&name) && matches!(name.as_str(), "index.json" | "oci-layout" | "manifest.json") {
            return Err(scanner.problem(ArchiveProblem::Twice { name }));
        }
        self.entries.insert(name, entry);
        Ok(())
    }

    /// Makes a name relative to the archive's root, resolving `.` and, for the targets of links in `folder`, `..`.
    fn clean(&self, name: &[u8], folder: &str) -> Result<String, TransportError> {
        let unsafe_name =
            || TransportError::UnsafeName { path: self.path.clone(), name: String::from_utf8_lossy(name).into_owned() };
        let text = std::str::from_utf8(name).map_err(|_| unsafe_name())?;
        if text.starts_with('/') || text.contains('\0') {
            return Err(unsafe_name());
        }
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => parts.pop().map(|_| ()).filter(|()| !folder.is_empty()).ok_or_else(unsafe_name)?,
                _ => parts.push(part),
            }
        }
        Ok(parts.join("/"))
    }

    /// Finds a file, following links inside the archive.
    pub fn find(&self, name: &str) -> Result<Option<Part>, TransportError> {
        let mut at = name;
        for _ in 0..MAX_LINKS {
            match self.entries.get(at) {
                Some(Entry::File(part)) => return Ok(Some(*part)),
                Some(Entry::Link(target)) => at = target,
                None if at == name => return Ok(None),
                None => break,
            }
        }
        let problem = ArchiveProblem::Link { name: name.to_owned() };
        Err(TransportError::Archive { path: self.path.clone(), offset: 0, problem })
    }

    /// The archive's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

struct Scanner<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    offset: u64,
    length: u64,
}

impl Scanner<'_> {
    fn problem(&self, problem: ArchiveProblem) -> TransportError {
        TransportError::Archive { path: self.path.to_owned(), offset: self.offset, problem }
    }

    /// Checks that so many bytes are left.
    fn expect(&self, bytes: u64) -> Result<(), TransportError> {
        match self.offset.checked_add(bytes) {
            Some(expected) if expected <= self.length => Ok(()),
            expected => {
                Err(self.problem(ArchiveProblem::Truncated { found: self.length, expected: expected.unwrap_or(u64::MAX) }))
            }
        }
    }

    /// Reads the next header; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<tar::Header>, TransportError> {
        if self.offset == self.length && self.offset > 0 {
            return Ok(None);
        }
        self.expect(BLOCK)?;
        let mut header = tar::Header::new_old();
        self.reader.read_exact(header.as_mut_bytes()).map_err(io_error("read", self.path))?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let expected =
            bytes.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) }).sum();
        if header.cksum().ok() != Some(expected) {
            let found = String::from_utf8_lossy(&bytes[148..156]).trim_matches(['\0', ' ']).escape_debug().to_string();
            return Err(self.problem(ArchiveProblem::Checksum { found, expected }));
        }
        self.offset += BLOCK;
        Ok(Some(header))
    }

    /// Reads the content of an extended header.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>, TransportError> {
        if size > MAX_EXTENDED {
            return Err(self.problem(ArchiveProblem::ExtendedHeader { found: size, limit: MAX_EXTENDED }));
        }
        self.expect(size)?;
        let mut content = vec![0; usize::try_from(size).expect("the limit is small")];
        self.reader.read_exact(&mut content).map_err(io_error("read", self.path))?;
        self.offset += size;
        let rest = size.next_multiple_of(BLOCK) - size;
        self.skip(rest)?;
        Ok(content)
    }

    /// Passes over bytes and the padding that fills their last block.
    fn skip(&mut self, size: u64) -> Result<(), TransportError> {
        self.expect(size)?;
        // The padding of the last entry may be cut off without harm.
        let padded = (self.offset + size).next_multiple_of(BLOCK).min(self.length) - self.offset;
        let by = i64::try_from(padded).expect("a file is shorter than that");
        self.reader.seek_relative(by).map_err(io_error("read", self.path))?;
        self.offset += padded;
        Ok(())
    }
}

impl Extended {
    /// Reads PAX records, `LENGTH KEY=VALUE\n`.
    fn read_pax(&mut self, mut content: &[u8]) -> Result<(), &'static str> {
        const FIELD: &str = "PAX record";
        while !content.is_empty() {
            let space = content.iter().position(|byte| *byte == b' ').ok_or(FIELD)?;
            let length: usize = std::str::from_utf8(&content[..space]).ok().and_then(|text| text.parse().ok()).ok_or(FIELD)?;
            let (record, rest) = content.split_at_checked(length).ok_or(FIELD)?;
            let record = record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or(FIELD)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(FIELD)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or("PAX size")?);
                }
                _ if key.starts_with(b"GNU.sparse.") => return Err("sparse map"),
                _ => {}
            }
            content = rest;
        }
        Ok(())
    }
}

/// Writes a deterministic archive: fixed owner, mode and time, no attributes.
#[derive(Debug)]
pub(super) struct TarWriter<W> {
    inner: W,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Adds a folder.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        self.header(&format!("{name}/"), tar::EntryType::Directory, 0)
    }

    /// Adds a file that is in memory.
    pub fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let size = content.len() as u64;
        self.begin_file(name, size)?.write_all(content)?;
        self.end_file(size)
    }

    /// Begins a file of `size` bytes, which go to the writer that this gives.
    pub fn begin_file(&mut self, name: &str, size: u64) -> io::Result<&mut W> {
        self.header(name, tar::EntryType::Regular, size)?;
        Ok(&mut self.inner)
    }

    /// Ends a file of `size` bytes.
    pub fn end_file(&mut self, size: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK) - size;
        self.inner.write_all(&[0; BLOCK as usize][..usize::try_from(padding).expect("less than a block")])
    }

    fn header(&mut self, name: &str, kind: tar::EntryType, size: u64) -> io::Result<()> {
        // Only GNU headers have a form for 8 GiB and more.
        let mut header = if size > MAX_OCTAL { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
        header.set_path(name)?;
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.inner.write_all(header.as_bytes())
    }

    /// Writes the two empty blocks at the end and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0; 2 * BLOCK as usize])?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}

/// Reads a part of a file.
pub(super) fn read_part(path: &Path, part: Part) -> Result<Vec<u8>, TransportError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    file.seek(SeekFrom::Start(part.offset)).map_err(io_error("read", path))?;
    let mut content = Vec::new();
    file.take(part.size).read_to_end(&mut content).map_err(io_error("read", path))?;
    Ok(content)
}

//! Reads any layer, member by member: uncompressed, gzip of any number of members, or zstd of any number of frames.
//!
//! Layers come from strangers. Nothing here trusts a length before the bytes are there, names that lead out of the image are
//! errors, and [`Limits`] bound what a small archive can unfold to.

use std::ffi::OsStr;
use std::io::{self, BufReader, Cursor, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::ReadError;
use super::error::HeaderProblem;
use super::header::{BLOCK, padding};
use crate::tree::ImagePath;

/// Longest name that a system call takes, with its end.
const LONGEST_NAME: usize = 4095;
/// Largest zstd window, as its own command has it: 128 MiB.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How much a layer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members.
    pub members: u64,
    /// Bytes of the uncompressed tar.
    pub bytes: u64,
    /// Bytes of one member's extended header.
    pub extended: u64,
}

impl Default for Limits {
    /// Two million members, 256 GiB, 1 MiB.
    fn default() -> Self {
        Self { members: 2_000_000, bytes: 256 << 30, extended: 1 << 20 }
    }
}

/// One member of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where in the image it lies: relative to the root, without empty, `.` and `..` components; empty for the root itself.
    pub path: PathBuf,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits, those for set-user-ID, set-group-ID and sticky included.
    pub mode: u32,
    /// Bytes of content that follow; 0 for all but files.
    pub size: u64,
}

/// What a member of a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, and what it points at as written.
    Symlink(PathBuf),
    /// Another name of a file, whose path is given as [`Member::path`] is.
    HardLink(PathBuf),
    /// A device or a pipe.
    Special,
    /// Marks what lower layers have at this path as deleted.
    Whiteout,
    /// Marks everything that lower layers have in this directory as deleted.
    Opaque,
    /// Another file system's notes about deletions, which say nothing about the image.
    Ignored,
}

impl Member {
    /// The path as the tree has it; `None` for the root and for names that are not UTF-8.
    #[must_use]
    pub fn image_path(&self) -> Option<ImagePath> {
        format!("/{}", self.path.to_str()?).parse().ok()
    }
}

type Input<R> = BufReader<io::Chain<Cursor<Vec<u8>>, R>>;

enum Decoded<R: Read> {
    Plain(Input<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Input<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
}

impl<R: Read> Read for Decoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read(buffer),
            Self::Gzip(reader) => reader.read(buffer),
            Self::Zstd(reader) => reader.read(buffer),
        }
    }
}

/// Goes through the members of a layer. As a [`Read`] it gives the content of the member that
/// [`next_member`](Self::next_member) gave last.
pub struct LayerReader<R: Read> {
    input: Decoded<R>,
    layer: usize,
    limits: Limits,
    /// Bytes of the tar read so far.
    offset: u64,
    members: u64,
    /// Bytes of content not read yet, and of padding after them.
    content: u64,
    padding: usize,
    ended: bool,
}

impl<R: Read> std::fmt::Debug for LayerReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerReader").field("layer", &self.layer).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl<R: Read> LayerReader<R> {
    /// Opens a layer, recognising how it is compressed from its first bytes. `layer` is its number for error texts.
    ///
    /// # Errors
    /// Where the first bytes cannot be read.
    pub fn new(mut reader: R, layer: usize, limits: Limits) -> Result<Self, ReadError> {
        let error = |source| ReadError::Io { layer, place: "its first bytes".to_owned(), source };
        let mut magic = Vec::new();
        Read::by_ref(&mut reader).take(4).read_to_end(&mut magic).map_err(error)?;
        let kind = magic.clone();
        let input = BufReader::with_capacity(128 << 10, Cursor::new(magic).chain(reader));
        let input = match kind.as_slice() {
            [0x1f, 0x8b, ..] => Decoded::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            // A frame, or one that decoders skip and some writers put first.
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(error)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(error)?;
                Decoded::Zstd(Box::new(decoder))
            }
            _ => Decoded::Plain(input),
        };
        Ok(Self { input, layer, limits, offset: 0, members: 0, content: 0, padding: 0, ended: false })
    }

    /// Gives the next member, past what is left of the one before; `None` at the end.
    ///
    /// The layer was read to its last byte then, so that a reader that checks digests has checked it.
    ///
    /// # Errors
    /// Where the layer is damaged, leads out of the image, or is larger than allowed.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        let rest = self.content.saturating_add(self.padding as u64);
        self.skip(rest)?;
        (self.content, self.padding) = (0, 0);
        let mut extended = Extended::default();
        loop {
            let Some(block) = self.header_block()? else {
                self.drain()?;
                self.ended = true;
                return Ok(None);
            };
            self.members += 1;
            if self.members > self.limits.members {
                return Err(self.limit(self.limits.members, "members"));
            }
            let header = Header::from_byte_slice(&block);
            self.check_sum(header)?;
            let size = self.number(&header.as_old().size, "size")?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let body = self.extended_body(size)?;
                    extended.add_records(&body).map_err(|problem| self.header(problem))?;
                }
                EntryType::XGlobalHeader => drop(self.extended_body(size)?),
                EntryType::GNULongName => extended.path = Some(until_zero(self.extended_body(size)?)),
                EntryType::GNULongLink => extended.link = Some(until_zero(self.extended_body(size)?)),
                _ => return self.member(header, size, extended).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Member, ReadError> {
        let raw = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link = extended.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        let mode = self.number(&header.as_old().mode, "mode")? as u32 & 0o7777;
        let unsupported = |what| HeaderProblem::Unsupported {
            name: raw.escape_ascii().to_string(),
            kind: header.as_old().linkflag.escape_ascii().to_string(),
            what,
        };
        if extended.sparse {
            return Err(self.header(unsupported("a file with holes left out")));
        }
        let (path, mark) = self.path(&raw)?;
        let kind = match header.entry_type() {
            // Before ustar, a slash at its end made a directory.
            EntryType::Regular if raw.last() == Some(&b'/') => MemberKind::Directory,
            EntryType::Regular | EntryType::Continuous => MemberKind::File,
            EntryType::Directory => MemberKind::Directory,
            EntryType::Symlink => {
                if link.is_empty() || link.contains(&0) || link.len() > LONGEST_NAME {
                    return Err(self.name(&raw, "it is a symbolic link that points at no path"));
                }
                MemberKind::Symlink(PathBuf::from(OsStr::from_bytes(&link)))
            }
            EntryType::Link => match self.path(&link)? {
                (target, None) if !target.as_os_str().is_empty() => MemberKind::HardLink(target),
                _ => return Err(self.name(&raw, "it is a hard link to no file")),
            },
            EntryType::Char | EntryType::Block | EntryType::Fifo => MemberKind::Special,
            EntryType::GNUSparse => return Err(self.header(unsupported("a file with holes left out"))),
            _ => return Err(self.header(unsupported("not a kind of file"))),
        };
        let size = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous => extended.size.unwrap_or(size),
            // Headers alone, whatever size they say.
            _ => 0,
        };
        (self.content, self.padding) = (size, padding(size));
        let kind = mark.unwrap_or(kind);
        if path.as_os_str().is_empty() && !matches!(kind, MemberKind::Directory | MemberKind::Opaque | MemberKind::Ignored) {
            return Err(self.name(&raw, "it is the root of the image and no directory"));
        }
        let size = if kind == MemberKind::File { size } else { 0 };
        Ok(Member { path, kind, mode, size })
    }

    /// Bytes of the uncompressed tar read so far.
    #[must_use]
    pub fn tar_bytes(&self) -> u64 {
        self.offset
    }

    /// Members met so far, headers that only extend others included.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.members
    }

    /// Cleans a name, and finds the mark for deletions in it.
    fn path(&self, raw: &[u8]) -> Result<(PathBuf, Option<MemberKind>), ReadError> {
        if raw.contains(&0) {
            return Err(self.name(raw, "it holds a zero byte"));
        }
        if raw.len() > LONGEST_NAME {
            return Err(self.name(raw, "it is longer than 4095 bytes"));
        }
        let mut parts: Vec<&[u8]> = raw.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
        if parts.contains(&&b".."[..]) {
            return Err(self.name(raw, "it has a component `..`"));
        }
        let mut mark = None;
        if let Some(last) = parts.last().copied().filter(|last| last.starts_with(b".wh.")) {
            parts.pop();
            match &last[4..] {
                b".wh..opq" => mark = Some(MemberKind::Opaque),
                rest if rest.starts_with(b".wh.") => mark = Some(MemberKind::Ignored),
                b"" | b"." | b".." => return Err(self.name(raw, "it marks no name as deleted")),
                rest => {
                    parts.push(rest);
                    mark = Some(MemberKind::Whiteout);
                }
            }
        }
        if parts.iter().any(|part| part.starts_with(b".wh..wh.")) {
            mark = Some(MemberKind::Ignored);
        } else if parts.iter().any(|part| part.starts_with(b".wh.")) {
            return Err(self.name(raw, "it lies below a mark for deletions"));
        }
        Ok((PathBuf::from(OsStr::from_bytes(&parts.join(&b'/'))), mark))
    }

    /// Reads the next header; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK as usize]>, ReadError> {
        let mut block = [0; BLOCK as usize];
        if !self.fill(&mut block)? {
            return Ok(None);
        }
        if block == [0; BLOCK as usize] {
            return match self.fill(&mut block)? && block != [0; BLOCK as usize] {
                true => Err(self.header(HeaderProblem::LoneZeroBlock)),
                false => Ok(None),
            };
        }
        Ok(Some(block))
    }

    /// Fills a block, or finds the end before its first byte.
    fn fill(&mut self, block: &mut [u8]) -> Result<bool, ReadError> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.io(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io(error)),
            }
        }
        self.count(filled as u64)?;
        Ok(true)
    }

    fn extended_body(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        if size > self.limits.extended {
            return Err(self.limit(self.limits.extended, "bytes in an extended header"));
        }
        let padded = size + padding(size) as u64;
        let mut body = Vec::new();
        Read::by_ref(&mut self.input).take(padded).read_to_end(&mut body).map_err(|error| self.io(error))?;
        if body.len() as u64 != padded {
            return Err(self.io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.count(padded)?;
        body.truncate(size as usize);
        Ok(body)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), ReadError> {
        // Before the bytes, so that an archive cannot make this last longer than its limit.
        self.count(bytes)?;
        let skipped = io::copy(&mut Read::by_ref(&mut self.input).take(bytes), &mut io::sink());
        match skipped {
            Ok(skipped) if skipped == bytes => Ok(()),
            Ok(_) => Err(self.io(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(self.io(error)),
        }
    }

    /// Reads what follows the archive's end: readers that check digests do so at the last byte.
    fn drain(&mut self) -> Result<(), ReadError> {
        let room = self.limits.bytes.saturating_sub(self.offset).saturating_add(1);
        let read = io::copy(&mut Read::by_ref(&mut self.input).take(room), &mut io::sink());
        let read = read.map_err(|error| self.io(error))?;
        self.count(read)
    }

    fn count(&mut self, bytes: u64) -> Result<(), ReadError> {
        self.offset = self.offset.saturating_add(bytes);
        if self.offset > self.limits.bytes { Err(self.limit(self.limits.bytes, "bytes")) } else { Ok(()) }
    }

    fn check_sum(&self, header: &Header) -> Result<(), ReadError> {
        let bytes = header.as_bytes();
        let sum = |range: std::ops::Range<usize>| bytes[range].iter().map(|byte| u32::from(*byte)).sum::<u32>();
        let actual = sum(0..148) + 8 * u32::from(b' ') + sum(156..512);
        let expected = self.number(&header.as_old().cksum, "checksum")? as u32;
        if actual == expected { Ok(()) } else { Err(self.header(HeaderProblem::Checksum { actual, expected })) }
    }

    /// A number field: octal digits between spaces and zero bytes, or binary where the first bit is set. Blank is 0.
    fn number(&self, field: &[u8], name: &'static str) -> Result<u64, ReadError> {
        let error = || self.header(HeaderProblem::Number { field: name });
        if field[0] & 0x80 != 0 {
            // The first byte is 0x80 for a number, 0xff for a negative one.
            let (first, rest) = field.split_at(field.len().saturating_sub(8).max(1));
            let fits = first[0] == 0x80 && first[1..].iter().all(|byte| *byte == 0);
            let number = rest.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            return if fits { Ok(number) } else { Err(error()) };
        }
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| error())?.trim_matches(' ');
        if text.is_empty() {
            return Ok(0);
        }
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        u64::from_str_radix(text, 8).map_err(|_| error())
    }

    fn place(&self) -> String {
        format!("byte {} of its tar", self.offset)
    }

    pub(crate) fn io(&self, source: io::Error) -> ReadError {
        ReadError::Io { layer: self.layer, place: self.place(), source }
    }

    fn header(&self, problem: HeaderProblem) -> ReadError {
        ReadError::Header { layer: self.layer, place: self.place(), problem }
    }

    fn name(&self, raw: &[u8], reason: &'static str) -> ReadError {
        let name = raw[..raw.len().min(200)].escape_ascii().to_string();
        ReadError::Name { layer: self.layer, name, reason }
    }

    fn limit(&self, limit: u64, unit: &'static str) -> ReadError {
        ReadError::Limit { layer: self.layer, limit, unit }
    }
}

impl<R: Read> Read for LayerReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= count as u64;
        self.count(count as u64).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(count)
    }
}

/// What extended headers say about the member after them.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extended {
    /// Takes in PAX records: `LENGTH KEYWORD=VALUE` and a line break each, where the length counts all of it.
    fn add_records(&mut self, mut body: &[u8]) -> Result<(), HeaderProblem> {
        let malformed = |reason| HeaderProblem::Extended { reason };
        while !body.is_empty() {
            let space = body.iter().take(20).position(|byte| *byte == b' ').ok_or(malformed("a record has no length"))?;
            let length = std::str::from_utf8(&body[..space]).ok().and_then(|text| text.parse::<usize>().ok());
            let length = length.filter(|length| *length > space + 1 && *length <= body.len());
            let (record, rest) = body.split_at(length.ok_or(malformed("a record's length is wrong"))?);
            body = rest;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or(malformed("a record does not end with its line"))?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(malformed("a record has no `=`"))?;
            let (keyword, value) = (&record[..equals], &record[equals + 1..]);
            match keyword {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or(malformed("the size is no number"))?);
                }
                _ => self.sparse |= keyword.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

/// A path as error texts show it.
pub(crate) fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

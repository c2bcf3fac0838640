//! The files of an image at rest: [`Files`], a folder or an archive, of which small documents are read and blobs are found.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tempfile::TempPath;

use super::error::{ArchiveProblem, TransportError, io_error};
use super::tarfile::{Part, TarMap, read_part};
use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, LocalBlobs};

/// Manifests, indexes and configs are read into memory up to this size, as registries do.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;

/// The files of an image at rest.
#[derive(Debug)]
pub(super) enum Files {
    /// A folder.
    Folder(PathBuf),
    /// An archive, read where it lies.
    Archive {
        /// Its files.
        map: TarMap,
        /// What the user calls it, where `map` is of a decompressed copy.
        place: PathBuf,
        /// The decompressed copy, removed with the last of its readers.
        scratch: Option<Arc<TempPath>>,
    },
}

/// Blobs that lie in a temporary file, which lives as long as they do.
#[derive(Debug)]
struct Held {
    blobs: LocalBlobs,
    _scratch: Arc<TempPath>,
}

impl Blobs for Held {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        self.blobs.open_unverified(descriptor, offset)
    }
}

/// The name of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Files {
    /// Opens a folder.
    pub fn folder(folder: &Path) -> Result<Self, TransportError> {
        let metadata = fs::metadata(folder).map_err(io_error("open", folder))?;
        if !metadata.is_dir() {
            return Err(TransportError::Occupied {
                path: folder.to_owned(),
                found: "a file",
                expected: "a folder in OCI layout",
            });
        }
        Ok(Self::Folder(folder.to_owned()))
    }

    /// Opens an archive; a compressed one is decompressed into `scratch` first.
    pub fn archive(path: &Path, scratch: &Path) -> Result<Self, TransportError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        if file.metadata().map_err(io_error("read", path))?.is_dir() {
            return Err(TransportError::Occupied { path: path.to_owned(), found: "a folder", expected: "an archive" });
        }
        let mut head = Vec::new();
        (&mut file).take(6).read_to_end(&mut head).map_err(io_error("read", path))?;
        drop(file);
        match Compression::of(&head) {
            Compression::None => Ok(Self::Archive { map: TarMap::scan(path)?, place: path.to_owned(), scratch: None }),
            Compression::Other(found) => Err(TransportError::Compression { path: path.to_owned(), found }),
            compression => {
                let copy = decompressed(path, compression, scratch)?;
                Ok(Self::Archive { map: TarMap::scan(&copy)?, place: path.to_owned(), scratch: Some(Arc::new(copy)) })
            }
        }
    }

    /// Opens an archive that is a temporary file and goes away with its last reader.
    pub fn temporary(file: TempPath, place: &Path) -> Result<Self, TransportError> {
        Ok(Self::Archive { map: TarMap::scan(&file)?, place: place.to_owned(), scratch: Some(Arc::new(file)) })
    }

    /// What the user calls it.
    pub fn place(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.clone(),
            Self::Archive { place, .. } => place.clone(),
        }
    }

    fn missing(&self, name: &str) -> TransportError {
        TransportError::Missing { place: self.place(), file: name.to_owned() }
    }

    /// Where a file lies: path, offset and size.
    pub fn find(&self, name: &str) -> Result<Option<(PathBuf, Part)>, TransportError> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => Ok(Some((path, Part { offset: 0, size: metadata.len() }))),
                    Ok(_) => Ok(None),
                    Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
                    Err(error) => Err(io_error("read", &path)(error)),
                }
            }
            Self::Archive { map, .. } => Ok(map.find(name)?.map(|part| (map.path().to_owned(), part))),
        }
    }

    /// Reads a small file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, TransportError> {
        let (path, part) = self.find(name)?.ok_or_else(|| self.missing(name))?;
        if part.size > MAX_DOCUMENT {
            return Err(TransportError::TooLarge {
                place: self.place(),
                file: name.to_owned(),
                found: part.size,
                limit: MAX_DOCUMENT,
            });
        }
        read_part(&path, part)
    }

    /// Parses a small file's content as JSON.
    pub fn parse<T: DeserializeOwned>(&self, name: &str, content: &[u8]) -> Result<T, TransportError> {
        serde_json::from_slice(content).map_err(|source| TransportError::Json {
            place: self.place(),
            file: name.to_owned(),
            source,
        })
    }

    /// An error about a field of a file.
    pub fn field(&self, file: &str, field: &'static str, found: impl ToString, expected: impl ToString) -> TransportError {
        TransportError::Field {
            place: self.place(),
            file: file.to_owned(),
            field,
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// Reads a small blob and checks its size and digest.
    pub fn read_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, TransportError> {
        let name = blob_name(&descriptor.digest);
        let content = self.read(&name)?;
        self.check_size(&name, content.len() as u64, descriptor.size)?;
        let found = Digest::of(&content);
        if found != descriptor.digest {
            return Err(TransportError::Digest { place: self.place(), file: name, found, expected: descriptor.digest });
        }
        Ok(content)
    }

    fn check_size(&self, name: &str, found: u64, expected: u64) -> Result<(), TransportError> {
        if found == expected {
            return Ok(());
        }
        Err(TransportError::Size { place: self.place(), file: name.to_owned(), found, expected })
    }

    /// Finds blobs, checking that they are there in their full size. Their digests are checked when they are read.
    pub fn blobs<'a>(&self, descriptors: impl IntoIterator<Item = &'a Descriptor>) -> Result<Arc<dyn Blobs>, TransportError> {
        let mut places = Vec::new();
        for descriptor in descriptors {
            let name = blob_name(&descriptor.digest);
            let (path, part) = self.find(&name)?.ok_or_else(|| self.missing(&name))?;
            self.check_size(&name, part.size, descriptor.size)?;
            places.push((descriptor.digest, path, part));
        }
        Ok(self.hold(places))
    }

    /// Makes places readable for as long as someone holds them.
    pub fn hold(&self, places: Vec<(Digest, PathBuf, Part)>) -> Arc<dyn Blobs> {
        let mut blobs = LocalBlobs::default();
        for (digest, path, part) in places {
            match self {
                Self::Folder(_) => blobs.add_file(digest, path),
                Self::Archive { .. } => blobs.add_part(digest, path, part.offset),
            }
        }
        match self {
            Self::Archive { scratch: Some(scratch), .. } => Arc::new(Held { blobs, _scratch: scratch.clone() }),
            _ => Arc::new(blobs),
        }
    }
}

/// How a stream is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Other(&'static str),
}

impl Compression {
    /// Recognises a stream by at least six first bytes.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            [b'B', b'Z', b'h', ..] => Self::Other("bzip2"),
            _ => Self::None,
        }
    }

    /// Decodes a stream of any number of members or frames.
    pub fn decode<'a>(self, reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(reader)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(reader)?),
            Self::None | Self::Other(_) => Box::new(reader),
        })
    }
}

/// Decompresses an archive into a temporary file.
fn decompressed(path: &Path, compression: Compression, scratch: &Path) -> Result<TempPath, TransportError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut decoder = compression.decode(file).map_err(io_error("decompress", path))?;
    let mut copy = tempfile::NamedTempFile::new_in(scratch).map_err(io_error("create a file in", scratch))?;
    let mut buffer = vec![0; 1 << 18];
    let mut offset = 0;
    loop {
        let count = decoder.read(&mut buffer).map_err(|error| TransportError::Archive {
            path: path.to_owned(),
            offset,
            problem: ArchiveProblem::Stream { reason: error.to_string() },
        })?;
        if count == 0 {
            return Ok(copy.into_temp_path());
        }
        io::Write::write_all(&mut copy, &buffer[..count]).map_err(io_error("decompress into", scratch))?;
        offset += count as u64;
    }
}

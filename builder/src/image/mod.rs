//! Images as values: [`Image`], [`Layer`], [`Descriptor`], and [`Blobs`], where their bytes are.

mod artifact;
mod assemble;
mod config;
mod descriptor;
pub mod label;

pub(crate) use artifact::MemoryBlobs;
pub use artifact::{Artifact, ArtifactPart};
pub use assemble::{ImageParts, LayerWithHistory, timestamp};
pub use config::{ContainerConfig, History, ImageConfig, RootFs};
pub use descriptor::{Descriptor, Index, Manifest, MediaType, PlatformFields, media_type};

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use crate::digest::Digest;

/// A finished image: manifest and config in memory, layers wherever their bytes are.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// What the manifest says.
    pub parsed: Manifest,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// From where the layers can be read.
    pub blobs: Arc<dyn Blobs>,
}

/// One layer of an image that was built here: it exists only finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Media type, digest and size of the layer as it travels, compressed or not.
    pub descriptor: Descriptor,
    /// Digest of the layer's uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub unpacked: u64,
    /// The blob's file, or `None` where it was not downloaded because the target has it.
    pub path: Option<PathBuf>,
}

/// Where blobs of an image can be read, by their descriptors.
pub trait Blobs: Send + Sync + fmt::Debug {
    /// Opens a blob at an offset. What is read is checked by the caller (see [`open_verified`]).
    ///
    /// # Errors
    /// Where it is not there or cannot be read.
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> std::io::Result<Box<dyn Read + Send>>;

    /// The blob as a file of its own on this machine, where it is one.
    fn local_path(&self, _descriptor: &Descriptor) -> Option<PathBuf> {
        None
    }
}

/// Opens a blob so that reading fails unless the bytes have the descriptor's size and digest: the error comes before the end of the file.
///
/// # Errors
/// Where the blob cannot be opened.
pub fn open_verified(blobs: &dyn Blobs, descriptor: &Descriptor) -> std::io::Result<impl Read + Send + use<>> {
    let inner = blobs.open_unverified(descriptor, 0)?;
    Ok(Verifying { inner: Some(crate::digest::HashingReader::new(inner)), expected: descriptor.digest, size: descriptor.size })
}

struct Verifying<R> {
    inner: Option<crate::digest::HashingReader<R>>,
    expected: Digest,
    size: u64,
}

impl<R: Read> Read for Verifying<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(reader) = &mut self.inner else { return Ok(0) };
        let count = reader.read(buffer)?;
        let total = reader.read_so_far();
        if total > self.size || (count == 0 && !buffer.is_empty() && total < self.size) {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!(
                    "blob {} has {}{total} bytes, expected {}",
                    self.expected,
                    if count == 0 { "" } else { "at least " },
                    self.size
                ),
            ));
        }
        if total == self.size
            && let Some(reader) = self.inner.take()
        {
            let (_, actual) = reader.finish();
            if actual != self.expected {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("digest is {actual}, expected {}", self.expected),
                ));
            }
        }
        Ok(count)
    }
}

/// Blobs that are files on this machine, whole or parts of an archive.
#[derive(Debug, Default, Clone)]
pub struct LocalBlobs {
    places: BTreeMap<Digest, Place>,
}

#[derive(Debug, Clone)]
struct Place {
    path: PathBuf,
    offset: u64,
    whole: bool,
}

impl LocalBlobs {
    /// Adds a blob that is a whole file.
    pub fn add_file(&mut self, digest: Digest, path: PathBuf) {
        self.places.insert(digest, Place { path, offset: 0, whole: true });
    }

    /// Adds a blob that lies at an offset in a larger file, such as an uncompressed archive.
    pub fn add_part(&mut self, digest: Digest, path: PathBuf, offset: u64) {
        self.places.insert(digest, Place { path, offset, whole: false });
    }
}

impl Blobs for LocalBlobs {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> std::io::Result<Box<dyn Read + Send>> {
        use std::io::{Seek, SeekFrom};
        let place = self.places.get(&descriptor.digest).ok_or_else(|| {
            std::io::Error::new(std::io::ErrorKind::NotFound, format!("blob {} is not there", descriptor.digest))
        })?;
        let mut file = std::fs::File::open(&place.path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", place.path.display())))?;
        file.seek(SeekFrom::Start(place.offset + offset))?;
        Ok(Box::new(file.take(descriptor.size.saturating_sub(offset))))
    }

    fn local_path(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        self.places.get(&descriptor.digest).filter(|place| place.whole).map(|place| place.path.clone())
    }
}

//! Where images go and come from on this machine: [`Transport`], [`Transport::put`], [`Transport::open`] and [`validate()`].
//!
//! ```text
//! Content --put--> oci: | oci-archive: | docker-archive: | docker-daemon:
//! Content <-open-- oci: | oci-archive: | docker-archive: | docker-daemon:
//! ```
//! Everything is streamed: memory does not grow with a layer. A blob's digest is checked whenever its bytes are copied, and an image is
//! found under its name only when all of it is there.

mod annotate;
mod archive;
mod content;
mod convert;
mod copy;
mod daemon;
mod docker;
mod error;
mod files;
mod layout;
mod name;
mod read;
mod referrers;
mod tarfile;
mod validate;

#[cfg(test)]
mod tests;

pub use content::{Content, ImageIndex, describe, gpus_of, platform_of};
pub use convert::to_oci;
pub use error::{ArchiveProblem, TransportError};
pub use name::{ImageName, NameError, Selector, Transport};
pub use validate::{ImageError, Validated, validate, validate_content};

use std::path::PathBuf;

use crate::image::Descriptor;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Store;

/// How an image is put somewhere.
#[derive(Debug)]
pub struct Put<'a> {
    /// The image's full name, where it has one.
    pub name: Option<&'a Reference>,
    /// Which image of an index goes to a place that takes one image only.
    pub platform: Option<Platform>,
    /// The store that holds the layers, whose files an OCI layout on the same file system then shares.
    pub store: Option<&'a Store>,
    /// Where events go.
    pub progress: &'a Progress,
}

/// What was put somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The manifest or index as it lies there. Its digest differs from the given one where Docker's types became OCI's, and where zstd
    /// layers became plain ones for Docker; the config never changes.
    pub descriptor: Descriptor,
    /// Bytes of blobs that were written, not counting those that were there.
    pub written: u64,
}

/// How an image is opened.
#[derive(Debug)]
pub struct Open<'a> {
    /// Which image of an index; the whole index where none is given.
    pub platform: Option<Platform>,
    /// Where archives are decompressed and exports of a daemon are kept while they are read; the system's folder where none is given.
    pub scratch: Option<PathBuf>,
    /// Where events go.
    pub progress: &'a Progress,
}

impl Open<'_> {
    fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }
}

impl Transport {
    /// Puts an image or index here. In an OCI layout it replaces the one with the same tag and leaves the others; an archive is replaced.
    ///
    /// # Errors
    /// Where the place holds something else or cannot be written, a blob is damaged, or no daemon answers;
    /// [`TransportError::Registry`] for a registry.
    pub fn put(&self, content: &Content, request: &Put) -> Result<Placed, TransportError> {
        let converted = convert::to_oci(content)?;
        let content = converted.as_ref().unwrap_or(content);
        match self {
            Self::OciLayout { selector: Selector::Digest(_), .. } | Self::OciArchive { selector: Selector::Digest(_), .. } => {
                Err(TransportError::WriteByDigest { place: self.to_string() })
            }
            Self::OciLayout { folder, selector } => layout::put(folder, selector, content, request),
            Self::OciArchive { file, selector } => {
                archive::put(file, &archive::Archive::oci(content, selector, request)?, content, request)
            }
            Self::DockerArchive { file, name } => {
                let image = content.image(request.platform)?;
                let converted = convert::without_zstd(image)?;
                let image = converted.as_ref().unwrap_or(image);
                let content = Content::Image(image.clone());
                let name = name.clone().or_else(|| request.name.and_then(image_name));
                archive::put(file, &archive::Archive::docker(&content, image, name.as_slice())?, &content, request)
            }
            Self::DockerDaemon { name } => daemon::put(name, content.image(request.platform)?, request),
            Self::Registry(reference) => Err(TransportError::Registry { reference: reference.clone() }),
        }
    }

    /// Opens what lies here. Documents are checked at once; of layers it is checked that they are there in their full size, and their
    /// digests are checked when they are read through [`crate::image::open_verified`].
    ///
    /// # Errors
    /// Where nothing is there, several images are and none was chosen, or what is there is damaged; [`TransportError::Registry`] for a
    /// registry.
    pub fn open(&self, request: &Open) -> Result<Content, TransportError> {
        match self {
            Self::OciLayout { folder, selector } => read::open_layout(&files::Files::folder(folder)?, selector, request.platform),
            Self::OciArchive { file, selector } => {
                let files = files::Files::archive(file, &request.scratch())?;
                read::open_layout(&files, selector, request.platform)
            }
            Self::DockerArchive { file, name } => {
                let files = files::Files::archive(file, &request.scratch())?;
                docker::open_docker(&files, name.as_ref(), request.platform)
            }
            Self::DockerDaemon { name } => daemon::open(name, request),
            Self::Registry(reference) => Err(TransportError::Registry { reference: reference.clone() }),
        }
    }
}

/// The name that a daemon gives to a reference.
fn image_name(reference: &Reference) -> Option<ImageName> {
    Some(ImageName { name: reference.name(), tag: reference.tag_or_latest()?.to_owned() })
}

//! What can go wrong when images are written to a place or read from one.

use std::io;
use std::path::{Path, PathBuf};

use super::name::NameError;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::StoreError;

/// What can go wrong when images are written to a place or read from one.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The text names no place.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The operating system refused something.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store failed.
    #[error("failed to take a blob from the store")]
    Store(#[from] StoreError),
    /// A blob cannot be read, or is damaged where it comes from.
    #[error("failed to read the blob {digest}")]
    Blob {
        /// Which one.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// An image whose config is another than its manifest says.
    #[error("the image's config has the digest {found}, expected {expected} as its manifest says")]
    Config {
        /// Digest of the config.
        found: Digest,
        /// The manifest's.
        expected: Digest,
    },
    /// Something is there already that would be overwritten.
    #[error("`{path}` is {found}, expected {expected}")]
    Occupied {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A digest was given where an image is to be written.
    #[error("`{place}` is a place to read from: an image is written under a tag, not under a digest")]
    WriteByDigest {
        /// The place.
        place: String,
    },
    /// A file that the image needs is absent.
    #[error("`{file}` is missing in `{place}`")]
    Missing {
        /// The layout or archive.
        place: PathBuf,
        /// The file's name in it.
        file: String,
    },
    /// A layout's version that is not known.
    #[error("`oci-layout` in `{place}` says version `{found}`, expected `1.0.0`")]
    LayoutVersion {
        /// The layout or archive.
        place: PathBuf,
        /// What it says.
        found: String,
    },
    /// A file is no JSON, or not of the expected shape.
    #[error("failed to parse `{file}` in `{place}`")]
    Json {
        /// The layout or archive.
        place: PathBuf,
        /// The file's name in it.
        file: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// A file that is read into memory is larger than anything sensible.
    #[error("`{file}` in `{place}` has {found} bytes, expected at most {limit}")]
    TooLarge {
        /// The layout or archive.
        place: PathBuf,
        /// The file's name in it.
        file: String,
        /// Its bytes.
        found: u64,
        /// The most that are read.
        limit: u64,
    },
    /// A file has another size than its descriptor says.
    #[error("`{file}` in `{place}` has {found} bytes, expected {expected}")]
    Size {
        /// The layout or archive.
        place: PathBuf,
        /// The file's name in it.
        file: String,
        /// Its bytes.
        found: u64,
        /// The descriptor's.
        expected: u64,
    },
    /// A file has another digest than its descriptor says.
    #[error("`{file}` in `{place}` has the digest {found}, expected {expected}")]
    Digest {
        /// The layout or archive.
        place: PathBuf,
        /// The file's name in it.
        file: String,
        /// The digest of its bytes.
        found: Digest,
        /// The descriptor's.
        expected: Digest,
    },
    /// A field of a document has a value that is not understood.
    #[error("`{field}` of `{file}` in `{place}` is `{found}`, expected {expected}")]
    Field {
        /// The layout or archive.
        place: PathBuf,
        /// The file's name in it.
        file: String,
        /// Which field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// A place that holds images and nothing that belongs to them.
    #[error("`{place}` keeps nothing that is attached to images, expected `docker://HOST/NAME:TAG` or `oci:DIR:TAG`")]
    NoReferrers {
        /// The place.
        place: String,
    },
    /// No image of that name.
    #[error("`{place}` has no image `{wanted}`, it has {}", list(available))]
    NotFound {
        /// The layout or archive.
        place: PathBuf,
        /// The name, digest or platform asked for.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// Several images, and none was chosen.
    #[error("`{place}` has several images and none was chosen: {}", list(available))]
    Ambiguous {
        /// The layout, archive or index.
        place: PathBuf,
        /// What there is.
        available: Vec<String>,
    },
    /// An index for several platforms where one image is needed.
    #[error("the image is an index for {}, and no platform was chosen", list(available))]
    PlatformNeeded {
        /// The platforms.
        available: Vec<String>,
    },
    /// Not for the platform asked for.
    #[error("the image is for {}, not for `{wanted}`", list(available))]
    Platform {
        /// The platform asked for.
        wanted: String,
        /// The platforms there are.
        available: Vec<String>,
    },
    /// Indexes in indexes without end.
    #[error("the index {digest} in `{place}` lies {depth} indexes deep or among too many, expected at most {limit}")]
    Nesting {
        /// The layout or archive.
        place: PathBuf,
        /// The index or manifest that was not read any more.
        digest: Digest,
        /// How deep, or how many.
        depth: usize,
        /// The most that are read.
        limit: usize,
    },
    /// The archive is damaged.
    #[error("`{path}` is no sound archive: {problem} at byte {offset}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        problem: ArchiveProblem,
    },
    /// A name in an archive that leaves it.
    #[error("`{path}` has an entry `{name}`, expected a relative name without `..`")]
    UnsafeName {
        /// The archive.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// The archive is compressed with something that is not read here.
    #[error("`{path}` is compressed with {found}, expected none, gzip or zstd")]
    Compression {
        /// The archive.
        path: PathBuf,
        /// The method.
        found: &'static str,
    },
    /// A media type of Docker's that OCI has no counterpart of.
    #[error("the media type `{found}` has no counterpart in OCI, expected a manifest, config or layer that may be distributed")]
    NoEquivalent {
        /// The media type.
        found: String,
    },
    /// No daemon answers.
    #[error("no Docker or podman daemon answers, tried {}", tried.iter().map(|(at, why)| format!("{at} ({why})")).collect::<Vec<_>>().join(", "))]
    NoDaemon {
        /// Each address that was tried, and what came of it.
        tried: Vec<(String, String)>,
    },
    /// The daemon refused, or the connection broke.
    #[error("failed to {action} `{name}` at {address}")]
    Daemon {
        /// What was tried.
        action: &'static str,
        /// On which image.
        name: String,
        /// The daemon's address.
        address: String,
        /// Why not.
        source: Box<bollard::errors::Error>,
    },
    /// Registries are served elsewhere.
    #[error("`docker://{reference}` is a registry, and this operation works on this machine only")]
    Registry {
        /// The image in the registry.
        reference: Reference,
    },
}

/// What is wrong with an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveProblem {
    /// It ends too early.
    #[error("it ends after {found} bytes, expected {expected}")]
    Truncated {
        /// Bytes it has.
        found: u64,
        /// Bytes it should have.
        expected: u64,
    },
    /// A header whose checksum is wrong: no tar, or damaged.
    #[error("a header's checksum is {found}, expected {expected}")]
    Checksum {
        /// What the header says.
        found: String,
        /// What its bytes give.
        expected: u32,
    },
    /// A field of a header that cannot be read.
    #[error("a header's {field} cannot be read")]
    Header {
        /// Which field.
        field: &'static str,
    },
    /// A header with a long name or attributes that is larger than anything sensible.
    #[error("an extended header has {found} bytes, expected at most {limit}")]
    ExtendedHeader {
        /// Its bytes.
        found: u64,
        /// The most that are read.
        limit: u64,
    },
    /// A sparse file.
    #[error("a sparse entry, expected plain files")]
    Sparse,
    /// Too many entries.
    #[error("more than {limit} entries")]
    Entries {
        /// The most that are read.
        limit: usize,
    },
    /// The same document twice.
    #[error("a second `{name}`, expected one")]
    Twice {
        /// Its name.
        name: String,
    },
    /// Links that lead nowhere or in a circle.
    #[error("the link `{name}` leads to no file of the archive")]
    Link {
        /// Its name.
        name: String,
    },
    /// The compressed stream is damaged.
    #[error("the compressed stream is damaged ({reason})")]
    Stream {
        /// What the decoder says.
        reason: String,
    },
}

fn list(available: &[String]) -> String {
    if available.is_empty() {
        return "none".to_owned();
    }
    available.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl TransportError {
    /// What the user could do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Name(error) => return error.hint(),
            Self::Occupied { .. } => "choose a new or empty folder, or remove what is there",
            Self::Missing { file, .. } if file == "oci-layout" || file == "index.json" => {
                "an OCI layout has `oci-layout` and `index.json`; check the path and the transport"
            }
            Self::Missing { file, .. } if file == "manifest.json" => {
                "it is no archive of `docker save`; `oci-archive:` reads tars of an OCI layout"
            }
            Self::Missing { .. } | Self::Size { .. } | Self::Digest { .. } | Self::Blob { .. } => {
                "the image is damaged or was copied in part: copy or build it again"
            }
            Self::LayoutVersion { .. } => "it was written by a newer tool",
            Self::Field { field: "schemaVersion", .. } => "push the image again with a tool of the last ten years to convert it",
            Self::NotFound { .. } | Self::Ambiguous { .. } => "add one of these names after the path, `PATH:NAME`",
            Self::PlatformNeeded { .. } | Self::Platform { .. } => "choose one with `--platform`",
            Self::Archive { problem: ArchiveProblem::Checksum { .. }, .. } => "check that the file is a tar archive",
            Self::Archive { .. } => "the archive is damaged or was copied in part: copy or write it again",
            Self::Compression { .. } => "decompress it first",
            Self::NoDaemon { .. } => {
                "start Docker or podman, or set DOCKER_HOST to its address, such as `unix:///run/docker.sock`"
            }
            Self::WriteByDigest { .. } => "leave the digest out, or give a tag after a colon",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TransportError + use<> {
    let path = path.to_owned();
    move |source| TransportError::Io { action, path, source }
}

//! What can go wrong with layers: [`LayerError`] where one is written, [`ReadError`] where one is read.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::store::StoreError;
use crate::tree::ImagePath;

/// Why a layer was not written.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The time of the image does not fit a tar header.
    #[error("time {found} does not fit a tar header, expected at most {latest} seconds since 1970")]
    Epoch {
        /// The time as given.
        found: u64,
        /// The latest that fits.
        latest: u64,
    },
    /// An entry lies in a directory that the layer does not have.
    #[error("`{path}` lies in `{parent}`, which is no directory of this layer")]
    Parent {
        /// The entry.
        path: ImagePath,
        /// Where it lies.
        parent: ImagePath,
    },
    /// A symbolic link points nowhere that a tar could say.
    #[error("symbolic link `{path}` points at `{target}`, expected a path that is neither empty nor holds a zero byte")]
    Link {
        /// The link.
        path: ImagePath,
        /// Its target.
        target: String,
    },
    /// The file for an entry cannot be read.
    #[error("failed to read `{file}` for `{path}`")]
    Read {
        /// The entry.
        path: ImagePath,
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file for an entry is something else.
    #[error("`{file}` for `{path}` is {found}, expected a regular file")]
    NotAFile {
        /// The entry.
        path: ImagePath,
        /// The file.
        file: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The file for an entry is not as long as it was when the tree was laid out.
    #[error("`{file}` for `{path}` has {actual} bytes, expected {expected}: it changed during the build")]
    Size {
        /// The entry.
        path: ImagePath,
        /// The file.
        file: PathBuf,
        /// Its bytes now.
        actual: u64,
        /// Its bytes when the tree was laid out.
        expected: u64,
    },
    /// The file for an entry was written to while it was read.
    #[error("`{file}` for `{path}` was written to while it was read")]
    Changed {
        /// The entry.
        path: ImagePath,
        /// The file.
        file: PathBuf,
    },
    /// The bytes for an entry are not those that the tree says.
    #[error("digest of `{file}` for `{path}` is {actual}, expected {expected}")]
    FileDigest {
        /// The entry.
        path: ImagePath,
        /// The file.
        file: PathBuf,
        /// Digest of what was read.
        actual: Digest,
        /// Digest in the tree.
        expected: Digest,
    },
    /// A codec failed, which takes a lack of memory.
    #[error("failed to compress {bytes} bytes as {codec}")]
    Compress {
        /// Codec and level.
        codec: String,
        /// Bytes of the frame.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// No room for the layer.
    #[error("no room in the store `{store}` for a layer that needs {}{needed} bytes", if *.exact { "" } else { "at most " })]
    Full {
        /// The store's folder.
        store: PathBuf,
        /// Bytes that the layer needs.
        needed: u64,
        /// True where it needs just these, false where compression makes it smaller.
        exact: bool,
        /// What the system said.
        source: io::Error,
    },
    /// The layer cannot be written for another reason.
    #[error("failed to write a layer in the store `{store}`")]
    Write {
        /// The store's folder.
        store: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LayerError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Epoch { .. } => Some("set SOURCE_DATE_EPOCH to an earlier time"),
            Self::Size { .. } | Self::Changed { .. } => Some("build again when nothing writes to the file any more"),
            Self::FileDigest { .. } => Some("build again; if it stays so, the file's digest in the tree is wrong"),
            Self::Full { .. } => {
                Some("free room with `imgbuild cache prune`, or put the store on another disk with IMGBUILD_STORE")
            }
            _ => None,
        }
    }
}

/// Why layers were not read or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes of the layer cannot be read or decompressed.
    #[error("failed to read layer {layer}, {place}")]
    Io {
        /// Which layer, the lowest being 0.
        layer: usize,
        /// Where in it.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// A member's header is none.
    #[error("layer {layer}, {place}: {problem}")]
    Header {
        /// Which layer, the lowest being 0.
        layer: usize,
        /// Where in it.
        place: String,
        /// What is wrong.
        problem: HeaderProblem,
    },
    /// A member's name leads out of the image.
    #[error("layer {layer} has a member named `{name}`: {reason}")]
    Name {
        /// Which layer, the lowest being 0.
        layer: usize,
        /// The name, unprintable bytes escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The layer is larger than allowed.
    #[error("layer {layer} has more than {limit} {unit}, the most that is allowed")]
    Limit {
        /// Which layer, the lowest being 0.
        layer: usize,
        /// The most that is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A member cannot lie where it says.
    #[error("layer {layer}: member `{name}` cannot be placed: {reason}")]
    Place {
        /// Which layer, the lowest being 0.
        layer: usize,
        /// The member.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// The folder to unpack into is in use.
    #[error("`{path}` is not empty")]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("failed to {action} `{path}`")]
    Write {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file that was asked for is not in the image.
    #[error("`{path}` is no regular file of the image")]
    NotThere {
        /// What was asked for.
        path: ImagePath,
    },
}

/// What is wrong with a tar header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderProblem {
    /// The sum over its bytes is another.
    #[error("header checksum is {actual:o}, expected {expected:o} (octal): the layer is damaged or no tar")]
    Checksum {
        /// Sum over the header's bytes.
        actual: u32,
        /// Sum that the header says.
        expected: u32,
    },
    /// A number is none.
    #[error("field `{field}` is no number")]
    Number {
        /// Which field.
        field: &'static str,
    },
    /// The extended header before it breaks its rules.
    #[error("extended header is malformed: {reason}")]
    Extended {
        /// How.
        reason: &'static str,
    },
    /// The kind of member is not supported.
    #[error("member `{name}` is of type `{kind}`, which is not supported ({what})")]
    Unsupported {
        /// The member.
        name: String,
        /// The header's type byte, escaped.
        kind: String,
        /// What it is.
        what: &'static str,
    },
    /// One block of zeros instead of two.
    #[error("a single block of zeros, expected two and the end")]
    LoneZeroBlock,
}

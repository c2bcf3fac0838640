//! The one merged file system of an image: every entry knows where it came from, why it is there and in which layer it goes.

mod layout;
mod path;

pub use layout::{LayoutError, Provenance};
pub use path::{ImagePath, ImagePathError};

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The layers of an image, lowest first: those that change least often lie at the bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerName {
    /// The layers of a base that is an image: they are as they are, and nothing is put into them.
    BaseImage,
    /// glibc, user data base, certificates: changes with the distribution.
    Base,
    /// The runtime's libraries: changes with its version.
    Runtime,
    /// The inference server: changes with this project.
    Server,
    /// What was compiled ahead for this model and a processor: changes with either.
    Compiled,
    /// The model and its configuration: changes with every training.
    Model,
}

impl LayerName {
    /// Those that are built, lowest first.
    pub const ALL: [Self; 5] = [Self::Base, Self::Runtime, Self::Server, Self::Compiled, Self::Model];

    /// The name as users see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BaseImage => "base-image",
            Self::Base => "base",
            Self::Runtime => "runtime",
            Self::Server => "server",
            Self::Compiled => "compiled",
            Self::Model => "model",
        }
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// From where a file came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Origin {
    /// A file of a package that the lock pins.
    Package {
        /// The package's name.
        name: String,
        /// Its version.
        version: String,
        /// Digest of the package file.
        digest: Digest,
    },
    /// A file that the user named: a model, a library, an extra file.
    User {
        /// As the recipe or the command line wrote it.
        path: String,
    },
    /// The inference server.
    Server {
        /// Its version.
        version: String,
    },
    /// Part of the image that everything is put upon.
    BaseImage,
    /// Made by the builder, such as `/etc/passwd`.
    Generated,
}

/// The bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In memory, for small files.
    Bytes(Vec<u8>),
    /// On disk.
    Disk(PathBuf),
    /// In a finished layer that is not on this machine.
    Elsewhere,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its bytes.
        content: Content,
        /// How many.
        size: u64,
        /// Their digest, where it is known without reading them again.
        digest: Option<Digest>,
    },
    /// A symbolic link.
    Symlink {
        /// What it points at, as written.
        target: String,
    },
}

/// One entry of the tree. Owner and group are always root; the time is the image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, for instance `0o755`.
    pub mode: u32,
    /// In which layer it goes.
    pub layer: LayerName,
    /// From where it came.
    pub origin: Origin,
    /// Why it is there, as a chain that people can read.
    pub reason: String,
}

/// The merged file system, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The entries; parents of every entry are in the tree too.
    pub entries: BTreeMap<ImagePath, Entry>,
}

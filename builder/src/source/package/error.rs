//! What can be wrong with a package file: [`PackageError`].

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::store::StoreError;

/// What can be wrong with a package file.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
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
    /// The bytes are not what the file's name says, or they are damaged.
    #[error("`{file}` is no readable {expected}: {reason}")]
    Format {
        /// The package file.
        file: String,
        /// What it should be.
        expected: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// An entry that would leave the folder it is extracted to, or cannot be in an image.
    #[error("`{file}` holds the entry `{entry}`, {reason}")]
    Entry {
        /// The package file.
        file: String,
        /// The entry's path as written.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file in the package is not the one that the package's own list describes.
    #[error("`{entry}` in `{file}` has digest {actual}, expected {expected}")]
    Digest {
        /// The package file.
        file: String,
        /// The entry's path.
        entry: String,
        /// What was found.
        actual: Digest,
        /// What the package's list says.
        expected: Digest,
    },
    /// A file in the package is longer or shorter than the package says.
    #[error("`{entry}` in `{file}` has {actual} bytes, expected {expected}")]
    Size {
        /// The package file.
        file: String,
        /// The entry's path.
        entry: String,
        /// What was found: at most one byte more than expected.
        actual: u64,
        /// What the package says.
        expected: u64,
    },
    /// The package is another one than its file's name says.
    #[error("`{file}` holds {actual}, expected {expected}")]
    Identity {
        /// The package file.
        file: String,
        /// Name and version inside.
        actual: String,
        /// Name and version that were expected.
        expected: String,
    },
    /// There is no such file in the package.
    #[error("`{file}` holds no file `{entry}`{}", nearest.as_ref().map(|path| format!(", but `{path}`")).unwrap_or_default())]
    NoEntry {
        /// The package file.
        file: String,
        /// The path or the patterns looked for.
        entry: String,
        /// The path in the package that is most like it.
        nearest: Option<String>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PackageError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Entry { .. } | Self::Digest { .. } | Self::Size { .. } | Self::Identity { .. } => {
                Some("the file has the locked digest, so it was made like this: use another version or another source".into())
            }
            Self::NoEntry { .. } => Some("the package is laid out differently from what the template expects".into()),
            _ => None,
        }
    }
}

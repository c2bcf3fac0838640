//! What can go wrong while files are chosen and fetched: [`SourceError`].

use std::io;
use std::path::PathBuf;

use super::SourceKind;
use super::package::PackageError;
use super::pin::NameError;
use crate::digest::Digest;
use crate::store::StoreError;

/// What can go wrong while files are chosen and fetched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A program that fetches files is not installed.
    #[error("there is no `{tool}` on this machine, which fetches {what}")]
    NoTool {
        /// The program.
        tool: &'static str,
        /// What it is needed for.
        what: &'static str,
    },
    /// The program cannot be started.
    #[error("failed to start `{program}`")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The program ended with an error that has no meaning of its own here.
    #[error("`{tool}` could not fetch {subject} ({status}):\n{output}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// What it should fetch.
        subject: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote, without credentials.
        output: String,
    },
    /// The registry does not offer this version, or no longer.
    #[error("`{tool}` found no {subject}{}", available.as_ref().map(|list| format!(", but {list}")).unwrap_or_default())]
    NotOffered {
        /// The program.
        tool: &'static str,
        /// The package with its version.
        subject: String,
        /// What is offered instead, where the program says so.
        available: Option<String>,
    },
    /// `apt` has no lists of packages, and could not get any.
    #[error("`apt-get` has no lists of packages for {architecture} and could not get any:\n{output}")]
    NoLists {
        /// The Debian architecture.
        architecture: String,
        /// The end of what it wrote, without credentials.
        output: String,
    },
    /// The program ended well, but the file is not there.
    #[error("`{tool}` delivered no `{expected}`, but {found}")]
    NotDelivered {
        /// The program.
        tool: &'static str,
        /// The file that should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The bytes are others than those that were locked.
    #[error("digest of `{file}` is {actual}, expected {expected}")]
    Digest {
        /// The file.
        file: String,
        /// What was found.
        actual: Digest,
        /// What the lock says.
        expected: Digest,
    },
    /// The number of bytes is not the locked one.
    #[error("`{file}` has {actual} bytes, expected {expected}")]
    Size {
        /// The file.
        file: String,
        /// What was found.
        actual: u64,
        /// What the lock says.
        expected: u64,
    },
    /// It would have to be fetched, but the build is offline.
    #[error("`{file}` ({name} {version}) is not in the store, and the build is offline")]
    Offline {
        /// The package.
        name: String,
        /// Its version.
        version: String,
        /// The file.
        file: String,
    },
    /// A file or directory of the recipe is gone, and the store does not have it either.
    #[error("`{path}`, which the lock names for `{name}`, does not exist, and the store has no copy of it")]
    Gone {
        /// The path.
        path: PathBuf,
        /// The package.
        name: String,
    },
    /// A path of the recipe cannot serve as a source.
    #[error("`{path}` cannot serve as a source: {reason}")]
    Unfit {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A request or a pin went to a source of another kind.
    #[error("`{name}` comes from `{found}`, expected `{expected}`")]
    Kind {
        /// The package.
        name: String,
        /// Its kind.
        found: SourceKind,
        /// The source's kind.
        expected: SourceKind,
    },
    /// A name is not what it should be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A package cannot be read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
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
}

impl SourceError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoTool { tool: "pip", .. } => {
                "install pip (Debian's package is `python3-pip`), or name one in IMGBUILD_PIP; it is needed for fetching only"
                    .into()
            }
            Self::NoTool { .. } => {
                "bases of Debian packages can be fetched on Debian and its relatives; elsewhere use a store that was filled \
                 there, or an OCI image as the base"
                    .into()
            }
            Self::Tool { .. } => "the mirror, proxy and credentials are those that the program itself is configured with".into(),
            Self::NotOffered { tool: "apt-get", .. } => {
                "archives keep the newest version only: run `apt-get update`, then `imgbuild lock --update`".into()
            }
            Self::NotOffered { .. } | Self::Digest { .. } | Self::Size { .. } => {
                "run `imgbuild lock --update` if the file changed upstream".into()
            }
            Self::NoLists { .. } => "run `apt-get update` and look at what it says".into(),
            Self::Offline { .. } => "run `imgbuild lock` or `imgbuild build` once without `--offline`".into(),
            Self::Gone { .. } => "put it back, or change the recipe and run `imgbuild lock --update`".into(),
            Self::Package(error) => return error.hint(),
            _ => return None,
        };
        Some(text)
    }
}

//! What can go wrong while libraries are chosen.

use crate::elf::ElfError;
use crate::fatbin::FatbinError;
use crate::link::LinkError;
use crate::parent::ParentError;
use crate::source::package::PackageError;
use crate::store::StoreError;
use crate::tree::{ImagePathError, LayoutError};

/// What can go wrong while libraries are chosen.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A package lacks what the template names.
    #[error("package `{package}` has no file like `{}`", patterns.join("`, `"))]
    NotInPackage {
        /// The package.
        package: String,
        /// What was looked for.
        patterns: Vec<String>,
    },
    /// A library to be kept is in no package.
    #[error("no package of the stack has a library `{name}` to keep")]
    NothingToKeep {
        /// Its file name.
        name: String,
    },
    /// A library cannot be read.
    #[error("failed to read the library `{name}` of `{package}`")]
    Library {
        /// Its path in the package.
        name: String,
        /// The package.
        package: String,
        /// Why not.
        source: ElfError,
    },
    /// A GPU can run nothing of a library.
    #[error("`{library}` of {package} cannot be pruned for the GPU: {source}")]
    DeviceCode {
        /// Its file name.
        library: String,
        /// The package and its version.
        package: String,
        /// What it has code for.
        source: FatbinError,
    },
    /// The image would not link.
    #[error("the image would not link:{}", .0.iter().map(|error| format!("\n  {error}")).collect::<String>())]
    Links(Vec<LinkError>),
    /// The image that everything is put upon has no C or C++ library that fits.
    #[error("the base `{base}` lacks {lacking}:{}", errors.iter().map(|error| format!("\n  {error}")).collect::<String>())]
    BaseLacks {
        /// The base.
        base: String,
        /// What it lacks.
        lacking: String,
        /// What does not link for that.
        errors: Vec<LinkError>,
    },
    /// The image that everything is put upon cannot be read.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The image that everything is put upon has something in the way.
    #[error("failed to lay out the image")]
    Layout(#[from] LayoutError),
    /// A package cannot be read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A path is no path inside an image.
    #[error(transparent)]
    Path(#[from] ImagePathError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RuntimeError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::DeviceCode { source, .. } => source.hint(),
            Self::Links(errors) => errors.iter().find_map(LinkError::hint),
            Self::BaseLacks { .. } => Some("choose a base with glibc, libgcc and libstdc++, such as `debian-12`".to_owned()),
            Self::Parent(error) => error.hint(),
            Self::Package(error) => error.hint(),
            _ => None,
        }
    }
}

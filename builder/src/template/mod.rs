//! What is known about runtimes and bases, as data: [`StackTemplate`], [`BaseImage`], the [`Snippet`]s for pipelines and clusters,
//! and [`Data`], which finds them.
//!
//! A new version of a runtime is a change of a file in `templates/`; a new distribution at the bottom of images is a file in
//! `base-images/`. Both are built into the program; a folder beside it or `IMGBUILD_DATA` takes precedence, file by file.

mod base;
mod compiler;
mod data;
mod engine;
mod gpu;
mod matrix;
mod path;
mod snippet;
mod stack;
pub mod strict;

#[cfg(test)]
mod tests;

pub use base::{BaseImage, BasePackage, Contents, Directory, FileSource, GeneratedFile, Link, ReleaseRule, User};
pub use compiler::{CompilerPackage, CompilerTemplate, Licence, Processor, RuntimePart};
pub use data::{Data, Loaded};
pub use engine::{EngineCompiler, PinnedPackage};
pub use gpu::{DeviceCode, Gpu};
pub use matrix::{Accepts, VersionRange, VersionRangeError, check_files};
pub use path::PathTemplate;
pub use snippet::{Snippet, Values, ValuesError};
pub use stack::{
    Copy, Injected, LibraryRule, ModelFormat, Naming, Omission, Opens, PackageChoice, PackageSource, Refused, StackPackage,
    StackTemplate, When,
};

use std::io;
use std::path::PathBuf;

use strict::StrictError;

/// What can be wrong with templates and base images.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file is not as it should be.
    #[error(transparent)]
    Strict(#[from] StrictError),
    /// There is no template, base image or table of this name.
    #[error("there is no {kind} `{name}`")]
    Unknown {
        /// What was looked for.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The name that is most like it.
        nearest: Option<String>,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The file cannot be read.
    #[error("failed to read `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What the file says does not fit together.
    #[error("`{file}`: {reason}")]
    Inconsistent {
        /// The file.
        file: String,
        /// What does not fit.
        reason: String,
    },
    /// A version that must not be used.
    #[error("{name} {version} is refused: it {reason}")]
    Refused {
        /// The package.
        name: String,
        /// The version.
        version: String,
        /// Why, as a verb phrase.
        reason: String,
    },
    /// A version that does not go with the rest of the stack.
    #[error("{name} {found} does not go with the rest of the stack, expected {expected}: {because}")]
    Combination {
        /// The package.
        name: String,
        /// The version that was asked for.
        found: String,
        /// Those that go.
        expected: String,
        /// Why, as a clause.
        because: String,
        /// The version that was tested.
        instead: String,
    },
    /// A package has a library in another version than the rest of the stack is linked to.
    #[error("{name} {version} has `{found}`, expected `{expected}`, which the rest of the stack is linked to")]
    OtherLibrary {
        /// The package.
        name: String,
        /// Its version.
        version: String,
        /// The library that it has.
        found: String,
        /// The library that is expected.
        expected: String,
        /// The version that was tested.
        instead: String,
    },
    /// The recipe has to say where a package is.
    #[error("no registry has the files of `{name}`, which stack `{stack}` needs")]
    NoSource {
        /// The stack.
        stack: String,
        /// The package.
        name: String,
    },
    /// The packages are from another distribution than the base image is made for.
    #[error("the packages are from {found}, and the base image `{name}` is made for {expected}")]
    Release {
        /// The base image.
        name: String,
        /// The distribution and version found.
        found: String,
        /// Those that were expected.
        expected: String,
    },
}

impl TemplateError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Strict(error) => error.hint(),
            Self::Unknown { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::Unknown { known, .. } => Some(format!("there are `{}`", known.join("`, `"))),
            Self::Refused { .. } => Some("choose another version in the recipe, or leave it out for the tested one".to_owned()),
            Self::Combination { name, instead, .. } | Self::OtherLibrary { name, instead, .. } => {
                Some(format!("use {name} {instead}, which was tested"))
            }
            Self::NoSource { name, .. } => {
                Some(format!("name a folder or archive with them in the recipe: `[runtime.packages.{name}]` with `path = \"…\"`"))
            }
            Self::Release { .. } => Some(
                "lock on a machine with that release, or choose a base image that fits this machine's `apt` sources".to_owned(),
            ),
            _ => None,
        }
    }
}

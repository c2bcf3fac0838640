//! What can go wrong in a build.

use std::path::PathBuf;

use super::published::PublishedError;
use crate::compiled::CompileError;
use crate::layer::{CompressionError, LayerError, ReadError};
use crate::lock::LockError;
use crate::model::ModelError;
use crate::optimize::OptimizeError;
use crate::parent::ParentError;
use crate::platform::Platform;
use crate::runner::RunnerError;
use crate::runtime::RuntimeError;
use crate::source::SourceError;
use crate::source::package::PackageError;
use crate::store::StoreError;
use crate::template::TemplateError;
use crate::tree::{ImagePathError, LayerName, LayoutError};

/// What can go wrong in a build, stage by stage.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The model cannot be used.
    #[error("failed to use the model")]
    Model(#[from] ModelError),
    /// A data file cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The stack does not serve such models, or not on this platform.
    #[error("stack `{stack}` does not serve {what}, expected {expected}")]
    Stack {
        /// The stack.
        stack: String,
        /// What was asked of it.
        what: String,
        /// What it does.
        expected: String,
    },
    /// The recipe names a package that the stack does not have.
    #[error("the recipe has `runtime.packages.{name}`, and stack `{stack}` has no such package, expected one of {known}")]
    NoPackage {
        /// The stack.
        stack: String,
        /// The name.
        name: String,
        /// The stack's packages.
        known: String,
    },
    /// Published layers cannot be used.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// The image that everything is put upon cannot be had or used.
    #[error(transparent)]
    Parent(#[from] ParentError),
    /// The server binary is not there.
    #[error("there is no inference server at `{path}`")]
    NoServer {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The server cannot run on the image's platform.
    #[error("the server `{path}` is built for {found}, expected {expected}")]
    ServerPlatform {
        /// The binary.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What the image is for.
        expected: Platform,
    },
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A pinned file cannot be had.
    #[error("failed to obtain the pinned files")]
    Source(#[from] SourceError),
    /// A package cannot be read.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The model cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Libraries.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model cannot be optimised.
    #[error(transparent)]
    Optimize(#[from] OptimizeError),
    /// Two files want one place.
    #[error("failed to lay out the image")]
    Layout(#[from] LayoutError),
    /// A path is no path inside an image.
    #[error("failed to lay out the image")]
    Path(#[from] ImagePathError),
    /// A file of the recipe cannot be read.
    #[error("failed to read `{path}`, which the recipe names")]
    ExtraFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: StoreError,
    },
    /// The compression is none.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A layer cannot be written.
    #[error("failed to write the layer `{name}`")]
    Layer {
        /// Which one.
        name: LayerName,
        /// Why not.
        source: LayerError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An option of the server is no JSON value.
    #[error("option `{key}` of the server cannot be written as JSON")]
    ServerOption {
        /// Its name.
        key: String,
    },
    /// XLA is to compile a model that does not ask for it.
    #[error("the model `{model}` does not ask to be compiled: no function of it has `_XlaMustCompile`")]
    NothingToCompile {
        /// The model.
        model: PathBuf,
    },
    /// The image cannot be run while it is built.
    #[error("failed to run the image, which XLA was to compile")]
    Warm {
        /// Why not.
        source: Box<RunnerError>,
    },
    /// The image cannot be unpacked to be run.
    #[error("failed to unpack the image, which XLA was to compile")]
    Unpack {
        /// Why not.
        source: Box<ReadError>,
    },
    /// What XLA compiled cannot be read.
    #[error("failed to take over what XLA compiled")]
    Compiled {
        /// Why not.
        source: std::io::Error,
    },
    /// The server started and told no times of its runs.
    #[error("the server told no times of its runs")]
    NotTimed,
    /// `SOURCE_DATE_EPOCH` is no number.
    #[error("SOURCE_DATE_EPOCH is `{found}`, expected a whole number of seconds since 1970")]
    Epoch {
        /// What it is.
        found: String,
    },
}

impl BuildError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Model(error) => error.hint(),
            Self::Template(error) => error.hint(),
            Self::Lock(error) => error.hint(),
            Self::Published(error) => error.hint(),
            Self::Parent(error) => error.hint(),
            Self::Source(error) => error.hint(),
            Self::Package(error) => error.hint(),
            Self::Compile(error) => error.hint(),
            Self::Runtime(error) => error.hint(),
            Self::Optimize(error) => error.hint(),
            Self::Layer { source, .. } => source.hint().map(str::to_owned),
            Self::NothingToCompile { .. } => {
                Some("export it with `tf.function(jit_compile=True)`, or build with `--xla auto`".to_owned())
            }
            Self::Warm { .. } | Self::Unpack { .. } | Self::Compiled { .. } | Self::NotTimed => {
                Some("`--no-warm` builds without running the image".to_owned())
            }
            Self::NoServer { .. } => Some("run `make install`, or name one with `--server`".to_owned()),
            Self::ServerPlatform { .. } => {
                Some("name a server for that platform with `--server`, or as `server.binary` in the recipe".to_owned())
            }
            _ => None,
        }
    }
}

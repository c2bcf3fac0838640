//! What can go wrong when a model is optimised.

use std::io;
use std::path::PathBuf;

use crate::recipe::Optimize;
use crate::store::StoreError;

/// What can go wrong when a model is optimised.
#[derive(Debug, thiserror::Error)]
pub enum OptimizeError {
    /// A file cannot be read.
    #[error("failed to read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The model cannot be written anew.
    #[error("failed to write the model `{path}` anew into the store")]
    Rewrite {
        /// The model.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The image's server cannot be started on this machine.
    #[error("failed to start the image's server for `--optimize {level}`")]
    Start {
        /// The level.
        level: Optimize,
        /// Why not.
        source: io::Error,
    },
    /// The server or the runtime failed.
    #[error("failed to optimise the model at level `{level}`: {message}")]
    Failed {
        /// The level.
        level: Optimize,
        /// The server's own words.
        message: String,
    },
    /// The result computes something else.
    #[error("the model optimised at level `{level}` computes something else: {difference}")]
    Differs {
        /// The level.
        level: Optimize,
        /// Where and how.
        difference: String,
    },
    /// The model runs on none of the inputs that were tried.
    #[error(
        "the model optimised at level `{level}` cannot be compared with the original, which runs on no inputs tried: {reason}"
    )]
    NotCompared {
        /// The level.
        level: Optimize,
        /// The runtime's own words.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OptimizeError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Start { .. } | Self::Failed { .. } | Self::Differs { .. } => {
                Some("build with `--optimize weights`, which changes nothing that is computed".to_owned())
            }
            Self::NotCompared { .. } => Some(
                "put inputs that it accepts beside the model as `test_data_set_0/input_0.pb`, or build with `--optimize weights`"
                    .to_owned(),
            ),
            Self::Read { .. } | Self::Rewrite { .. } | Self::Store(_) => None,
        }
    }
}

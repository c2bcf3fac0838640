//! Why a cold start could not be measured: [`ColdStartError`].

use std::io;
use std::path::PathBuf;

use crate::layer::ReadError;
use crate::registry::RegistryError;
use crate::runner::{LogLine, RunnerError};
use crate::store::StoreError;

/// What goes wrong between an image's name and its measured start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ColdStartError {
    /// The image cannot be pulled.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its layers cannot be unpacked.
    #[error(transparent)]
    Unpack(#[from] ReadError),
    /// The store for this run cannot be made or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The container does not start.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The image's config cannot be understood.
    #[error("failed to read the image's config")]
    Config {
        /// Why not.
        source: serde_json::Error,
    },
    /// The image does not say what it serves.
    #[error("the image has no label `{label}`, which says what it serves")]
    Unlabelled {
        /// The label.
        label: &'static str,
    },
    /// What was pulled is another image than the one asked for.
    #[error("the registry has {found}, expected {expected}")]
    OtherImage {
        /// What was pulled.
        found: crate::digest::Digest,
        /// What was to be pulled.
        expected: crate::digest::Digest,
    },
    /// The image cannot be served on the loopback.
    #[error("failed to serve the image on the loopback")]
    Serve {
        /// Why not.
        source: io::Error,
    },
    /// The server's lines lack a phase.
    #[error("the server reported no phase `{phase}`")]
    PhaseMissing {
        /// The phase.
        phase: &'static str,
        /// Its last lines.
        log: Vec<LogLine>,
    },
    /// The server could not be asked.
    #[error("failed to ask the server for {path}: {reason}")]
    Request {
        /// The path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The server answered, and not as hoped.
    #[error("the server answered {path} with status {status}, expected 200: {body}")]
    Answer {
        /// The path.
        path: String,
        /// The status.
        status: u16,
        /// What it said.
        body: String,
    },
    /// The model's metadata or test data cannot be used.
    #[error("{place}: {reason}")]
    Data {
        /// The file or the input.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the image or of the test data cannot be read.
    #[error("failed to {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
}

impl ColdStartError {
    /// What the user could do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Runner(error) => error.hint(),
            Self::Unlabelled { .. } => Some("only images that imgbuild built carry it".to_owned()),
            Self::OtherImage { .. } => Some("`imgbuild push IMAGE docker://REGISTRY/NAME:TAG` puts the image there".to_owned()),
            Self::Answer { status: 400..500, .. } => {
                Some("zeros were sent; `--data DIR` sends the model's own test data, input_0.pb and so on".to_owned())
            }
            _ => None,
        }
    }
}

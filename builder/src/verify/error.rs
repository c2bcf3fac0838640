//! What can go wrong while an image is verified, apart from outputs that differ.

use std::path::PathBuf;

use crate::template::strict::StrictError;

/// What can go wrong while an image is verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error("failed to read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("failed to write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of the test set cannot be used.
    #[error("`{path}` {problem}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, or with which part of it.
        problem: String,
    },
    /// The test set holds nothing to compare with, and no reference was named.
    #[error("`{sample}` of `{path}` holds no expected outputs")]
    NothingExpected {
        /// The test set.
        path: PathBuf,
        /// The sample.
        sample: String,
    },
    /// The test set holds no sample.
    #[error("`{path}` holds no sample")]
    Empty {
        /// The test set.
        path: PathBuf,
    },
    /// The policy is not one.
    #[error(transparent)]
    Strict(#[from] StrictError),
    /// The policy cannot decide.
    #[error("`{path}`: `{name}` {problem}")]
    Policy {
        /// The policy.
        path: PathBuf,
        /// Which limits.
        name: String,
        /// Why not.
        problem: &'static str,
    },
    /// The two images do not serve the same signature.
    #[error("the images do not serve the same model: {problem}")]
    Unlike {
        /// What differs.
        problem: String,
    },
    /// The server does not answer, or not as the protocol says.
    #[error("the server at {address} {problem}")]
    Server {
        /// Where it is.
        address: String,
        /// What it did.
        problem: String,
    },
    /// The server refused a sample.
    #[error("the server refused `{sample}` with status {status}: {message}")]
    Refused {
        /// The sample.
        sample: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

impl VerifyError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NothingExpected { .. } => {
                Some("name the image to compare with by `--reference`, or write its outputs with `imgbuild record`".to_owned())
            }
            Self::Strict(error) => error.hint(),
            Self::Refused { .. } => {
                Some("`imgbuild verify` sends what the files hold: see that they fit the model's inputs".to_owned())
            }
            _ => None,
        }
    }
}

//! Why a server could not be asked: [`InferenceError`].

use std::path::PathBuf;

/// What can go wrong between a tensor on disk and an answer.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
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
    /// A file holds no tensor for the model.
    #[error("`{path}` {problem}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// There are no zeros for an input.
    #[error("input `{input}` {problem}")]
    Zeros {
        /// The input.
        input: String,
        /// Why not.
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
    /// The server refused a request.
    #[error("the server answered {path} with status {status}, expected 200: {message}")]
    Refused {
        /// The path.
        path: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
}

//! What can go wrong where a model is compiled.

use std::path::{Path, PathBuf};

use crate::source::SourceError;
use crate::store::StoreError;

/// What can go wrong where a model is compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The model cannot be compiled ahead of time.
    #[error("the model `{model}` cannot be compiled ahead of time: {reason}")]
    Refused {
        /// The model.
        model: PathBuf,
        /// What of it cannot.
        reason: String,
    },
    /// The sizes of batches that were asked for do not fit the model.
    #[error("the model `{model}` cannot be compiled for batches of {batch}: {reason}")]
    Batch {
        /// The model.
        model: PathBuf,
        /// What was asked for.
        batch: String,
        /// Why not.
        reason: &'static str,
    },
    /// The stack does not compile for such a processor.
    #[error("stack `{stack}` does not compile for `{found}`, expected {expected}")]
    Processor {
        /// The stack.
        stack: String,
        /// What was asked for.
        found: String,
        /// What there is.
        expected: String,
    },
    /// A program is missing.
    #[error("compiling models ahead of time needs {what}, and there is none in PATH ({tried})")]
    NoTool {
        /// What is missing.
        what: &'static str,
        /// The names that were looked for.
        tried: String,
        /// Debian's package of it.
        package: &'static str,
    },
    /// A program is too old, or not what its name says.
    #[error("`{program}` is {found}, expected {expected}")]
    Tool {
        /// The program.
        program: PathBuf,
        /// What it says of itself.
        found: String,
        /// What is needed.
        expected: &'static str,
    },
    /// A program cannot be started, or a package cannot be had.
    #[error("failed to obtain the compiler")]
    Source(#[from] SourceError),
    /// A package cannot be unpacked.
    #[error("failed to unpack the compiler's packages ({status}):\n{output}")]
    Unpack {
        /// How the program ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// TensorFlow's compiler failed for no reason that is the model's.
    #[error("TensorFlow failed to compile `{model}` ({status}):\n{output}")]
    Driver {
        /// The model.
        model: PathBuf,
        /// How the program ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The C++ compiler failed.
    #[error("`{compiler}` failed to compile {what} ({status}):\n{output}")]
    Cpp {
        /// The compiler and its version.
        compiler: String,
        /// A source, or the library.
        what: String,
        /// How the program ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The compiler's result is not as expected.
    #[error("failed to understand what TensorFlow's compiler wrote: {reason}")]
    Facts {
        /// What is wrong.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be read or written.
    #[error("failed to {action} `{path}`")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl CompileError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Whether another stack could serve the model.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NoTool { .. } | Self::Tool { .. })
    }

    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        const OTHER: &str = "build with `--stack tf-xla`, which has TensorFlow in the image";
        match self {
            Self::Refused { reason, .. } if reason.contains("first dimension") => {
                Some(format!("say which sizes of batches to compile, `--batch 1,8`, or {OTHER}"))
            }
            Self::Refused { .. } => Some(OTHER.to_owned()),
            Self::NoTool { package, .. } => {
                Some(format!("install it, for instance with `apt-get install {package}`, or {OTHER}"))
            }
            Self::Tool { .. } => Some(format!("install a newer one (CXX names another C++ compiler), or {OTHER}")),
            Self::Cpp { .. } => Some(format!("the compiler may be too old or lack memory: set CXX to another one, or {OTHER}")),
            Self::Source(error) => error.hint(),
            _ => None,
        }
    }
}

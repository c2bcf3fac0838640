//! Why options make no configuration.

use std::path::PathBuf;

/// Why the options make no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read `{}`: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no JSON object.
    #[error("failed to read `{}`: {source}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// An option that does not exist.
    #[error("unknown key `{key}` in `{}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The key that was perhaps meant.
        nearest: Option<&'static str>,
    },
    /// An option of the wrong kind, or out of its range.
    #[error("{origin} is {found}, expected {expected}")]
    Value {
        /// The key or variable.
        origin: String,
        /// The value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// Neither a model's name nor its path is given.
    #[error("neither `model_name` nor `model_path` is set")]
    NoModel,
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            Self::UnknownKey { nearest: None, .. } => Some("`imgserve --help` lists the keys".into()),
            Self::NoModel => Some("set IMGSERVE_MODEL_PATH to the model file".into()),
            _ => None,
        }
    }
}

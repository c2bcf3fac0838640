//! Paths in images that depend on the platform: [`PathTemplate`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::platform::Platform;
use crate::tree::{ImagePath, ImagePathError};

/// An absolute path in an image, in which `{multiarch}` stands for the platform's library directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathTemplate(String);

impl PathTemplate {
    /// The path for a platform.
    #[must_use]
    pub fn at(&self, platform: Platform) -> ImagePath {
        filled(&self.0, platform).parse().expect("checked when it was parsed, and no platform's name changes that")
    }
}

/// Replaces `{multiarch}`.
pub(super) fn filled(text: &str, platform: Platform) -> String {
    text.replace("{multiarch}", platform.multiarch())
}

impl TryFrom<String> for PathTemplate {
    type Error = ImagePathError;

    fn try_from(text: String) -> Result<Self, ImagePathError> {
        let filled = filled(&text, Platform::LinuxAmd64);
        filled.parse::<ImagePath>()?;
        if filled.contains(['{', '}']) {
            return Err(ImagePathError { found: text, reason: "only `{multiarch}` stands for something" });
        }
        Ok(Self(text))
    }
}

impl From<PathTemplate> for String {
    fn from(path: PathTemplate) -> Self {
        path.0
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

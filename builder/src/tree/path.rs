//! Paths inside an image: [`ImagePath`].

use std::fmt;
use std::str::FromStr;

/// An absolute path inside an image, kept without its leading `/`: no empty, `.` or `..` component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImagePath(String);

/// What is wrong with a text that should be a path inside an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no path inside an image: {reason}")]
pub struct ImagePathError {
    /// The text as given.
    pub found: String,
    /// What was expected.
    pub reason: &'static str,
}

impl ImagePath {
    /// The path without its leading `/`, as a tar header holds it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The directory it lies in; `None` below the root itself.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// A path below this one.
    ///
    /// # Errors
    /// Where `below` is no relative path without `.` and `..`.
    pub fn join(&self, below: &str) -> Result<Self, ImagePathError> {
        format!("/{}/{below}", self.0).parse()
    }
}

impl FromStr for ImagePath {
    type Err = ImagePathError;

    fn from_str(text: &str) -> Result<Self, ImagePathError> {
        let error = |reason| ImagePathError { found: text.to_owned(), reason };
        let path = text.strip_prefix('/').ok_or_else(|| error("it does not begin with `/`"))?;
        if path.contains('\0') {
            return Err(error("it holds a zero byte"));
        }
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(error("it has an empty component, `.` or `..`"));
        }
        if path.split('/').any(|part| part.starts_with(".wh.")) {
            return Err(error("names that begin with `.wh.` mark deletions in layers and cannot be files"));
        }
        Ok(Self(path.to_owned()))
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_plain() {
        for bad in ["", "a", "/", "/a/", "//a", "/a/./b", "/a/../b", "/a\0", "/a/.wh.b", "/.wh..wh..opq"] {
            assert!(bad.parse::<ImagePath>().is_err(), "{bad:?}");
        }
        let path: ImagePath = "/usr/lib/libc.so.6".parse().expect("valid");
        assert_eq!(path.to_string(), "/usr/lib/libc.so.6");
        assert_eq!(path.file_name(), "libc.so.6");
        assert_eq!(path.parent().map(|parent| parent.to_string()), Some("/usr/lib".to_owned()));
        assert!(path.join("../x").is_err());
    }
}

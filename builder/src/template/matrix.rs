//! Which versions of a stack's packages go together: [`Accepts`].
//!
//! What decides is the sonames that libraries are linked to, and a package changes these with its major version. A rule says so in
//! numbers, so that a wrong pin is refused before anything is fetched; [`check_files`] looks at the files themselves.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{StackPackage, StackTemplate, TemplateError};
use crate::source::package::{Package, PackageError};

/// The versions of a package that go with the rest of its stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Accepts {
    /// The versions.
    pub versions: VersionRange,
    /// Why no others, as a clause: `onnxruntime-gpu 1.27 and later is linked to libcublas.so.13`.
    pub because: String,
}

impl Accepts {
    /// Checks a version of a package.
    ///
    /// # Errors
    /// [`TemplateError::Combination`], with the version to use instead.
    pub(super) fn check(&self, package: &StackPackage, version: &str) -> Result<(), TemplateError> {
        if version.is_empty() || self.versions.contains(version) {
            return Ok(());
        }
        Err(TemplateError::Combination {
            name: package.name.clone(),
            found: version.to_owned(),
            expected: self.versions.to_string(),
            because: self.because.clone(),
            instead: package.version.clone(),
        })
    }
}

/// A range of versions, written `>=13, <14`: bounds on their numbers, the first being most important.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VersionRange(Vec<(Bound, String)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtLeast,
    Below,
}

/// A text that is no range of versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no range of versions, expected bounds such as `>=13, <14`")]
pub struct VersionRangeError {
    /// The text as given.
    pub found: String,
}

impl VersionRange {
    /// Whether a version is within the bounds. Of a version such as `13.10.0+local` only the leading numbers count.
    #[must_use]
    pub fn contains(&self, version: &str) -> bool {
        self.0.iter().all(|(bound, limit)| match (bound, compare(version, limit)) {
            (Bound::AtLeast, ordering) => ordering != Ordering::Less,
            (Bound::Below, ordering) => ordering == Ordering::Less,
        })
    }
}

/// Compares two versions number by number; numbers that one lacks are zero.
fn compare(one: &str, other: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> {
        let end = version.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(version.len());
        version[..end].split('.').map(|number| number.parse().unwrap_or(0)).collect()
    };
    let (mut one, mut other) = (numbers(one), numbers(other));
    let length = one.len().max(other.len());
    one.resize(length, 0);
    other.resize(length, 0);
    one.cmp(&other)
}

impl FromStr for VersionRange {
    type Err = VersionRangeError;

    fn from_str(text: &str) -> Result<Self, VersionRangeError> {
        let bound = |part: &str| {
            let part = part.trim();
            let (bound, limit) = match part.strip_prefix(">=") {
                Some(limit) => (Bound::AtLeast, limit),
                None => (Bound::Below, part.strip_prefix('<')?),
            };
            let is_version = !limit.is_empty() && limit.split('.').all(|number| number.parse::<u32>().is_ok());
            is_version.then(|| (bound, limit.to_owned()))
        };
        let bounds: Option<Vec<_>> = text.split(',').map(bound).collect();
        bounds.map(Self).ok_or_else(|| VersionRangeError { found: text.to_owned() })
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |(bound, limit): &(Bound, String)| match bound {
            Bound::AtLeast => format!(">={limit}"),
            Bound::Below => format!("<{limit}"),
        };
        f.write_str(&self.0.iter().map(bound).collect::<Vec<_>>().join(", "))
    }
}

impl TryFrom<String> for VersionRange {
    type Error = VersionRangeError;

    fn try_from(text: String) -> Result<Self, VersionRangeError> {
        text.parse()
    }
}

impl From<VersionRange> for String {
    fn from(range: VersionRange) -> Self {
        range.to_string()
    }
}

/// Checks that packages hold the libraries that their stack links to, by the names of their files. Nothing is unpacked.
///
/// # Errors
/// [`TemplateError::OtherLibrary`] where a package has a library under another soname, such as `libcublas.so.12`.
pub fn check_files(stack: &StackTemplate, packages: &[Package]) -> Result<(), TemplateError> {
    for (rule, package) in stack.packages.iter().zip(packages) {
        for library in rule.libraries.iter().filter(|library| !library.optional) {
            if !matches!(package.files_of(&library.take), Err(PackageError::NoEntry { .. })) {
                continue;
            }
            let expected: Vec<&str> = library.take.iter().map(|pattern| file_name(pattern.as_str())).collect();
            let stem = |name: &str| name.split_once(".so").map(|(stem, _)| stem.to_owned());
            let wanted = expected.iter().find_map(|name| stem(name));
            let names = package.entries().iter().map(|entry| file_name(&entry.path));
            let other = names.filter(|name| stem(name).is_some() && stem(name) == wanted).max_by_key(|name| name.len());
            if let Some(found) = other {
                return Err(TemplateError::OtherLibrary {
                    name: rule.name.clone(),
                    version: package.pin().version.clone(),
                    found: found.to_owned(),
                    expected: expected[0].to_owned(),
                    instead: rule.version.clone(),
                });
            }
        }
    }
    Ok(())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_compare_numbers() {
        let range: VersionRange = ">=13, <14".parse().expect("a range");
        assert_eq!(range.to_string(), ">=13, <14");
        for (version, is_in) in
            [("13", true), ("13.10.0.20", true), ("12.9.1", false), ("14.0", false), ("13.0+local", true), ("130", false)]
        {
            assert_eq!(range.contains(version), is_in, "{version}");
        }
        let range: VersionRange = ">=1.27".parse().expect("a range");
        assert!(range.contains("1.31.1") && range.contains("1.27.0") && !range.contains("1.9"));
        for bad in ["", "13", ">=", "> 13", ">=13,", ">=a", "<1..2"] {
            assert_eq!(bad.parse::<VersionRange>(), Err(VersionRangeError { found: bad.to_owned() }));
        }
    }
}

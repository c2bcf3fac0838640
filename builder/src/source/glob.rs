//! Patterns for paths: [`Glob`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A pattern for relative paths: `*` any characters but `/`, `?` one of them, `**` as a whole component any number of components.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Glob(String);

/// What is wrong with a text that should be a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no pattern for paths: {reason}")]
pub struct GlobError {
    /// The text as given.
    pub found: String,
    /// What was expected.
    pub reason: &'static str,
}

impl Glob {
    /// Whether the pattern matches a relative path.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        // `reach[i]`: the pattern so far matches the first i components of the path.
        let mut reach = vec![false; path.len() + 1];
        reach[0] = true;
        for pattern in self.0.split('/') {
            if pattern == "**" {
                let first = reach.iter().position(|reached| *reached).unwrap_or(reach.len());
                reach[first..].fill(true);
                continue;
            }
            for i in (0..path.len()).rev() {
                reach[i + 1] = reach[i] && component_matches(pattern.as_bytes(), path[i].as_bytes());
            }
            reach[0] = false;
        }
        reach[path.len()]
    }

    /// Whether the pattern names one path only.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn component_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on after a mismatch: behind the last star, one byte further in the name.
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, n));
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((after_star, from)) = retry else { return false };
                p = after_star;
                n = from + 1;
                retry = Some((p, n));
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for Glob {
    type Err = GlobError;

    fn from_str(text: &str) -> Result<Self, GlobError> {
        let error = |reason| GlobError { found: text.to_owned(), reason };
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(error("it is empty or has an empty component, `.` or `..`"));
        }
        if text.split('/').any(|part| part.contains("**") && part != "**") {
            return Err(error("`**` stands for whole components only"));
        }
        if text.contains(['[', '{', '\\']) {
            return Err(error("only `*`, `?` and `**` are known"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Glob {
    type Error = GlobError;

    fn try_from(text: String) -> Result<Self, GlobError> {
        text.parse()
    }
}

impl From<Glob> for String {
    fn from(glob: Glob) -> Self {
        glob.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes_and_double_stars_do_not() {
        for (pattern, path, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("*", "a", true),
            ("*", "a/b", false),
            ("a*c", "abc", true),
            ("a*c*c", "abcbc", true),
            ("a*c", "abcd", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("**/libonnxruntime.so.*", "onnxruntime/capi/libonnxruntime.so.1.32.0", true),
            ("**/libonnxruntime.so.*", "libonnxruntime.so.1", true),
            ("**/libonnxruntime.so.*", "lib/libonnxruntime.so", false),
            ("**/libonnxruntime.so", "xlibonnxruntime.so", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            ("a/**/z", "b/z", false),
            ("a/**", "a/b", true),
            ("**/**/b", "b", true),
        ] {
            assert_eq!(pattern.parse::<Glob>().expect(pattern).matches(path), expected, "{pattern} on {path}");
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a**", "[ab]", "{a,b}"] {
            assert!(bad.parse::<Glob>().is_err(), "{bad}");
        }
    }

    #[test]
    fn many_stars_cost_no_exponential_time() {
        let pattern = format!("{}b", "**/*a*a*a*/".repeat(20));
        assert!(!pattern.parse::<Glob>().expect("valid").matches("aaaaaaaaaa/".repeat(40).trim_end_matches('/')));
    }
}

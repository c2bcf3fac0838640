//! Reading the user's TOML strictly: [`parse`] turns a text into a type, and every error says where it is and what was meant.
//!
//! The types say `#[serde(deny_unknown_fields)]`; this module finds the place of an error and the nearest valid name. `flatten`
//! and untagged enums lose both and are not used in such types.

use std::fmt;
use std::ops::Range;

use serde::de::DeserializeOwned;

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as the user named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Place {
    /// The place of a byte in a file's text.
    #[must_use]
    pub fn of(file: &str, text: &str, byte: usize) -> Self {
        let mut end = byte.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &text[..end];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        Self { file: file.to_owned(), line, column: before[line_start..].chars().count() + 1 }
    }

    /// The place of a span of [`toml::Spanned`].
    #[must_use]
    pub fn of_span(file: &str, text: &str, span: &Range<usize>) -> Self {
        Self::of(file, text, span.start)
    }
}

/// What can be wrong with a file of the user's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrictError {
    /// A key that is not known there.
    #[error("{place}: unknown key `{key}`")]
    UnknownKey {
        /// Where it is.
        place: Place,
        /// The key.
        key: String,
        /// The valid key that is most like it.
        nearest: Option<String>,
        /// All valid keys there.
        valid: Vec<String>,
    },
    /// A value that is not one of those that are known.
    #[error("{place}: unknown value `{value}`")]
    UnknownValue {
        /// Where it is.
        place: Place,
        /// The value.
        value: String,
        /// The valid value that is most like it.
        nearest: Option<String>,
        /// All valid values.
        valid: Vec<String>,
    },
    /// A key that must be there is not.
    #[error("{place}: the key `{key}` is missing")]
    MissingKey {
        /// Where the table begins.
        place: Place,
        /// The key.
        key: String,
    },
    /// No TOML, or a value of the wrong type, or one that does not fit.
    #[error("{place}: {message}")]
    Invalid {
        /// Where it is.
        place: Place,
        /// What is wrong.
        message: String,
    },
    /// A file that a newer version of this program wrote.
    #[error("`{file}` has format {found}, and this program reads formats up to {supported}")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        found: i64,
        /// The newest format that is read.
        supported: i64,
    },
}

impl StrictError {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { nearest: Some(nearest), .. } | Self::UnknownValue { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            Self::UnknownKey { valid, .. } if valid.is_empty() => Some("no key is valid there".to_owned()),
            Self::UnknownKey { valid, .. } => Some(format!("the keys that are valid there: `{}`", valid.join("`, `"))),
            Self::UnknownValue { valid, .. } => Some(format!("the valid values: `{}`", valid.join("`, `"))),
            Self::Newer { .. } => Some("use a newer imgbuild".to_owned()),
            Self::MissingKey { .. } | Self::Invalid { .. } => None,
        }
    }
}

/// Parses a text. `file` is what errors call it.
///
/// # Errors
/// The first thing that is wrong with it, and where.
pub fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T, StrictError> {
    toml::from_str(text).map_err(|error| explain(&error, text, file))
}

/// Parses a text whose key `format` says its version: a newer one is refused in plain words, before its keys are looked at.
///
/// # Errors
/// [`StrictError::Newer`], [`StrictError::MissingKey`] where there is no `format`, or as for [`parse`].
pub fn parse_versioned<T: DeserializeOwned>(text: &str, file: &str, supported: i64) -> Result<T, StrictError> {
    let table: toml::Table = parse(text, file)?;
    match table.get("format").map(toml::Value::as_integer) {
        Some(Some(found)) if found > supported => Err(StrictError::Newer { file: file.to_owned(), found, supported }),
        Some(Some(found)) if found >= 1 => parse(text, file),
        Some(_) => {
            let message = format!("`format` is no version of this file's format, expected a number from 1 to {supported}");
            let at = text.find("format").unwrap_or(0);
            Err(StrictError::Invalid { place: Place::of(file, text, at), message })
        }
        None => Err(StrictError::MissingKey { place: Place::of(file, text, 0), key: "format".to_owned() }),
    }
}

/// Turns the TOML reader's error into ours. Its texts for unknown names are part of serde's interface and covered by tests.
fn explain(error: &toml::de::Error, text: &str, file: &str) -> StrictError {
    let place = Place::of(file, text, error.span().map_or(0, |span| span.start));
    let message = error.message();
    let name_after = |prefix: &str| message.strip_prefix(prefix)?.split_once('`').map(|(name, rest)| (name.to_owned(), rest));
    if let Some((key, rest)) = name_after("unknown field `") {
        let valid = quoted(rest);
        let nearest = nearest(&key, &valid);
        return StrictError::UnknownKey { place, key, nearest, valid };
    }
    if let Some((value, rest)) = name_after("unknown variant `") {
        let valid = quoted(rest);
        let nearest = nearest(&value, &valid);
        return StrictError::UnknownValue { place, value, nearest, valid };
    }
    if let Some((key, _)) = name_after("missing field `") {
        return StrictError::MissingKey { place, key };
    }
    let message = message.lines().map(str::trim).collect::<Vec<_>>().join("; ");
    StrictError::Invalid { place, message }
}

/// The names in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The name that is most like another one, if it is like it at all.
pub(crate) fn nearest<S: AsRef<str>>(name: &str, names: &[S]) -> Option<String> {
    let likeness = |other: &str| {
        let (one, other) = (name.to_lowercase(), other.to_lowercase());
        // A prefix is what people type who abbreviate; the rest are slips of the fingers.
        if !one.is_empty() && other.starts_with(&one) { 0.95 } else { strsim::jaro_winkler(&one, &other) }
    };
    let best = names.iter().map(|other| (likeness(other.as_ref()), other)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.75).then(|| best.1.as_ref().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        format: i64,
        model: Option<String>,
        #[serde(default)]
        layer: Vec<Inner>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        compression: Codec,
        max_size: Option<u64>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Codec {
        Zstd,
        Gzip,
    }

    fn error(text: &str) -> StrictError {
        parse_versioned::<Outer>(text, "x.toml", 1).expect_err(text)
    }

    #[test]
    fn unknown_keys_are_named_with_their_place_and_the_nearest_valid_one() {
        let found = error("format = 1\n  modle = \"a\"\n");
        assert_eq!(found.to_string(), "x.toml:2:3: unknown key `modle`");
        assert_eq!(found.hint().as_deref(), Some("did you mean `model`?"));

        let found = error("format = 1\n\n[[layer]]\ncompression = \"zstd\"\nmax-siz = 3\n");
        assert_eq!(found.to_string(), "x.toml:5:1: unknown key `max-siz`");
        assert_eq!(found.hint().as_deref(), Some("did you mean `max-size`?"));

        let found = error("format = 1\nqqqq = 3\n");
        assert_eq!(found.hint().as_deref(), Some("the keys that are valid there: `format`, `model`, `layer`, `labels`"));

        let found = error("format = 1\n[[layer]]\ncompression = \"zsdt\"\n");
        assert_eq!(found.to_string(), "x.toml:3:15: unknown value `zsdt`");
        assert_eq!(found.hint().as_deref(), Some("did you mean `zstd`?"));

        let found = error("format = 1\n[[layer]]\nmax-size = 2\n");
        assert_eq!(found.to_string(), "x.toml:2:1: the key `compression` is missing");
    }

    #[test]
    fn broken_texts_and_wrong_types_are_placed() {
        // In the middle of a character, behind it, and behind the end.
        for (byte, column) in [(6, 2), (7, 3), (99, 4)] {
            assert_eq!(Place::of("f", "aé\nbé?", byte), Place { file: "f".into(), line: 2, column });
        }
        let found = error("format = 1\nmodel = 3\n");
        assert!(found.to_string().starts_with("x.toml:2:9: invalid type: integer `3`, expected a string"), "{found}");
        let found = error("format = 1\nmodel = \n");
        assert!(found.to_string().starts_with("x.toml:2:"), "{found}");
        let found = error("format = 1\n[labels]\na = \"b\"\na = \"c\"\n");
        assert!(found.to_string().starts_with("x.toml:4:1: duplicate key"), "{found}");
    }

    #[test]
    fn newer_formats_are_refused_before_their_keys_are_looked_at() {
        let found = error("format = 2\nnew-thing = true\n");
        assert_eq!(found.to_string(), "`x.toml` has format 2, and this program reads formats up to 1");
        assert_eq!(error("model = \"a\"\n").to_string(), "x.toml:1:1: the key `format` is missing");
        assert!(error("format = \"1\"\n").to_string().contains("expected a number from 1 to 1"));
        assert!(error("format = 0\n").to_string().contains("expected a number from 1 to 1"));
    }

    #[test]
    fn names_are_near_or_not() {
        let names = ["environment", "entrypoint", "user"];
        for (name, expected) in
            [("env", Some("environment")), ("USER", Some("user")), ("enviroment", Some("environment")), ("zzz", None)]
        {
            assert_eq!(nearest(name, &names).as_deref(), expected);
        }
    }
}

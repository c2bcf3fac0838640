//! Names of images in registries: [`Reference`], `registry/repository[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// The name of an image in a registry. The registry is always named: there is no default one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host with an optional port, for instance `localhost:5000`.
    pub registry: String,
    /// Path of the repository, for instance `acme/magika`.
    pub repository: String,
    /// The tag, if one was given.
    pub tag: Option<String>,
    /// The digest, if one was given.
    pub digest: Option<Digest>,
}

/// What is wrong with a text that should be a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no image reference: {reason}")]
pub struct ReferenceError {
    /// The text as given.
    pub found: String,
    /// What was expected and not found.
    pub reason: &'static str,
}

impl Reference {
    /// The tag, or `latest` where neither a tag nor a digest was given.
    #[must_use]
    pub fn tag_or_latest(&self) -> Option<&str> {
        match (&self.tag, self.digest) {
            (Some(tag), _) => Some(tag),
            (None, None) => Some("latest"),
            (None, Some(_)) => None,
        }
    }

    /// `registry/repository`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// Tells whether a text can be a tag: at most 128 of letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`.
#[must_use]
pub fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Tells whether a text can be one component of a repository's path: lower-case letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    ends && bytes.iter().all(|b| alphanumeric(*b) || matches!(b, b'.' | b'_' | b'-'))
        && text
            .split(|c: char| c.is_ascii_alphanumeric())
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

/// Tells whether a text can be a registry's host with an optional port.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let host_is_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host.split('.').all(|label| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                })
        }
    };
    host_is_valid && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let error = |reason| ReferenceError { found: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| error("after `@` a digest `sha256:…` of 64 hex digits is expected"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (registry, path) = rest
            .split_once('/')
            .ok_or_else(|| error("expected `registry/repository:tag`, the registry's host is always named"))?;
        let named = registry.contains(['.', ':', '[']) || registry == "localhost";
        if !named || !is_registry(registry) {
            return Err(error("expected a registry's host before the first `/`, such as `localhost:5000`"));
        }
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(error("a tag is at most 128 letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`"));
        }
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(error("a repository is lower-case letters and digits with single `.`, `_`, `-` or `/` between them"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag: tag.map(str::to_owned), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_round_trip() {
        let digest = Digest::of(b"abc");
        for text in [
            "localhost:5000/acme/magika:1".to_owned(),
            "localhost/magika".to_owned(),
            "registry.example.com/a/b-c/d__e/f.g:v1.0_x-y".to_owned(),
            format!("127.0.0.1:5000/x@{digest}"),
            format!("[::1]:5000/x:1@{digest}"),
        ] {
            let parsed: Reference = text.parse().expect("valid");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        for bad in [
            "",
            "magika",
            "acme/magika:1",
            "localhost:5000/",
            "localhost:5000/A",
            "localhost:5000/a:",
            "localhost:5000/a:-x",
            "localhost:5000/a@sha256:12",
            "localhost:99999/a",
            "localhost:5000/a//b",
            "localhost:5000/a/../b",
            "local_host.x/a",
            "localhost:5000/a..b",
            "localhost:5000/a___b",
            "localhost:5000/a b",
        ] {
            let error = bad.parse::<Reference>().expect_err(bad);
            assert!(error.to_string().starts_with(&format!("`{bad}` is no image reference")));
        }
    }

    #[test]
    fn latest_is_the_default_tag_only_without_a_digest() {
        let parse = |text: &str| text.parse::<Reference>().expect("valid");
        assert_eq!(parse("localhost/a").tag_or_latest(), Some("latest"));
        assert_eq!(parse("localhost/a:2").tag_or_latest(), Some("2"));
        assert_eq!(parse(&format!("localhost/a@{}", Digest::of(b""))).tag_or_latest(), None);
    }
}

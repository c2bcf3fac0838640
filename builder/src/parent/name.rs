//! How a parent image is named: [`ParentName`].

use std::fmt;
use std::path::Path;

use super::ParentError;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::transport::{Selector, Transport};

/// An image that everything is put upon, as the recipe names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentName {
    written: String,
    transport: Transport,
}

impl ParentName {
    /// Reads a name; a path in it is relative to `folder`.
    ///
    /// # Errors
    /// Where it is no transport, or one whose images have no digest that others could check.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, ParentError> {
        let transport = text.parse().map_err(|source| ParentError::Name { found: text.to_owned(), source })?;
        let transport = match transport {
            Transport::OciLayout { folder: path, selector } => Transport::OciLayout { folder: folder.join(path), selector },
            Transport::OciArchive { file, selector } => Transport::OciArchive { file: folder.join(file), selector },
            Transport::Registry(reference) => Transport::Registry(reference),
            Transport::DockerArchive { .. } | Transport::DockerDaemon { .. } => {
                return Err(ParentError::Place { found: text.to_owned() });
            }
        };
        Ok(Self { written: text.to_owned(), transport })
    }

    /// Where it is.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The digest in the name. It may be that of an index, of which one image is for the platform.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match &self.transport {
            Transport::OciLayout { selector: Selector::Digest(digest), .. }
            | Transport::OciArchive { selector: Selector::Digest(digest), .. } => Some(*digest),
            Transport::Registry(reference) => reference.digest,
            _ => None,
        }
    }

    /// Its reference, where it is in a registry.
    #[must_use]
    pub fn reference(&self) -> Option<&Reference> {
        match &self.transport {
            Transport::Registry(reference) => Some(reference),
            _ => None,
        }
    }

    /// The place of the image with a digest, whatever the name itself means by now.
    pub(super) fn at(&self, digest: Digest) -> Transport {
        let mut transport = self.transport.clone();
        match &mut transport {
            Transport::OciLayout { selector, .. } | Transport::OciArchive { selector, .. } => {
                *selector = Selector::Digest(digest)
            }
            Transport::Registry(reference) => reference.digest = Some(digest),
            Transport::DockerArchive { .. } | Transport::DockerDaemon { .. } => {}
        }
        transport
    }
}

impl fmt::Display for ParentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_what_was_written_and_know_their_digest() {
        let digest = Digest::of(b"x");
        for (text, expected) in [
            (format!("oci:bases/debian@{digest}"), Some(digest)),
            ("oci:bases/debian:12".to_owned(), None),
            ("oci-archive:base.tar".to_owned(), None),
            (format!("docker://localhost:5000/debian:12@{digest}"), Some(digest)),
            ("docker://localhost:5000/debian:12".to_owned(), None),
        ] {
            let name = ParentName::parse(&text, Path::new("recipe")).expect(&text);
            assert_eq!((name.to_string(), name.digest()), (text.clone(), expected));
            let other = Digest::of(b"y");
            assert!(name.at(other).to_string().ends_with(&other.to_string()), "{text}");
        }
        let name = ParentName::parse("oci:debian:12", Path::new("recipe")).expect("valid");
        assert_eq!(name.transport().path(), Some(Path::new("recipe/debian")));
        assert!(matches!(ParentName::parse("docker-daemon:a:1", Path::new(".")), Err(ParentError::Place { .. })));
        assert!(matches!(ParentName::parse("oci:", Path::new(".")), Err(ParentError::Name { .. })));
    }
}

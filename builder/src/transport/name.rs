//! The names of places: [`Transport`], [`Selector`] and [`ImageName`], as `skopeo`'s users write them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::Digest;
use crate::reference::{Reference, ReferenceError, is_tag};

/// What Docker puts before a name that has no registry's host.
const DOCKER_HOST_PREFIX: &str = "docker.io";
/// What Docker puts before a name of one component.
const DOCKER_LIBRARY: &str = "library";

/// Where an image lies or shall lie.
///
/// | text | what it is |
/// |---|---|
/// | `oci:DIR[:TAG]`, `oci:DIR@DIGEST` | a folder in OCI image layout |
/// | `oci-archive:FILE[:TAG]`, `oci-archive:FILE@DIGEST` | a tar of such a folder |
/// | `docker-archive:FILE[:NAME:TAG]` | what `docker load` reads and `docker save` writes |
/// | `docker-daemon:NAME:TAG` | the images of a running Docker or podman |
/// | `docker://REGISTRY/NAME[:TAG][@DIGEST]` | a registry |
///
/// The first colon after the transport ends the path, as everywhere in this family of tools.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// `oci:`
    OciLayout {
        /// The folder.
        folder: PathBuf,
        /// Which of its images.
        selector: Selector,
    },
    /// `oci-archive:`
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// Which of its images.
        selector: Selector,
    },
    /// `docker-archive:`
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// The image's name in it.
        name: Option<ImageName>,
    },
    /// `docker-daemon:`
    DockerDaemon {
        /// The image's name there.
        name: ImageName,
    },
    /// `docker://`
    Registry(Reference),
}

/// Which image of a layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Selector {
    /// The only one.
    #[default]
    Only,
    /// The one whose `org.opencontainers.image.ref.name` is this: a tag or a full name with a tag.
    Name(String),
    /// The one with this digest, at any depth.
    Digest(Digest),
}

/// A name that a daemon knows an image by: `NAME:TAG`, where a registry's host may be left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// For instance `acme/magika` or `localhost:5000/acme/magika`.
    pub name: String,
    /// The tag.
    pub tag: String,
}

/// What is wrong with a text that should name a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No transport at its head.
    #[error("`{found}` names no transport, expected one of {VALID}")]
    NoTransport {
        /// The text as given.
        found: String,
    },
    /// A transport that does not exist.
    #[error("`{transport}:` in `{found}` is no transport, expected one of {VALID}")]
    Unknown {
        /// The text as given.
        found: String,
        /// What stands before its first colon.
        transport: String,
    },
    /// Nothing where a path should be.
    #[error("`{found}` names no {what}")]
    NoPath {
        /// The text as given.
        found: String,
        /// `folder` or `file`.
        what: &'static str,
    },
    /// What follows the path is no tag.
    #[error("`{selector}` in `{found}` is neither a tag nor NAME:TAG")]
    Selector {
        /// The text as given.
        found: String,
        /// What stands after the path.
        selector: String,
    },
    /// No image name where one should be.
    #[error("`{found}` is no image name: {reason}")]
    ImageName {
        /// The name as given.
        found: String,
        /// What was expected and not found.
        reason: &'static str,
    },
    /// No reference where one should be.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

const VALID: &str = "`oci:`, `oci-archive:`, `docker-archive:`, `docker-daemon:`, `docker://`";

impl NameError {
    /// What the user could do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoTransport { found } | Self::Unknown { found, .. } => Some(suggest(found)),
            Self::Selector { selector, .. } if selector.starts_with(['/', '\\']) => {
                Some("the first colon ends the path; a path with a drive letter or a colon cannot be written here".to_owned())
            }
            Self::Selector { .. } => Some(
                "the first colon ends the path: change to a folder below the one with a colon in its name, or check the tag"
                    .to_owned(),
            ),
            Self::ImageName { found, .. } if !found.contains(':') && !found.is_empty() => {
                Some(format!("write `{found}:latest` if that is the tag"))
            }
            _ => None,
        }
    }
}

/// Guesses what someone meant who wrote no valid transport.
fn suggest(found: &str) -> String {
    let head = found.split_once(':').map_or(found, |(head, _)| head);
    if let Some(rest) = found.strip_prefix("docker:") {
        return format!(
            "write `docker://{}` for a registry, `docker-daemon:{rest}` for the local daemon",
            rest.trim_matches('/')
        );
    }
    if found.starts_with("http://") || found.starts_with("https://") {
        let rest = found.split_once("//").map_or("", |(_, rest)| rest);
        return format!("write `docker://{rest}` for a registry");
    }
    let looks_like_file = [".tar", ".tgz", ".tar.gz"].iter().any(|end| head.ends_with(end));
    if looks_like_file {
        format!("write `oci-archive:{found}` or `docker-archive:{found}` for an archive")
    } else if head.starts_with(['.', '/', '~']) {
        format!("write `oci:{found}` for a folder, `oci-archive:{found}` for an archive")
    } else if found.parse::<Reference>().is_ok() {
        format!("write `docker://{found}` for a registry, `docker-daemon:{found}` for the local daemon")
    } else {
        format!("write `oci:{found}` for a folder in OCI layout")
    }
}

impl FromStr for Transport {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((transport, rest)) = text.split_once(':') else {
            return Err(NameError::NoTransport { found: text.to_owned() });
        };
        match transport {
            "oci" => {
                let (folder, selector) = path_and_selector(text, rest, "folder")?;
                Ok(Self::OciLayout { folder, selector })
            }
            "oci-archive" => {
                let (file, selector) = path_and_selector(text, rest, "file")?;
                Ok(Self::OciArchive { file, selector })
            }
            "docker-archive" => {
                let (file, name) = match rest.split_once(':') {
                    Some((file, name)) => (file, Some(name.parse()?)),
                    None => (rest, None),
                };
                if file.is_empty() {
                    return Err(NameError::NoPath { found: text.to_owned(), what: "file" });
                }
                Ok(Self::DockerArchive { file: file.into(), name })
            }
            "docker-daemon" => Ok(Self::DockerDaemon { name: rest.parse()? }),
            "docker" if rest.starts_with("//") => Ok(Self::Registry(rest[2..].parse()?)),
            _ if transport.is_empty() || transport.contains(['/', '.', '\\']) || transport.len() == 1 => {
                Err(NameError::NoTransport { found: text.to_owned() })
            }
            _ => Err(NameError::Unknown { found: text.to_owned(), transport: transport.to_owned() }),
        }
    }
}

/// Takes `PATH`, `PATH:NAME` or `PATH@sha256:…` apart.
fn path_and_selector(text: &str, rest: &str, what: &'static str) -> Result<(PathBuf, Selector), NameError> {
    let by_digest = rest.rsplit_once('@').and_then(|(path, digest)| Some((path, digest.parse::<Digest>().ok()?)));
    let (path, selector) = match (by_digest, rest.split_once(':')) {
        (Some((path, digest)), _) if !path.contains(':') => (path, Selector::Digest(digest)),
        (_, Some((path, name))) if is_tag(name) || name.parse::<ImageName>().is_ok() => (path, Selector::Name(name.to_owned())),
        (_, Some((_, name))) => {
            return Err(NameError::Selector { found: text.to_owned(), selector: name.to_owned() });
        }
        (_, None) => (rest, Selector::Only),
    };
    if path.is_empty() {
        return Err(NameError::NoPath { found: text.to_owned(), what });
    }
    Ok((path.into(), selector))
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OciLayout { folder, selector } => write!(f, "oci:{}{selector}", folder.display()),
            Self::OciArchive { file, selector } => write!(f, "oci-archive:{}{selector}", file.display()),
            Self::DockerArchive { file, name } => {
                write!(f, "docker-archive:{}", file.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
            }
            Self::DockerDaemon { name } => write!(f, "docker-daemon:{name}"),
            Self::Registry(reference) => write!(f, "docker://{reference}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => Ok(()),
            Self::Name(name) => write!(f, ":{name}"),
            Self::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl Transport {
    /// The reference, where this is a registry.
    #[must_use]
    pub fn registry(&self) -> Option<&Reference> {
        match self {
            Self::Registry(reference) => Some(reference),
            _ => None,
        }
    }

    /// Understands what commands that only read accept besides the full form: an existing folder in OCI layout, an existing archive
    /// (`PATH` or `PATH:NAME`), or a registry reference without `docker://`.
    ///
    /// # Errors
    /// Those of [`Transport::from_str`] where it is none of these.
    pub fn guess_for_reading(text: &str) -> Result<Self, NameError> {
        let error = match text.parse() {
            Ok(transport) => return Ok(transport),
            Err(error @ (NameError::NoTransport { .. } | NameError::Unknown { .. })) => error,
            Err(error) => return Err(error),
        };
        let prefix = |path: &str| {
            let path = Path::new(path);
            if path.join("oci-layout").is_file() || path.join("index.json").is_file() {
                Some("oci")
            } else if path.is_file() {
                Some(if super::archive::is_docker_only(path) { "docker-archive" } else { "oci-archive" })
            } else {
                None
            }
        };
        for path in [Some(text), text.split_once(':').map(|(path, _)| path)].into_iter().flatten() {
            if let Some(prefix) = prefix(path) {
                return format!("{prefix}:{text}").parse();
            }
        }
        text.parse().map(Self::Registry).map_err(|_| error)
    }

    /// The path on this machine, where it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::OciLayout { folder: path, .. }
            | Self::OciArchive { file: path, .. }
            | Self::DockerArchive { file: path, .. } => Some(path),
            Self::DockerDaemon { .. } | Self::Registry(_) => None,
        }
    }
}

impl ImageName {
    /// The name with host and all, as containerd keeps it.
    #[must_use]
    pub fn canonical(&self) -> String {
        let named = self.name.split_once('/').is_some_and(|(first, _)| first.contains(['.', ':', '[']) || first == "localhost");
        match (named, self.name.contains('/')) {
            (true, _) => self.to_string(),
            (false, true) => format!("{DOCKER_HOST_PREFIX}/{self}"),
            (false, false) => format!("{DOCKER_HOST_PREFIX}/{DOCKER_LIBRARY}/{self}"),
        }
    }

    /// Tells whether another spelling names the same image.
    #[must_use]
    pub fn is_same(&self, other: &str) -> bool {
        other.parse::<Self>().is_ok_and(|other| other.canonical() == self.canonical())
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = |reason| NameError::ImageName { found: text.to_owned(), reason };
        let (name, tag) = text
            .rsplit_once(':')
            .filter(|(_, tag)| !tag.contains('/'))
            .ok_or_else(|| error("expected NAME:TAG, and it has no tag"))?;
        if !is_tag(tag) {
            return Err(error("a tag is at most 128 letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`"));
        }
        // A name with a host is a reference; one without is the path of one.
        let as_reference = |text: &str| text.parse::<Reference>().is_ok_and(|reference| reference.digest.is_none());
        let is_path = || !name.contains(':') && as_reference(&format!("localhost/{name}"));
        if !as_reference(text) && !is_path() {
            return Err(error("a name is lower-case letters and digits with single `.`, `_`, `-` or `/` between them"));
        }
        Ok(Self { name: name.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Transport, NameError> {
        text.parse()
    }

    #[test]
    fn every_form_round_trips() {
        let digest = Digest::of(b"abc");
        for text in [
            "oci:out".to_owned(),
            "oci:/a b/out:v1.2_x-y".to_owned(),
            "oci:../out:localhost:5000/acme/magika:1".to_owned(),
            "oci:out:acme/magika:1".to_owned(),
            format!("oci:out@{digest}"),
            "oci:a@b:latest".to_owned(),
            "oci-archive:out.tar".to_owned(),
            "oci-archive:/x/out.tar:1".to_owned(),
            format!("oci-archive:out.tar@{digest}"),
            "docker-archive:out.tar".to_owned(),
            "docker-archive:out.tar:magika:1".to_owned(),
            "docker-archive:out.tar:localhost:5000/acme/magika:1".to_owned(),
            "docker-daemon:magika:1".to_owned(),
            "docker-daemon:[::1]:5000/magika:1".to_owned(),
            "docker://localhost:5000/acme/magika:1".to_owned(),
            format!("docker://localhost:5000/acme/magika:1@{digest}"),
            "docker://localhost/magika".to_owned(),
        ] {
            let transport = parse(&text).expect(&text);
            assert_eq!(transport.to_string(), text);
            assert_eq!(parse(&transport.to_string()), Ok(transport));
        }
        assert_eq!(parse("oci:a:b"), Ok(Transport::OciLayout { folder: "a".into(), selector: Selector::Name("b".to_owned()) }));
    }

    #[test]
    fn mistakes_are_named_with_a_hint() {
        for (text, message, hint) in [
            ("out", "`out` names no transport", "write `oci:out`"),
            ("./out:1", "`./out:1` names no transport", "write `oci:./out:1` for a folder"),
            ("x.tar", "`x.tar` names no transport", "`oci-archive:x.tar` or `docker-archive:x.tar`"),
            ("C:\\images", "`C:\\images` names no transport", "write `oci:"),
            ("oci:C:\\images", "`\\images` in `oci:C:\\images` is neither a tag", "drive letter"),
            ("oci:/a:b/c", "`b/c` in `oci:/a:b/c` is neither a tag", "the first colon ends the path"),
            ("oci:out:-1", "`-1` in `oci:out:-1` is neither a tag", "check the tag"),
            ("dir:out", "`dir:` in `dir:out` is no transport, expected one of `oci:`, `oci-archive:`", "write `oci:dir:out`"),
            ("docker:localhost/a:1", "`docker:` in", "write `docker://localhost/a:1` for a registry"),
            ("https://localhost/a:1", "`https:` in", "write `docker://localhost/a:1`"),
            ("localhost:5000/a:1", "`localhost:` in", "write `docker://localhost:5000/a:1`"),
            ("docker-daemon:magika", "`magika` is no image name: expected NAME:TAG", "write `magika:latest`"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().contains(message), "{text}: {error}");
            let found = error.hint().unwrap_or_default();
            assert!(found.contains(hint), "{text}: {found}");
        }
        for text in
            ["", ":", "oci:", "oci::1", "oci-archive:", "docker-archive:", "docker-archive::a:1", "docker-daemon:", "docker://"]
        {
            parse(text).expect_err(text);
        }
        for text in ["docker-daemon:Magika:1", "docker-archive:x:a/../b:1", "docker-daemon:a:b:1", "docker-daemon:a b:1"] {
            parse(text).expect_err(text);
        }
    }

    #[test]
    fn short_names_are_the_same_as_long_ones() {
        let name = |text: &str| text.parse::<ImageName>().expect(text);
        for (short, long) in [("a:1", "library/a:1"), ("b/a:1", "b/a:1"), ("library/a:1", "library/a:1")] {
            assert_eq!(name(short).canonical(), format!("{DOCKER_HOST_PREFIX}/{long}"));
            assert!(name(short).is_same(&format!("{DOCKER_HOST_PREFIX}/{long}")));
        }
        assert_eq!(name("localhost:5000/a:1").canonical(), "localhost:5000/a:1");
        assert!(!name("a:1").is_same("a:2"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_round_trips(text in "(oci|oci-archive|docker-archive|docker-daemon|docker)?:?[ -~]{0,40}") {
            if let Ok(transport) = parse(&text) {
                proptest::prop_assert_eq!(parse(&transport.to_string()), Ok(transport));
            }
        }
    }
}

//! What can go wrong between this machine and a registry.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::digest::Digest;
use crate::platform::Platform;
use crate::store::StoreError;

/// Why something could not be pushed to or read from a registry. Holds no secrets: addresses have lost their queries.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No answer came: no connection, a broken one, or no TLS.
    #[error("failed to {method} {url}: {reason}")]
    Transport {
        /// The registry that was to be reached.
        registry: String,
        /// The HTTP method.
        method: String,
        /// The address without its query.
        url: String,
        /// What kind of failure, which decides on retries and hints.
        kind: TransportKind,
        /// What the network or TLS said.
        reason: String,
    },
    /// The registry answered, and not as hoped.
    #[error("{0}")]
    Status(Box<Refusal>),
    /// It failed again and again.
    #[error("gave up after {attempts} attempts")]
    GaveUp {
        /// How many there were.
        attempts: u32,
        /// The last failure.
        source: Box<RegistryError>,
    },
    /// The registry answered with something that the specification does not know.
    #[error("{registry} answered {method} {url} with {found}, expected {expected}")]
    Answer {
        /// The registry.
        registry: String,
        /// The HTTP method.
        method: String,
        /// The address without its query.
        url: String,
        /// What came.
        found: String,
        /// What should have come.
        expected: &'static str,
    },
    /// A redirect that is not followed.
    #[error("{registry} redirects {url} to {target}, which is refused: {reason}")]
    Redirect {
        /// The registry.
        registry: String,
        /// The address without its query.
        url: String,
        /// The target without its query.
        target: String,
        /// Why.
        reason: &'static str,
    },
    /// Bytes are not those that their digest promises.
    #[error("{what} has the digest {actual}, expected {expected}")]
    Digest {
        /// Which bytes.
        what: String,
        /// Their digest.
        actual: Digest,
        /// The digest they should have.
        expected: Digest,
    },
    /// There is no such image.
    #[error("{reference} is not there")]
    NotFound {
        /// `registry/repository:tag` or `registry/repository@digest`.
        reference: String,
    },
    /// A manifest or another document larger than what is read into memory.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// Which document.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A manifest or another document that cannot be understood.
    #[error("{what} is not understood: {reason}")]
    Document {
        /// Which document.
        what: String,
        /// Why.
        reason: String,
    },
    /// The image is there, but not for the platform.
    #[error("{reference} has no image for {wanted}, only for {available}")]
    Platform {
        /// The image.
        reference: String,
        /// The platform asked for.
        wanted: Platform,
        /// What there is.
        available: String,
    },
    /// The tag is there already, and is not to be moved.
    #[error("tag {reference} exists and is {actual}, not {expected}")]
    TagExists {
        /// `registry/repository:tag`.
        reference: String,
        /// What it points at.
        actual: Digest,
        /// What was to be pushed.
        expected: Digest,
    },
    /// The reference names a digest that the image does not have.
    #[error("{reference} cannot be pushed to: the image's digest is {actual}")]
    OtherDigest {
        /// The reference.
        reference: String,
        /// The image's digest.
        actual: Digest,
    },
    /// A tag that is none.
    #[error("`{found}` is no tag, expected at most 128 of letters, digits, `_`, `.` and `-`, not beginning with `.` or `-`")]
    Tag {
        /// The text.
        found: String,
    },
    /// A layer's bytes cannot be read on this side.
    #[error("failed to read blob {digest}")]
    ReadBlob {
        /// Which blob.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// A file with certificates or keys that cannot be used.
    #[error("failed to use `{path}`: {reason}")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The registry is wanted by a name that makes no address.
    #[error("`{found}` is no registry, expected a host with an optional port")]
    Host {
        /// The text.
        found: String,
    },
    /// A file with credentials that cannot be read or written.
    #[error("failed to {action} `{path}`")]
    CredentialsFile {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A credential helper that failed.
    #[error("credential helper `{helper}` failed to {action}: {reason}")]
    Helper {
        /// Its program.
        helper: String,
        /// What it was asked.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// There is no folder for Docker's configuration.
    #[error("there is no folder for credentials: neither DOCKER_CONFIG nor HOME is set")]
    NoConfigFolder,
    /// The store of this machine.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another part of the same push failed first.
    #[error("stopped, because another part of the push failed")]
    Stopped,
}

/// What kind of failure kept an answer from coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportKind {
    /// Nobody listens there.
    Refused,
    /// The host's name is not known.
    UnknownHost,
    /// The connection broke, or brought what is no HTTP.
    Broken,
    /// Nothing came for too long.
    TimedOut,
    /// The certificate is not trusted, or this side's is not.
    Certificate,
    /// The other side does not speak TLS.
    NoTls,
    /// The request cannot be made at all.
    Unusable,
}

/// An answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The registry.
    pub registry: String,
    /// The repository, where there is one.
    pub repository: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The address without its query.
    pub url: String,
    /// The HTTP status.
    pub status: u16,
    /// The registry's own error code, for instance `DENIED`.
    pub code: Option<String>,
    /// What the registry says, bounded and without control characters.
    pub message: Option<String>,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answered {} {} with status {}", self.registry, self.method, self.url, self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, " ({message})")?;
        }
        if let Some(wait) = self.retry_after {
            write!(f, ", and asks to wait {} s", wait.as_secs())?;
        }
        Ok(())
    }
}

impl RegistryError {
    /// Whether trying again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { kind, .. } => !matches!(
                kind,
                TransportKind::Certificate | TransportKind::NoTls | TransportKind::Unusable | TransportKind::UnknownHost
            ),
            Self::Status(refusal) => matches!(refusal.status, 408 | 425 | 429 | 500 | 502..=504 | 506..=599),
            _ => false,
        }
    }

    /// The HTTP status, where the registry answered with one that is no success.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status(refusal) => Some(refusal.status),
            Self::GaveUp { source, .. } => source.status(),
            _ => None,
        }
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::GaveUp { source, .. } => return source.hint(),
            Self::Transport { registry, kind, .. } => match kind {
                TransportKind::Refused => format!("is the registry `{registry}` running, and is its port right?"),
                TransportKind::UnknownHost => format!("is `{registry}` spelt right? a proxy is taken from HTTPS_PROXY"),
                TransportKind::Certificate => {
                    format!(
                        "give the authority that signed its certificate with `--ca-file`; to trust `{registry}` alone without one, list it with `--insecure`"
                    )
                }
                TransportKind::NoTls => format!("if `{registry}` speaks plain http, list it with `--insecure`"),
                TransportKind::TimedOut | TransportKind::Broken | TransportKind::Unusable => return None,
            },
            Self::Status(refusal) => {
                let registry = &refusal.registry;
                match refusal.status {
                    401 => format!("run `imgbuild login {registry}`, or check that the credentials are still valid"),
                    403 => {
                        format!("the account has no right to do this; check it, or use another with `imgbuild login {registry}`")
                    }
                    404 if refusal.code.as_deref() == Some("NAME_UNKNOWN") => {
                        "some registries want a repository to be created first".to_owned()
                    }
                    413 => "a proxy before the registry refuses large requests; use a smaller chunk size".to_owned(),
                    429 => "the registry limits its use; an account of its own raises the limit at many of them".to_owned(),
                    400 if refusal.message.as_deref().is_some_and(|text| text.contains("HTTP request to an HTTPS server")) => {
                        format!("`{registry}` speaks TLS: give the authority that signed its certificate with `--ca-file`")
                    }
                    _ => return None,
                }
            }
            Self::Redirect { registry, .. } => {
                format!("to allow it for this registry alone, list `{registry}` with `--insecure`")
            }
            Self::TagExists { .. } => "choose another tag, or push without `--immutable`".to_owned(),
            Self::Digest { .. } => {
                "the bytes changed on their way or in the registry; try again, and check the registry's storage if it stays"
                    .to_owned()
            }
            _ => return None,
        })
    }
}

/// An address without what may be secret: no query, no user, no fragment.
pub(crate) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

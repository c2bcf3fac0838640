//! How a [`Client`](super::Client) reaches registries: [`Settings`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::credentials::CredentialSources;
use super::proxy::Proxies;
use super::shaper::Shaper;

/// How registries are reached. [`Settings::default`] reads nothing from the environment; [`Settings::from_environment`] does.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Registries, as `host` or `host:port`, for which an untrusted certificate and plain http are allowed.
    pub insecure: BTreeSet<String>,
    /// A PEM file with authorities that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// What this side shows of itself to registries that ask.
    pub client_certificate: Option<ClientCertificate>,
    /// Folders that hold a folder for each `host[:port]` with `*.crt`, `*.cert` and `*.key`, as Docker and podman keep them.
    pub certificate_folders: Vec<PathBuf>,
    /// Where credentials come from.
    pub credentials: CredentialSources,
    /// Which proxies stand between.
    pub proxies: Proxies,
    /// How failures are met.
    pub retries: Retries,
    /// How long is waited for what.
    pub timeouts: Timeouts,
    /// What counts and holds back what is received, where something does.
    pub shaper: Option<Arc<Shaper>>,
}

/// A certificate of this side with its key, both PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, with those between it and the authority.
    pub certificate: PathBuf,
    /// Its unencrypted private key.
    pub key: PathBuf,
}

/// How failures are met: exponential waits with full jitter.
#[derive(Clone)]
pub struct Retries {
    /// How often in a row something may fail without getting any further.
    pub attempts: u32,
    /// Upper bound of the first wait; each following one doubles.
    pub first_wait: Duration,
    /// Upper bound of every wait that this side chooses.
    pub longest_wait: Duration,
    /// The longest `Retry-After` that is obeyed; a registry that asks for more ends the push.
    pub longest_retry_after: Duration,
    /// What waits.
    pub sleep: Arc<dyn Fn(Duration) + Send + Sync>,
}

/// How long is waited for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// For the next bytes of an answer, or for the other side to take the next bytes of a request.
    pub idle: Duration,
    /// For the answer to a chunk that was sent completely.
    pub chunk: Duration,
    /// For the answer to the request that completes a blob: registries take minutes over several gigabytes.
    pub commit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            insecure: BTreeSet::new(),
            ca_file: None,
            client_certificate: None,
            certificate_folders: Vec::new(),
            credentials: CredentialSources::none(),
            proxies: Proxies::none(),
            retries: Retries::default(),
            timeouts: Timeouts::default(),
            shaper: None,
        }
    }
}

impl Settings {
    /// Settings with the credentials, proxies and certificate folders that the environment names.
    ///
    /// `target` is the registry that the user named, for instance the one pushed to: `IMGBUILD_REGISTRY_USER` and
    /// `IMGBUILD_REGISTRY_PASSWORD` are for it alone unless `IMGBUILD_REGISTRY_HOST` names another.
    #[must_use]
    pub fn from_environment(target: Option<&str>) -> Self {
        let mut certificate_folders: Vec<PathBuf> =
            ["/etc/containers/certs.d", "/etc/docker/certs.d"].into_iter().map(PathBuf::from).collect();
        if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
            certificate_folders.insert(0, PathBuf::from(home).join(".config/containers/certs.d"));
        }
        Self {
            credentials: CredentialSources::from_environment(target),
            proxies: Proxies::from_environment(),
            certificate_folders,
            ..Self::default()
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(30),
            longest_retry_after: Duration::from_secs(300),
            sleep: Arc::new(std::thread::sleep),
        }
    }
}

impl fmt::Debug for Retries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retries")
            .field("attempts", &self.attempts)
            .field("first_wait", &self.first_wait)
            .field("longest_wait", &self.longest_wait)
            .field("longest_retry_after", &self.longest_retry_after)
            .finish_non_exhaustive()
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            chunk: Duration::from_secs(5 * 60),
            commit: Duration::from_secs(60 * 60),
        }
    }
}

//! Registries: [`Client`] pushes images, opens them, and lists and attaches what belongs to them.
//!
//! A client of our own on a synchronous HTTP library; `docs/decisions/0003-registry-client.md` says why. From the bottom up:
//! `transport` makes one request, `auth` and `credentials` know what a registry wants to see, `endpoint` adds redirects and
//! retries, `upload` takes one blob there and goes on where a connection broke, `push`, `pull` and `referrers` are what
//! callers use.
//!
//! What holds everywhere: memory does not grow with a layer; `Authorization` goes to the registry and its token server alone;
//! https never becomes http unless the registry is listed as insecure; no password or token is part of an error, an event or
//! a `Debug`. The HTTP library's log would show bodies and signed addresses at its level "trace": the crate `log` is built so
//! that this level does not exist.

mod auth;
mod challenge;
mod credentials;
mod endpoint;
mod error;
mod manifest;
mod proxy;
mod pull;
mod push;
mod referrers;
mod retry;
mod secret;
mod settings;
mod shaper;
mod tls;
mod transport;
mod upload;

pub use credentials::{Credential, CredentialSources, LoggedOut};
pub use error::{Refusal, RegistryError, TransportKind};
pub use manifest::FetchedManifest;
pub use proxy::Proxies;
pub use push::{Chunking, PushOptions, Pushed, PushedBlob};
pub use referrers::{Artifact, ArtifactPart, Attached};
pub use secret::Secret;
pub use settings::{ClientCertificate, Retries, Settings, Timeouts};
pub use shaper::Shaper;
pub use upload::Placed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;
use crate::progress::Progress;
use endpoint::Endpoint;
use transport::Transport;

const _: () = assert!(
    matches!(
        log::STATIC_MAX_LEVEL,
        log::LevelFilter::Off
            | log::LevelFilter::Error
            | log::LevelFilter::Warn
            | log::LevelFilter::Info
            | log::LevelFilter::Debug
    ),
    "the level \"trace\" would log tokens"
);

/// Talks to registries. Cheap to clone; clones share connections, tokens and what is known about where layers are.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transport: Arc<Transport>,
    progress: Progress,
    endpoints: Mutex<BTreeMap<String, Arc<Endpoint>>>,
    /// In which repositories of a registry a blob was seen.
    known: Mutex<BTreeMap<(String, Digest), BTreeSet<String>>>,
}

impl Client {
    /// A client; nothing is sent before it is asked for something.
    #[must_use]
    pub fn new(settings: Settings, progress: &Progress) -> Self {
        Self {
            shared: Arc::new(Shared {
                transport: Arc::new(Transport::new(settings)),
                progress: progress.clone(),
                endpoints: Mutex::default(),
                known: Mutex::default(),
            }),
        }
    }

    /// Checks a user's password against a registry and keeps it as `docker login` does.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses them, or they cannot be kept.
    pub fn login(&self, registry: &str, user: &str, password: &Secret) -> Result<(), RegistryError> {
        let mut settings = self.shared.transport.settings().clone();
        let credential = Credential::Password { user: user.to_owned(), password: password.clone() };
        settings.credentials = CredentialSources::only(registry, credential);
        Self::new(settings, &self.shared.progress).endpoint(registry)?.check()?;
        self.shared.transport.settings().credentials.login(registry, user, password)
    }

    /// Forgets a registry's credentials, as `docker logout` does.
    ///
    /// # Errors
    /// Where the file or helper that keeps them fails.
    pub fn logout(&self, registry: &str) -> Result<LoggedOut, RegistryError> {
        self.shared.transport.settings().credentials.logout(registry)
    }

    fn progress(&self) -> &Progress {
        &self.shared.progress
    }

    fn endpoint(&self, registry: &str) -> Result<Arc<Endpoint>, RegistryError> {
        let mut endpoints = self.shared.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints.get(registry) {
            return Ok(Arc::clone(endpoint));
        }
        let endpoint = Arc::new(Endpoint::find(registry, &self.shared.transport, &self.shared.progress)?);
        endpoints.insert(registry.to_owned(), Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// Remembers where blobs are, so that they can be mounted from there.
    fn remember(&self, registry: &str, repository: &str, blobs: impl IntoIterator<Item = Digest>) {
        let mut known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in blobs {
            known.entry((registry.to_owned(), digest)).or_default().insert(repository.to_owned());
        }
    }

    fn known_places(&self, registry: &str, digest: &Digest) -> Vec<String> {
        let known = self.shared.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&(registry.to_owned(), *digest)).into_iter().flatten().cloned().collect()
    }
}

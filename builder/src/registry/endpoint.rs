//! One registry: its address, and requests to it with authentication, redirects and retries.

use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderName, Method};
use url::Url;

use crate::progress::Progress;

use super::auth::{Authorizer, Scope, redirect_target};
use super::error::{RegistryError, shown};
use super::proxy::is_loopback;
use super::retry::retrying;
use super::secret::Secret;
use super::tls;
use super::transport::{Answer, Call, Payload, Transport};

const MOST_REDIRECTS: usize = 5;

/// A registry that is talked to.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) registry: String,
    pub(crate) base: Url,
    insecure: bool,
    pub(crate) transport: Arc<Transport>,
    authorizer: Authorizer,
    pub(crate) progress: Progress,
}

/// A request before it has an address of its own.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) repository: &'a str,
    pub(crate) scope: Scope,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) payload: Payload<'a>,
    pub(crate) patience: Option<Duration>,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, url: Url, repository: &'a str, scope: Scope) -> Self {
        Self { method, url, repository, scope, headers: Vec::new(), payload: Payload::Empty, patience: None }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }

    pub(crate) fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }
}

impl Endpoint {
    /// Finds out how a registry is reached: https; plain http for this machine itself unless an authority was given for it;
    /// for one that is listed as insecure https with any certificate, and http where it speaks no TLS.
    pub(crate) fn find(registry: &str, transport: &Arc<Transport>, progress: &Progress) -> Result<Self, RegistryError> {
        let address = |scheme: &str| {
            Url::parse(&format!("{scheme}://{registry}/"))
                .ok()
                .filter(|url| url.host_str().is_some() && url.username().is_empty() && url.path() == "/" && url.query().is_none())
                .ok_or_else(|| RegistryError::Host { found: registry.to_owned() })
        };
        let (https, http) = (address("https")?, address("http")?);
        let insecure = transport.is_insecure(&https) || transport.is_insecure(&http);
        let base = if insecure {
            let ping = |base: &Url| {
                let url = base.join("v2/").expect("a path joins");
                let call = Call {
                    registry,
                    repository: None,
                    method: Method::GET,
                    url: url.clone(),
                    headers: Vec::new(),
                    payload: &Payload::Empty,
                    patience: transport.settings().timeouts.idle,
                };
                transport.exchange(&call, &url, None).map(Answer::discard)
            };
            match ping(&https) {
                Ok(()) => https,
                Err(secure) if ping(&http).is_err() => return Err(secure),
                Err(_) => http,
            }
        } else if is_loopback(&http) && !tls::has_own_authority(transport.settings(), &https) {
            http
        } else {
            https
        };
        Ok(Self {
            registry: registry.to_owned(),
            authorizer: Authorizer::new(registry, &base, insecure),
            base,
            insecure,
            transport: Arc::clone(transport),
            progress: progress.clone(),
        })
    }

    /// `BASE/v2/REPOSITORY/REST`.
    pub(crate) fn url(&self, repository: &str, rest: &str) -> Url {
        let path = if repository.is_empty() { format!("v2/{rest}") } else { format!("v2/{repository}/{rest}") };
        self.base.join(&path).expect("repositories, digests and tags are characters of a path")
    }

    /// An address that this registry named, made absolute. One on the registry itself never loses TLS: registries behind a
    /// proxy that ends TLS often do not know that they are reached by https.
    pub(crate) fn follow(&self, from: &Url, location: &str) -> Result<Url, RegistryError> {
        let refused = |target: String, reason| RegistryError::Redirect {
            registry: self.registry.clone(),
            url: shown(from),
            target,
            reason,
        };
        let mut url = from.join(location).map_err(|_| refused("an address".to_owned(), "it cannot be understood"))?;
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        if url.host_str().is_none_or(str::is_empty) || !matches!(url.scheme(), "http" | "https") {
            return Err(refused(shown(&url), "it is neither http nor https"));
        }
        if self.base.scheme() == "https" && url.scheme() == "http" {
            let same_host = url.host() == self.base.host();
            let same_port = url.port().is_none() || url.port() == self.base.port_or_known_default();
            if same_host && same_port {
                let _ = url.set_scheme("https");
                let _ = url.set_port(self.base.port());
            } else if !self.insecure {
                return Err(refused(shown(&url), "it would leave https for http"));
            }
        }
        Ok(url)
    }

    /// Sends a request once, with what the registry wants to see, following redirects. Any status is an answer.
    pub(crate) fn send_once(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let call = Call {
            registry: &self.registry,
            repository: Some(ask.repository),
            method: ask.method.clone(),
            url: ask.url.clone(),
            headers: ask.headers.clone(),
            payload: &ask.payload,
            patience: ask.patience.unwrap_or(self.transport.settings().timeouts.idle),
        };
        let mut url = call.url.clone();
        let (mut asked, mut redirects) = (false, 0);
        loop {
            let own = url.origin() == self.base.origin();
            let authorization =
                if own { self.authorizer.authorization(&self.transport, &self.progress, &ask.scope)? } else { None };
            let answer = self.transport.exchange(&call, &url, authorization.as_ref())?;
            if answer.status == 401 && own && !asked {
                asked = true;
                let again = self.authorizer.take_challenge(
                    &self.transport,
                    &self.progress,
                    &ask.scope,
                    &answer,
                    authorization.as_ref(),
                )?;
                if !again {
                    return Ok(answer);
                }
                answer.discard();
                continue;
            }
            if authorization.is_some() && answer.status < 400 {
                self.authorizer.note_accepted();
            }
            let Some(target) = redirect_target(&answer) else { return Ok(answer) };
            redirects += 1;
            let target = self.follow(&url, target.as_str())?;
            let refused = |reason| {
                Err(RegistryError::Redirect { registry: self.registry.clone(), url: shown(&url), target: shown(&target), reason })
            };
            if redirects > MOST_REDIRECTS {
                return refused("there are too many redirects");
            }
            if answer.status == 303 && !matches!(ask.method, Method::GET | Method::HEAD) {
                return refused("it turns a request that changes something into one that reads");
            }
            answer.discard();
            url = target;
        }
    }

    /// Sends a request until it succeeds or fails for good. A 404 or 405 is an answer too.
    pub(crate) fn send(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        self.retrying(|| {
            let answer = self.send_once(ask)?;
            if answer.status < 400 || matches!(answer.status, 404 | 405) { Ok(answer) } else { Err(self.error(answer)) }
        })
    }

    /// Sends a request and reads the whole answer, until both succeed; a 404 is `None`.
    pub(crate) fn read(&self, ask: &Ask<'_>, limit: u64, what: &str) -> Result<Option<(Answerless, Vec<u8>)>, RegistryError> {
        self.retrying(|| {
            let answer = self.send_once(ask)?;
            match answer.status {
                200 => {
                    let head = Answerless { url: answer.url.clone(), headers: answer.headers.clone() };
                    Ok(Some((head, answer.into_bytes(limit, what)?)))
                }
                404 => {
                    answer.discard();
                    Ok(None)
                }
                _ => Err(self.error(answer)),
            }
        })
    }

    pub(crate) fn retrying<T>(&self, step: impl FnMut() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        retrying(&self.transport.settings().retries, &self.progress, step)
    }

    /// An answer as an error that holds none of the secrets used with this registry.
    pub(crate) fn error(&self, answer: Answer) -> RegistryError {
        if answer.status == 400 && answer.method == Method::HEAD && self.base.scheme() == "http" {
            // A server that wants TLS says so in a body, which the answer to HEAD does not have.
            let ask = Ask::new(Method::GET, self.url("", ""), "", Scope::default());
            if let Ok(told) = self.send_once(&ask)
                && told.status == 400
            {
                return told.into_error(&self.secrets());
            }
        }
        answer.into_error(&self.secrets())
    }

    fn secrets(&self) -> Vec<Secret> {
        self.authorizer.secrets()
    }

    /// Checks that the registry is there and takes the credentials.
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        let ask = Ask::new(Method::GET, self.url("", ""), "", Scope::default());
        match self.send(&ask)? {
            answer if answer.status == 200 => {
                answer.discard();
                Ok(())
            }
            answer => Err(self.error(answer)),
        }
    }
}

/// The head of an answer whose body was read.
pub(crate) struct Answerless {
    pub(crate) url: Url,
    pub(crate) headers: ureq::http::HeaderMap,
}

impl Answerless {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::Settings;

    fn endpoint(registry: &str, insecure: bool) -> Endpoint {
        let listed = if insecure { [registry.to_owned()].into() } else { Default::default() };
        let transport = Arc::new(Transport::new(Settings { insecure: listed, ..Settings::default() }));
        let base = Url::parse(&format!("https://{registry}/")).expect("an address");
        let authorizer = Authorizer::new(registry, &base, insecure);
        Endpoint { registry: registry.to_owned(), base, insecure, transport, authorizer, progress: Progress::silent() }
    }

    #[test]
    fn https_is_never_left_unless_the_registry_is_listed() {
        let to = |endpoint: &Endpoint, location: &str| {
            let from = endpoint.url("a/b", "blobs/uploads/");
            endpoint.follow(&from, location).map(|url| url.to_string()).map_err(|error| error.to_string())
        };
        let secure = endpoint("r.example.com:5000", false);
        for (location, expected) in [
            ("/v2/x?_state=a%2Fb", "https://r.example.com:5000/v2/x?_state=a%2Fb"),
            ("x?y=1", "https://r.example.com:5000/v2/a/b/blobs/uploads/x?y=1"),
            ("//cdn.example.com/x", "https://cdn.example.com/x"),
            ("https://me:pw@cdn.example.com/x#y", "https://cdn.example.com/x"),
            // A proxy that ends TLS, and a registry that does not know.
            ("http://r.example.com:5000/x", "https://r.example.com:5000/x"),
            ("http://r.example.com/x", "https://r.example.com:5000/x"),
        ] {
            assert_eq!(to(&secure, location).as_deref(), Ok(expected), "{location}");
        }
        for location in
            ["http://cdn.example.com/x?secret=1", "http://r.example.com:81/x", "ftp://x/", "file:///etc/passwd", "https://"]
        {
            let error = to(&secure, location).expect_err(location);
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(to(&endpoint("r.example.com", true), "http://cdn.example.com/x").as_deref(), Ok("http://cdn.example.com/x"));
    }

    #[test]
    fn the_scheme_follows_from_the_registry_and_what_was_given_for_it() {
        let scheme = |registry: &str, settings: Settings| {
            let transport = Arc::new(Transport::new(settings));
            Endpoint::find(registry, &transport, &Progress::silent()).map(|found| found.base.scheme().to_owned()).ok()
        };
        for local in ["localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert_eq!(scheme(local, Settings::default()).as_deref(), Some("http"), "{local}");
            let settings = Settings { ca_file: Some("ca.crt".into()), ..Settings::default() };
            assert_eq!(scheme(local, settings).as_deref(), Some("https"), "{local}");
        }
        for remote in ["r.example.com", "r.example.com:5000", "10.0.0.1:5000", "localhost.example.com"] {
            assert_eq!(scheme(remote, Settings::default()).as_deref(), Some("https"), "{remote}");
        }
        for bad in ["", "a b", "a/b", "me@host", "host:port", "host?x"] {
            assert_eq!(scheme(bad, Settings::default()), None, "{bad}");
        }
    }
}

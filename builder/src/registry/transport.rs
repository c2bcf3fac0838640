//! One HTTP request and its answer, without redirects, authentication or retries: [`Transport`].

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use ureq::{Agent, AsSendBody, Proxy, SendBody};
use url::Url;

use super::error::{Refusal, RegistryError, TransportKind, shown};
use super::retry::parse_retry_after;
use super::secret::{Secret, sanitised};
use super::settings::Settings;
use super::shaper::Lane;
use super::tls;

/// From this size on a request asks first whether its body is wanted, so that a 401 or a redirect costs no chunk.
const ASK_FIRST: u64 = 256 * 1024;
/// What is read of an answer that is an error.
const ERROR_BODY: u64 = 64 * 1024;

/// A body that is sent: opened anew for each time it has to be.
pub(crate) enum Payload<'a> {
    Empty,
    Bytes(&'a [u8]),
    Stream { open: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>, length: u64 },
}

/// One request.
pub(crate) struct Call<'a, 'p> {
    /// The registry on whose behalf, for errors and certificates.
    pub(crate) registry: &'a str,
    pub(crate) repository: Option<&'a str>,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(HeaderName, String)>,
    pub(crate) payload: &'a Payload<'p>,
    /// How long to wait for the answer once the request is sent.
    pub(crate) patience: Duration,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Where it came from.
    pub(crate) url: Url,
    pub(crate) method: Method,
    registry: String,
    repository: Option<String>,
    body: ureq::Body,
    lane: Option<Lane>,
}

/// Makes requests; keeps connections, and an agent for each host, since certificates and proxies differ.
#[derive(Debug)]
pub(crate) struct Transport {
    settings: Settings,
    agents: Mutex<HashMap<(String, bool), Agent>>,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { settings, agents: Mutex::default() }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the user lists this host as insecure: `host:port`, or `host` for the ports of http and https.
    pub(crate) fn is_insecure(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        self.settings.insecure.iter().any(|listed| {
            let Ok(listed) = Url::parse(&format!("none://{listed}")) else { return false };
            let same_port = match listed.port() {
                Some(port) => Some(port) == url.port_or_known_default(),
                None => url.port().is_none() || matches!(url.port(), Some(80 | 443)),
            };
            same_port && listed.host_str().is_some_and(|listed| listed.eq_ignore_ascii_case(host))
        })
    }

    fn agent(&self, url: &Url, registry: &str) -> Result<Agent, RegistryError> {
        let own = Url::parse(&format!("{}://{registry}", url.scheme())).is_ok_and(|own| own.origin() == url.origin());
        let key = (url.origin().ascii_serialization(), own);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = match self.settings.proxies.for_url(url) {
            Some(proxy) => Some(Proxy::new(proxy.expose()).map_err(|_| RegistryError::Transport {
                registry: registry.to_owned(),
                method: "reach".to_owned(),
                url: shown(url),
                kind: TransportKind::Unusable,
                reason: "the proxy that the environment names is no `http://host:port`".to_owned(),
            })?),
            None => None,
        };
        let timeouts = &self.settings.timeouts;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .tls_config(tls::config_for(&self.settings, url, own, self.is_insecure(url))?)
            .proxy(proxy)
            .user_agent(concat!("imgbuild/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_per_read(Some(timeouts.idle))
            .timeout_per_write(Some(timeouts.idle))
            .max_idle_connections_per_host(8)
            .build();
        let agent = Agent::new_with_config(config);
        agents.insert(key, agent.clone());
        Ok(agent)
    }

    /// Makes one request. `Ok` is any answer; `authorization` is sent as it is.
    pub(crate) fn exchange(
        &self,
        call: &Call<'_, '_>,
        url: &Url,
        authorization: Option<&Secret>,
    ) -> Result<Answer, RegistryError> {
        let agent = self.agent(url, call.registry)?;
        let length = match call.payload {
            Payload::Empty => 0,
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Stream { length, .. } => *length,
        };
        let mut builder = Request::builder().method(call.method.clone()).uri(url.as_str());
        for (name, value) in &call.headers {
            builder = builder.header(name, value);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization.expose())
                .map_err(|_| self.unusable(call, url, "the credentials contain characters that no header may have"))?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        let has_body = matches!(call.method, Method::POST | Method::PUT | Method::PATCH);
        if has_body {
            builder = builder.header(header::CONTENT_LENGTH, length);
        }
        if length >= ASK_FIRST {
            builder = builder.header(header::EXPECT, "100-continue");
        }
        let result = match call.payload {
            Payload::Empty if has_body => self.run(&agent, builder, call, &b""[..]),
            Payload::Empty => self.run(&agent, builder, call, SendBody::none()),
            Payload::Bytes(bytes) => self.run(&agent, builder, call, *bytes),
            Payload::Stream { open, .. } => {
                let mut reader = open().map_err(|error| self.unusable(call, url, &error.to_string()))?;
                self.run(&agent, builder, call, SendBody::from_reader(&mut reader))
            }
        };
        let (head, body) = result.map_err(|failure| self.failed(call, url, failure))?.into_parts();
        let lane = self.settings.shaper.as_ref().map(|shaper| shaper.answered(url.scheme() == "https"));
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            url: url.clone(),
            method: call.method.clone(),
            registry: call.registry.to_owned(),
            repository: call.repository.map(str::to_owned),
            body,
            lane,
        })
    }

    fn run(
        &self,
        agent: &Agent,
        builder: ureq::http::request::Builder,
        call: &Call<'_, '_>,
        body: impl AsSendBody,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = agent.configure_request(builder.body(body)?).timeout_per_read(Some(call.patience)).build();
        agent.run(request)
    }

    fn unusable(&self, call: &Call<'_, '_>, url: &Url, reason: &str) -> RegistryError {
        RegistryError::Transport {
            registry: call.registry.to_owned(),
            method: call.method.to_string(),
            url: shown(url),
            kind: TransportKind::Unusable,
            reason: reason.to_owned(),
        }
    }

    fn failed(&self, call: &Call<'_, '_>, url: &Url, failure: ureq::Error) -> RegistryError {
        let (kind, reason) = classify(&failure);
        RegistryError::Transport {
            registry: call.registry.to_owned(),
            method: call.method.to_string(),
            url: shown(url),
            kind,
            reason,
        }
    }
}

/// What a failure of the HTTP library is, and its text. Texts that could repeat an address are not taken over.
fn classify(failure: &ureq::Error) -> (TransportKind, String) {
    use ureq::Error as E;
    let kind = match failure {
        E::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => tls_kind(error),
            None if error.kind() == io::ErrorKind::ConnectionRefused => TransportKind::Refused,
            None if error.kind() == io::ErrorKind::TimedOut => TransportKind::TimedOut,
            None => TransportKind::Broken,
        },
        E::Rustls(error) => tls_kind(error),
        E::Timeout(_) => TransportKind::TimedOut,
        E::HostNotFound => TransportKind::UnknownHost,
        E::ConnectionFailed => TransportKind::Refused,
        E::Http(_) | E::BadUri(_) | E::InvalidProxyUrl | E::Pem(_) | E::RequireHttpsOnly(_) => TransportKind::Unusable,
        _ => TransportKind::Broken,
    };
    let reason = match failure {
        E::Timeout(what) => format!("nothing moved for too long ({what})"),
        E::Http(_) | E::BadUri(_) => "the address cannot be used".to_owned(),
        E::Io(error) => error.to_string(),
        E::Rustls(error) => error.to_string(),
        E::ConnectProxyFailed(_) => "the proxy refuses to connect".to_owned(),
        E::Protocol(_) => format!("the answer is no HTTP: {failure}"),
        other => other.to_string(),
    };
    (kind, sanitised(&reason, &[]))
}

fn tls_kind(error: &rustls::Error) -> TransportKind {
    use rustls::Error as E;
    match error {
        E::InvalidCertificate(_) | E::NoCertificatesPresented | E::AlertReceived(_) | E::UnsupportedNameType => {
            TransportKind::Certificate
        }
        E::InvalidMessage(_) => TransportKind::NoTls,
        _ => TransportKind::Broken,
    }
}

/// An answer's body, as fast as the link allows.
struct Body<R> {
    reader: R,
    lane: Option<Lane>,
}

impl<R: Read> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.lane {
            Some(lane) => lane.read(&mut self.reader, buffer),
            None => self.reader.read(buffer),
        }
    }
}

impl Answer {
    /// A header's text, where there is one that is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as it comes.
    pub(crate) fn into_reader(self) -> impl Read + Send + use<> {
        Body { reader: self.body.into_with_config().limit(u64::MAX).reader(), lane: self.lane }
    }

    /// The whole body, if it has no more than `limit` bytes.
    pub(crate) fn into_bytes(self, limit: u64, what: &str) -> Result<Vec<u8>, RegistryError> {
        let broken = |registry: String, method: &Method, url: &Url, error: &io::Error| RegistryError::Transport {
            registry,
            method: method.to_string(),
            url: shown(url),
            kind: TransportKind::Broken,
            reason: sanitised(&error.to_string(), &[]),
        };
        let (registry, method, url) = (self.registry.clone(), self.method.clone(), self.url.clone());
        let mut bytes = Vec::new();
        let reader = self.into_reader();
        reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| broken(registry, &method, &url, &error))?;
        if bytes.len() as u64 > limit {
            return Err(RegistryError::TooLarge { what: what.to_owned(), limit });
        }
        Ok(bytes)
    }

    /// Reads the rest of a short body, so that the connection can be used again.
    pub(crate) fn discard(self) {
        let _ = io::copy(&mut self.into_reader().take(ERROR_BODY), &mut io::sink());
    }

    /// The answer as an error: status, the registry's own code and message without any of the `secrets`.
    pub(crate) fn into_error(self, secrets: &[Secret]) -> RegistryError {
        #[derive(serde::Deserialize)]
        struct Document {
            #[serde(default)]
            errors: Vec<Entry>,
            #[serde(default, alias = "error_description", alias = "details")]
            message: Option<String>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let mut refusal = Refusal {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            method: self.method.to_string(),
            url: shown(&self.url),
            status: self.status,
            code: None,
            message: None,
            retry_after: self.header("retry-after").and_then(|text| parse_retry_after(text, SystemTime::now())),
        };
        let mut body = Vec::new();
        // An answer that breaks off is still an answer with a status.
        let _ = self.into_reader().take(ERROR_BODY).read_to_end(&mut body);
        let (code, message) = match serde_json::from_slice::<Document>(&body) {
            Ok(document) => match document.errors.into_iter().next() {
                Some(entry) => (entry.code, entry.message),
                None => (String::new(), document.message.unwrap_or_default()),
            },
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                (String::new(), if text.trim_start().starts_with('<') { String::new() } else { text.into_owned() })
            }
        };
        let clean = |text: String| Some(sanitised(&text, secrets)).filter(|text| !text.is_empty());
        refusal.code = clean(code);
        refusal.message = clean(message);
        RegistryError::Status(Box::new(refusal))
    }

    /// An answer that the specification does not know.
    pub(crate) fn unexpected(&self, found: impl Into<String>, expected: &'static str) -> RegistryError {
        RegistryError::Answer {
            registry: self.registry.clone(),
            method: self.method.to_string(),
            url: shown(&self.url),
            found: found.into(),
            expected,
        }
    }
}

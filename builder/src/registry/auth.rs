//! Tokens: what a registry wants to see before it answers, fetched and kept by [`Authorizer`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::{Method, header};
use url::Url;

use crate::progress::Progress;

use super::challenge::{self, Challenge};
use super::credentials::Credential;
use super::error::{RegistryError, shown};
use super::proxy::is_loopback;
use super::retry::retrying;
use super::secret::Secret;
use super::transport::{Answer, Call, Payload, Transport};

/// Tokens are replaced this much before they end.
const LEEWAY: Duration = Duration::from_secs(5);
/// What the specification says where a token's life is not given.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MOST_REDIRECTS: usize = 5;

/// What a request needs to be allowed to do: actions on repositories. The first one is the one that credentials are for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scope(Vec<(String, &'static str)>);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Self(vec![(repository.to_owned(), "pull")])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(vec![(repository.to_owned(), "pull,push")])
    }

    /// Adds what mounting from another repository needs.
    pub(crate) fn and_pull(mut self, repository: &str) -> Self {
        self.0.push((repository.to_owned(), "pull"));
        self
    }

    fn texts(&self) -> BTreeSet<String> {
        self.0.iter().map(|(repository, actions)| format!("repository:{repository}:{actions}")).collect()
    }

    fn repository(&self) -> &str {
        self.0.first().map_or("", |(repository, _)| repository)
    }
}

/// Keeps what one registry wants to see.
#[derive(Debug)]
pub(crate) struct Authorizer {
    registry: String,
    base: Url,
    insecure: bool,
    /// Whether what was shown was ever taken: then a 401 means that it ended, not that it is wrong.
    accepted: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    challenge: Option<Challenge>,
    credentials: HashMap<String, Option<Credential>>,
    tokens: BTreeMap<BTreeSet<String>, Token>,
}

#[derive(Debug)]
struct Token {
    header: Secret,
    ends: Instant,
}

impl Authorizer {
    pub(crate) fn new(registry: &str, base: &Url, insecure: bool) -> Self {
        Self {
            registry: registry.to_owned(),
            base: base.clone(),
            insecure,
            accepted: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All secrets that were used with this registry, to keep them out of what it says.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let state = self.state();
        let credentials = state.credentials.values().flatten().map(|credential| match credential {
            Credential::Password { password, .. } => password.clone(),
            Credential::IdentityToken(token) => token.clone(),
        });
        let tokens = state.tokens.values().map(|token| Secret::new(token.header.expose().trim_start_matches("Bearer ")));
        credentials.chain(tokens).collect()
    }

    /// Notes that a request with an `Authorization` was let in.
    pub(crate) fn note_accepted(&self) {
        self.accepted.store(true, Ordering::Relaxed);
    }

    /// The `Authorization` for a request, as far as it is known what the registry wants.
    pub(crate) fn authorization(
        &self,
        transport: &Transport,
        progress: &Progress,
        scope: &Scope,
    ) -> Result<Option<Secret>, RegistryError> {
        let mut state = self.state();
        match state.challenge.clone() {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(match self.credential(&mut state, transport, progress, scope) {
                Some(Credential::Password { user, password }) => Some(basic(&user, &password)),
                _ => None,
            }),
            Some(challenge @ Challenge::Bearer { .. }) => {
                if let Some(token) = state.tokens.get(&scope.texts()).filter(|token| Instant::now() + LEEWAY < token.ends) {
                    return Ok(Some(token.header.clone()));
                }
                self.fetch(&mut state, transport, progress, scope, &challenge).map(Some)
            }
        }
    }

    /// Takes in a 401. `true` means that a request with a new [`Self::authorization`] may succeed.
    pub(crate) fn take_challenge(
        &self,
        transport: &Transport,
        progress: &Progress,
        scope: &Scope,
        answer: &Answer,
        used: Option<&Secret>,
    ) -> Result<bool, RegistryError> {
        let headers = answer.headers.get_all(header::WWW_AUTHENTICATE);
        let challenges = challenge::parse(headers.iter().filter_map(|value| value.to_str().ok()));
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or(challenges.first()).cloned() else { return Ok(false) };
        let mut state = self.state();
        state.challenge = Some(challenge.clone());
        if challenge == Challenge::Basic {
            let accepted = self.accepted.load(Ordering::Relaxed);
            if accepted {
                // A helper may give another one by now.
                state.credentials.remove(scope.repository());
            }
            return Ok((used.is_none() || accepted) && self.credential(&mut state, transport, progress, scope).is_some());
        }
        // Another thread may have fetched a new one meanwhile.
        let newer = state.tokens.get(&scope.texts()).is_some_and(|token| used.is_none_or(|used| *used != token.header));
        if !newer {
            self.fetch(&mut state, transport, progress, scope, &challenge)?;
        }
        Ok(true)
    }

    fn credential(&self, state: &mut State, transport: &Transport, progress: &Progress, scope: &Scope) -> Option<Credential> {
        state
            .credentials
            .entry(scope.repository().to_owned())
            .or_insert_with(|| transport.settings().credentials.find(&self.registry, scope.repository(), progress))
            .clone()
    }

    fn fetch(
        &self,
        state: &mut State,
        transport: &Transport,
        progress: &Progress,
        scope: &Scope,
        challenge: &Challenge,
    ) -> Result<Secret, RegistryError> {
        let Challenge::Bearer { realm, service, scope: asked } = challenge else { unreachable!("only for Bearer") };
        let realm = self.token_server(realm)?;
        let credential = self.credential(state, transport, progress, scope);
        let mut scopes = scope.texts();
        // What the registry asks for by itself may be more than this side knows to ask for.
        for text in asked.iter().flat_map(|text| text.split_whitespace()) {
            let name = |text: &str| text.rsplit_once(':').map(|(name, _)| name.to_owned());
            if !scopes.iter().any(|known| name(known) == name(text)) {
                scopes.insert(text.to_owned());
            }
        }
        let secrets: Vec<Secret> = match &credential {
            Some(Credential::Password { password, .. }) => vec![password.clone()],
            Some(Credential::IdentityToken(token)) => vec![token.clone()],
            None => Vec::new(),
        };
        let request = TokenRequest { authorizer: self, transport, realm, service: service.as_deref(), scopes: &scopes };
        let body = retrying(&transport.settings().retries, progress, || {
            let answer = request.send(credential.as_ref())?;
            if answer.status != 200 {
                return Err(answer.into_error(&secrets));
            }
            answer.into_bytes(1 << 20, "the token server's answer")
        })?;
        let (token, life) = parse_token(&body).map_err(|reason| RegistryError::Document {
            what: format!("the answer of the token server {}", shown(&request.realm)),
            reason: reason.to_owned(),
        })?;
        let header = Secret::new(format!("Bearer {}", token.expose()));
        let ends = Instant::now() + life;
        state.tokens.insert(scope.texts(), Token { header: header.clone(), ends });
        Ok(header)
    }

    /// Where tokens are fetched: never over plain http from a registry that is reached by https.
    fn token_server(&self, realm: &str) -> Result<Url, RegistryError> {
        let refused = |target: String, reason| RegistryError::Redirect {
            registry: self.registry.clone(),
            url: shown(&self.base),
            target,
            reason,
        };
        let realm =
            self.base.join(realm).map_err(|_| refused("a token server".to_owned(), "its address cannot be understood"))?;
        let local = self.base.scheme() == "http" && is_loopback(&realm);
        match realm.scheme() {
            "https" => Ok(realm),
            "http" if local || self.insecure => Ok(realm),
            _ => Err(refused(shown(&realm), "credentials would travel unencrypted")),
        }
    }
}

struct TokenRequest<'a> {
    authorizer: &'a Authorizer,
    transport: &'a Transport,
    realm: Url,
    service: Option<&'a str>,
    scopes: &'a BTreeSet<String>,
}

impl TokenRequest<'_> {
    fn send(&self, credential: Option<&Credential>) -> Result<Answer, RegistryError> {
        let mut url = self.realm.clone();
        let mut payload = Payload::Empty;
        let (mut method, mut headers) = (Method::GET, Vec::new());
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body;
        let mut authorization = None;
        if let Some(Credential::IdentityToken(token)) = credential {
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "imgbuild");
            form.append_pair("refresh_token", token.expose());
            if let Some(service) = self.service {
                form.append_pair("service", service);
            }
            if !self.scopes.is_empty() {
                form.append_pair("scope", &self.scopes.iter().map(String::as_str).collect::<Vec<_>>().join(" "));
            }
            body = form.finish();
            method = Method::POST;
            headers.push((header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned()));
            payload = Payload::Bytes(body.as_bytes());
        } else {
            {
                let mut pairs = url.query_pairs_mut();
                if let Some(service) = self.service {
                    pairs.append_pair("service", service);
                }
                for scope in self.scopes {
                    pairs.append_pair("scope", scope);
                }
                if let Some(Credential::Password { user, .. }) = credential {
                    pairs.append_pair("account", user).append_pair("client_id", "imgbuild");
                }
            }
            if let Some(Credential::Password { user, password }) = credential {
                authorization = Some(basic(user, password));
            }
        }
        let call = Call {
            registry: &self.authorizer.registry,
            repository: None,
            method,
            url: url.clone(),
            headers,
            payload: &payload,
            patience: self.transport.settings().timeouts.idle,
        };
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.transport.exchange(&call, &url, authorization.as_ref())?;
            let Some(target) = redirect_target(&answer) else { return Ok(answer) };
            let next = self.authorizer.token_server(target.as_ref())?;
            if next.origin() != url.origin() {
                if call.method == Method::POST {
                    return Err(answer.unexpected("a redirect to another host", "a token"));
                }
                authorization = None;
            }
            answer.discard();
            url = next;
        }
        Err(RegistryError::Redirect {
            registry: self.authorizer.registry.clone(),
            url: shown(&self.realm),
            target: shown(&url),
            reason: "there are too many redirects",
        })
    }
}

/// Where an answer sends its reader, made absolute.
pub(crate) fn redirect_target(answer: &Answer) -> Option<Url> {
    matches!(answer.status, 301 | 302 | 303 | 307 | 308)
        .then(|| answer.header("location"))?
        .and_then(|to| answer.url.join(to).ok())
}

fn basic(user: &str, password: &Secret) -> Secret {
    Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.expose()))))
}

/// Reads a token and its life.
fn parse_token(body: &[u8]) -> Result<(Secret, Duration), &'static str> {
    #[derive(serde::Deserialize)]
    struct Document {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<serde_json::Value>,
    }
    let document: Document = serde_json::from_slice(body).map_err(|_| "it is no JSON object with a token")?;
    let token = document.token.filter(|token| !token.is_empty()).or(document.access_token).filter(|token| !token.is_empty());
    let token = token.ok_or("it has neither `token` nor `access_token`")?;
    let seconds = document.expires_in.and_then(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    let life = seconds.map_or(DEFAULT_LIFE, |seconds| Duration::from_secs(seconds.min(24 * 60 * 60)));
    Ok((Secret::new(token), life))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_in_every_form() {
        for (body, token, life) in [
            (r#"{"token":"a"}"#, "a", 60),
            (r#"{"access_token":"b","expires_in":300,"scope":"x"}"#, "b", 300),
            (r#"{"token":"a","access_token":"b","expires_in":"90"}"#, "a", 90),
            (r#"{"token":"","access_token":"b","expires_in":-1}"#, "b", 60),
            (r#"{"token":"a","expires_in":99999999999999}"#, "a", 86400),
        ] {
            let (found, lives) = parse_token(body.as_bytes()).expect(body);
            assert_eq!((found.expose(), lives.as_secs()), (token, life), "{body}");
        }
        for bad in ["", "[]", "{}", r#"{"token":null}"#, r#"{"token":7}"#, "<html>"] {
            assert!(parse_token(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_server_is_never_reached_less_safely_than_its_registry() {
        let of = |base: &str, insecure| Authorizer::new("r", &base.parse().expect("an address"), insecure);
        let secure = of("https://r.example.com/", false);
        assert!(secure.token_server("https://auth.example.com/token").is_ok());
        assert_eq!(secure.token_server("/token").expect("relative").as_str(), "https://r.example.com/token");
        for bad in ["http://auth.example.com/token", "http://127.0.0.1/token", "ftp://x/", "file:///etc/passwd"] {
            assert!(secure.token_server(bad).is_err(), "{bad}");
        }
        let local = of("http://localhost:5000/", false);
        assert!(local.token_server("http://127.0.0.1:5001/token").is_ok());
        assert!(local.token_server("http://auth.example.com/token").is_err());
        assert!(of("http://r.example.com/", true).token_server("http://auth.example.com/token").is_ok());
    }
}

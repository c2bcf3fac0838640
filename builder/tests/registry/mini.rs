//! A registry that keeps to the specification, with what `docker-registry` lacks: uploads that can be gone on with after a
//! chunk was cut, tokens, referrers, mounts that fail.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use imgbuild::digest::Digest;
use tempfile::TempDir;

use super::http::{Connection, Head, Listener};

/// What it does and does not.
#[derive(Default, Clone)]
pub struct Options {
    pub referrers: bool,
    pub mounts: bool,
    pub least_chunk: Option<u64>,
    pub no_chunks: bool,
    /// Refuses larger requests, as proxies do.
    pub largest_request: Option<u64>,
    pub no_ranges: bool,
    pub tokens: Option<Tokens>,
    pub no_manifest_digests: bool,
}

/// Who gets tokens, and how long they are good.
#[derive(Clone, Default)]
pub struct Tokens {
    pub basic: Option<String>,
    pub identity: Option<String>,
    /// Requests that a token is good for.
    pub uses: usize,
    /// How the challenge is written; `{realm}` and `{scope}` are filled in.
    pub challenge: &'static str,
    /// How the answer is written; `{token}` is filled in.
    pub answer: &'static str,
}

#[derive(Default)]
pub struct State {
    pub blobs: HashMap<(String, String), u64>,
    pub manifests: HashMap<(String, String), (Vec<u8>, String)>,
    referrers: HashMap<(String, String), Vec<serde_json::Value>>,
    sessions: HashMap<String, String>,
    pub requests: Vec<Head>,
    /// Token → scopes and uses left.
    pub tokens: HashMap<String, (String, usize)>,
    pub handed_out: usize,
    pub forms: Vec<String>,
    next: usize,
}

pub struct Mini {
    pub listener: Listener,
    pub state: Arc<Mutex<State>>,
    folder: Arc<TempDir>,
}

struct Server {
    options: Options,
    state: Arc<Mutex<State>>,
    folder: Arc<TempDir>,
}

impl Mini {
    pub fn start(options: Options) -> Self {
        let folder = Arc::new(TempDir::new().expect("a folder"));
        let state = Arc::new(Mutex::new(State::default()));
        let server = Server { options, state: Arc::clone(&state), folder: Arc::clone(&folder) };
        let listener = Listener::start(move |mut connection| {
            while let Ok(Some(head)) = Head::read(&mut connection.reader) {
                let goes_on = matches!(server.serve(&mut connection, &head), Ok(true));
                if !goes_on || head.get("connection") == Some("close") {
                    connection.cut();
                    break;
                }
            }
        });
        Self { listener, state, folder }
    }

    pub fn host(&self) -> String {
        self.listener.host()
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.path().join(digest.hex())
    }

    pub fn count(&self, method: &str) -> usize {
        self.state.lock().expect("no panic").requests.iter().filter(|head| head.method() == method).count()
    }
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

fn refusal(status: u16, code: &str) -> Answer {
    (status, vec![], format!(r#"{{"errors":[{{"code":"{code}","message":"no"}}]}}"#).into_bytes())
}

impl Server {
    fn serve(&self, connection: &mut Connection, head: &Head) -> io::Result<bool> {
        self.state.lock().expect("no panic").requests.push(head.clone());
        let early = self.early(head);
        let (status, headers, body) = match early {
            // The body stays unread.
            Some(answer) if head.length() > 0 && head.path() != "/token" => {
                connection.answer(answer.0, &answer.1, &answer.2)?;
                return Ok(false);
            }
            Some(answer) => answer,
            None => self.answer(connection, head)?,
        };
        let mut headers = headers;
        if head.method() == "HEAD" {
            if !headers.iter().any(|(name, _)| *name == "content-length") {
                headers.push(("content-length", body.len().to_string()));
            }
            connection.answer(status, &headers, b"")?;
        } else {
            connection.answer(status, &headers, &body)?;
        }
        Ok(true)
    }

    /// What is answered without looking at the request's body.
    fn early(&self, head: &Head) -> Option<Answer> {
        if head.path() == "/token" {
            return None;
        }
        if let Some(tokens) = &self.options.tokens
            && !self.allowed(head)
        {
            let (name, _) = split(head.path());
            let scope = if name.is_empty() { String::new() } else { format!("repository:{name}:pull,push") };
            let host = head.get("host").unwrap_or_default();
            let challenge = tokens.challenge.replace("{realm}", &format!("http://{host}/token")).replace("{scope}", &scope);
            let mut answer = refusal(401, "UNAUTHORIZED");
            answer.1.push(("www-authenticate", challenge));
            return Some(answer);
        }
        if self.options.largest_request.is_some_and(|largest| head.length() > largest) {
            return Some((413, vec![], b"<html>too large</html>".to_vec()));
        }
        None
    }

    fn allowed(&self, head: &Head) -> bool {
        let (name, _) = split(head.path());
        let action = if matches!(head.method(), "GET" | "HEAD") { "pull" } else { "push" };
        let Some(token) = head.get("authorization").and_then(|text| text.strip_prefix("Bearer ")) else { return false };
        let mut state = self.state.lock().expect("no panic");
        let Some((scopes, uses)) = state.tokens.get_mut(token) else { return false };
        let covers = |name: &str, action: &str| {
            scopes.split(' ').any(|scope| {
                scope.strip_prefix(&format!("repository:{name}:")).is_some_and(|actions| actions.split(',').any(|a| a == action))
            })
        };
        let source = head.query("from").is_none_or(|from| covers(&from, "pull"));
        let fine = (name.is_empty() || covers(&name, action)) && source && *uses > 0;
        if fine {
            *uses -= 1;
        }
        fine
    }

    fn token(&self, connection: &mut Connection, head: &Head) -> io::Result<Answer> {
        let tokens = self.options.tokens.clone().expect("asked for after a challenge");
        let mut form = String::new();
        connection.body(head)?.read_to_string(&mut form)?;
        let field = |name: &str| {
            url::form_urlencoded::parse(form.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let known = match head.method() {
            "POST" => {
                tokens.identity.is_some()
                    && field("refresh_token") == tokens.identity
                    && field("grant_type").as_deref() == Some("refresh_token")
            }
            _ => tokens.basic.is_none_or(|basic| head.get("authorization") == Some(&format!("Basic {basic}"))),
        };
        if !known {
            return Ok(refusal(401, "UNAUTHORIZED"));
        }
        let scopes = match head.method() {
            "POST" => field("scope").unwrap_or_default(),
            _ => {
                let query = head.target().split_once('?').map_or("", |(_, query)| query);
                let scopes = url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "scope");
                scopes.map(|(_, value)| value.into_owned()).collect::<Vec<_>>().join(" ")
            }
        };
        let mut state = self.state.lock().expect("no panic");
        state.handed_out += 1;
        state.forms.push(form);
        let token = format!("t0ken-{}", state.handed_out);
        state.tokens.insert(token.clone(), (scopes, tokens.uses));
        Ok((200, vec![("content-type", "application/json".to_owned())], tokens.answer.replace("{token}", &token).into_bytes()))
    }

    fn answer(&self, connection: &mut Connection, head: &Head) -> io::Result<Answer> {
        if head.path() == "/token" {
            return self.token(connection, head);
        }
        let (name, rest) = split(head.path());
        let parts: Vec<&str> = rest.split('/').collect();
        Ok(match (head.method(), parts.as_slice()) {
            ("GET", [""]) => (200, vec![], b"{}".to_vec()),
            ("POST", ["blobs", "uploads", ""]) => self.begin(head, &name),
            ("PATCH", ["blobs", "uploads", id]) => self.patch(connection, head, &name, id)?,
            ("GET", ["blobs", "uploads", id]) => self.session(&name, id, 204),
            ("PUT", ["blobs", "uploads", id]) => self.complete(connection, head, &name, id)?,
            ("GET" | "HEAD", ["blobs", digest]) => self.blob(head, &name, digest)?,
            ("PUT", ["manifests", which]) => self.put(connection, head, &name, which)?,
            ("GET" | "HEAD", ["manifests", which]) => {
                let state = self.state.lock().expect("no panic");
                match state.manifests.get(&(name.clone(), (*which).to_owned())) {
                    Some((bytes, kind)) => {
                        let mut headers = vec![("content-type", kind.clone())];
                        if !self.options.no_manifest_digests {
                            headers.push(("docker-content-digest", Digest::of(bytes).to_string()));
                        }
                        (200, headers, bytes.clone())
                    }
                    None => refusal(404, "MANIFEST_UNKNOWN"),
                }
            }
            ("GET", ["referrers", digest]) if self.options.referrers => {
                let state = self.state.lock().expect("no panic");
                let manifests = state.referrers.get(&(name.clone(), (*digest).to_owned())).cloned().unwrap_or_default();
                let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
                (200, vec![], serde_json::to_vec(&index).expect("JSON"))
            }
            _ => refusal(404, "NOT_FOUND"),
        })
    }

    fn begin(&self, head: &Head, name: &str) -> Answer {
        let mut state = self.state.lock().expect("no panic");
        if let (Some(digest), Some(from), true) = (head.query("mount"), head.query("from"), self.options.mounts)
            && let Some(size) = state.blobs.get(&(from, digest.clone())).copied()
        {
            state.blobs.insert((name.to_owned(), digest.clone()), size);
            return (201, vec![("location", format!("/v2/{name}/blobs/{digest}"))], vec![]);
        }
        state.next += 1;
        let id = format!("session-{}", state.next);
        File::create(self.folder.path().join(&id)).expect("a file");
        state.sessions.insert(id.clone(), name.to_owned());
        // Relative, with a query that has to be kept.
        let mut headers = vec![("location", format!("/v2/{name}/blobs/uploads/{id}?state=a%2Fb"))];
        if let Some(least) = self.options.least_chunk {
            headers.push(("oci-chunk-min-length", least.to_string()));
        }
        (202, headers, vec![])
    }

    fn session_file(&self, name: &str, id: &str) -> Option<PathBuf> {
        let state = self.state.lock().expect("no panic");
        state.sessions.get(id).filter(|owner| *owner == name).map(|_| self.folder.path().join(id))
    }

    fn session(&self, name: &str, id: &str, status: u16) -> Answer {
        let Some(path) = self.session_file(name, id) else { return refusal(404, "BLOB_UPLOAD_UNKNOWN") };
        let size = fs::metadata(path).expect("there").len();
        let location = format!("/v2/{name}/blobs/uploads/{id}?state=a%2Fb");
        (status, vec![("location", location), ("range", format!("0-{}", size.saturating_sub(1)))], vec![])
    }

    fn patch(&self, connection: &mut Connection, head: &Head, name: &str, id: &str) -> io::Result<Answer> {
        let Some(path) = self.session_file(name, id) else { return Ok(refusal(404, "BLOB_UPLOAD_UNKNOWN")) };
        assert_eq!(head.query("state").as_deref(), Some("a/b"), "the query of the location was lost");
        let mut body = connection.body(head)?;
        let size = fs::metadata(&path)?.len();
        let (first, last) = head.get("content-range").and_then(|range| range.split_once('-')).unwrap_or(("x", "x"));
        let fits = first.parse() == Ok(size) && last.parse::<u64>().ok() == (size + head.length()).checked_sub(1);
        let refused = if self.options.no_chunks {
            Some(refusal(405, "UNSUPPORTED"))
        } else if !fits {
            Some(self.session(name, id, 416))
        } else {
            None
        };
        if let Some(refused) = refused {
            io::copy(&mut body, &mut io::sink())?;
            return Ok(refused);
        }
        // What came before the connection broke stays.
        let copied = io::copy(&mut body, &mut OpenOptions::new().append(true).open(&path)?)?;
        if copied < head.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(self.session(name, id, 202))
    }

    fn complete(&self, connection: &mut Connection, head: &Head, name: &str, id: &str) -> io::Result<Answer> {
        let Some(path) = self.session_file(name, id) else { return Ok(refusal(404, "BLOB_UPLOAD_UNKNOWN")) };
        let copied = io::copy(&mut connection.body(head)?, &mut OpenOptions::new().append(true).open(&path)?)?;
        if copied < head.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (actual, size) = Digest::of_reader(File::open(&path)?)?;
        if head.query("digest") != Some(actual.to_string()) {
            return Ok(refusal(400, "DIGEST_INVALID"));
        }
        fs::rename(path, self.folder.path().join(actual.hex()))?;
        let mut state = self.state.lock().expect("no panic");
        state.sessions.remove(id);
        state.blobs.insert((name.to_owned(), actual.to_string()), size);
        Ok((201, vec![("docker-content-digest", actual.to_string())], vec![]))
    }

    fn blob(&self, head: &Head, name: &str, digest: &str) -> io::Result<Answer> {
        let size = self.state.lock().expect("no panic").blobs.get(&(name.to_owned(), digest.to_owned())).copied();
        let Some(size) = size else { return Ok(refusal(404, "BLOB_UNKNOWN")) };
        if head.method() == "HEAD" {
            return Ok((200, vec![("content-length", size.to_string()), ("docker-content-digest", digest.to_owned())], vec![]));
        }
        let mut file = File::open(self.folder.path().join(digest.trim_start_matches("sha256:")))?;
        let first = head.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<u64>().ok());
        let mut bytes = Vec::new();
        Ok(match first.filter(|_| !self.options.no_ranges) {
            Some(first) => {
                file.seek(SeekFrom::Start(first))?;
                file.read_to_end(&mut bytes)?;
                (206, vec![("content-range", format!("bytes {first}-{}/{size}", size - 1))], bytes)
            }
            None => {
                file.read_to_end(&mut bytes)?;
                (200, vec![], bytes)
            }
        })
    }

    fn put(&self, connection: &mut Connection, head: &Head, name: &str, which: &str) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        connection.body(head)?.read_to_end(&mut bytes)?;
        let kind = head.get("content-type").unwrap_or_default().to_owned();
        let document: serde_json::Value = serde_json::from_slice(&bytes)?;
        assert_eq!(document["mediaType"].as_str(), Some(kind.as_str()), "the content type is not the media type");
        let digest = Digest::of(&bytes).to_string();
        let mut state = self.state.lock().expect("no panic");
        let blobs = document["layers"].as_array().into_iter().flatten().chain(document.get("config"));
        for blob in blobs.filter_map(|blob| blob["digest"].as_str()) {
            if !state.blobs.contains_key(&(name.to_owned(), blob.to_owned())) {
                return Ok(refusal(404, "MANIFEST_BLOB_UNKNOWN"));
            }
        }
        let mut headers = vec![];
        if !self.options.no_manifest_digests {
            headers.push(("docker-content-digest", digest.clone()));
        }
        if let (true, Some(subject)) = (self.options.referrers, document["subject"]["digest"].as_str()) {
            headers.push(("oci-subject", subject.to_owned()));
            let entry = serde_json::json!({"mediaType": kind, "digest": digest, "size": bytes.len(), "artifactType": document["artifactType"]});
            let listed = state.referrers.entry((name.to_owned(), subject.to_owned())).or_default();
            if !listed.contains(&entry) {
                listed.push(entry);
            }
        }
        for key in [which.to_owned(), digest] {
            state.manifests.insert((name.to_owned(), key), (bytes.clone(), kind.clone()));
        }
        Ok((201, headers, vec![]))
    }
}

/// The repository of a path below `/v2/`, and what follows it.
fn split(path: &str) -> (String, String) {
    let path = path.strip_prefix("/v2/").unwrap_or_default();
    for word in ["/blobs/", "/manifests/", "/referrers/", "/tags/"] {
        if let Some(at) = path.find(word) {
            return (path[..at].to_owned(), path[at + 1..].to_owned());
        }
    }
    (String::new(), path.to_owned())
}

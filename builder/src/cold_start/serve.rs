//! [`Served`]: one image in a registry on the loopback that can only be read, so that a local image is pulled as any other.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::image::{Descriptor, Image, media_type};
use crate::reference::Reference;

/// The repository that the image is in.
const REPOSITORY: &str = "imgbuild/cold-start";
/// Its tag.
const TAG: &str = "latest";
/// Longer heads are refused.
const HEAD_LIMIT: u64 = 16 << 10;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// A registry with one image. It ends when dropped.
#[derive(Debug)]
pub struct Served {
    address: SocketAddr,
    reference: Reference,
    ended: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves an image at a free port of the loopback.
    ///
    /// # Errors
    /// Where no port can be had.
    pub fn start(image: Image) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let (stop, content) = (Arc::clone(&ended), Arc::new(Content::new(image)));
        let listener = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (Ok(stream), content) = (stream, Arc::clone(&content)) else { continue };
                // A connection ends with its client, or when it is idle; what goes wrong in it is for its client to see.
                thread::spawn(move || content.converse(&stream));
            }
        });
        let reference = Reference {
            registry: address.to_string(),
            repository: REPOSITORY.to_owned(),
            tag: Some(TAG.to_owned()),
            digest: None,
        };
        Ok(Self { address, reference, ended, listener: Some(listener) })
    }

    /// The image's name there.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(listener) = self.listener.take().filter(|_| woken) {
            let _ = listener.join();
        }
    }
}

/// What can be read.
struct Content {
    image: Image,
    blobs: BTreeMap<String, Descriptor>,
}

/// The first line of a request, and the one header that matters.
struct Request {
    method: String,
    path: String,
    /// Where a range begins that goes to the end.
    offset: Option<u64>,
    keep_alive: bool,
}

/// An answer's head, and its body where it has one.
struct Answer {
    status: &'static str,
    kind: String,
    digest: Option<String>,
    range: Option<String>,
    length: u64,
    body: Box<dyn Read>,
}

impl Answer {
    fn bytes(status: &'static str, kind: &str, bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self { status, kind: kind.to_owned(), digest: None, range: None, length, body: Box::new(io::Cursor::new(bytes)) }
    }

    fn refusal(status: &'static str, code: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": "this registry holds one image, to be read" }] });
        Self::bytes(status, "application/json", body.to_string().into_bytes())
    }
}

impl Content {
    fn new(image: Image) -> Self {
        let blobs = image.parsed.layers.iter().map(|layer| (layer.digest.to_string(), layer.clone())).collect();
        Self { image, blobs }
    }

    /// Answers a connection's requests until it ends.
    fn converse(&self, stream: &TcpStream) {
        // Settings of a connection that is already gone.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(IDLE));
        let _ = stream.set_write_timeout(Some(IDLE));
        let mut reader = BufReader::new(stream);
        while let Ok(Some(request)) = read_request(&mut reader) {
            let answer = self.answer(&request).unwrap_or_else(|_| Answer::refusal("500 Internal Server Error", "UNKNOWN"));
            if send(stream, &request, answer).is_err() || !request.keep_alive {
                break;
            }
        }
    }

    fn answer(&self, request: &Request) -> io::Result<Answer> {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Ok(Answer::refusal("405 Method Not Allowed", "UNSUPPORTED"));
        }
        if matches!(request.path.as_str(), "/v2" | "/v2/") {
            return Ok(Answer::bytes("200 OK", "application/json", b"{}".to_vec()));
        }
        let inside = request.path.strip_prefix("/v2/").and_then(|path| path.strip_prefix(REPOSITORY)).unwrap_or_default();
        if let Some(which) = inside.strip_prefix("/manifests/") {
            return Ok(self.manifest(which));
        }
        match inside.strip_prefix("/blobs/") {
            Some(digest) => self.blob(digest, request.offset),
            None => Ok(Answer::refusal("404 Not Found", "NAME_UNKNOWN")),
        }
    }

    fn manifest(&self, which: &str) -> Answer {
        let digest = self.image.descriptor().digest.to_string();
        if which != TAG && which != digest {
            return Answer::refusal("404 Not Found", "MANIFEST_UNKNOWN");
        }
        let kind = self.image.parsed.media_type.as_deref().unwrap_or(media_type::MANIFEST);
        Answer { digest: Some(digest), ..Answer::bytes("200 OK", kind, self.image.manifest.clone()) }
    }

    fn blob(&self, digest: &str, offset: Option<u64>) -> io::Result<Answer> {
        let kind = "application/octet-stream";
        let digest_header = Some(digest.to_owned());
        if digest == self.image.parsed.config.digest.to_string() {
            return Ok(Answer { digest: digest_header, ..Answer::bytes("200 OK", kind, self.image.config.clone()) });
        }
        let Some(layer) = self.blobs.get(digest) else { return Ok(Answer::refusal("404 Not Found", "BLOB_UNKNOWN")) };
        let begin = offset.filter(|offset| *offset < layer.size);
        Ok(Answer {
            status: if begin.is_some() { "206 Partial Content" } else { "200 OK" },
            kind: kind.to_owned(),
            digest: digest_header,
            range: begin.map(|begin| format!("bytes {begin}-{}/{}", layer.size - 1, layer.size)),
            length: layer.size - begin.unwrap_or(0),
            // Unverified: whoever pulls it verifies it.
            body: self.image.blobs.open_unverified(layer, begin.unwrap_or(0))?,
        })
    }
}

/// Reads a request's head; `None` where the connection ended before one began.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = reader.take(HEAD_LIMIT);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, path, offset: None, keep_alive: true };
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(Some(request)) };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                request.offset = value.trim().strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse().ok())
            }
            "connection" => request.keep_alive = !value.trim().eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

fn send(mut stream: &TcpStream, request: &Request, mut answer: Answer) -> io::Result<()> {
    let mut head =
        format!("HTTP/1.1 {}\r\ncontent-type: {}\r\ncontent-length: {}\r\n", answer.status, answer.kind, answer.length);
    let mut header = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
    };
    header("docker-content-digest", &answer.digest);
    header("content-range", &answer.range);
    head.push_str("docker-distribution-api-version: registry/2.0\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        let sent = io::copy(&mut answer.body, &mut stream)?;
        if sent != answer.length {
            // The client must see that something is missing.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

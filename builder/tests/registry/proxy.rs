//! A proxy between client and registry that breaks things on purpose and counts bytes.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::http::{Connection, Head, Listener};

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An answer of the proxy's own; the registry sees nothing.
    Answer(u16, Vec<(&'static str, String)>),
    /// The connection ends after so many bytes of the request's body.
    CutRequest(u64),
    /// The registry gets it all, the client no answer.
    CutBeforeAnswer,
    /// The connection ends after so many bytes of the answer.
    CutAnswer(u64),
    /// A redirect to the same path of another host, with a status.
    Redirect(u16, String),
    /// The registry gets only so many bytes of a chunk, as if it had taken no more.
    Part(u64),
    /// A byte of the request's body is another one.
    DamageRequest(u64),
    /// A byte of the answer's body is another one.
    DamageAnswer(u64),
    /// The answer comes late.
    Hold(Duration),
}

/// Decides what goes wrong: gets the request's head and how many there were before it.
pub type Plan = Box<dyn Fn(&Head, usize) -> Option<Fault> + Send + Sync>;

#[derive(Default)]
pub struct Options {
    /// Passes a request on only when it is complete, as proxies do that buffer.
    pub buffering: bool,
    /// Makes every `Location` a path without scheme and host.
    pub relative_locations: bool,
    /// Added to what is passed on.
    pub authorization: Option<String>,
}

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// Bytes of request bodies that came from clients.
    pub body_bytes: AtomicU64,
    pub requests: Mutex<Vec<Head>>,
    pub faults: Mutex<Vec<String>>,
    count: AtomicUsize,
}

impl Seen {
    /// The requests whose method is this one.
    pub fn of(&self, method: &str) -> Vec<Head> {
        self.requests.lock().expect("no panic").iter().filter(|head| head.method() == method).cloned().collect()
    }

    pub fn authorizations(&self) -> Vec<String> {
        let requests = self.requests.lock().expect("no panic");
        requests.iter().filter_map(|head| head.get("authorization").map(str::to_owned)).collect()
    }
}

pub struct Proxy {
    pub listener: Listener,
    pub seen: Arc<Seen>,
}

impl Proxy {
    pub fn start(upstream: &str, options: Options, plan: Plan) -> Self {
        let seen = Arc::new(Seen::default());
        let (sink, upstream) = (Arc::clone(&seen), upstream.to_owned());
        let listener = Listener::start(move |mut connection| {
            while let Ok(Some(head)) = Head::read(&mut connection.reader) {
                if !matches!(serve(&mut connection, head, &upstream, &options, &plan, &sink), Ok(true)) {
                    connection.cut();
                    break;
                }
            }
        });
        Self { listener, seen }
    }

    pub fn host(&self) -> String {
        self.listener.host()
    }
}

/// Serves one request; `false` ends the connection.
fn serve(
    connection: &mut Connection,
    mut head: Head,
    upstream: &str,
    options: &Options,
    plan: &Plan,
    seen: &Seen,
) -> io::Result<bool> {
    let number = seen.count.fetch_add(1, Ordering::SeqCst);
    seen.requests.lock().expect("no panic").push(head.clone());
    let fault = plan(&head, number);
    if let Some(fault) = &fault {
        seen.faults.lock().expect("no panic").push(format!("{fault:?} on {}", head.first));
    }
    // Without reading the body the connection cannot be used for another request.
    let usable = head.length() == 0;
    match &fault {
        Some(Fault::Answer(status, headers)) => {
            let body = if head.method() == "HEAD" { &b""[..] } else { br#"{"errors":[{"code":"TEST","message":"made up"}]}"# };
            connection.answer(*status, headers, body)?;
            return Ok(usable);
        }
        Some(Fault::Redirect(status, host)) => {
            let location = format!("http://{host}{}", head.target());
            connection.answer(*status, &[("location", location)], b"")?;
            return Ok(usable);
        }
        _ => {}
    }
    let (mut length, original) = (head.length(), head.clone());
    if let Some(Fault::Part(part)) = fault
        && part < length
        && let Some((first, _)) = head.get("content-range").and_then(|range| range.split_once('-'))
    {
        let first: u64 = first.parse().expect("a number");
        length = part;
        head.set("content-range", format!("{first}-{}", first + part - 1));
        head.set("content-length", part);
    }
    head.remove("expect");
    head.set("connection", "close");
    // Answers to HTTP/1.0 have a length or end with the connection.
    head.first = head.first.replace("HTTP/1.1", "HTTP/1.0");
    if let Some(authorization) = &options.authorization {
        head.set("authorization", authorization);
    }
    let mut server = TcpStream::connect(upstream)?;
    server.set_read_timeout(Some(Duration::from_secs(120)))?;
    if !options.buffering {
        server.write_all(&head.bytes())?;
    }
    if !receive(connection, &original, length, &fault, options, seen, &mut server, &head)? {
        return Ok(false);
    }
    if matches!(fault, Some(Fault::CutBeforeAnswer)) {
        let _ = io::copy(&mut server, &mut io::sink());
        return Ok(false);
    }
    answer(connection, &original, &fault, options, &mut server)
}

/// Passes the request's body on; `false` where the connection was cut in it.
#[expect(clippy::too_many_arguments, reason = "one step of `serve`")]
fn receive(
    connection: &mut Connection,
    original: &Head,
    length: u64,
    fault: &Option<Fault>,
    options: &Options,
    seen: &Seen,
    server: &mut TcpStream,
    head: &Head,
) -> io::Result<bool> {
    let mut body = connection.body(original)?;
    let (mut buffer, mut at, mut kept) = (vec![0; 32 * 1024], 0_u64, Vec::new());
    let cut = match fault {
        Some(Fault::CutRequest(after)) => Some((*after).min(original.length())),
        _ => None,
    };
    loop {
        let room = cut.map_or(buffer.len() as u64, |cut| (cut - at).min(buffer.len() as u64));
        if cut.is_some() && room == 0 {
            // What was passed on is to arrive before the end does.
            server.shutdown(std::net::Shutdown::Write)?;
            let _ = io::copy(server, &mut io::sink());
            return Ok(false);
        }
        let count = body.read(&mut buffer[..usize::try_from(room).expect("a buffer's length")])?;
        if count == 0 {
            break;
        }
        seen.body_bytes.fetch_add(count as u64, Ordering::SeqCst);
        if let Some(Fault::DamageRequest(place)) = fault
            && (at..at + count as u64).contains(place)
        {
            buffer[usize::try_from(place - at).expect("within the buffer")] ^= 1;
        }
        let wanted = usize::try_from(length.saturating_sub(at).min(count as u64)).expect("a buffer's length");
        if options.buffering {
            kept.extend_from_slice(&buffer[..wanted]);
        } else {
            // A registry that answered already reads no more; its answer is passed on below.
            let _ = server.write_all(&buffer[..wanted]);
        }
        at += count as u64;
    }
    if at < original.length() {
        return Ok(false);
    }
    if options.buffering {
        server.write_all(&head.bytes())?;
        let _ = server.write_all(&kept);
    }
    Ok(true)
}

fn answer(
    connection: &mut Connection,
    request: &Head,
    fault: &Option<Fault>,
    options: &Options,
    server: &mut TcpStream,
) -> io::Result<bool> {
    let mut reader = BufReader::new(server);
    let Some(mut head) = Head::read(&mut reader)? else { return Ok(false) };
    if let Some(Fault::Hold(time)) = fault {
        std::thread::sleep(*time);
    }
    head.first = head.first.replace("HTTP/1.0", "HTTP/1.1");
    head.remove("connection");
    if options.relative_locations
        && let Some(location) = head.get("location").map(str::to_owned)
        && let Some(path) = location.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| rest[at..].to_owned()))
    {
        head.set("location", path);
    }
    let mut body = Vec::new();
    let has_body = request.method() != "HEAD" && !matches!(head.status(), 204 | 304);
    if has_body {
        reader.read_to_end(&mut body)?;
        if head.get("content-length").is_none() {
            head.set("content-length", body.len());
        }
        if let Some(Fault::DamageAnswer(place)) = fault
            && !body.is_empty()
        {
            let place = usize::try_from(*place).expect("an index") % body.len();
            body[place] ^= 1;
        }
    }
    let mut whole = head.bytes();
    whole.extend_from_slice(&body);
    if let Some(Fault::CutAnswer(after)) = fault {
        let after = usize::try_from(*after).expect("an index") % whole.len();
        connection.stream.write_all(&whole[..after])?;
        return Ok(false);
    }
    connection.stream.write_all(&whole)?;
    Ok(true)
}

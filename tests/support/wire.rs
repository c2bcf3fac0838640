//! A relay on the loopback that counts the bytes of both directions and keeps the requests.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A running relay; it ends with the process.
#[derive(Debug, Clone)]
pub struct Wire {
    /// Where it listens, `localhost:PORT`.
    pub address: String,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    sent: Vec<u8>,
    received: u64,
}

impl Wire {
    /// Starts a relay to `localhost:PORT`.
    ///
    /// # Panics
    /// Where it cannot listen.
    #[must_use]
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = format!("localhost:{}", listener.local_addr().expect("it listens").port());
        let wire = Self { address, seen: Arc::default() };
        let (relay, target) = (wire.clone(), target.replace("localhost", "127.0.0.1"));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let (up, down) = (relay.clone(), relay.clone());
                let ends = (client.try_clone(), server.try_clone());
                let (Ok(from_client), Ok(to_server)) = ends else { continue };
                std::thread::spawn(move || pump(from_client, to_server, |bytes| up.seen().sent.extend_from_slice(bytes)));
                std::thread::spawn(move || pump(server, client, |bytes| down.seen().received += bytes.len() as u64));
            }
        });
        wire
    }

    /// Bytes that went to the server, heads of requests included.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.seen().sent.len() as u64
    }

    /// Bytes that came from the server, heads of answers included.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.seen().received
    }

    /// The first lines of the requests with a method.
    #[must_use]
    pub fn requests(&self, method: &str) -> Vec<String> {
        let start = format!("{method} /v2/");
        let seen = self.seen();
        let text = String::from_utf8_lossy(&seen.sent);
        text.match_indices(&start).map(|(at, _)| text[at..].lines().next().unwrap_or_default().to_owned()).collect()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut count: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        count(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

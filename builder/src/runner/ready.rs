//! Waiting until a server answers: [`wait_until_ready`].

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{RunnerError, RunningContainer};

/// How long to wait between two attempts.
const INTERVAL: Duration = Duration::from_millis(2);
/// How long one attempt may take: a server that is loading may accept and not answer.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Asks the container's server for `path` every 2 ms until it answers 200, and returns how long that took.
///
/// # Errors
/// Where the container ends first (with its last lines) or does not answer within `timeout`.
pub fn wait_until_ready(container: &mut dyn RunningContainer, path: &str, timeout: Duration) -> Result<Duration, RunnerError> {
    let (begun, address) = (Instant::now(), container.address());
    loop {
        let last = match http_status(address, path, ATTEMPT) {
            Ok(200) => return Ok(begun.elapsed()),
            Ok(status) => format!("status {status}"),
            Err(error) => error.to_string(),
        };
        if let Some(status) = container.wait(Duration::ZERO)? {
            return Err(RunnerError::Exited { status, log: container.last_lines() });
        }
        let waited = begun.elapsed();
        if waited >= timeout {
            return Err(RunnerError::NotReady { address, path: path.to_owned(), waited, last, log: container.last_lines() });
        }
        sleep(INTERVAL);
    }
}

/// Sends one HTTP GET and returns the answer's status.
///
/// # Errors
/// Where nothing listens, or what answers is not HTTP, or not within `timeout` a step.
pub fn http_status(address: SocketAddr, path: &str, timeout: Duration) -> io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut head = Vec::with_capacity(64);
    stream.take(64).read_to_end(&mut head).or_else(|error| if head.len() >= 12 { Ok(0) } else { Err(error) })?;
    parse_status(&head).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("answered `{}`, expected HTTP", String::from_utf8_lossy(&head).trim_end()),
        )
    })
}

/// The status of `HTTP/1.1 200 OK…`.
fn parse_status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let digits = rest.get(..3).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_status_line_has_a_status() {
        assert_eq!(parse_status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 503"), Some(503));
        for bad in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 20", b"HTTP/1.1 +20", b"HTTP/2 200", b"SSH-2.0-x", b"\xff\xff\xff\xff"] {
            assert_eq!(parse_status(bad), None, "{bad:?}");
        }
    }
}

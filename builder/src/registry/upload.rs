//! One blob on its way into a registry: [`Upload`], which goes on where a broken connection stopped.
//!
//! ```text
//! HEAD blob            there already → done
//! POST uploads/        mounted → done, else a session at 0
//! PATCH a chunk        202 → session at its end (or where the registry says)
//!   broken, 416, 5xx   GET session → 204 and `Range` → go on there; unknown → a new session
//! PUT ?digest=         201 → done; broken → HEAD blob, then as above
//! ```
//! A blob that fits into one chunk goes in the PUT. Failures in a row without any byte gained are counted and end it.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ureq::http::{Method, header};
use url::Url;

use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, open_verified};
use crate::progress::Task;

use super::auth::Scope;
use super::endpoint::{Ask, Endpoint};
use super::error::RegistryError;
use super::retry::Tries;
use super::transport::{Answer, Payload};

/// Chunks are never made smaller than this on behalf of a registry that finds them too large.
const SMALLEST_CHUNK: u64 = 512 * 1024;
/// Gaining less than this is no progress: a registry that takes a byte at a time would be tried for ever.
const GAIN: u64 = 64 * 1024;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "how")]
pub enum Placed {
    /// It was there.
    Existed,
    /// The registry took it over from another repository.
    Mounted {
        /// Which repository.
        from: String,
    },
    /// It was sent.
    Uploaded,
    /// It was sent, and at least once the upload went on where it had stopped.
    Resumed,
    /// Its media type says that it is not to be pushed.
    NotDistributable,
}

/// A blob on its way into a repository.
pub(crate) struct Upload<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) repository: &'a str,
    pub(crate) descriptor: &'a Descriptor,
    pub(crate) blobs: &'a dyn Blobs,
    /// Bytes of a chunk; `None` sends the blob in one piece.
    pub(crate) chunk: Option<u64>,
    /// Repositories of the same registry where it may be.
    pub(crate) mount_from: &'a [String],
    pub(crate) sent: &'a AtomicU64,
    pub(crate) stop: &'a AtomicBool,
    pub(crate) task: &'a Task,
}

struct Session {
    url: Url,
    offset: u64,
    least: u64,
}

impl Session {
    fn go_on(&mut self, offset: u64, url: Option<Url>) {
        self.offset = offset;
        if let Some(url) = url {
            self.url = url;
        }
    }
}

enum Begun {
    Done(Placed),
    Open(Session),
}

/// What one step of a session led to.
enum Step {
    Done,
    /// The registry has all up to here.
    At(u64, Option<Url>),
    /// The registry took less than was sent.
    Part(u64, Option<Url>, RegistryError),
    /// Nobody knows how far it is: ask.
    Unclear(RegistryError),
    /// The session is of no use any more.
    Lost(RegistryError),
    /// The request is too large.
    TooLarge(RegistryError),
    /// The registry takes no chunks.
    NoChunks(RegistryError),
}

impl Upload<'_> {
    pub(crate) fn run(&self) -> Result<Placed, RegistryError> {
        let mut tries = Tries::new(&self.endpoint.transport.settings().retries, &self.endpoint.progress);
        let mut chunk = self.chunk;
        let (mut resumed, mut sent, mut furthest) = (false, false, 0);
        let shown = Cell::new(0);
        'session: loop {
            let mut session = match self.begin()? {
                // The answer to the request that completed it was lost.
                Begun::Done(Placed::Existed) if sent => return Ok(uploaded(resumed)),
                Begun::Done(placed) => {
                    self.task.advance(self.descriptor.size.saturating_sub(shown.get()));
                    return Ok(placed);
                }
                Begun::Open(session) => session,
            };
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return Err(RegistryError::Stopped);
                }
                sent = true;
                let mut step = self.step(&session, chunk, &shown)?;
                let mut gain = 1;
                if let Step::Unclear(error) = step {
                    tries.again_anyway(error)?;
                    step = self.ask(&session)?;
                    resumed |= matches!(step, Step::At(offset, _) if offset > 0);
                    gain = GAIN;
                }
                let lost = match step {
                    Step::Done => return Ok(uploaded(resumed)),
                    Step::At(offset, url) => {
                        if offset >= furthest + gain {
                            tries.progressed();
                        }
                        furthest = furthest.max(offset);
                        session.go_on(offset, url);
                        continue;
                    }
                    Step::Part(offset, url, error) => {
                        if offset >= furthest + GAIN {
                            tries.progressed()
                        } else {
                            tries.again_anyway(error)?
                        }
                        furthest = furthest.max(offset);
                        session.go_on(offset, url);
                        continue;
                    }
                    Step::TooLarge(error) => {
                        let smaller = chunk.unwrap_or(u64::MAX).min(self.descriptor.size) / 4;
                        if smaller < SMALLEST_CHUNK.max(session.least) {
                            return Err(error);
                        }
                        chunk = Some(smaller);
                        error
                    }
                    Step::NoChunks(error) if chunk.is_none() => return Err(error),
                    Step::NoChunks(error) => {
                        chunk = None;
                        error
                    }
                    Step::Lost(error) | Step::Unclear(error) => error,
                };
                tries.again_anyway(lost)?;
                continue 'session;
            }
        }
    }

    /// Finds the blob there, has it mounted, or opens a session.
    fn begin(&self) -> Result<Begun, RegistryError> {
        let digest = &self.descriptor.digest;
        if exists(self.endpoint, self.repository, self.descriptor, &Scope::push(self.repository))? {
            return Ok(Begun::Done(Placed::Existed));
        }
        for from in self.mount_from {
            // With more than one place to look at, a mount that fails would leave a session behind each time.
            if self.mount_from.len() > 1 && !exists(self.endpoint, from, self.descriptor, &Scope::pull(from)).unwrap_or(false) {
                continue;
            }
            let mut url = self.endpoint.url(self.repository, "blobs/uploads/");
            url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
            let scope = Scope::push(self.repository).and_pull(from);
            match self.endpoint.send(&Ask::new(Method::POST, url, self.repository, scope)) {
                Ok(answer) if answer.status == 201 => {
                    answer.discard();
                    return Ok(Begun::Done(Placed::Mounted { from: from.clone() }));
                }
                Ok(answer) if answer.status == 202 => return self.opened(answer),
                // Not to be allowed to read there, or a registry that mounts nothing, is no reason to fail.
                Ok(answer) => answer.discard(),
                Err(error) => self.endpoint.progress.note(format!("could not mount {digest} from {from}: {error}")),
            }
        }
        let url = self.endpoint.url(self.repository, "blobs/uploads/");
        let answer = self.endpoint.send(&Ask::new(Method::POST, url, self.repository, Scope::push(self.repository)))?;
        match answer.status {
            202 => self.opened(answer),
            status if status >= 400 => Err(self.endpoint.error(answer)),
            status => Err(answer.unexpected(format!("status {status}"), "202 and the address of an upload")),
        }
    }

    fn opened(&self, answer: Answer) -> Result<Begun, RegistryError> {
        let Some(url) = self.location(&answer)? else {
            return Err(answer.unexpected("no `Location`", "the address of an upload"));
        };
        let least = answer.header("oci-chunk-min-length").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        answer.discard();
        Ok(Begun::Open(Session { url, offset: 0, least }))
    }

    fn location(&self, answer: &Answer) -> Result<Option<Url>, RegistryError> {
        answer.header("location").map(|location| self.endpoint.follow(&answer.url, location)).transpose()
    }

    /// Sends the next chunk, or completes the blob.
    fn step(&self, session: &Session, chunk: Option<u64>, shown: &Cell<u64>) -> Result<Step, RegistryError> {
        let left = self.descriptor.size - session.offset;
        let most = chunk.map_or(u64::MAX, |chunk| chunk.max(session.least).max(1));
        if left == 0 || session.offset == 0 && left <= most {
            self.commit(session, left, shown)
        } else {
            self.send_chunk(session, left.min(most), shown)
        }
    }

    fn send_chunk(&self, session: &Session, length: u64, shown: &Cell<u64>) -> Result<Step, RegistryError> {
        let end = session.offset + length;
        let ask = Ask::new(Method::PATCH, session.url.clone(), self.repository, Scope::push(self.repository))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_RANGE, format!("{}-{}", session.offset, end - 1))
            .patience(self.endpoint.transport.settings().timeouts.chunk);
        let answer = match self.send_bytes(ask, session.offset, length, shown)? {
            Ok(answer) => answer,
            Err(error) => return Ok(Step::Unclear(error)),
        };
        if !matches!(answer.status, 200..=204) {
            return self.refused(answer);
        }
        let url = self.location(&answer)?;
        let offset = match answer.header("range").map(|range| (next_offset(range), range)) {
            None => end,
            // An empty session is `0-0` to some, as is one of a single byte.
            Some((Some(1), _)) if end != 1 => 0,
            Some((Some(offset), _)) if offset <= end => offset,
            Some((_, range)) => {
                return Err(answer.unexpected(format!("range `{range}`"), "a range that ends within what was sent"));
            }
        };
        let step = if offset == end {
            Step::At(offset, url)
        } else {
            Step::Part(offset, url, answer.unexpected(format!("all up to byte {offset}"), "all that was sent"))
        };
        answer.discard();
        Ok(step)
    }

    /// Completes the blob, with all its bytes where none were sent before.
    fn commit(&self, session: &Session, length: u64, shown: &Cell<u64>) -> Result<Step, RegistryError> {
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.descriptor.digest.to_string());
        let ask = Ask::new(Method::PUT, url, self.repository, Scope::push(self.repository))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .patience(self.endpoint.transport.settings().timeouts.commit);
        let answer = match self.send_bytes(ask, session.offset, length, shown)? {
            Ok(answer) => answer,
            Err(error) => return Ok(Step::Unclear(error)),
        };
        match answer.status {
            200 | 201 | 204 => {
                check_digest(&answer, &self.descriptor.digest, || {
                    format!("blob {} in {}", self.descriptor.digest, self.repository)
                })?;
                answer.discard();
                Ok(Step::Done)
            }
            // It may have been completed by a request whose answer was lost.
            404 | 410 => Ok(Step::Unclear(self.endpoint.error(answer))),
            _ => {
                let step = self.refused(answer)?;
                if let Step::NoChunks(error) | Step::Lost(error) = step {
                    // Either the bytes were damaged on their way, or they already were on this side.
                    self.check_own_bytes()?;
                    return if error.status() == Some(400) { Ok(Step::Lost(error)) } else { Err(error) };
                }
                Ok(step)
            }
        }
    }

    fn refused(&self, answer: Answer) -> Result<Step, RegistryError> {
        let status = answer.status;
        if status < 400 {
            return Err(answer.unexpected(format!("status {status}"), "success, or a reason why not"));
        }
        let error = self.endpoint.error(answer);
        let code = match &error {
            RegistryError::Status(refusal) => refusal.code.as_deref().unwrap_or_default(),
            _ => "",
        };
        Ok(match status {
            _ if error.is_transient() => Step::Unclear(error),
            416 => Step::Unclear(error),
            404 | 410 => Step::Lost(error),
            400 if code.starts_with("BLOB_UPLOAD_") => Step::Lost(error),
            413 => Step::TooLarge(error),
            400 | 405 | 411 | 415 | 417 | 501 => Step::NoChunks(error),
            _ => return Err(error),
        })
    }

    /// Sends bytes of the blob. The inner error is one after which the session may still be of use.
    fn send_bytes(
        &self,
        ask: Ask<'_>,
        offset: u64,
        length: u64,
        shown: &Cell<u64>,
    ) -> Result<Result<Answer, RegistryError>, RegistryError> {
        let failure = RefCell::new(None);
        let open = || -> io::Result<Box<dyn Read + '_>> {
            let keep = |error: io::Error| {
                let copy = io::Error::new(error.kind(), error.to_string());
                *failure.borrow_mut() = Some(error);
                copy
            };
            let inner = self.blobs.open_unverified(self.descriptor, offset).map_err(keep)?;
            Ok(Box::new(Outgoing { upload: self, inner, position: offset, end: offset + length, failure: &failure, shown }))
        };
        let ask = Ask {
            method: ask.method,
            url: ask.url,
            repository: self.repository,
            scope: ask.scope,
            headers: ask.headers,
            payload: if length == 0 { Payload::Empty } else { Payload::Stream { open: &open, length } },
            patience: ask.patience,
        };
        let result = self.endpoint.send_once(&ask);
        drop(ask);
        if let Some(source) = failure.take() {
            return Err(RegistryError::ReadBlob { digest: self.descriptor.digest, source });
        }
        match result {
            Ok(answer) => Ok(Ok(answer)),
            Err(_) if self.stop.load(Ordering::Relaxed) => Err(RegistryError::Stopped),
            Err(error) if error.is_transient() => Ok(Err(error)),
            Err(error) => Err(error),
        }
    }

    /// Asks how far a session is after something broke.
    fn ask(&self, session: &Session) -> Result<Step, RegistryError> {
        let most = self.chunk.unwrap_or(u64::MAX);
        let may_be_complete = session.offset == self.descriptor.size || session.offset == 0 && self.descriptor.size <= most;
        let scope = Scope::push(self.repository);
        let there = || exists(self.endpoint, self.repository, self.descriptor, &scope);
        if may_be_complete && there()? {
            return Ok(Step::Done);
        }
        let answer = self.endpoint.retrying(|| {
            let answer = self.endpoint.send_once(&Ask::new(Method::GET, session.url.clone(), self.repository, scope.clone()))?;
            let error = matches!(answer.status, 401 | 403 | 408 | 425 | 429) || answer.status >= 500 && answer.status != 501;
            if error { Err(self.endpoint.error(answer)) } else { Ok(answer) }
        })?;
        let known = match (answer.status, answer.header("range").map(next_offset)) {
            (200 | 202 | 204, None | Some(Some(1))) => Some(0),
            (200 | 202 | 204, Some(offset)) => offset.filter(|offset| *offset <= self.descriptor.size),
            _ => None,
        };
        if let Some(offset) = known {
            let url = self.location(&answer)?;
            answer.discard();
            return Ok(Step::At(offset, url));
        }
        if may_be_complete {
            // A registry that still puts the blob together knows neither it nor the session for a moment.
            let retries = &self.endpoint.transport.settings().retries;
            for wait in [retries.first_wait, retries.first_wait * 2, retries.first_wait * 4] {
                (retries.sleep)(wait.min(retries.longest_wait));
                if there()? {
                    return Ok(Step::Done);
                }
            }
        }
        Ok(Step::Lost(match answer.status {
            200..=399 => answer.unexpected("a range beyond the blob", "how far the upload is"),
            _ => self.endpoint.error(answer),
        }))
    }

    fn check_own_bytes(&self) -> Result<(), RegistryError> {
        let read = || io::copy(&mut open_verified(self.blobs, self.descriptor)?, &mut io::sink());
        read().map(drop).map_err(|source| RegistryError::ReadBlob { digest: self.descriptor.digest, source })
    }
}

/// The bytes of a blob as they leave: exactly as many as promised, counted.
struct Outgoing<'a> {
    upload: &'a Upload<'a>,
    inner: Box<dyn Read + Send>,
    position: u64,
    end: u64,
    failure: &'a RefCell<Option<io::Error>>,
    /// How far people were told that it is.
    shown: &'a Cell<u64>,
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.upload.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        let left = self.end - self.position;
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let count = match self.inner.read(&mut buffer[..room]) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it ends after {} bytes", self.position))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            result => result,
        };
        let count = count.map_err(|error| {
            let copy = io::Error::new(error.kind(), error.to_string());
            *self.failure.borrow_mut() = Some(error);
            copy
        })?;
        self.position += count as u64;
        self.upload.sent.fetch_add(count as u64, Ordering::Relaxed);
        if self.position > self.shown.get() {
            self.upload.task.advance(self.position - self.shown.replace(self.position));
        }
        Ok(count)
    }
}

fn uploaded(resumed: bool) -> Placed {
    if resumed { Placed::Resumed } else { Placed::Uploaded }
}

/// Whether a repository has a blob.
pub(crate) fn exists(
    endpoint: &Endpoint,
    repository: &str,
    descriptor: &Descriptor,
    scope: &Scope,
) -> Result<bool, RegistryError> {
    let url = endpoint.url(repository, &format!("blobs/{}", descriptor.digest));
    let answer = endpoint.send(&Ask::new(Method::HEAD, url, repository, scope.clone()))?;
    let right_size =
        answer.header("content-length").and_then(|text| text.parse::<u64>().ok()).is_none_or(|size| size == descriptor.size);
    let right_digest = answer.header("docker-content-digest").is_none_or(|digest| digest == descriptor.digest.to_string());
    Ok(answer.status == 200 && right_size && right_digest)
}

/// Checks what a registry says that it stored, where it says so.
pub(crate) fn check_digest(answer: &Answer, expected: &Digest, what: impl Fn() -> String) -> Result<(), RegistryError> {
    match answer.header("docker-content-digest").map(str::parse::<Digest>) {
        Some(Ok(actual)) if actual != *expected => Err(RegistryError::Digest { what: what(), actual, expected: *expected }),
        _ => Ok(()),
    }
}

/// The offset after a `Range` such as `0-99` or `bytes=0-99`.
fn next_offset(range: &str) -> Option<u64> {
    let (first, last) = range.trim().trim_start_matches("bytes=").split_once('-')?;
    (first.trim() == "0").then_some(())?;
    last.trim().parse::<u64>().ok()?.checked_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(next_offset("0-99"), Some(100));
        assert_eq!(next_offset(" bytes=0-0 "), Some(1));
        for bad in ["", "0", "5-9", "0-", "0-x", "-1", "0-18446744073709551615"] {
            assert_eq!(next_offset(bad), None, "{bad}");
        }
    }
}

//! What the runner and its helper process say to each other: one JSON value a line over a socket.

use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::runner::command::Command;
use crate::runner::user::Identity;
use crate::runner::{ExitStatus, PeakMemory, RunnerError};

/// Longer lines are refused.
const LINE_BYTES: usize = 8 << 20;

/// The runner's first line: what to start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// The image's file system, absolute and without links.
    pub root: PathBuf,
    /// True where the root takes writes.
    pub writable: bool,
    pub command: Command,
    pub identity: Identity,
    pub cpus: Option<f64>,
    pub memory: Option<u64>,
    /// Size of the `/tmp` in memory.
    pub tmp_bytes: u64,
}

/// The runner's later lines.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// Send this signal to the container's first process.
    Signal(i32),
}

/// What the helper, and the container's first process before it is the program, report.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The container could not get something that it was to have.
    Warning(String),
    /// The first process exists, under this number.
    Process(u32),
    /// The file that tells the peak memory, where there is one.
    PeakFile(PathBuf),
    /// Everything is in place, the program comes next.
    Created(Moment),
    /// The program is being executed.
    Started(Moment),
    /// It could not be.
    Failed(Failure),
    /// It ended.
    Ended(Ended),
}

/// A moment on the clock that all processes of this machine share: on a busy machine an event is read long after it happened.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Moment(Duration);

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is valid for writing, and this clock always exists.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        Self(Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs().try_into().unwrap_or(0)))
    }

    /// The same moment as this process writes it.
    pub fn instant(self) -> Instant {
        let now = Instant::now();
        now.checked_sub(Self::now().0.saturating_sub(self.0)).unwrap_or(now)
    }
}

/// How it ended, and what it had used.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ended {
    pub status: ExitStatus,
    pub peak: Option<PeakMemory>,
}

/// Why there is no container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Failure {
    /// The kernel refused.
    Refused { step: String, errno: i32 },
    /// The image has no such program.
    ProgramMissing { program: String, path: Option<String> },
    /// The program cannot be executed.
    Program { program: String, errno: i32 },
}

impl Failure {
    pub fn refused(step: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::Refused { step: step.into(), errno: error.into().raw_os_error().unwrap_or(libc::EIO) }
    }
}

impl From<Failure> for RunnerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused { step, errno } => Self::Refused { step, source: io::Error::from_raw_os_error(errno) },
            Failure::ProgramMissing { program, path } => Self::ProgramMissing { program, path },
            Failure::Program { program, errno } => Self::Program { program, source: io::Error::from_raw_os_error(errno) },
        }
    }
}

/// Writes one line.
pub(super) fn send(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Values that come over a socket.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Incoming {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Waits for the next value; `None` at the end of the stream.
    pub fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some(value) = self.take()? {
                return Ok(Some(value));
            }
            if !self.fill()? {
                return if self.pending.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next value if it has come.
    pub fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let value = serde_json::from_slice(&self.pending[..end])?;
        self.pending.drain(..=end);
        Ok(Some(value))
    }

    /// Waits for some bytes; false at the end of the stream.
    pub fn fill(&mut self) -> io::Result<bool> {
        if self.pending.len() > LINE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut buffer = [0; 4096];
        let count = loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.pending.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

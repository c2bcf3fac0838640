//! Starting a container: the [`Runner`] seam and its two implementors, [`docker::Docker`] and [`embedded::Embedded`].
//!
//! [`docker`] asks an engine (Docker or podman) over its socket; [`embedded`] needs no engine at all: it starts the process itself
//! from an unpacked root file system, as root or as an ordinary user. Either way the container has a read-only root, a writable
//! `/tmp` in memory, no capabilities, `no_new_privs`, and the user that the image names.
//!
//! ```no_run
//! use std::time::Duration;
//! use imgbuild::runner::{ContainerSpec, Runner, embedded::Embedded, wait_until_ready};
//! # fn main() -> Result<(), imgbuild::runner::RunnerError> {
//! # let config = serde_json::from_str("{}").expect("a config");
//! let spec = ContainerSpec::unpacked("rootfs", config);
//! let mut container = Embedded::new()?.start(&spec)?;
//! let elapsed = wait_until_ready(container.as_mut(), "/v2/health/ready", Duration::from_secs(30))?;
//! println!("ready at {} after {elapsed:?}", container.address());
//! container.stop(Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```

mod command;
pub mod docker;
pub mod embedded;
mod error;
mod log;
mod port;
mod ready;
mod state;
#[cfg(test)]
mod tests;
mod user;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

pub use error::{RunnerError, UserProblem};
pub use log::{KEPT_LINES, LogLine, Stream};
pub use ready::{http_status, wait_until_ready};

use crate::image::ImageConfig;

/// Bytes of the `/tmp` that a container gets in memory.
pub const TMP_BYTES: u64 = 256 << 20;
/// The port that an inference server listens at unless told otherwise.
pub const DEFAULT_PORT: u16 = 8080;

/// Starts containers.
pub trait Runner: fmt::Debug {
    /// What starts them, for people: `embedded` or the engine's name and address.
    fn name(&self) -> String;

    /// Starts a container and returns once its program runs; it need not answer yet (see [`wait_until_ready`]).
    ///
    /// # Errors
    /// Where the container cannot be made or its program cannot be started.
    fn start(&self, spec: &ContainerSpec) -> Result<Box<dyn RunningContainer>, RunnerError>;
}

/// A started container. It is killed and removed when dropped.
pub trait RunningContainer: Send + fmt::Debug {
    /// Where the server can be reached from this machine.
    fn address(&self) -> SocketAddr;

    /// The first process as this machine numbers it, where it runs on this machine.
    fn pid(&self) -> Option<u32>;

    /// The lines written to stdout and stderr: those kept so far, at most [`KEPT_LINES`], then each as it comes.
    /// The channel ends with the container's output. A receiver that nobody reads holds its lines in memory.
    fn lines(&self) -> Receiver<LogLine>;

    /// The last lines, oldest first.
    fn last_lines(&self) -> Vec<LogLine>;

    /// When the steps of the start happened.
    fn timings(&self) -> Timings;

    /// What the container was to have and could not get, such as a memory limit.
    fn warnings(&self) -> &[String];

    /// Waits until the container ends; `None` when it still runs after `timeout`. A zero timeout only asks.
    ///
    /// # Errors
    /// Where the engine no longer knows the container.
    fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, RunnerError>;

    /// Sends a signal to the container's first process. Nothing happens when it has ended.
    ///
    /// # Errors
    /// Where the engine refuses.
    fn signal(&mut self, signal: Signal) -> Result<(), RunnerError>;

    /// The most memory that the container used so far, or until it ended.
    fn peak_memory(&mut self) -> Option<PeakMemory>;

    /// The signal by which the image wants to be ended.
    fn stop_signal(&self) -> Signal {
        Signal::TERM
    }

    /// Asks the container to end, and kills it when it has not after `timeout`.
    ///
    /// # Errors
    /// Where the engine refuses.
    fn stop(&mut self, timeout: Duration) -> Result<ExitStatus, RunnerError> {
        self.signal(self.stop_signal())?;
        if let Some(status) = self.wait(timeout)? {
            return Ok(status);
        }
        self.signal(Signal::KILL)?;
        self.wait(KILL_PATIENCE)?.ok_or(RunnerError::Unkillable { pid: self.pid(), waited: KILL_PATIENCE })
    }
}

/// How long a killed container may take to disappear: its memory is given back meanwhile.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// From what a container is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerImage {
    /// A folder that holds the image's whole file system.
    Unpacked(PathBuf),
    /// A name or ID in an engine's own store.
    Named(String),
}

impl fmt::Display for ContainerImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpacked(path) => write!(f, "the folder {}", path.display()),
            Self::Named(name) => write!(f, "the image {name}"),
        }
    }
}

/// Whether the container may write to its root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootAccess {
    /// Only `/tmp` and `/dev/shm` take writes.
    #[default]
    ReadOnly,
    /// The root takes writes, which stay in the folder or in the engine's container.
    Writable,
}

/// What to start, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerSpec {
    /// From what.
    pub image: ContainerImage,
    /// The image's config. An engine has its own copy and uses that one.
    pub config: ImageConfig,
    /// Variables set over those of the image.
    pub environment: BTreeMap<String, String>,
    /// Arguments in place of the image's `Cmd`; the image's are used when empty.
    pub arguments: Vec<String>,
    /// Port that the server has in the container where the container has a network of its own.
    pub port: u16,
    /// Port on this machine's loopback, or `None` for one that is free.
    pub host_port: Option<u16>,
    /// By which variables the server learns its address where the container shares this machine's network.
    pub listen: ListenVariables,
    /// Most CPU time, in cores: 1.5 is one and a half.
    pub cpus: Option<f64>,
    /// Most memory, in bytes; no swap comes on top.
    pub memory: Option<u64>,
    /// Whether the root may be written to.
    pub root: RootAccess,
}

impl ContainerSpec {
    /// A container with the defaults from a folder that holds the image's file system.
    pub fn unpacked(root: impl Into<PathBuf>, config: ImageConfig) -> Self {
        Self::new(ContainerImage::Unpacked(root.into()), config)
    }

    /// A container with the defaults from an image that an engine has.
    pub fn named(image: impl Into<String>, config: ImageConfig) -> Self {
        Self::new(ContainerImage::Named(image.into()), config)
    }

    fn new(image: ContainerImage, config: ImageConfig) -> Self {
        Self {
            image,
            config,
            environment: BTreeMap::new(),
            arguments: Vec::new(),
            port: DEFAULT_PORT,
            host_port: None,
            listen: ListenVariables::default(),
            cpus: None,
            memory: None,
            root: RootAccess::ReadOnly,
        }
    }
}

/// Variables that tell a server where to listen. They are set only where the container shares this machine's network, and only
/// if [`ContainerSpec::environment`] does not set them itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenVariables {
    /// Takes the port. Where `None`, the server is expected at [`ContainerSpec::port`].
    pub port: Option<String>,
    /// Takes the IP address, `127.0.0.1`, so that the server cannot be reached from other machines.
    pub host: Option<String>,
}

impl Default for ListenVariables {
    fn default() -> Self {
        Self { port: Some("IMGSERVE_PORT".to_owned()), host: Some("IMGSERVE_ADDRESS".to_owned()) }
    }
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExitStatus {
    /// The exit code. An engine reports a death by signal as 128 and the signal's number.
    pub code: Option<i32>,
    /// The signal that ended it, where known apart from the code.
    pub signal: Option<i32>,
    /// True where the kernel killed a process of the container for lack of memory.
    pub out_of_memory: bool,
}

impl ExitStatus {
    /// True for exit code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The signal that ended it, taken from the code where an engine reported it so.
    #[must_use]
    pub fn ending_signal(&self) -> Option<i32> {
        self.signal.or_else(|| self.code.filter(|code| (129..=192).contains(code)).map(|code| code - 128))
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (_, Some(signal)) => write!(f, "killed by signal {signal}")?,
            (Some(code), None) => write!(f, "exit code {code}")?,
            (None, None) => f.write_str("ended in an unknown way")?,
        }
        if self.out_of_memory { f.write_str(", out of memory") } else { Ok(()) }
    }
}

/// When the steps of a start happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// [`Runner::start`] was called.
    pub asked: Instant,
    /// The container existed: file systems, namespaces and limits in place, nothing running.
    pub created: Instant,
    /// Its program was being executed.
    pub started: Instant,
}

/// The most memory that a container used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PeakMemory {
    /// How much.
    pub bytes: u64,
    /// What was counted.
    pub measure: MemoryMeasure,
}

/// What a memory figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryMeasure {
    /// Everything charged to the container's control group, the page cache of files it was first to read included.
    ControlGroup,
    /// The largest resident set of its first process, shared library pages included.
    ResidentSet,
}

/// A signal by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Signal(i32);

impl Signal {
    /// Asks to end.
    pub const TERM: Self = Self(15);
    /// Ends.
    pub const KILL: Self = Self(9);

    /// A signal by its number from 1 to 64.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// A signal as image configs write it: `SIGTERM`, `TERM`, `15`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if let Ok(number) = name.parse() {
            return Self::from_number(number);
        }
        let name = name.to_ascii_uppercase();
        let name = name.strip_prefix("SIG").unwrap_or(&name);
        SIGNAL_NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| Self(*number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

/// The signals that servers are ended by.
const SIGNAL_NAMES: [(&str, i32); 9] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ABRT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("TERM", libc::SIGTERM),
    ("WINCH", libc::SIGWINCH),
];

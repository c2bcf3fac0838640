//! [`Embedded`]: containers without an engine, from an unpacked root file system.
//!
//! The runner starts its own program once more as a *helper* (see [`helper_main`]), because making namespaces needs a process with
//! a single thread. The helper makes a process and user namespace and a control group, forks the container's first process, which
//! arranges the file systems, gives up every privilege and executes the program, and waits for it. Runner and helper talk over a
//! socket: when the runner goes, however it goes, the socket closes, and the helper kills the container and removes the control
//! group. When the helper goes, the kernel kills the container.
//!
//! What the container gets:
//! - namespaces of its own for mounts, processes, IPC, host name and control groups, and for users where the caller has not the
//!   privileges to do without; **the network is this machine's**, so the server is told to listen at the loopback;
//! - the root read-only, no devices or set-user-ID files honoured in it; `/proc` with the usual files masked, a `/dev` of six devices,
//!   a `/sys` of processors and control group only; `/tmp` and `/dev/shm` in memory;
//! - the image's user. An ordinary user can map one user and one group only: the image's, to the caller's own;
//! - no capabilities, no way to gain any, no file but its three standard streams;
//! - limits where the caller may make control groups (version 1 or 2), otherwise a warning.

mod cgroup;
mod filesystem;
mod fork;
mod helper;
mod init;
mod protocol;

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(super) use cgroup::group_peak;
pub use helper::helper_main;

use super::command::{Command, check_limits};
use super::log::{Log, LogLine, Stream};
use super::state::State;
use super::user::Identity;
use super::{
    ContainerImage, ContainerSpec, ExitStatus, MemoryMeasure, PeakMemory, RootAccess, Runner, RunnerError, RunningContainer,
    Signal, TMP_BYTES, Timings, port,
};
use protocol::{Ended, Event, Incoming, Job, Order};

/// The hidden subcommand under which the command calls [`helper_main`].
pub const HELPER_SUBCOMMAND: &str = "__container";
/// How long the kernel may take to make a container.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Starts containers by itself.
#[derive(Debug, Clone)]
pub struct Embedded {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Embedded {
    /// A runner whose helper is this very program, called with [`HELPER_SUBCOMMAND`].
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn new() -> Result<Self, RunnerError> {
        // Not the program's path: another version may lie there by now.
        let program = PathBuf::from("/proc/self/exe");
        program.read_link().map_err(|source| RunnerError::Missing { path: program.clone(), source })?;
        Ok(Self::with_helper(program, vec![HELPER_SUBCOMMAND.to_owned()]))
    }

    /// A runner whose helper is another program that calls [`helper_main`].
    #[must_use]
    pub fn with_helper(program: PathBuf, arguments: Vec<String>) -> Self {
        Self { program, arguments }
    }

    fn spawn(&self, job: &Job) -> Result<(Child, UnixStream), RunnerError> {
        let failed = |source| RunnerError::Helper { program: self.program.display().to_string(), source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let child = Process::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C at the terminal is for the runner alone, which then stops the container in good order.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        match protocol::send(&ours, job) {
            // A helper that did not even read ends the stream of events early, which is reported with what it wrote.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(error)),
            _ => Ok((child, ours)),
        }
    }
}

impl Runner for Embedded {
    fn name(&self) -> String {
        "embedded".to_owned()
    }

    fn start(&self, spec: &ContainerSpec) -> Result<Box<dyn RunningContainer>, RunnerError> {
        let asked = Instant::now();
        let root = unpacked_root(&spec.image)?;
        check_limits(spec)?;
        let identity = Identity::load(&root, spec.config.config.user.as_deref())?;
        let mut command = Command::new(spec, &identity)?;
        let port = port::choose(spec.host_port.or(if spec.listen.port.is_none() { Some(spec.port) } else { None }))?;
        command.listen_at(spec, port);
        let job = Job {
            root,
            writable: spec.root == RootAccess::Writable,
            command,
            identity,
            cpus: spec.cpus,
            memory: spec.memory,
            tmp_bytes: TMP_BYTES,
        };
        let (mut child, control) = self.spawn(&job)?;

        let (log, ended) = (Log::default(), State::default());
        let readers = [
            child.stdout.take().map(|pipe| drain(&log, Stream::Stdout, pipe)),
            child.stderr.take().map(|pipe| drain(&log, Stream::Stderr, pipe)),
        ];
        let (events, incoming) = channel();
        let from_helper = control.try_clone().map_err(|source| RunnerError::Helper { program: self.name(), source })?;
        let keeper = {
            let (log, ended) = (log.clone(), ended.clone());
            thread::spawn(move || keep(child, from_helper, readers, &events, &log, &ended))
        };
        // From here on the container is ended by the drop of this value.
        let mut container = EmbeddedContainer {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            control,
            pid: None,
            peak_file: None,
            warnings: Vec::new(),
            timings: Timings { asked, created: asked, started: asked },
            stop_signal: spec.config.config.stop_signal.as_deref().and_then(Signal::from_name).unwrap_or(Signal::TERM),
            log,
            ended,
            keeper: Some(keeper),
        };
        container.follow_start(&incoming)?;
        Ok(Box::new(container))
    }
}

/// The folder that holds the image's file system, absolute and without links.
fn unpacked_root(image: &ContainerImage) -> Result<PathBuf, RunnerError> {
    let ContainerImage::Unpacked(path) = image else {
        return Err(RunnerError::Unsuited { runner: "embedded", expected: "an unpacked image", found: image.clone() });
    };
    let missing = |source| RunnerError::Missing { path: path.clone(), source };
    let root = path.canonicalize().map_err(missing)?;
    std::fs::read_dir(&root).map_err(missing)?;
    Ok(root)
}

fn drain(log: &Log, stream: Stream, pipe: impl io::Read + Send + 'static) -> JoinHandle<()> {
    let log = log.clone();
    thread::spawn(move || log.drain(stream, pipe))
}

/// Reads the helper's events until it ends, then gathers what is left of it. Runs on a thread of its own.
fn keep(
    mut child: Child,
    from_helper: UnixStream,
    readers: [Option<JoinHandle<()>>; 2],
    events: &Sender<Event>,
    log: &Log,
    ended: &State<Result<Ended, String>>,
) {
    let mut reader = Incoming::new(from_helper);
    let mut last = None;
    let trouble = loop {
        match reader.receive() {
            Ok(Some(Event::Ended(end))) => last = Some(end),
            // Nobody listens any more once the container has started.
            Ok(Some(event)) => drop(events.send(event)),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    for reader in readers.into_iter().flatten() {
        // A thread that panicked has read what it could.
        let _ = reader.join();
    }
    log.close();
    let status = child.wait();
    ended.set(last.ok_or_else(|| {
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let wrote = log.tail().into_iter().map(|line| format!("; {}", line.text)).collect::<String>();
        trouble.map_or_else(|| format!("{status}{wrote}"), |error| format!("{status}, {error}{wrote}"))
    }));
}

/// A container that the helper process holds.
#[derive(Debug)]
struct EmbeddedContainer {
    address: SocketAddr,
    control: UnixStream,
    pid: Option<u32>,
    peak_file: Option<PathBuf>,
    warnings: Vec<String>,
    timings: Timings,
    stop_signal: Signal,
    log: Log,
    ended: State<Result<Ended, String>>,
    keeper: Option<JoinHandle<()>>,
}

impl EmbeddedContainer {
    /// Takes in the events up to the start of the program.
    fn follow_start(&mut self, incoming: &Receiver<Event>) -> Result<(), RunnerError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match incoming.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Event::Warning(text)) => self.warnings.push(text),
                Ok(Event::Process(pid)) => self.pid = Some(pid),
                Ok(Event::PeakFile(path)) => self.peak_file = Some(path),
                Ok(Event::Created(at)) => self.timings.created = at.instant(),
                Ok(Event::Started(at)) => {
                    self.timings.started = at.instant();
                    return Ok(());
                }
                Ok(Event::Failed(failure)) => return Err(failure.into()),
                Ok(Event::Ended(_)) | Err(_) => break,
            }
        }
        Err(match self.ended.get() {
            // Killed while it was being set up, most likely for want of memory.
            Some(Ok(end)) => RunnerError::Exited { status: end.status, log: self.log.tail() },
            Some(Err(detail)) => RunnerError::HelperLost { detail },
            None => RunnerError::HelperLost { detail: format!("it started nothing within {START_PATIENCE:?}") },
        })
    }

    fn outcome(&self, ended: Option<Result<Ended, String>>) -> Result<Option<ExitStatus>, RunnerError> {
        ended.map(|ended| ended.map(|ended| ended.status).map_err(|detail| RunnerError::HelperLost { detail })).transpose()
    }
}

impl RunningContainer for EmbeddedContainer {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn pid(&self) -> Option<u32> {
        self.pid
    }

    fn lines(&self) -> Receiver<LogLine> {
        self.log.subscribe()
    }

    fn last_lines(&self) -> Vec<LogLine> {
        self.log.tail()
    }

    fn timings(&self) -> Timings {
        self.timings
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, RunnerError> {
        self.outcome(if timeout.is_zero() { self.ended.get() } else { self.ended.wait(timeout) })
    }

    fn signal(&mut self, signal: Signal) -> Result<(), RunnerError> {
        match protocol::send(&self.control, &Order::Signal(signal.number())) {
            // The helper has ended, and therefore the container.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(source) => Err(RunnerError::Helper { program: HELPER_SUBCOMMAND.to_owned(), source }),
            Ok(()) => Ok(()),
        }
    }

    fn peak_memory(&mut self) -> Option<PeakMemory> {
        if let Some(ended) = self.ended.get() {
            return ended.ok()?.peak;
        }
        if let Some(bytes) = self.peak_file.as_deref().and_then(cgroup::read_number) {
            return Some(PeakMemory { bytes, measure: MemoryMeasure::ControlGroup });
        }
        resident_peak(self.pid?)
    }

    fn stop_signal(&self) -> Signal {
        self.stop_signal
    }
}

impl Drop for EmbeddedContainer {
    fn drop(&mut self) {
        // The helper takes the end of its input for an order to kill.
        let _ = self.control.shutdown(Shutdown::Write);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// The largest resident set of a process so far.
pub(super) fn resident_peak(pid: u32) -> Option<PeakMemory> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    let kibibytes: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(PeakMemory { bytes: kibibytes << 10, measure: MemoryMeasure::ResidentSet })
}

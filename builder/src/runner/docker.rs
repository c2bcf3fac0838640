//! [`Docker`]: containers by an engine that speaks Docker's API over a socket, Docker itself or podman.

mod endpoint;
mod follow;
mod images;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bollard::Docker as Client;
use bollard::errors::Error as EngineError;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, HostConfig, PortBinding};
use bollard::query_parameters::{CreateContainerOptions, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub use endpoint::Endpoint;
pub use images::EnginePull;

use super::command::{check_limits, listen_variables};
use super::embedded::{group_peak, resident_peak};
use super::log::{Log, LogLine};
use super::state::State;
use super::{
    ContainerImage, ContainerSpec, ExitStatus, PeakMemory, RootAccess, Runner, RunnerError, RunningContainer, Signal, TMP_BYTES,
    Timings, port,
};

/// The label that every container carries, with the number of the process that started it.
pub const LABEL: &str = "org.imgbuild.started-by";
/// Seconds until an engine that does not answer is given up.
const TIMEOUT: u64 = 120;

/// How a container reaches the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// As [`Self::Published`] where the engine has a bridge, else as [`Self::Shared`].
    #[default]
    Auto,
    /// A network of its own, with its port published on this machine's loopback.
    Published,
    /// The engine's machine's network; the server is told by variables to listen at the loopback.
    Shared,
}

/// Starts containers by an engine.
///
/// Its calls block; they must not be made from inside an asynchronous runtime. A container belongs to the engine: one whose starter
/// was killed goes on, and is found by its [`LABEL`].
#[derive(Debug, Clone)]
pub struct Docker {
    endpoint: Endpoint,
    network: Network,
}

impl Docker {
    /// Finds an engine that answers: at `DOCKER_HOST` if that is set, else at the usual sockets.
    ///
    /// # Errors
    /// Where none answers, with every address tried.
    pub fn find() -> Result<Self, RunnerError> {
        let mut tried = Vec::new();
        for endpoint in Endpoint::candidates()? {
            match Self::at(endpoint.clone()) {
                Ok(docker) => return Ok(docker),
                Err(RunnerError::Engine { source, .. }) => tried.push(format!("{endpoint} ({})", innermost(&source))),
                Err(error) => tried.push(format!("{endpoint} ({error})")),
            }
        }
        Err(RunnerError::NoEngine { tried })
    }

    /// Uses the engine at an address.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn at(endpoint: Endpoint) -> Result<Self, RunnerError> {
        Session::open(&endpoint)?;
        Ok(Self { endpoint, network: Network::Auto })
    }

    /// Chooses how containers reach the network.
    #[must_use]
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Where the engine is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Publishes where the engine has a network to publish from.
    fn choose_network(&self, session: &Session) -> Result<Network, RunnerError> {
        if self.network != Network::Auto {
            return Ok(self.network);
        }
        let networks = session.call("list networks", session.client.list_networks(None))?;
        let bridge = |name: &str| matches!(name, "bridge" | "podman");
        let has_bridge = networks.iter().any(|network| network.name.as_deref().is_some_and(bridge));
        Ok(if has_bridge { Network::Published } else { Network::Shared })
    }
}

impl Runner for Docker {
    fn name(&self) -> String {
        format!("engine at {}", self.endpoint)
    }

    fn start(&self, spec: &ContainerSpec) -> Result<Box<dyn RunningContainer>, RunnerError> {
        let asked = Instant::now();
        let ContainerImage::Named(image) = &spec.image else {
            return Err(RunnerError::Unsuited {
                runner: "engine's",
                expected: "an image in the engine's store",
                found: spec.image.clone(),
            });
        };
        check_limits(spec)?;
        let session = Session::open(&self.endpoint)?;
        let place = Place::choose(&self.endpoint, self.choose_network(&session)?, spec)?;
        let body = container_body(image, spec, &place);
        let id = match session.run(session.client.create_container(None::<CreateContainerOptions>, body)) {
            Ok(created) => created.id,
            Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => {
                return Err(RunnerError::ImageMissing { image: image.clone(), endpoint: self.endpoint.to_string() });
            }
            Err(error) => return Err(session.failed("create a container", error)),
        };
        let (log, ended) = (Log::default(), State::default());
        // From here on the container is removed by the drop of this value.
        let mut container = DockerContainer {
            session,
            id,
            address: place.address(spec.port),
            pid: None,
            peak: None,
            warnings: place.warnings(),
            timings: Timings { asked, created: Instant::now(), started: asked },
            stop_signal: spec.config.config.stop_signal.as_deref().and_then(Signal::from_name).unwrap_or(Signal::TERM),
            log,
            ended,
            follower: None,
        };
        container.start(spec, &place)?;
        Ok(Box::new(container))
    }
}

/// Where the server will be.
#[derive(Debug, Clone, Copy)]
struct Place {
    network: Network,
    /// By which address this machine reaches what the engine publishes.
    reach: IpAddr,
    /// On the engine's machine; 0 where the engine chooses.
    port: u16,
}

impl Place {
    fn choose(endpoint: &Endpoint, network: Network, spec: &ContainerSpec) -> Result<Self, RunnerError> {
        let reach = endpoint.reach()?;
        let wished = if network == Network::Shared && spec.listen.port.is_none() {
            spec.host_port.or(Some(spec.port))
        } else {
            spec.host_port
        };
        let port = match wished {
            // Ports of another machine cannot be tried from here.
            Some(port) if !reach.is_loopback() => port,
            None if network == Network::Published => 0,
            wished => port::choose(wished)?,
        };
        Ok(Self { network, reach, port })
    }

    fn address(&self, inside: u16) -> SocketAddr {
        SocketAddr::new(self.reach, if self.port == 0 { inside } else { self.port })
    }

    /// The address that the server is given to listen at, on the engine's machine.
    fn listen(&self) -> IpAddr {
        if self.reach.is_loopback() { self.reach } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
    }

    fn warnings(&self) -> Vec<String> {
        let warning =
            format!("the engine is on another machine: the container's port is open at every address of {}", self.reach);
        if self.reach.is_loopback() { Vec::new() } else { vec![warning] }
    }
}

fn container_body(image: &str, spec: &ContainerSpec, place: &Place) -> ContainerCreateBody {
    let mut environment = spec.environment.clone();
    let port = format!("{}/tcp", spec.port);
    let mut host = HostConfig {
        readonly_rootfs: Some(spec.root == RootAccess::ReadOnly),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), format!("rw,nosuid,nodev,mode=1777,size={TMP_BYTES}"))])),
        #[expect(clippy::cast_possible_truncation, reason = "checked to lie between 0.01 and 4096 cores")]
        nano_cpus: spec.cpus.map(|cpus| (cpus * 1e9).round() as i64),
        memory: spec.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        memory_swap: spec.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        ..HostConfig::default()
    };
    if place.network == Network::Shared {
        host.network_mode = Some("host".to_owned());
        environment.extend(listen_variables(spec, place.listen(), place.port));
    } else {
        let binding = PortBinding { host_ip: Some(place.listen().to_string()), host_port: Some(place.port.to_string()) };
        host.port_bindings = Some(HashMap::from([(port.clone(), Some(vec![binding]))]));
    }
    ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: (!spec.arguments.is_empty()).then(|| spec.arguments.clone()),
        exposed_ports: (place.network != Network::Shared).then(|| vec![port]),
        labels: Some(HashMap::from([(LABEL.to_owned(), std::process::id().to_string())])),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// A client with the runtime that drives it.
struct Session {
    runtime: Runtime,
    client: Client,
    endpoint: Endpoint,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.endpoint)
    }
}

impl Session {
    /// Connects and settles on a version of the API that both sides know.
    fn open(endpoint: &Endpoint) -> Result<Self, RunnerError> {
        let failed = |source| RunnerError::Helper { program: "asynchronous runtime".to_owned(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let client = runtime.block_on(endpoint.connect(TIMEOUT)).map_err(|error| RunnerError::Engine {
            action: "answer",
            endpoint: endpoint.to_string(),
            source: Box::new(error),
        })?;
        Ok(Self { runtime, client, endpoint: endpoint.clone() })
    }

    fn run<T>(&self, future: impl Future<Output = Result<T, EngineError>>) -> Result<T, EngineError> {
        self.runtime.block_on(future)
    }

    fn call<T>(&self, action: &'static str, future: impl Future<Output = Result<T, EngineError>>) -> Result<T, RunnerError> {
        self.run(future).map_err(|error| self.failed(action, error))
    }

    fn failed(&self, action: &'static str, error: EngineError) -> RunnerError {
        RunnerError::Engine { action, endpoint: self.endpoint.to_string(), source: Box::new(error) }
    }
}

/// A container that an engine holds.
#[derive(Debug)]
struct DockerContainer {
    session: Session,
    id: String,
    address: SocketAddr,
    /// Where the engine is on this machine.
    pid: Option<u32>,
    /// The last figure, for when the container has ended.
    peak: Option<PeakMemory>,
    warnings: Vec<String>,
    timings: Timings,
    stop_signal: Signal,
    log: Log,
    ended: State<Result<ExitStatus, String>>,
    follower: Option<JoinHandle<()>>,
}

impl DockerContainer {
    fn start(&mut self, spec: &ContainerSpec, place: &Place) -> Result<(), RunnerError> {
        // Attached before the start, so that no line is lost and each has the time at which it was written.
        let (attached, is_attached) = channel();
        let (started, is_started) = oneshot::channel();
        let follower = follow::Follower {
            endpoint: self.session.endpoint.clone(),
            id: self.id.clone(),
            log: self.log.clone(),
            ended: self.ended.clone(),
        };
        self.follower = Some(thread::spawn(move || follower.run(&attached, is_started)));
        match is_attached.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.session.failed("attach to the container", error)),
            Err(_) => {
                return Err(RunnerError::HelperLost { detail: "the thread that reads the container's output ended".to_owned() });
            }
        }
        self.timings.created = Instant::now();
        if let Err(error) = self.session.run(self.session.client.start_container(&self.id, None)) {
            return Err(match &error {
                EngineError::DockerResponseServerError { message, .. } if port_is_taken(message) => {
                    RunnerError::PortInUse { port: place.port }
                }
                _ => self.session.failed("start the container", error),
            });
        }
        self.timings.started = Instant::now();
        // The follower waits for this unless it has failed, which the state then tells.
        let _ = started.send(());
        let details = self.session.call("inspect the container", self.session.client.inspect_container(&self.id, None))?;
        let pid =
            details.state.as_ref().and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        self.pid = pid.filter(|pid| self.session.endpoint.is_local() && is_process_of(*pid, &self.id));
        if place.network == Network::Published && place.port == 0 {
            match published_port(&details, spec.port) {
                Some(port) => self.address.set_port(port),
                // A container that has ended already has no ports; its end is what the caller must learn.
                None if pid.is_none() => {}
                None => return Err(RunnerError::NoAddress { endpoint: self.session.endpoint.to_string(), port: spec.port }),
            }
        }
        Ok(())
    }
}

impl RunningContainer for DockerContainer {
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
        let ended = if timeout.is_zero() { self.ended.get() } else { self.ended.wait(timeout) };
        ended.map(|ended| ended.map_err(|detail| RunnerError::HelperLost { detail })).transpose()
    }

    fn signal(&mut self, signal: Signal) -> Result<(), RunnerError> {
        self.peak_memory();
        let options = KillContainerOptionsBuilder::default().signal(&signal.number().to_string()).build();
        match self.session.run(self.session.client.kill_container(&self.id, Some(options))) {
            // It has ended, or is not there any more.
            Ok(()) | Err(EngineError::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
            Err(error) => Err(self.session.failed("signal the container", error)),
        }
    }

    fn peak_memory(&mut self) -> Option<PeakMemory> {
        if let Some(pid) = self.pid.filter(|_| self.ended.get().is_none()) {
            self.peak = group_peak(pid).or_else(|| resident_peak(pid)).or(self.peak);
        }
        self.peak
    }

    fn stop_signal(&self) -> Signal {
        self.stop_signal
    }
}

impl Drop for DockerContainer {
    fn drop(&mut self) {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        // An engine that is gone has taken its containers with it, or will list this one with its label.
        let removed = self.session.run(self.session.client.remove_container(&self.id, Some(options)));
        if let Some(follower) = self.follower.take().filter(|_| removed.is_ok()) {
            let _ = follower.join();
        }
    }
}

/// The port that the engine chose on its machine.
fn published_port(details: &ContainerInspectResponse, inside: u16) -> Option<u16> {
    let ports = details.network_settings.as_ref()?.ports.as_ref()?;
    ports.get(&format!("{inside}/tcp"))?.as_ref()?.iter().find_map(|binding| binding.host_port.as_ref()?.parse().ok())
}

/// Whether a process of this machine belongs to the container: an engine may number processes otherwise than this machine does.
fn is_process_of(pid: u32, id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id))
}

fn port_is_taken(message: &str) -> bool {
    message.contains("port is already allocated") || message.contains("address already in use")
}

/// The last link of an error's chain, which says what the kernel said.
fn innermost(error: &EngineError) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::tests::config;

    #[test]
    fn a_port_on_another_machine_is_open_there_and_a_warning_says_so() {
        let endpoint: Endpoint = "tcp://192.0.2.9:2375".parse().expect("valid");
        let mut spec = ContainerSpec::named("x", config(&["/x"]));
        spec.host_port = Some(81);
        let place = Place::choose(&endpoint, Network::Published, &spec).expect("an address");
        assert_eq!(place.address(spec.port), "192.0.2.9:81".parse().expect("valid"));
        let body = container_body("x", &spec, &place);
        let bindings = body.host_config.and_then(|host| host.port_bindings).expect("published");
        let binding = PortBinding { host_ip: Some("0.0.0.0".into()), host_port: Some("81".into()) };
        assert_eq!(bindings["8080/tcp"], Some(vec![binding]));
        assert!(matches!(&place.warnings()[..], [warning] if warning.contains("192.0.2.9")));
        let local = Place::choose(&"tcp://127.0.0.1:1".parse().expect("valid"), Network::Shared, &spec).expect("an address");
        assert_eq!((local.listen(), local.warnings().len()), (IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
    }
}

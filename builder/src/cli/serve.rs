//! Starting an image and waiting until it answers, as `run`, `verify` and `record` share it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::args::{ImageArgs, RunnerChoice};
use super::failure::Failure;
use super::{Context, images};
use crate::exit_code;
use crate::image::{Descriptor, Image, ImageConfig};
use crate::layer::{self, Limits};
use crate::runner::docker::Docker;
use crate::runner::embedded::Embedded;
use crate::runner::{ContainerSpec, Runner, RunningContainer, wait_until_ready};
use crate::transport::Transport;

/// Where the server says that it is ready.
const READY: &str = "/v2/health/ready";

/// How an image is started.
#[derive(Debug)]
pub(super) struct Start {
    pub runner: RunnerChoice,
    pub environment: BTreeMap<String, String>,
    pub port: Option<u16>,
    pub cpus: Option<f64>,
    pub memory: Option<u64>,
    /// Seconds until the server must be ready.
    pub wait: u64,
    /// The container's lines go to stderr.
    pub show_lines: bool,
}

impl Start {
    /// Starts a server that takes samples, which are as large as the model makes them.
    pub fn for_data() -> Self {
        Self {
            runner: RunnerChoice::Auto,
            environment: BTreeMap::from([("IMGSERVE_MAX_BODY_BYTES".to_owned(), (2_u64 << 30).to_string())]),
            port: None,
            cpus: None,
            memory: None,
            wait: 120,
            show_lines: false,
        }
    }
}

/// A server that is ready. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Serving {
    pub container: Box<dyn RunningContainer>,
    /// The image's manifest.
    pub manifest: Descriptor,
    pub config: ImageConfig,
    /// What started it.
    pub runner: String,
    /// How long it took until it was ready.
    pub ready: Duration,
    log: Option<std::thread::JoinHandle<()>>,
    // The folder lives as long as the container, which is dropped first.
    _root: TempDir,
}

impl Serving {
    /// Starts an image and waits until its server is ready.
    pub fn start(context: &Context, args: &ImageArgs, start: &Start) -> Result<Self, Failure> {
        let (transport, image) = images::open(context, &args.image, args.choice(), &args.registry)?;
        let in_daemon = match &transport {
            Transport::DockerDaemon { name } => Some(name.to_string()),
            _ => None,
        };
        Self::of_image(context, &image, in_daemon, &args.image, start)
    }

    /// Starts an image that was opened; `in_daemon` is its name in Docker where it is there, `place` what errors call it.
    pub fn of_image(
        context: &Context,
        image: &Image,
        in_daemon: Option<String>,
        place: &str,
        start: &Start,
    ) -> Result<Self, Failure> {
        let config = images::config_of(image)?;
        let use_docker = match start.runner {
            RunnerChoice::Docker => true,
            RunnerChoice::Embedded => false,
            RunnerChoice::Auto => in_daemon.is_some(),
        };
        let root = context.store()?.scratch_folder()?;
        let (runner, mut spec): (Box<dyn Runner>, ContainerSpec) = if use_docker {
            let name = in_daemon.ok_or_else(|| {
                Failure::new(format!("Docker runs images that are in it, and `{place}` is not"), exit_code::UNUSABLE_INPUT)
                    .with_hint(format!("`imgbuild push {place} docker-daemon:NAME:TAG` puts it there"))
            })?;
            (Box::new(Docker::find()?), ContainerSpec::named(name, config.clone()))
        } else {
            layer::unpack(&image.parsed.layers, image.blobs.as_ref(), root.path(), &Limits::default(), &context.progress)
                .map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))?;
            (Box::new(Embedded::new()?), ContainerSpec::unpacked(root.path(), config.clone()))
        };
        spec.environment.clone_from(&start.environment);
        spec.host_port = start.port;
        spec.cpus = start.cpus;
        spec.memory = start.memory;
        let started = Instant::now();
        let mut container = runner.start(&spec)?;
        for warning in container.warnings() {
            context.progress.warn(warning.clone());
        }
        let log = start.show_lines.then(|| {
            let lines = container.lines();
            std::thread::spawn(move || {
                for line in lines {
                    eprintln!("{}", line.text);
                }
            })
        });
        wait_until_ready(container.as_mut(), READY, Duration::from_secs(start.wait))?;
        Ok(Self {
            container,
            manifest: image.descriptor(),
            config,
            runner: runner.name(),
            ready: started.elapsed(),
            log,
            _root: root,
        })
    }

    /// Where the server answers.
    pub fn address(&self) -> SocketAddr {
        self.container.address()
    }

    /// Waits until the last lines were shown.
    pub fn finish(self) {
        let Self { container, log, _root, .. } = self;
        drop(container);
        if let Some(log) = log {
            let _ = log.join();
        }
    }
}

//! `imgbuild run`: starts an image, prints its address, and ends it with this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::args::{RunArgs, RunnerChoice};
use super::failure::Failure;
use super::{Context, images, print};
use crate::exit_code;
use crate::image::ImageConfig;
use crate::layer::{self, Limits};
use crate::runner::docker::Docker;
use crate::runner::embedded::Embedded;
use crate::runner::{ContainerSpec, Runner, wait_until_ready};
use crate::transport::Transport;

/// Where the server says that it is ready.
const READY: &str = "/v2/health/ready";
/// How long a server may take to finish what it is doing.
const DRAIN: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let (transport, image) = images::open(context, &args.image.image, args.image.platform, &args.image.registry)?;
    let config: ImageConfig =
        serde_json::from_slice(&image.config).map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))?;
    let in_daemon = match &transport {
        Transport::DockerDaemon { name } => Some(name.to_string()),
        _ => None,
    };
    let use_docker = match args.runner {
        RunnerChoice::Docker => true,
        RunnerChoice::Embedded => false,
        RunnerChoice::Auto => in_daemon.is_some(),
    };
    let store = context.store()?;
    // The folder lives as long as the container.
    let root = store.scratch_folder()?;
    let (runner, mut spec): (Box<dyn Runner>, ContainerSpec) = if use_docker {
        let name = in_daemon.ok_or_else(|| {
            Failure::new(
                format!("Docker runs images that are in it, and `{}` is not", args.image.image),
                exit_code::UNUSABLE_INPUT,
            )
            .with_hint(format!("`imgbuild push {} docker-daemon:NAME:TAG` puts it there", args.image.image))
        })?;
        (Box::new(Docker::find()?), ContainerSpec::named(name, config))
    } else {
        layer::unpack(&image.parsed.layers, image.blobs.as_ref(), root.path(), &Limits::default(), &context.progress)
            .map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))?;
        (Box::new(Embedded::new()?), ContainerSpec::unpacked(root.path(), config))
    };
    spec.environment = environment(&args.env)?;
    spec.host_port = args.port;
    spec.cpus = args.cpus;
    spec.memory = args.memory.map(|size| size.0);

    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(|error| Failure::new(error, exit_code::FAILURE))?;
    }
    let started = Instant::now();
    let mut container = runner.start(&spec)?;
    for warning in container.warnings() {
        context.progress.warn(warning.clone());
    }
    let lines = container.lines();
    let log = std::thread::spawn(move || {
        for line in lines {
            eprintln!("{}", line.text);
        }
    });
    wait_until_ready(container.as_mut(), READY, Duration::from_secs(args.wait))?;
    let seconds = started.elapsed().as_secs_f64();
    let address = format!("http://{}", container.address());
    if args.json {
        print(&format!("{}\n", serde_json::json!({ "address": address, "ready_seconds": seconds, "runner": runner.name() })));
    } else {
        print(&format!("{address}\n"));
    }
    let status = loop {
        if ended.load(Ordering::Relaxed) {
            break container.stop(DRAIN)?;
        }
        if let Some(status) = container.wait(Duration::from_millis(50))? {
            break status;
        }
    };
    drop(container);
    let _ = log.join();
    if ended.load(Ordering::Relaxed) || status.success() {
        return Ok(exit_code::SUCCESS);
    }
    Err(Failure::new(format!("the container ended by itself: {status}"), exit_code::CONTAINER))
}

fn environment(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    pairs
        .iter()
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| Failure::new(format!("`{pair}` is no variable, expected NAME=VALUE"), exit_code::USAGE))?;
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

//! `imgbuild coldstart`: measures how long an image takes from nothing to its first answer, and says where the time goes.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::args::{ImageArgs, RunnerChoice};
use super::failure::Failure;
use super::{Context, images, print, print_json};
use crate::cold_start::{Load, Origin, Request, Starter, measure_together};
use crate::exit_code;
use crate::image::Image;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::report::cold_start::{Link, render};
use crate::runner::docker::Docker;
use crate::runner::embedded::Embedded;
use crate::transport::Transport;

/// `imgbuild coldstart`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild coldstart oci:model.oci
      serves the layout on the loopback, pulls it from there and starts it, 5 times cold and 5 times warm
  imgbuild coldstart docker://localhost:5000/acme/magika:1 --runs 20 --report coldstart.json
      pulls from a registry and writes the report
  imgbuild coldstart oci:model.oci --link 100Mbit/s,20ms --clients 1,8 --seconds 10
      downloads no faster than over that link; then 10 seconds of load with 1 client and with 8
  imgbuild coldstart oci:model.oci --against docker://localhost:5000/acme/magika:1 --report head.json --against-report base.json
      measures both in turn, so that small differences can be told from noise: `imgbuild compare base.json head.json`
  imgbuild coldstart docker://localhost:5000/acme/magika:1 --runner docker
      lets Docker or podman pull and start it")]
pub struct ColdstartArgs {
    #[command(flatten)]
    pub image: ImageArgs,

    /// How often it is pulled and started
    #[arg(long, value_name = "N", default_value = "5")]
    pub runs: NonZeroUsize,

    /// What starts it
    #[arg(long, value_enum, default_value = "auto")]
    pub runner: RunnerChoice,

    /// Pull it from this repository of a registry, which has it already
    #[arg(long, value_name = "REGISTRY/NAME")]
    pub from: Option<Reference>,

    /// Measure another image in the same session, a run of each in turn
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    pub against: Option<String>,

    /// Write the other image's report here
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "against")]
    pub against_report: Option<PathBuf>,

    /// Receive no faster than over a link, such as 1Gbit/s,5ms
    #[arg(long, value_name = "RATE,ROUND-TRIP")]
    pub link: Option<Link>,

    /// Numbers of clients for the steady load
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub clients: Vec<u64>,

    /// Seconds of load for each number of clients
    #[arg(long, value_name = "N", default_value_t = 2.0, conflicts_with = "requests")]
    pub seconds: f64,

    /// Requests for each number of clients, in place of seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,

    /// Folder with the model's test data, input_0.pb and so on [default: zeros of the model's shapes]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub data: Option<PathBuf>,

    /// Seconds to wait until the server is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub wait: u64,

    /// Write the report here
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,

    /// Print the report as JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

pub(super) fn coldstart(context: &Context, args: ColdstartArgs) -> Result<u8, Failure> {
    let load = match args.requests {
        Some(requests) => Load::Requests(requests),
        None => Load::Time(Duration::try_from_secs_f64(args.seconds).map_err(|error| Failure::new(error, exit_code::USAGE))?),
    };
    let opened = |image: &String| images::open(context, image, args.image.choice(), &args.image.registry);
    let (transport, image) = opened(&args.image.image)?;
    let other = args.against.as_ref().map(opened).transpose()?;
    let starter = choose(args.runner, &transport)?;
    if args.link.is_some() && matches!(starter, Starter::Engine(_)) {
        return Err(Failure::new(
            "`--link` shapes imgbuild's own download, and the engine downloads by itself",
            exit_code::USAGE,
        )
        .with_hint("`--runner embedded` downloads with imgbuild"));
    }
    let interrupted = interruption()?;
    let store = context.store()?;
    let request = |transport: &Transport, image, starter, from| {
        let origin = origin(transport, image, &starter, from);
        let target = match &origin {
            Origin::Registry(reference) => Some(reference.registry.clone()),
            Origin::Served | Origin::Engine(_) => None,
        };
        Request {
            image,
            origin,
            platform: args.image.platform.unwrap_or_else(Platform::host),
            starter,
            settings: images::settings(&args.image.registry, target.as_deref()),
            store: &store,
            runs: args.runs.get(),
            link: args.link,
            clients: args.clients.clone(),
            load,
            data: args.data.clone(),
            patience: Duration::from_secs(args.wait),
            interrupted: &interrupted,
        }
    };
    let mut requests = vec![request(&transport, &image, starter, args.from.clone())];
    if let Some((transport, image)) = &other {
        requests.push(request(transport, image, choose(args.runner, transport)?, None));
    }
    let reports = measure_together(&requests, &context.progress)?;
    for (report, path) in reports.iter().zip([&args.report, &args.against_report]) {
        if let Some(path) = path {
            report.save(path)?;
        }
    }
    match (&reports[..], args.json) {
        ([report], true) => print(&report.to_json()),
        (reports, true) => print_json(&reports),
        (reports, false) => print(&reports.iter().map(render).collect::<Vec<_>>().join("\n")),
    }
    Ok(exit_code::SUCCESS)
}

/// A flag that an interruption sets from now on.
pub(super) fn interruption() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).map_err(|error| Failure::new(error, exit_code::FAILURE))?;
    }
    Ok(interrupted)
}

/// An engine where it was asked for, or where the image is in it.
fn choose(choice: RunnerChoice, transport: &Transport) -> Result<Starter, Failure> {
    let engine = match choice {
        RunnerChoice::Docker => true,
        RunnerChoice::Embedded => false,
        RunnerChoice::Auto => matches!(transport, Transport::DockerDaemon { .. }),
    };
    Ok(if engine { Starter::Engine(Docker::find()?) } else { Starter::Embedded(Embedded::new()?) })
}

fn origin(transport: &Transport, image: &Image, starter: &Starter, from: Option<Reference>) -> Origin {
    match (from, transport, starter) {
        // By digest: a tag might name another image there.
        (Some(from), ..) => Origin::Registry(Reference { digest: Some(image.descriptor().digest), tag: None, ..from }),
        (None, Transport::Registry(reference), _) => Origin::Registry(reference.clone()),
        (None, Transport::DockerDaemon { name }, Starter::Engine(_)) => Origin::Engine(name.to_string()),
        (None, ..) => Origin::Served,
    }
}

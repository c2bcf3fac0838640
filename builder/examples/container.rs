//! Starts a folder as a container without an engine: `container ROOT [VARIABLE=VALUE…] PROGRAM [ARGUMENT…]`.
//!
//! Prints the container's address and process, then its lines, until it ends. Shows what a command that embeds the library does
//! first in `main`.

use std::collections::BTreeMap;
use std::env::args;
use std::process::ExitCode;
use std::time::Duration;

use imgbuild::image::{ContainerConfig, ImageConfig, RootFs};
use imgbuild::runner::embedded::{Embedded, HELPER_SUBCOMMAND, helper_main};
use imgbuild::runner::{ContainerSpec, Runner as _, RunnerError};

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command")]
fn main() -> ExitCode {
    if args().nth(1).as_deref() == Some(HELPER_SUBCOMMAND) {
        return helper_main().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    match run() {
        Ok(status) => {
            println!("{status}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command")]
fn run() -> Result<String, RunnerError> {
    let mut words = args().skip(1).peekable();
    let root = words.next().unwrap_or_else(|| "rootfs".to_owned());
    let mut environment = BTreeMap::new();
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        environment.insert(name.to_owned(), value.to_owned());
        words.next();
    }
    let config = ImageConfig {
        created: None,
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        config: ContainerConfig {
            user: Some("65532:65532".to_owned()),
            entrypoint: Some(words.collect()),
            ..ContainerConfig::default()
        },
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() },
        history: Vec::new(),
        other: BTreeMap::new(),
    };
    let mut spec = ContainerSpec::unpacked(root, config);
    spec.environment = environment;
    let mut container = Embedded::new()?.start(&spec)?;
    println!("{} {}", container.address(), container.pid().unwrap_or_default());
    let timings = container.timings();
    println!("created after {:?}, started {:?} later", timings.created - timings.asked, timings.started - timings.created);
    for line in container.lines() {
        println!("{}", line.text);
    }
    let status = container.wait(Duration::MAX)?;
    Ok(status.map_or_else(|| "still running".to_owned(), |status| status.to_string()))
}

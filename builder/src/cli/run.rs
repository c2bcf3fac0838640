//! `imgbuild run`: starts an image, prints its address, and ends it with this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::args::RunArgs;
use super::failure::Failure;
use super::serve::{Serving, Start};
use super::{Context, print};
use crate::exit_code;

/// How long a server may take to finish what it is doing.
const DRAIN: Duration = Duration::from_secs(30);

pub(super) fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended)).map_err(|error| Failure::new(error, exit_code::FAILURE))?;
    }
    let start = Start {
        runner: args.runner,
        environment: environment(&args.env)?,
        port: args.port,
        cpus: args.cpus,
        memory: args.memory.map(|size| size.0),
        wait: args.wait,
        show_lines: true,
    };
    let mut serving = Serving::start(context, &args.image, &start)?;
    let address = format!("http://{}", serving.address());
    if args.json {
        let seconds = serving.ready.as_secs_f64();
        print(&format!("{}\n", serde_json::json!({ "address": address, "ready_seconds": seconds, "runner": serving.runner })));
    } else {
        print(&format!("{address}\n"));
    }
    let status = loop {
        if ended.load(Ordering::Relaxed) {
            break serving.container.stop(DRAIN)?;
        }
        if let Some(status) = serving.container.wait(Duration::from_millis(50))? {
            break status;
        }
    };
    serving.finish();
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

//! What the library reports, shown on stderr: progress bars at a terminal, plain lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::progress::{Event, Progress, Unit};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity {
    /// Warnings are shown.
    pub warnings: bool,
    /// Steps are shown.
    pub notes: bool,
    /// Bars are shown, at a terminal.
    pub bars: bool,
}

impl Verbosity {
    /// From the counts of `--quiet` and `--verbose`.
    #[must_use]
    pub fn new(quiet: bool, verbose: u8) -> Self {
        Self { warnings: !quiet, notes: verbose > 0, bars: !quiet && std::io::stderr().is_terminal() }
    }
}

/// Shows events on stderr.
#[must_use]
pub fn progress(verbosity: Verbosity) -> Progress {
    let bars =
        MultiProgress::with_draw_target(if verbosity.bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
    let running: Mutex<HashMap<u64, ProgressBar>> = Mutex::default();
    Progress::new(move |event| {
        let say = |text: String| {
            // A hidden draw target drops lines too, so they are written past it.
            if verbosity.bars {
                bars.suspend(|| eprintln!("{text}"));
            } else {
                eprintln!("{text}");
            }
        };
        let mut running = running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match event {
            Event::Started { task, name, total, unit } if verbosity.bars => {
                running.insert(task, bars.add(bar(name, total, unit)));
            }
            Event::Advanced { task, amount } => {
                if let Some(bar) = running.get(&task) {
                    bar.inc(amount);
                }
            }
            Event::Finished { task } => {
                if let Some(bar) = running.remove(&task) {
                    bar.finish_and_clear();
                }
            }
            Event::Warning(text) if verbosity.warnings => say(format!("warning: {text}")),
            Event::Note(text) if verbosity.notes => say(text),
            Event::Started { .. } | Event::Warning(_) | Event::Note(_) => {}
        }
    })
}

fn bar(name: String, total: Option<u64>, unit: Unit) -> ProgressBar {
    let template = match (total, unit) {
        (Some(_), Unit::Bytes) => {
            "{msg:<36} {bar:24} {decimal_bytes:>10} of {decimal_total_bytes:<10} {decimal_bytes_per_sec:>12} {eta:>4}"
        }
        (None, Unit::Bytes) => "{msg:<36} {spinner} {decimal_bytes:>10}",
        (Some(_), Unit::Things) => "{msg:<36} {bar:24} {human_pos:>10} of {human_len:<10} {per_sec:>12} {eta:>4}",
        (None, Unit::Things) => "{msg:<36} {spinner} {human_pos:>10} {per_sec:>12}",
    };
    let bar = ProgressBar::no_length();
    if let Some(total) = total {
        bar.set_length(total);
    }
    bar.set_style(ProgressStyle::with_template(template).expect("the templates above are valid"));
    bar.set_message(name);
    bar
}

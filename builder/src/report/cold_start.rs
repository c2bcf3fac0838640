//! How long an image takes from nothing to its first answer, phase by phase: [`ColdStartReport`], written by `imgbuild coldstart`.
//!
//! The format is described in `docs/spec/cold-start-report.md`. A single number says nothing about what to fix, so every time is of a phase.

mod table;
#[cfg(test)]
mod tests;

pub use table::{LinkError, render};

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ImageIdentity, ReportError};
use crate::runner::PeakMemory;

/// The format's name, the first key of the file.
pub const SCHEMA: &str = "imgbuild.cold-start";
/// The newest version of the format.
pub const VERSION: u32 = 1;

/// A cold-start report. All times are milliseconds, all sizes bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColdStartReport {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The format's version.
    pub version: u32,
    /// The builder's version.
    pub imgbuild: String,
    /// The image.
    pub image: ImageIdentity,
    /// The name the model is served under.
    pub model: String,
    /// Name of the stack, where the image says so.
    pub stack: Option<String>,
    /// Where the image was pulled from: `registry` (over the network protocol) or `local` (a layout or archive).
    pub source: Source,
    /// What started it: `embedded`, or the engine's name and version.
    pub runner: String,
    /// The link that the download was shaped to, where it was.
    pub link: Option<Link>,
    /// On what it was measured.
    pub machine: Machine,
    /// The name of the session, in which other images may have been measured in turn; not known of reports of earlier builders.
    #[serde(default)]
    pub session: Option<String>,
    /// The starts with the file cache cold and warm: one column each, cold first.
    pub columns: Vec<Column>,
    /// Latency and throughput once it runs, by number of clients.
    pub steady: Vec<Steady>,
    /// The most memory that the container used.
    pub peak_memory: Option<PeakMemory>,
    /// What of each file was in memory when the first answer was given: what a lazy puller would have to fetch. Largest first.
    pub touched: Vec<TouchedFile>,
    /// Time from nothing to the first answer over other links, computed from the measured phases.
    pub predictions: Vec<Prediction>,
}

/// Where the image came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A registry, by its protocol.
    Registry,
    /// A layout or archive on this machine.
    Local,
}

/// A network link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Bits per second.
    pub bits_per_second: f64,
    /// Round-trip time, milliseconds.
    pub latency_ms: f64,
}

/// What a report was measured on. Reports of unlike machines are not compared by accident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// For instance `x86_64`.
    pub architecture: String,
    /// Cores that this process may use.
    pub cores: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's name and release.
    pub kernel: String,
    /// File system and device of the store.
    pub disk: String,
}

/// What was in the page cache when a start began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageCache {
    /// The image's files were dropped from it before each start.
    Cold,
    /// They were in it.
    Warm,
}

/// Starts under one state of the page cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The state.
    pub cache: PageCache,
    /// How it was brought about, in words.
    pub how: String,
    /// The phases in their order; each phase as often as it was run.
    pub phases: Vec<PhaseTimes>,
    /// From the call that starts the container to the first answer: `create` to `first_inference`.
    pub start_to_first_answer: Spread,
    /// The part of that time, 0 to 1, during which some task of the machine was ready to run and had no CPU, over all starts. `None` where
    /// the kernel does not say, and not known of reports of earlier builders.
    #[serde(default)]
    pub contention: Option<f64>,
}

/// One phase of a cold start, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Name to manifest and config.
    Resolve,
    /// The layers arrive.
    Download,
    /// They are decompressed and unpacked.
    Unpack,
    /// File systems, namespaces and limits are made.
    Create,
    /// The program is executed.
    Start,
    /// From there to the server's first line, its options read and its address bound.
    Exec,
    /// The runtime's library is opened.
    Dlopen,
    /// The model is loaded.
    Session,
    /// It is run once by the server itself.
    WarmUp,
    /// From there until readiness is seen from outside.
    Ready,
    /// The first request of a client.
    FirstInference,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 11] = [
        Self::Resolve,
        Self::Download,
        Self::Unpack,
        Self::Create,
        Self::Start,
        Self::Exec,
        Self::Dlopen,
        Self::Session,
        Self::WarmUp,
        Self::Ready,
        Self::FirstInference,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Download => "download",
            Self::Unpack => "unpack",
            Self::Create => "create",
            Self::Start => "start",
            Self::Exec => "exec",
            Self::Dlopen => "dlopen",
            Self::Session => "session",
            Self::WarmUp => "warm_up",
            Self::Ready => "ready",
            Self::FirstInference => "first_inference",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How long a phase took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseTimes {
    /// Which phase.
    pub phase: Phase,
    /// Its times.
    pub times: Spread,
}

/// Repeated measurements of one thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// Every sample in the order in which they were taken; never empty.
    pub samples: Vec<f64>,
}

impl Spread {
    /// From its samples; `None` where there are none.
    #[must_use]
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() {
            0 => return None,
            count if count % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        };
        Some(Self { median, samples })
    }

    /// The smallest sample.
    #[must_use]
    pub fn smallest(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The largest sample.
    #[must_use]
    pub fn largest(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// The server under load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steady {
    /// Clients that ask one request after the other.
    pub clients: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Latency that half of the requests stay within.
    pub p50_ms: f64,
    /// Latency that 95 % stay within.
    pub p95_ms: f64,
    /// Latency that 99 % stay within.
    pub p99_ms: f64,
    /// Answers per second.
    pub per_second: f64,
}

/// How much of a file was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TouchedFile {
    /// Where it is in the image.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Bytes that were in memory, in whole pages.
    pub touched: u64,
}

/// A computed time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// Over this link.
    pub link: Link,
    /// The download.
    pub download_ms: f64,
    /// From nothing to the first answer, page cache cold.
    pub total_ms: f64,
}

impl ColdStartReport {
    /// The report as it is written: indented JSON with a final newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has string keys only");
        text.push('\n');
        text
    }

    /// Writes the report: whole, or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ReportError> {
        crate::files::write_atomically(path, self.to_json().as_bytes())
            .map_err(|source| ReportError::Write { path: path.to_owned(), source })
    }

    /// Reads a report and checks that it holds together.
    ///
    /// # Errors
    /// Where the file cannot be read, or as [`ColdStartReport::parse`].
    pub fn load(path: &Path) -> Result<Self, ReportError> {
        let text = std::fs::read_to_string(path).map_err(|source| ReportError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a report from its text and checks that it holds together; `path` is only for the error.
    ///
    /// # Errors
    /// Where the text is no report, is of another version, or contradicts itself.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ReportError> {
        let report: Self = super::parse_versioned(text, path, SCHEMA, VERSION)?;
        report.check(path)?;
        Ok(report)
    }

    /// From nothing to the first answer: the medians of a column's phases, added up.
    #[must_use]
    pub fn total(column: &Column) -> f64 {
        column.phases.iter().map(|phase| phase.times.median).sum()
    }

    fn check(&self, path: &Path) -> Result<(), ReportError> {
        let wrong = |what: String, found: f64, expected: f64| ReportError::Times { path: path.to_owned(), what, found, expected };
        let check_spread = |what: String, spread: &Spread| {
            if spread.samples.iter().any(|sample| !sample.is_finite() || *sample < 0.0) {
                return Err(wrong(format!("a sample of {what}"), spread.smallest(), 0.0));
            }
            let expected = Spread::of(spread.samples.clone()).map_or(f64::NAN, |again| again.median);
            if (spread.median - expected).abs() <= 1e-6 * expected.abs() {
                Ok(())
            } else {
                Err(wrong(what, spread.median, expected))
            }
        };
        for column in &self.columns {
            for phase in &column.phases {
                check_spread(format!("the median of {}", phase.phase), &phase.times)?;
            }
            check_spread("the median of start_to_first_answer".to_owned(), &column.start_to_first_answer)?;
            if let Some(part) = column.contention.filter(|part| !(0.0..=1.0).contains(part)) {
                return Err(ReportError::Contention { path: path.to_owned(), found: part });
            }
        }
        Ok(())
    }
}

//! One model in several forms, and which of them to ship: [`Choice`], made by `imgbuild choose`.
//!
//! Each [`Form`] was built, held against the first and measured by the caller; [`recommend()`] weighs the figures. What could not be
//! done has its reason in the form. `docs/spec/choose.md` describes the JSON and how the recommendation is made.

mod recommend;
mod render;

pub use recommend::recommend;
pub use render::{markdown, text};

use serde::Serialize;

use crate::digest::Digest;
use crate::report::cold_start::{ColdStartReport, Machine, PageCache, Steady};
use crate::runner::PeakMemory;
use crate::verify::report::DataIdentity;

/// The format's name, the first key of the JSON.
pub const SCHEMA: &str = "imgbuild.choice";
/// The version of the format.
pub const VERSION: u32 = 1;

/// Forms of one model side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// The format's version.
    pub version: u32,
    /// The builder's version.
    pub imgbuild: &'static str,
    /// On what it was measured; absent where nothing could be started.
    pub machine: Option<Machine>,
    /// The test set; absent where there is none, and no form was held against another.
    pub data: Option<DataIdentity>,
    /// The forms in the order in which they were named; the first is what the others are held against.
    pub forms: Vec<Form>,
    /// Which one to take; absent where no form has every figure and answers as it should.
    pub recommendation: Option<Recommendation>,
}

/// The model in one form, on one stack.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Form {
    /// What tells it from the others.
    pub name: String,
    /// Digest of its image's manifest.
    pub image: Option<Digest>,
    /// Its stack.
    pub stack: Option<String>,
    /// Bytes of its image.
    pub size: Option<Size>,
    /// How it starts and answers.
    pub speed: Option<Speed>,
    /// Whether it answers as the first form does.
    pub verdict: Verdict,
    /// What is not there, and why.
    pub missing: Vec<String>,
}

/// Bytes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// As it travels.
    pub compressed: u64,
    /// Its files.
    pub unpacked: u64,
}

/// How an image starts and answers; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Speed {
    /// What was in the page cache at its starts.
    pub cache: PageCache,
    /// From nothing, pulled from the loopback, to the first answer: the sum of the phases' medians.
    pub cold_start: f64,
    /// From there without the pull: the median.
    pub start: f64,
    /// How often it was started.
    pub runs: usize,
    /// Latency that half of the requests stay within, with one client.
    pub latency: f64,
    /// The most answers per second, and with how many clients.
    pub per_second: f64,
    /// The number of clients of that.
    pub clients: u64,
    /// Every load.
    pub steady: Vec<Steady>,
    /// The most memory that it used.
    pub memory: Option<PeakMemory>,
}

/// Whether a form answers as the first one does.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Verdict {
    /// It is the first.
    Reference,
    /// It does, within the policy.
    Passed {
        /// The largest relative root mean square error of an output.
        relative_rmse: f64,
    },
    /// It does not.
    Failed {
        /// The largest relative root mean square error of an output.
        relative_rmse: f64,
        /// The outputs that differ.
        outputs: Vec<String>,
    },
    /// Nobody knows; the reason is among what is missing.
    Unknown,
}

/// Which form to take, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recommendation {
    /// Its name.
    pub form: String,
    /// Sentences with its figures.
    pub reasons: Vec<String>,
}

impl Speed {
    /// What of a cold-start report is held against other forms; `None` where it has no start or no load.
    #[must_use]
    pub fn of(report: &ColdStartReport) -> Option<Self> {
        let column = report.columns.first()?;
        let first = report.steady.iter().find(|steady| steady.clients == 1).or_else(|| report.steady.first())?;
        let most = report.steady.iter().max_by(|a, b| a.per_second.total_cmp(&b.per_second))?;
        Some(Self {
            cache: column.cache,
            cold_start: ColdStartReport::total(column),
            start: column.start_to_first_answer.median,
            runs: column.start_to_first_answer.samples.len(),
            latency: first.p50_ms,
            per_second: most.per_second,
            clients: most.clients,
            steady: report.steady.clone(),
            memory: report.peak_memory,
        })
    }
}

impl Verdict {
    /// The verdict of a verification against the first form.
    #[must_use]
    pub fn of(outputs: &[crate::verify::OutputReport]) -> Self {
        let relative_rmse = outputs.iter().map(|output| output.metrics.relative_rmse).fold(0.0, f64::max);
        let failed: Vec<String> = outputs.iter().filter(|output| !output.passed).map(|output| output.name.clone()).collect();
        if failed.is_empty() { Self::Passed { relative_rmse } } else { Self::Failed { relative_rmse, outputs: failed } }
    }
}

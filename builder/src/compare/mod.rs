//! What became of an image: size reports, cold-start reports and images held against one another. Pure: [`Subject`]s in, [`Comparisons`] out.
//!
//! `docs/spec/compare.md` describes the output, the noise bound and the budget file.

mod arithmetic;
mod difference;
mod history;
mod limits;
mod noise;
pub mod render;
mod subject;

pub use difference::{Change, ColdStartDifference, ColumnDifference, PartDifference, PhaseDifference, SizeDifference};
pub use history::{History, Point};
pub use limits::{Excess, Growth, Limits, SIZE_FLOOR};
use noise::Sessions;
pub use noise::{DEFAULT_STRICTNESS, FEWEST_SAMPLES, Verdict};
pub use subject::{Amount, AnyReport, Argument, Part, Sizes, Subject, reports_of_folder};

use std::path::PathBuf;

use serde::Serialize;

use crate::digest::Digest;
use crate::report::ReportError;
use crate::report::cold_start::{ColdStartReport, Column};
use crate::template::strict::StrictError;

/// The format's name, the first key of the JSON output.
pub const SCHEMA: &str = "imgbuild.comparison";
/// The version of the JSON output.
pub const VERSION: u32 = 1;
/// Differences of time below this are none, milliseconds.
pub const TIME_FLOOR: f64 = 5.0;

/// How it is compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Unlike models, platforms and machines may be compared.
    pub allow_different: bool,
    /// Standard errors that a difference of times must exceed.
    pub strictness: f64,
    /// What the heads must stay within.
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Self { allow_different: false, strictness: DEFAULT_STRICTNESS, limits: Limits::default() }
    }
}

/// One image as the output names it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Side {
    /// As the user named it.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Option<Digest>,
    /// For instance `linux/amd64`.
    pub platform: Option<String>,
    /// The name the model is served under.
    pub model: Option<String>,
    /// Name of the stack.
    pub stack: Option<String>,
    /// The whole image.
    pub total: Amount,
    /// From nothing to the first answer, milliseconds.
    pub cold_start_ms: Option<f64>,
}

/// A head held against the base.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The base's name.
    pub base: String,
    /// The head's name.
    pub head: String,
    /// What became of the sizes, where both sides know them.
    pub size: Option<SizeDifference>,
    /// What became of the cold start, where both sides know it.
    pub cold_start: Option<ColdStartDifference>,
}

/// Every head held against the base, and what is over a limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparisons {
    /// Always [`SCHEMA`].
    pub schema: &'static str,
    /// The format's version.
    pub version: u32,
    /// The images, the base first.
    pub images: Vec<Side>,
    /// A comparison for each head.
    pub comparisons: Vec<Comparison>,
    /// What is over a limit; empty where all is within.
    pub over: Vec<Excess>,
    /// Tells whether there were limits.
    pub limited: bool,
    /// What is not known, and what was compared although it is unlike.
    pub notes: Vec<String>,
}

/// Why something cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A report cannot be used.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A file is JSON, and no report that can be compared.
    #[error("`{path}` is {found}, expected `imgbuild.size` or `imgbuild.cold-start`")]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: String,
    },
    /// A folder has no report.
    #[error("`{folder}` holds no report, expected files that end in `.json`")]
    NoReports {
        /// The folder.
        folder: PathBuf,
    },
    /// A size and a cold-start report given as one are of two images.
    #[error("the reports of `{name}` are of two images: {first} and {second}")]
    TwoImages {
        /// The argument.
        name: String,
        /// The digest of the first.
        first: String,
        /// That of the second.
        second: String,
    },
    /// Two size reports or two cold-start reports were given as one image.
    #[error("`{name}` has two reports of a kind, expected at most one size report and one cold-start report")]
    TwoOfAKind {
        /// The argument.
        name: String,
    },
    /// An image's config cannot be read.
    #[error("failed to read the config of `{name}`")]
    Config {
        /// The image.
        name: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// Both sides are something else.
    #[error("{what} of `{head}` is {found}, and of `{base}` it is {expected}: they are not compared by accident")]
    Different {
        /// What is unlike.
        what: String,
        /// The base.
        base: String,
        /// The head.
        head: String,
        /// The head's.
        found: String,
        /// The base's.
        expected: String,
    },
    /// One side has only sizes, the other only times.
    #[error("`{base}` and `{head}` have nothing in common: one has sizes, the other cold starts")]
    NothingInCommon {
        /// The base.
        base: String,
        /// The head.
        head: String,
    },
    /// There is no level `package` in what shall be held against it.
    #[error("`{name}` does not say how big the whole packages are, expected a size report")]
    NoBaseline {
        /// The head.
        name: String,
    },
    /// A limit is set on what nothing was measured of.
    #[error("`{name}` does not say {what}, on which a limit is set")]
    NotMeasured {
        /// The head.
        name: String,
        /// What is not known.
        what: &'static str,
    },
    /// A budget file cannot be read.
    #[error("failed to read the budget `{path}`")]
    ReadBudget {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A budget file is none.
    #[error("failed to understand the budget")]
    Budget(#[from] StrictError),
}

impl CompareError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Budget(error) => error.hint(),
            Self::Different { .. } => Some("`--allow-different` compares them nevertheless".to_owned()),
            Self::NothingInCommon { .. } => Some("name both reports of an image as `size.json+cold.json`".to_owned()),
            Self::NotMeasured { .. } => Some("`build --report` and `coldstart --report` write what is needed".to_owned()),
            _ => None,
        }
    }
}

/// Compares every head with the base and holds it against the limits. With no head, the base itself is held against them.
///
/// # Errors
/// Where sides are unlike and that was not allowed, or have nothing in common, or a limit is on what is not known.
pub fn compare(base: &Subject, heads: &[Subject], options: &Options) -> Result<Comparisons, CompareError> {
    let mut notes = base.unknown.clone();
    let mut comparisons = Vec::new();
    let mut over = Vec::new();
    for head in heads {
        check_likeness(base, head, options, &mut notes)?;
        let comparison = hold_against(base, head, options)?;
        check_compared(&comparison, &options.limits)?;
        notes.extend(undecided(&comparison, &options.limits));
        notes.extend(apart(base, head));
        notes.extend(busy(base, head));
        over.extend(options.limits.check_growth(&comparison));
        comparisons.push(comparison);
        notes.extend(head.unknown.iter().cloned());
    }
    let held = if heads.is_empty() { std::slice::from_ref(base) } else { heads };
    for subject in held {
        check_measured(subject, &options.limits)?;
        over.extend(options.limits.check(subject));
        notes.extend(options.limits.idle(subject));
    }
    let images = std::iter::once(base).chain(heads).map(side).collect();
    let limited = !options.limits.is_empty();
    Ok(Comparisons { schema: SCHEMA, version: VERSION, images, comparisons, over, limited, notes })
}

fn side(subject: &Subject) -> Side {
    Side {
        name: subject.name.clone(),
        digest: subject.digest,
        platform: subject.platform.clone(),
        model: subject.model.clone(),
        stack: subject.stack.clone(),
        total: subject.sizes.as_ref().map(|sizes| sizes.total).unwrap_or_default(),
        cold_start_ms: subject.cold_start.as_ref().and_then(difference::leading).map(difference::total),
    }
}

fn hold_against(base: &Subject, head: &Subject, options: &Options) -> Result<Comparison, CompareError> {
    let size = base.sizes.as_ref().zip(head.sizes.as_ref()).map(|(base, head)| SizeDifference::of(base, head));
    let times = base.cold_start.as_ref().zip(head.cold_start.as_ref());
    let cold_start = times.map(|(base, head)| ColdStartDifference::of(base, head, options.strictness, TIME_FLOOR));
    if size.is_none() && cold_start.is_none() {
        return Err(CompareError::NothingInCommon { base: base.name.clone(), head: head.name.clone() });
    }
    Ok(Comparison { base: base.name.clone(), head: head.name.clone(), size, cold_start })
}

/// A limit on what was not measured would always hold, so it is an error.
fn check_measured(subject: &Subject, limits: &Limits) -> Result<(), CompareError> {
    let missing = |what| Err(CompareError::NotMeasured { name: subject.name.clone(), what });
    let total = subject.sizes.as_ref().map(|sizes| sizes.total).unwrap_or_default();
    let parts = subject.sizes.as_ref();
    if limits.compressed.is_some() && total.compressed.is_none() {
        return missing("how big it is");
    }
    if limits.unpacked.is_some() && total.unpacked.is_none() {
        return missing("how big it is unpacked");
    }
    if !limits.layers.is_empty() && parts.is_none() {
        return missing("how big its layers are");
    }
    if !limits.libraries.is_empty() && parts.is_none_or(|sizes| sizes.files.is_empty()) {
        return missing("how big its libraries are");
    }
    if !limits.packages.is_empty() && parts.is_none_or(|sizes| sizes.packages.is_empty()) {
        return missing("how much of its packages was taken");
    }
    if (limits.cold_start.is_some() || !limits.phases.is_empty()) && subject.cold_start.is_none() {
        return missing("how fast it starts");
    }
    Ok(())
}

/// The same for limits on growth, which both sides must know.
fn check_compared(comparison: &Comparison, limits: &Limits) -> Result<(), CompareError> {
    let growth = &limits.growth;
    let size = comparison.size.as_ref();
    let missing = |what| Err(CompareError::NotMeasured { name: format!("{}` or `{}", comparison.base, comparison.head), what });
    if !growth.layers.is_empty() && size.is_none_or(|size| size.layers.is_empty()) {
        return missing("how big its layers are");
    }
    if !growth.libraries.is_empty() && size.is_none_or(|size| size.files.is_empty()) {
        return missing("how big its libraries are");
    }
    if !growth.packages.is_empty() && size.is_none_or(|size| size.packages.is_empty()) {
        return missing("how much of its packages was taken");
    }
    if !growth.phases.is_empty() && comparison.cold_start.is_none() {
        return missing("how fast it starts");
    }
    Ok(())
}

/// Phases with too few samples to be held against a limit.
fn undecided(comparison: &Comparison, limits: &Limits) -> Option<String> {
    let columns = comparison.cold_start.iter().flat_map(|cold| &cold.columns);
    let few = columns.flat_map(|column| &column.phases).any(|phase| phase.verdict == Verdict::TooFewSamples);
    (few && limits.compares_times()).then(|| {
        format!(
            "`{}`: some phases have fewer than {FEWEST_SAMPLES} samples, too few to hold them against a limit",
            comparison.head
        )
    })
}

/// What two sessions say less about than one.
fn apart(base: &Subject, head: &Subject) -> Option<String> {
    let (base_times, head_times) = base.cold_start.as_ref().zip(head.cold_start.as_ref())?;
    (Sessions::of(base_times, head_times) == Sessions::Apart).then(|| {
        format!(
            "`{}` and `{}` were measured in two sessions, so only a large difference of times counts: `imgbuild coldstart HEAD --against \
             BASE` measures both in turn",
            base.name, head.name
        )
    })
}

/// The difference of contention, in parts of the time, that is worth a word.
const NOTABLE_CONTENTION: f64 = 0.1;

/// What a machine that was busy in one of two measurements says less about.
fn busy(base: &Subject, head: &Subject) -> Option<String> {
    let (base_times, head_times) = base.cold_start.as_ref().zip(head.cold_start.as_ref())?;
    let column = |found: &Column| {
        let same = head_times.columns.iter().find(|column| column.cache == found.cache)?;
        found.contention.zip(same.contention).filter(|(base, head)| (base - head).abs() > NOTABLE_CONTENTION)
    };
    let (in_base, in_head) = base_times.columns.iter().find_map(column)?;
    Some(format!(
        "tasks waited for a CPU during {:.0} % of the starts of `{}` and {:.0} % of those of `{}`: as much of the longer times may be \
         waiting, and does not count",
        in_base * 1e2,
        base.name,
        in_head * 1e2,
        head.name
    ))
}

/// Refuses to compare what is unlike; with leave it is noted. Unlike machines matter only where times are held against limits.
fn check_likeness(base: &Subject, head: &Subject, options: &Options, notes: &mut Vec<String>) -> Result<(), CompareError> {
    let mut unlike = |what: &str, expected: &str, found: &str, matters: bool| {
        if expected == found {
            return Ok(());
        }
        if matters && !options.allow_different {
            return Err(CompareError::Different {
                what: what.to_owned(),
                base: base.name.clone(),
                head: head.name.clone(),
                found: format!("`{found}`"),
                expected: format!("`{expected}`"),
            });
        }
        notes.push(format!("{what} of `{}` is `{found}`, of `{}` it is `{expected}`", head.name, base.name));
        Ok(())
    };
    if let Some((base, head)) = base.platform.as_ref().zip(head.platform.as_ref()) {
        unlike("the platform", base, head, true)?;
    }
    if let Some((base, head)) = base.model.as_ref().zip(head.model.as_ref()) {
        unlike("the model", base, head, true)?;
    }
    let Some((base, head)) = base.cold_start.as_ref().zip(head.cold_start.as_ref()) else { return Ok(()) };
    let gated = options.limits.compares_times();
    for ((what, base), (_, head)) in conditions(base).into_iter().zip(conditions(head)) {
        unlike(what, &base, &head, gated)?;
    }
    // A kernel or an engine is updated now and then; that is said, and no reason to stop a pipeline.
    unlike("the kernel", &base.machine.kernel, &head.machine.kernel, false)?;
    unlike("the runner", &base.runner, &head.runner, false)
}

/// What must be alike for times to be comparable, as text.
fn conditions(report: &ColdStartReport) -> Vec<(&'static str, String)> {
    let machine = &report.machine;
    let link =
        report.link.map_or_else(|| "none".to_owned(), |link| format!("{} bit/s, {} ms", link.bits_per_second, link.latency_ms));
    // Machines of one kind differ a little by what their firmware keeps.
    let memory = machine.memory.saturating_add(1 << 29) >> 30;
    vec![
        ("the processor", machine.cpu.clone()),
        ("the architecture", machine.architecture.clone()),
        ("the number of cores", machine.cores.to_string()),
        ("the memory", format!("{memory} GiB")),
        ("the disk", machine.disk.clone()),
        ("what starts the container", report.runner.split_whitespace().next().unwrap_or_default().to_owned()),
        ("the link", link),
        ("where the image was pulled from", format!("{:?}", report.source).to_lowercase()),
    ]
}

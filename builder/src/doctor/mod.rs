//! Tells whether an image will run on a host: [`Demands`] are read from the image, [`Host`] from the host, and [`examine`]
//! holds one against the other. Only reading does I/O; what comes of it is plain data.

mod demands;
mod entries;
mod examine;
mod host;
mod nvml;

#[cfg(test)]
mod tests;

pub use demands::{Architectures, Demands, DemandsError, GpuDemands};
pub use entries::{Entry, best, entries};
pub use examine::examine;
pub use host::{Driver, Gpu, Host, Toolkit};

use serde::Serialize;

/// Version of the diagnosis as JSON.
pub const VERSION: u32 = 1;

/// What was found out about an image on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Version of this format.
    pub version: u32,
    /// Whether the image will run: whether nothing keeps it from that, as far as can be told.
    pub runs: bool,
    /// One by one.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// What it means for the image.
    pub verdict: Verdict,
    /// What the host has.
    pub found: String,
    /// What the image wants; empty where it wants nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expected: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What a finding means for the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is as the image wants it.
    Fits,
    /// It does not keep the image from running, and is worth knowing.
    Note,
    /// It cannot be told.
    Unknown,
    /// The image will not run.
    Unfit,
}

impl Diagnosis {
    fn of(findings: Vec<Finding>) -> Self {
        Self { version: VERSION, runs: findings.iter().all(|finding| finding.verdict != Verdict::Unfit), findings }
    }
}

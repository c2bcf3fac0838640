//! What remains of a verification: [`VerificationReport`], a versioned file that is attached to the image; see `docs/spec/verify.md`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::metrics::Metrics;
use super::policy::{Check, Policy};
use super::tensor::Datatype;
use crate::digest::Digest;
use crate::report::{ReportError, parse_versioned};

/// The format's name, the first key of the file.
pub const SCHEMA: &str = "imgbuild.verification";
/// The newest version of the format.
pub const VERSION: u32 = 1;
/// The media type by which a registry knows it.
pub const MEDIA_TYPE: &str = "application/vnd.imgbuild.verification.v1+json";

/// Whether an image answers as it should.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerificationReport {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The format's version.
    pub version: u32,
    /// The builder's version.
    pub imgbuild: String,
    /// True where every output stays within the policy.
    pub passed: bool,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// The name the model is served under.
    pub model: String,
    /// Digest of the image it was compared with; absent where the test set holds what is expected.
    pub reference: Option<Digest>,
    /// The test set.
    pub data: DataIdentity,
    /// What started the images.
    pub runner: String,
    /// Digest of the policy, see [`Policy::digest`].
    pub policy_digest: Digest,
    /// The policy.
    pub policy: Policy,
    /// The outputs.
    pub outputs: Vec<OutputReport>,
}

/// Which test set it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataIdentity {
    /// Its file or folder name.
    pub name: String,
    /// Digest over the names and bytes of its files.
    pub digest: Digest,
    /// Samples that were compared.
    pub samples: u64,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputReport {
    /// Its name in the image.
    pub name: String,
    /// What its elements are expected to be.
    pub datatype: Datatype,
    /// True where it stays within the policy.
    pub passed: bool,
    /// Differences that are no numbers, the first few.
    pub problems: Vec<String>,
    /// How many of those there are.
    pub problem_count: u64,
    /// Every limit with what was found.
    pub checks: Vec<Check>,
    /// What kind of difference it is, in words.
    pub diagnosis: Vec<String>,
    /// Everything that was measured.
    pub metrics: Metrics,
}

impl VerificationReport {
    /// The report as it is written: indented JSON with a final newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has string keys only");
        text.push('\n');
        text
    }

    /// Reads a report from its text and checks that its verdict follows from its parts; `path` is only for the error.
    ///
    /// # Errors
    /// Where the text is no report, is of another version, or was edited.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ReportError> {
        let report: Self = parse_versioned(text, path, SCHEMA, VERSION)?;
        report.check().map_err(|what| ReportError::Verdict { path: path.to_owned(), what })?;
        Ok(report)
    }

    fn check(&self) -> Result<(), String> {
        if self.policy.digest() != self.policy_digest {
            return Err("its policy has another digest than it says".to_owned());
        }
        for output in &self.outputs {
            let checks = self.policy.check(&output.name, output.datatype, &output.metrics);
            if checks != output.checks {
                return Err(format!("the checks of `{}` do not follow from its metrics and policy", output.name));
            }
            let passed = output.problem_count == 0 && checks.iter().all(|check| check.passed);
            if passed != output.passed {
                return Err(format!("`{}` is said to have {}", output.name, if passed { "failed" } else { "passed" }));
            }
        }
        let passed = !self.outputs.is_empty() && self.outputs.iter().all(|output| output.passed);
        if passed == self.passed { Ok(()) } else { Err("its verdict does not follow from its outputs".to_owned()) }
    }
}

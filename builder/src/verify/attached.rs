//! A verification as something that is attached to its image, and what counts as one: [`Requirement`].

use std::collections::BTreeMap;
use std::path::Path;

use super::report::{MEDIA_TYPE, VerificationReport};
use crate::attest::Document;
use crate::digest::Digest;

/// The annotation that says the verdict, for those who only list what is attached. The gate does not read it.
const VERDICT: &str = "io.imgbuild.verification.verdict";

impl VerificationReport {
    /// The report as a document that can be attached to its image.
    #[must_use]
    pub fn document(&self) -> Document {
        let verdict = if self.passed { "passed" } else { "failed" };
        Document {
            media_type: MEDIA_TYPE,
            file: "verification.json",
            bytes: self.to_json().into_bytes(),
            annotations: BTreeMap::from([(VERDICT.to_owned(), verdict.to_owned())]),
        }
    }
}

/// What a verification must say to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Digest of the policy, see [`super::Policy::digest`].
    pub policy: Digest,
    /// Digest of the test set; any counts where it is not given.
    pub data: Option<Digest>,
}

impl Requirement {
    /// Judges the bytes of a report about an image.
    ///
    /// # Errors
    /// In words, where it does not count: it is no report, contradicts itself, is of something else, or has failed.
    pub fn judge(&self, image: &Digest, report: &[u8]) -> Result<VerificationReport, String> {
        let text = std::str::from_utf8(report).map_err(|_| "is no text".to_owned())?;
        let report = VerificationReport::parse(text, Path::new("verification.json")).map_err(|error| {
            let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
            causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
        })?;
        let other = |what: &str, found: &Digest, expected: &Digest| {
            if found == expected { Ok(()) } else { Err(format!("is of another {what}, {}", found.short())) }
        };
        other("image", &report.image, image)?;
        other("policy", &report.policy_digest, &self.policy)?;
        if let Some(data) = &self.data {
            other("test set", &report.data.digest, data)?;
        }
        if report.passed { Ok(report) } else { Err("has failed".to_owned()) }
    }
}

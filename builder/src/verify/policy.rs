//! What an image may differ by and still ship: [`Policy`], from `policy.toml` or the defaults, and [`Verdict`], what it says of one output.
//!
//! `docs/spec/verify.md` gives every default with its reason. The largest elementwise relative error is never the only limit: it says
//! nothing about values near zero.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::VerifyError;
use super::metrics::{MetricOptions, Metrics};
use crate::digest::Digest;
use crate::inference::Datatype;
use crate::template::strict::parse_versioned;

/// The newest format of policies that is read.
const FORMAT: i64 = 1;

/// Limits by kind of output, and for outputs by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Policy {
    /// The file's format.
    pub format: i64,
    /// What metrics are computed with.
    #[serde(default)]
    pub metrics: MetricOptions,
    /// Limits for outputs of 64- and 32-bit floats.
    #[serde(default = "Limits::fp32")]
    pub fp32: Limits,
    /// Limits for outputs of 16-bit floats.
    #[serde(default = "Limits::fp16")]
    pub fp16: Limits,
    /// Limits for outputs of bfloat16.
    #[serde(default = "Limits::bf16")]
    pub bf16: Limits,
    /// Limits for integers, booleans and texts.
    #[serde(default = "Limits::exact")]
    pub exact: Limits,
    /// Limits for one output, in place of those of its kind.
    #[serde(default, rename = "output")]
    pub outputs: BTreeMap<String, Limits>,
}

/// Limits of one kind of output; what is not given is not limited, but for NaN and infinities.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Largest part of unequal elements.
    pub unequal: Option<f64>,
    /// Most elements of which one side is NaN or infinite and the other is not the same; 0 where not given.
    pub nonfinite: Option<u64>,
    /// Largest error.
    pub max_absolute: Option<f64>,
    /// Largest mean error.
    pub mean_absolute: Option<f64>,
    /// Largest error in relation to the value.
    pub max_relative: Option<f64>,
    /// Largest error in relation to the largest magnitude.
    pub max_peak: Option<f64>,
    /// Largest root mean square error.
    pub rmse: Option<f64>,
    /// Largest root mean square error in relation to that of the values.
    pub relative_rmse: Option<f64>,
    /// Largest median error.
    pub p50_absolute: Option<f64>,
    /// Largest error of 99 % of the elements.
    pub p99_absolute: Option<f64>,
    /// Largest error of 99.9 % of the elements.
    pub p999_absolute: Option<f64>,
    /// Smallest cosine.
    pub cosine: Option<f64>,
    /// Smallest part of rows with the same largest element.
    pub top_1: Option<f64>,
    /// Smallest mean overlap of the largest elements.
    pub top_k: Option<f64>,
    /// Smallest mean rank correlation.
    pub rank_correlation: Option<f64>,
}

/// What a policy says of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// The limit's name, as in the policy.
    pub metric: String,
    /// What was found; absent where it is not defined for this output.
    pub found: Option<f64>,
    /// The limit.
    pub limit: f64,
    /// True where the limit is the smallest value that passes.
    pub at_least: bool,
    /// True where it passes.
    pub passed: bool,
}

impl Limits {
    /// Kernels that add in another order, fuse, or use TF32 stay an order of magnitude below; a weight that is off by half a percent does not.
    fn fp32() -> Self {
        Self { relative_rmse: Some(2e-3), max_peak: Some(2e-2), cosine: Some(0.9999), ..Self::default() }
    }

    /// Half precision rounds at 5e-4 once, and every layer adds to that.
    fn fp16() -> Self {
        Self { relative_rmse: Some(5e-3), max_peak: Some(3e-2), cosine: Some(0.9999), ..Self::default() }
    }

    /// Bfloat16 rounds at 4e-3 once.
    fn bf16() -> Self {
        Self { relative_rmse: Some(2e-2), max_peak: Some(8e-2), cosine: Some(0.999), ..Self::default() }
    }

    /// Integers, booleans and texts are decisions: they are the same or not.
    fn exact() -> Self {
        Self { unequal: Some(0.0), ..Self::default() }
    }

    /// Every limit that is given: its name, what was found, the limit, and whether it is a smallest value.
    fn checks(&self, metrics: &Metrics) -> Vec<Check> {
        #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
        let unequal = if metrics.elements == 0 { 0.0 } else { metrics.unequal as f64 / metrics.elements as f64 };
        let most = [
            ("unequal", Some(unequal), self.unequal),
            ("max-absolute", Some(metrics.max_absolute), self.max_absolute),
            ("mean-absolute", Some(metrics.mean_absolute), self.mean_absolute),
            ("max-relative", Some(metrics.max_relative), self.max_relative),
            ("max-peak", Some(metrics.max_peak), self.max_peak),
            ("rmse", Some(metrics.rmse), self.rmse),
            ("relative-rmse", Some(metrics.relative_rmse), self.relative_rmse),
            ("p50-absolute", Some(metrics.p50_absolute), self.p50_absolute),
            ("p99-absolute", Some(metrics.p99_absolute), self.p99_absolute),
            ("p999-absolute", Some(metrics.p999_absolute), self.p999_absolute),
        ];
        let least = [
            ("cosine", Some(metrics.cosine), self.cosine),
            ("top-1", metrics.top_1, self.top_1),
            ("top-k", metrics.top_k, self.top_k),
            ("rank-correlation", metrics.rank_correlation, self.rank_correlation),
        ];
        #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
        let (nonfinite, allowed) = (metrics.nonfinite_mismatches as f64, self.nonfinite.unwrap_or(0) as f64);
        let mut checks = vec![check("nonfinite", Some(nonfinite), allowed, false)];
        checks.extend(most.into_iter().filter_map(|(name, found, limit)| Some(check(name, found, limit?, false))));
        checks.extend(least.into_iter().filter_map(|(name, found, limit)| Some(check(name, found, limit?, true))));
        checks
    }

    /// The limits that are given, held against nothing.
    pub(super) fn given(&self) -> Vec<Check> {
        self.checks(&Metrics::default())
    }

    /// True where the largest relative error is the only limit on how far numbers may be off.
    fn rests_on_relative_error(&self) -> bool {
        let others = [
            self.unequal,
            self.max_absolute,
            self.mean_absolute,
            self.max_peak,
            self.rmse,
            self.relative_rmse,
            self.p50_absolute,
            self.p99_absolute,
            self.p999_absolute,
            self.cosine,
            self.top_1,
            self.top_k,
            self.rank_correlation,
        ];
        self.max_relative.is_some() && others.iter().all(Option::is_none)
    }

    fn limits_nothing(&self) -> bool {
        *self == Self { nonfinite: self.nonfinite, ..Self::default() }
    }
}

/// A metric that is not defined for an output does not pass a limit that was set for it.
fn check(metric: &str, found: Option<f64>, limit: f64, at_least: bool) -> Check {
    let passed = found.is_some_and(|found| if at_least { found >= limit } else { found <= limit });
    Check { metric: metric.to_owned(), found, limit, at_least, passed }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            format: FORMAT,
            metrics: MetricOptions::default(),
            fp32: Limits::fp32(),
            fp16: Limits::fp16(),
            bf16: Limits::bf16(),
            exact: Limits::exact(),
            outputs: BTreeMap::new(),
        }
    }
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// Where the file cannot be read, has unknown keys, or limits that cannot decide.
    pub fn load(path: &Path) -> Result<Self, VerifyError> {
        let text = std::fs::read_to_string(path).map_err(|source| VerifyError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a policy from its text; `path` is for errors.
    ///
    /// # Errors
    /// As [`Policy::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, VerifyError> {
        let policy: Self = parse_versioned(text, &path.display().to_string(), FORMAT)?;
        let kinds = [("fp32", &policy.fp32), ("fp16", &policy.fp16), ("bf16", &policy.bf16), ("exact", &policy.exact)];
        let outputs = policy.outputs.iter().map(|(name, limits)| (name.as_str(), limits));
        for (name, limits) in kinds.into_iter().chain(outputs) {
            let problem = if limits.rests_on_relative_error() {
                "has `max-relative` as its only limit, which values near zero decide: add `max-peak`, `relative-rmse` or `max-absolute`"
            } else if limits.limits_nothing() {
                "limits nothing"
            } else {
                continue;
            };
            return Err(VerifyError::Policy { path: path.to_owned(), name: name.to_owned(), problem });
        }
        Ok(policy)
    }

    /// The limits of an output.
    #[must_use]
    pub fn limits(&self, output: &str, datatype: Datatype) -> &Limits {
        self.outputs.get(output).unwrap_or(match datatype {
            Datatype::Fp32 | Datatype::Fp64 => &self.fp32,
            Datatype::Fp16 => &self.fp16,
            Datatype::Bf16 => &self.bf16,
            _ => &self.exact,
        })
    }

    /// Every limit of an output with what was found.
    #[must_use]
    pub fn check(&self, output: &str, datatype: Datatype, metrics: &Metrics) -> Vec<Check> {
        self.limits(output, datatype).checks(metrics)
    }

    /// Digest of what the policy says, whatever its file looks like.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("a policy has string keys only"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Policy, VerifyError> {
        Policy::parse(text, Path::new("policy.toml"))
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        let policy = parse("format = 1\n[output.scores]\ntop-1 = 0.999\n").expect("a policy");
        assert_eq!(policy.fp32, Limits::fp32());
        assert_eq!(policy.limits("scores", Datatype::Fp32).top_1, Some(0.999));
        assert_eq!(policy.limits("other", Datatype::Int64), &Limits::exact());
        assert_ne!(policy.digest(), Policy::default().digest());
    }

    #[test]
    fn a_policy_that_cannot_decide_is_refused() {
        for (text, expected) in [
            ("format = 1\n[fp32]\nmax-relative = 0.01\n", "only limit"),
            ("format = 1\n[output.x]\n", "limits nothing"),
            ("format = 1\n[fp32]\ncosin = 0.9\n", "cosin"),
            ("format = 9\n", "format 9"),
        ] {
            let error = parse(text).expect_err(expected);
            let mut shown = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                shown.push_str(&inner.to_string());
                cause = inner.source();
            }
            assert!(shown.contains(expected), "{shown}");
        }
    }

    #[test]
    fn a_metric_without_a_value_does_not_pass() {
        let limits = Limits { top_1: Some(0.9), ..Limits::default() };
        let checks = limits.checks(&Metrics::default());
        assert!(checks.iter().any(|check| check.metric == "top-1" && !check.passed));
        assert!(checks.iter().any(|check| check.metric == "nonfinite" && check.passed));
    }
}

//! What kind of difference it is, in words: a NaN, an output that is permuted or swapped, values that are scaled or shifted, or numerics.

use std::collections::BTreeMap;

use super::metrics::{Accumulator, MetricOptions, Metrics};
use super::tensor::{Datatype, Tensor};

/// Two tensors are the same thing where their difference is below this part of their size.
const SAME: f64 = 1e-3;
/// Values lie on a straight line where their correlation is at least this.
const STRAIGHT: f64 = 0.9999;

/// Says what is wrong with an output that did not pass. `firsts` holds what was expected and came in the first sample, by output.
pub(super) fn diagnose(
    name: &str,
    datatype: Datatype,
    metrics: &Metrics,
    firsts: &BTreeMap<String, (Tensor, Tensor)>,
) -> Vec<String> {
    let mut words = Vec::new();
    if metrics.actual_nan > metrics.expected_nan {
        words.push(format!("{} elements are NaN that should be numbers", metrics.actual_nan - metrics.expected_nan));
    } else if metrics.expected_nan > metrics.actual_nan {
        words.push(format!("{} elements are expected to be NaN and are not", metrics.expected_nan - metrics.actual_nan));
    }
    if metrics.actual_infinite != metrics.expected_infinite {
        words.push(format!("{} elements are infinite, expected {}", metrics.actual_infinite, metrics.expected_infinite));
    }
    if let Some(other) = swapped_with(name, firsts) {
        words.push(format!("it holds what is expected of `{other}`: outputs were swapped"));
    } else if metrics.reordered >= 0.5 {
        words.push("it holds the expected values in another order: the output is permuted or transposed".to_owned());
    } else if datatype.is_float() && metrics.max_absolute > 0.0 {
        words.extend(numeric(metrics));
    } else if metrics.unequal > 0 && !datatype.is_float() {
        words.push(format!("{} of {} elements are not equal", metrics.unequal, metrics.elements));
    }
    words
}

/// The output whose expected values this one gives instead of its own.
fn swapped_with<'a>(name: &str, firsts: &'a BTreeMap<String, (Tensor, Tensor)>) -> Option<&'a str> {
    let (expected, actual) = firsts.get(name)?;
    if is_same(expected, actual) {
        return None;
    }
    let mut others = firsts.iter().filter(|(other, _)| *other != name);
    others.find(|(_, (theirs, _))| !is_same(theirs, expected) && is_same(theirs, actual)).map(|(other, _)| other.as_str())
}

fn is_same(expected: &Tensor, actual: &Tensor) -> bool {
    if expected.shape != actual.shape || expected.datatype != actual.datatype || expected.elements() == Some(0) {
        return false;
    }
    let mut accumulator = Accumulator::new(MetricOptions::default());
    accumulator.add("", expected, actual);
    let metrics = accumulator.finish();
    metrics.nonfinite_mismatches == 0
        && if expected.datatype.is_float() { metrics.relative_rmse <= SAME } else { metrics.unequal == 0 }
}

fn numeric(metrics: &Metrics) -> Option<String> {
    let all = metrics.samples_with_errors >= 1.0;
    if let (Some(slope), Some(intercept), Some(correlation)) = (metrics.slope, metrics.intercept, metrics.correlation)
        && correlation >= STRAIGHT
        && ((slope - 1.0).abs() > SAME || intercept.abs() > SAME * metrics.max_absolute)
        && metrics.relative_rmse > SAME
    {
        return Some(format!(
            "it follows the expected values on a straight line, actual ≈ {slope:.4} × expected {} {:.3e}: it is scaled or shifted",
            if intercept < 0.0 { '−' } else { '+' },
            intercept.abs()
        ));
    }
    if all && metrics.samples > 1 {
        return Some(
            "it differs in every sample: a weight, a constant or the preprocessing is another one, rather than a rare input"
                .to_owned(),
        );
    }
    (!all).then(|| format!("it differs in {:.1} % of the samples", 100.0 * metrics.samples_with_errors))
}

//! How far outputs are from what is expected: [`Accumulator`] takes tensor after tensor of one output, [`Metrics`] is what it found.
//!
//! Floating point is compared as 64-bit floats. NaN and infinity are counted apart and enter no mean: equal infinities and NaN on both sides are no
//! difference, anything else is one. Integers, booleans and texts are compared for equality, and numbers among them by their difference too.
//! Memory does not grow with the number of tensors.

mod rows;
mod sketch;

pub use sketch::{QuantileSketch, RELATIVE_ERROR};

use serde::{Deserialize, Serialize};

use super::tensor::{Datatype, Tensor};

/// How many of the worst samples are kept.
pub const WORST: usize = 5;
/// Most pairs that are kept for a plot.
const PAIRS: usize = 1024;

/// What was found for one output over all samples. Errors are `|actual − expected|` in the output's own unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Tensors that were compared.
    pub samples: u64,
    /// Elements in them.
    pub elements: u64,
    /// Elements that are not equal.
    pub unequal: u64,
    /// Elements of which one side is NaN or infinite and the other is not the same.
    pub nonfinite_mismatches: u64,
    /// NaN among the expected elements.
    pub expected_nan: u64,
    /// NaN among the actual elements.
    pub actual_nan: u64,
    /// Infinities among the expected elements.
    pub expected_infinite: u64,
    /// Infinities among the actual elements.
    pub actual_infinite: u64,
    /// The largest error.
    pub max_absolute: f64,
    /// The mean error.
    pub mean_absolute: f64,
    /// The largest error in relation to the expected value, or to `relative_floor` where that is larger.
    pub max_relative: f64,
    /// Square root of the mean square error.
    pub rmse: f64,
    /// `rmse` in relation to the root mean square of the expected values; 0 where both are 0.
    pub relative_rmse: f64,
    /// The largest error in relation to the largest expected magnitude; 0 where both are 0.
    pub max_peak: f64,
    /// Error that half of the elements do not exceed, within 0.1 % of itself.
    pub p50_absolute: f64,
    /// Error that 99 % do not exceed.
    pub p99_absolute: f64,
    /// Error that 99.9 % do not exceed.
    pub p999_absolute: f64,
    /// The smallest cosine of the angle between expected and actual, over samples.
    pub cosine: f64,
    /// Part of the rows whose largest value stands at the same place. Rows are the last dimension; none where it is shorter than 2.
    pub top_1: Option<f64>,
    /// Mean overlap of the `k` largest.
    pub top_k: Option<f64>,
    /// Mean of Spearman's rank correlation over rows in which both sides vary.
    pub rank_correlation: Option<f64>,
    /// Part of the samples that have an error.
    pub samples_with_errors: f64,
    /// Slope of the straight line that fits actual over expected best, where expected varies.
    pub slope: Option<f64>,
    /// Where that line crosses zero.
    pub intercept: Option<f64>,
    /// Pearson's correlation of expected and actual over all elements.
    pub correlation: Option<f64>,
    /// Part of the differing samples that hold the expected values in another order.
    pub reordered: f64,
    /// Errors by power of ten: its exponent, and how many elements.
    pub error_decades: Vec<(i32, u64)>,
    /// Some pairs of expected and actual values, for a plot.
    pub pairs: Vec<(f64, f64)>,
    /// The samples that are furthest off, the worst first.
    pub worst: Vec<WorstSample>,
}

/// A sample that is far off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorstSample {
    /// Its name.
    pub sample: String,
    /// Its largest error; infinite errors are written as the largest number.
    pub max_absolute: f64,
    /// Where in the tensor that is, by dimension.
    pub index: Vec<u64>,
    /// What was expected there.
    pub expected: String,
    /// What came.
    pub actual: String,
}

/// What metrics are computed with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MetricOptions {
    /// Smallest magnitude that an error is put in relation to.
    pub relative_floor: f64,
    /// How many of the largest values of a row are compared.
    pub k: usize,
}

impl Default for MetricOptions {
    fn default() -> Self {
        Self { relative_floor: 1e-3, k: 5 }
    }
}

/// Takes the tensors of one output, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Accumulator {
    options: MetricOptions,
    counts: Metrics,
    sums: Sums,
    errors: QuantileSketch,
    differing: u64,
    reordered: u64,
    seen: u64,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    finite: u64,
    absolute: f64,
    error: ScaledSquares,
    expected: ScaledSquares,
    peak: f64,
    rows: u64,
    top_1: u64,
    top_k: f64,
    ranked: u64,
    rank: f64,
    line: Line,
    cosine: Option<f64>,
}

/// A sum of squares that neither overflows nor loses small values.
#[derive(Debug, Clone, Copy, Default)]
struct ScaledSquares {
    scale: f64,
    sum: f64,
}

impl ScaledSquares {
    fn add(&mut self, value: f64) {
        let value = value.abs();
        if value == 0.0 {
            return;
        }
        if value > self.scale {
            self.sum = 1.0 + self.sum * (self.scale / value) * (self.scale / value);
            self.scale = value;
        } else {
            self.sum += (value / self.scale) * (value / self.scale);
        }
    }

    /// Root of the mean over `count` values.
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    fn root_mean(self, count: u64) -> f64 {
        if count == 0 { 0.0 } else { self.scale * (self.sum / count as f64).sqrt() }
    }
}

/// Sums for the straight line through pairs, by Welford's method.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    count: f64,
    mean_x: f64,
    mean_y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Line {
    fn add(&mut self, x: f64, y: f64) {
        self.count += 1.0;
        let (off_x, off_y) = (x - self.mean_x, y - self.mean_y);
        self.mean_x += off_x / self.count;
        self.mean_y += off_y / self.count;
        self.xx += off_x * (x - self.mean_x);
        self.yy += off_y * (y - self.mean_y);
        self.xy += off_x * (y - self.mean_y);
    }
}

impl Accumulator {
    /// Starts with nothing.
    #[must_use]
    pub fn new(options: MetricOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Compares one sample's tensors, which have the same datatype and shape.
    pub fn add(&mut self, sample: &str, expected: &Tensor, actual: &Tensor) {
        self.counts.samples += 1;
        self.counts.elements += expected.elements().unwrap_or(0);
        let unequal_before = self.counts.unequal;
        let worst = if expected.datatype == Datatype::Bytes {
            self.add_texts(&expected.texts().unwrap_or_default(), &actual.texts().unwrap_or_default())
        } else {
            self.add_numbers(expected, actual)
        };
        if self.counts.unequal == unequal_before {
            return;
        }
        self.differing += 1;
        if let Some((index, error)) = worst {
            self.keep_worst(sample, expected, actual, index, error);
        }
    }

    fn keep_worst(&mut self, sample: &str, expected: &Tensor, actual: &Tensor, index: usize, error: f64) {
        let worst = &mut self.counts.worst;
        let place = worst.iter().position(|kept| kept.max_absolute < error).unwrap_or(worst.len());
        if place < WORST {
            worst.insert(
                place,
                WorstSample {
                    sample: sample.to_owned(),
                    max_absolute: error,
                    index: place_of(index, &expected.shape),
                    expected: expected.element(index),
                    actual: actual.element(index),
                },
            );
            worst.truncate(WORST);
        }
    }

    /// Gives the index of an element that is unequal, and the length of the difference.
    fn add_texts(&mut self, expected: &[&[u8]], actual: &[&[u8]]) -> Option<(usize, f64)> {
        let mut first = None;
        for (index, (expected, actual)) in expected.iter().zip(actual).enumerate() {
            if expected != actual {
                self.counts.unequal += 1;
                first = first.or(Some(index));
            }
        }
        if first.is_some() {
            let sorted = |texts: &[&[u8]]| {
                let mut sorted: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
                sorted.sort();
                sorted
            };
            self.reordered += u64::from(expected.len() > 1 && sorted(expected) == sorted(actual));
        }
        first.map(|index| (index, 1.0))
    }

    /// Gives the index of the element that is furthest off, and by how much.
    fn add_numbers(&mut self, expected: &Tensor, actual: &Tensor) -> Option<(usize, f64)> {
        let exact = !expected.datatype.is_float();
        let width = expected.datatype.width().unwrap_or(1);
        let differs = |index: usize| expected.data[index * width..][..width] != actual.data[index * width..][..width];
        let (wanted, found) = (expected.floats(), actual.floats());
        let mut worst: Option<(usize, f64)> = None;
        let mut is_unequal = false;
        for (index, (e, a)) in wanted.iter().copied().zip(found.iter().copied()).enumerate() {
            let unequal = if exact { differs(index) } else { e != a && !(e.is_nan() && a.is_nan()) };
            self.counts.unequal += u64::from(unequal);
            is_unequal |= unequal;
            let error = self.add_pair(e, a, unequal);
            if unequal && worst.is_none_or(|(_, largest)| error > largest) {
                worst = Some((index, error));
            }
        }
        self.add_cosine(&wanted, &found);
        self.add_rows(expected, &wanted, &found);
        if is_unequal {
            self.reordered += u64::from(is_reordered(&wanted, &found));
        }
        worst
    }

    /// Counts one pair and gives its error, the largest number where one side is not finite.
    fn add_pair(&mut self, expected: f64, actual: f64, unequal: bool) -> f64 {
        let counts = &mut self.counts;
        counts.expected_nan += u64::from(expected.is_nan());
        counts.actual_nan += u64::from(actual.is_nan());
        counts.expected_infinite += u64::from(expected.is_infinite());
        counts.actual_infinite += u64::from(actual.is_infinite());
        if !(expected.is_finite() && actual.is_finite()) {
            counts.nonfinite_mismatches += u64::from(unequal);
            return f64::MAX;
        }
        // The difference of two finite numbers may be none.
        let error = (actual - expected).abs().min(f64::MAX);
        let sums = &mut self.sums;
        sums.finite += 1;
        sums.absolute += error;
        sums.error.add(error);
        sums.expected.add(expected);
        sums.peak = sums.peak.max(expected.abs());
        sums.line.add(expected, actual);
        counts.max_absolute = counts.max_absolute.max(error);
        let relative = error / expected.abs().max(self.options.relative_floor);
        counts.max_relative = counts.max_relative.max(relative.min(f64::MAX));
        self.errors.add(error);
        self.keep_pair(expected, actual);
        error
    }

    /// Keeps every n-th pair, n doubling when there are too many: which ones does not depend on anything but their order.
    fn keep_pair(&mut self, expected: f64, actual: f64) {
        let pairs = &mut self.counts.pairs;
        let step = 1 << (self.seen / PAIRS as u64).max(1).ilog2();
        if self.seen.is_multiple_of(step) {
            pairs.push((expected, actual));
            if pairs.len() >= 2 * PAIRS {
                let mut index = 0;
                pairs.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
        }
        self.seen += 1;
    }

    fn add_cosine(&mut self, expected: &[f64], actual: &[f64]) {
        let pairs = || expected.iter().copied().zip(actual.iter().copied()).filter(|(e, a)| e.is_finite() && a.is_finite());
        let (scale_e, scale_a) = pairs().fold((0.0_f64, 0.0_f64), |most, (e, a)| (most.0.max(e.abs()), most.1.max(a.abs())));
        if scale_e == 0.0 && scale_a == 0.0 {
            return;
        }
        let (mut dot, mut ee, mut aa) = (0.0, 0.0, 0.0);
        if scale_e > 0.0 && scale_a > 0.0 {
            for (e, a) in pairs().map(|(e, a)| (e / scale_e, a / scale_a)) {
                dot += e * a;
                ee += e * e;
                aa += a * a;
            }
        }
        let cosine = if ee > 0.0 && aa > 0.0 { (dot / (ee.sqrt() * aa.sqrt())).clamp(-1.0, 1.0) } else { 0.0 };
        self.sums.cosine = Some(self.sums.cosine.map_or(cosine, |least| least.min(cosine)));
    }

    fn add_rows(&mut self, tensor: &Tensor, expected: &[f64], actual: &[f64]) {
        let length = tensor.shape.last().and_then(|last| usize::try_from(*last).ok()).unwrap_or(0);
        if !tensor.datatype.is_float() || length < 2 {
            return;
        }
        for (expected, actual) in expected.chunks_exact(length).zip(actual.chunks_exact(length)) {
            let sums = &mut self.sums;
            sums.rows += 1;
            sums.top_1 += u64::from(rows::top_1(expected) == rows::top_1(actual));
            let k = self.options.k.clamp(1, length);
            let (wanted, found) = (rows::top_k(expected, k), rows::top_k(actual, k));
            let shared = wanted.iter().filter(|index| found.binary_search(index).is_ok()).count();
            #[expect(clippy::cast_precision_loss, reason = "k is small")]
            let overlap = shared as f64 / k as f64;
            sums.top_k += overlap;
            if expected.iter().chain(actual).all(|value| value.is_finite())
                && let Some(correlation) = rows::rank_correlation(expected, actual)
            {
                sums.ranked += 1;
                sums.rank += correlation;
            }
        }
    }

    /// What was found.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    pub fn finish(self) -> Metrics {
        let Self { mut counts, sums, errors, .. } = self;
        let part = |some: u64, all: u64| if all == 0 { 0.0 } else { some as f64 / all as f64 };
        let ratio = |part: f64, whole: f64| if part == 0.0 { 0.0 } else { (part / whole).min(f64::MAX) };
        counts.mean_absolute = if sums.finite == 0 { 0.0 } else { (sums.absolute / sums.finite as f64).min(f64::MAX) };
        counts.rmse = sums.error.root_mean(sums.finite);
        counts.relative_rmse = ratio(counts.rmse, sums.expected.root_mean(sums.finite));
        counts.max_peak = ratio(counts.max_absolute, sums.peak);
        counts.p50_absolute = errors.quantile(0.5).unwrap_or(0.0);
        counts.p99_absolute = errors.quantile(0.99).unwrap_or(0.0);
        counts.p999_absolute = errors.quantile(0.999).unwrap_or(0.0);
        counts.cosine = sums.cosine.unwrap_or(1.0);
        counts.top_1 = (sums.rows > 0).then(|| part(sums.top_1, sums.rows));
        counts.top_k = (sums.rows > 0).then(|| sums.top_k / sums.rows as f64);
        counts.rank_correlation = (sums.ranked > 0).then(|| sums.rank / sums.ranked as f64);
        counts.samples_with_errors = part(self.differing, counts.samples);
        counts.reordered = part(self.reordered, self.differing);
        let line = sums.line;
        if line.xx > 0.0 && line.xx.is_finite() && line.yy.is_finite() {
            let slope = line.xy / line.xx;
            counts.slope = Some(slope);
            counts.intercept = Some(line.mean_y - slope * line.mean_x);
            counts.correlation = (line.yy > 0.0).then(|| (line.xy / (line.xx.sqrt() * line.yy.sqrt())).clamp(-1.0, 1.0));
        }
        counts.error_decades = errors.decades();
        counts
    }
}

/// True where both sides hold the same values in another order: almost the same, that is, since numerics may differ too.
fn is_reordered(expected: &[f64], actual: &[f64]) -> bool {
    let sorted = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let (wanted, found) = (sorted(expected), sorted(actual));
    let peak = wanted.iter().filter(|value| value.is_finite()).fold(0.0_f64, |most, value| most.max(value.abs()));
    let near = |(a, b): (&f64, &f64)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-4 * peak;
    let off = expected.iter().zip(actual).filter(|(e, a)| !near((e, a))).count();
    off > 1 && wanted.iter().zip(&found).all(near)
}

/// The place of a flat index in a tensor of a shape.
fn place_of(index: usize, shape: &[u64]) -> Vec<u64> {
    let mut rest = index as u64;
    let mut place: Vec<u64> = shape
        .iter()
        .rev()
        .map(|dimension| {
            let position = rest % (*dimension).max(1);
            rest /= (*dimension).max(1);
            position
        })
        .collect();
    place.reverse();
    place
}

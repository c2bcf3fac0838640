//! When a difference of times is more than noise: [`judge`].
//!
//! Times of starts have long tails and few samples, so the bound rests on medians, median deviations and quartiles, which a few wild
//! samples do not move. `docs/spec/compare.md` gives the formula and the reasons.

use serde::Serialize;

use crate::report::cold_start::{ColdStartReport, Column, Spread};

/// Standard errors that a difference must exceed where there are many samples.
pub const DEFAULT_STRICTNESS: f64 = 4.0;
/// Samples that each side must have for a judgement.
pub const FEWEST_SAMPLES: usize = 3;
/// Makes the median absolute deviation of a normal distribution its standard deviation.
const DEVIATION: f64 = 1.4826;
/// The median's standard error in standard deviations over the root of the number of samples: √(π/2).
const MEDIAN_ERROR: f64 = 1.2533;
/// How much wider the bound is with few samples: it is multiplied by 1 + this / (n − 1).
const WIDENING: f64 = 3.0;
/// Smallest standard deviation that is believed, as a part of the median: a few samples may agree by chance, and no start repeats better.
const LEAST_DEVIATION: f64 = 0.03;

/// What became of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The difference is within the noise, or too small to matter.
    Same,
    /// It takes longer, beyond the noise.
    Slower,
    /// It takes less time, beyond the noise.
    Faster,
    /// Only the head has it.
    Came,
    /// Only the base has it.
    Gone,
    /// One side has fewer than three samples.
    TooFewSamples,
}

/// How much one session's medians differ from another's on the same machine, as a part of the median, where nothing but the moment differs.
const SESSION_DEVIATION: f64 = 0.1;

/// Contention that a server's own threads make on an idle machine of two cores: 12 to 29 % of a start were measured.
const OWN_CONTENTION: f64 = 0.25;

/// Whether two sides were measured in turn, or each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// In one session: what the machine did meanwhile met both.
    Same,
    /// In two: each has its own moment's speed.
    Apart,
}

impl Sessions {
    /// Whether two reports are of one session.
    #[must_use]
    pub fn of(base: &ColdStartReport, head: &ColdStartReport) -> Self {
        if base.session.is_some() && base.session == head.session { Self::Same } else { Self::Apart }
    }
}

/// Under what the two sides of a column were measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditions {
    /// In one session, or in two.
    pub sessions: Sessions,
    /// The part of the base's time during which some task waited for a CPU; 0 where it is not known.
    pub base_contention: f64,
    /// That of the head's.
    pub head_contention: f64,
}

impl Conditions {
    /// The conditions of one column of two reports.
    #[must_use]
    pub fn of(sessions: Sessions, base: &Column, head: &Column) -> Self {
        // Known of one side only, it tells nothing of the difference.
        let (base_contention, head_contention) = base.contention.zip(head.contention).unwrap_or_default();
        Self { sessions, base_contention, head_contention }
    }

    /// How much of the longer of two times may be waiting that the shorter one was spared.
    fn waiting(&self, base: f64, head: f64) -> f64 {
        let (longer, its, others) = if head >= base {
            (head, self.head_contention, self.base_contention)
        } else {
            (base, self.base_contention, self.head_contention)
        };
        // Of two that waited most of the time, a single phase may have met all of it or nothing.
        longer * (its - others.min(OWN_CONTENTION)).max(0.0)
    }
}

/// How large the noise of the difference of two medians is, in the unit of the samples; `None` with too few samples.
#[must_use]
pub fn bound(base: &Spread, head: &Spread, conditions: Conditions, strictness: f64) -> Option<f64> {
    let fewest = base.samples.len().min(head.samples.len());
    if fewest < FEWEST_SAMPLES {
        return None;
    }
    let error = standard_error(base).hypot(standard_error(head));
    let widening = 1.0 + WIDENING / count(fewest - 1);
    let (slower, faster) = (overlap(base, head), overlap(head, base));
    let quartiles = if head.median >= base.median { slower } else { faster };
    let within = (strictness * widening * error).max(quartiles);
    let noise = match conditions.sessions {
        Sessions::Same => within,
        Sessions::Apart => within.hypot(strictness * SESSION_DEVIATION * base.median.hypot(head.median)),
    };
    Some(noise + conditions.waiting(base.median, head.median))
}

/// Judges a difference: beyond the noise and beyond `floor`, or the same.
#[must_use]
pub fn judge(base: &Spread, head: &Spread, conditions: Conditions, strictness: f64, floor: f64) -> Verdict {
    let difference = head.median - base.median;
    match bound(base, head, conditions, strictness) {
        None => Verdict::TooFewSamples,
        Some(noise) if difference.abs() <= noise.max(floor) => Verdict::Same,
        Some(_) if difference > 0.0 => Verdict::Slower,
        Some(_) => Verdict::Faster,
    }
}

/// From the lower median up to its upper quartile, and from the upper one's lower quartile up to its median: a larger difference parts the boxes.
fn overlap(lower: &Spread, upper: &Spread) -> f64 {
    (quantile(&lower.samples, 0.75) - lower.median) + (upper.median - quantile(&upper.samples, 0.25))
}

/// The standard error of a median, by the median absolute deviation.
fn standard_error(spread: &Spread) -> f64 {
    let deviations = spread.samples.iter().map(|sample| (sample - spread.median).abs()).collect();
    let deviation = Spread::of(deviations).map_or(0.0, |deviations| DEVIATION * deviations.median);
    MEDIAN_ERROR * deviation.max(LEAST_DEVIATION * spread.median) / count(spread.samples.len()).sqrt()
}

/// A quantile, between samples in a straight line.
fn quantile(samples: &[f64], at: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = at * count(sorted.len().saturating_sub(1));
    let below = sorted.iter().enumerate().take_while(|(index, _)| count(*index) <= place).last();
    let Some((index, value)) = below else { return 0.0 };
    let next = sorted.get(index + 1).unwrap_or(value);
    value + (next - value) * (place - count(index))
}

fn count(samples: usize) -> f64 {
    f64::from(u32::try_from(samples).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator with a seed: the tests see the same noise every time.
    struct Noise(u64);

    impl Noise {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.0 >> 32).expect("32 bits")) / f64::from(u32::MAX)
        }

        /// A time around `median` as starts have them: a few percent of noise, and one in ten takes up to five times as long.
        fn sample(&mut self, median: f64) -> f64 {
            let usual = median * (1.0 + 0.08 * (self.uniform() + self.uniform() - 1.0));
            if self.uniform() < 0.1 { usual * (1.0 + 4.0 * self.uniform()) } else { usual }
        }

        fn spread(&mut self, median: f64, samples: usize) -> Spread {
            Spread::of((0..samples).map(|_| self.sample(median)).collect()).expect("samples")
        }
    }

    fn quiet(sessions: Sessions) -> Conditions {
        Conditions { sessions, base_contention: 0.1, head_contention: 0.1 }
    }

    #[test]
    fn waiting_for_a_cpu_is_no_regression() {
        let exact = |value: f64| Spread::of(vec![value; 9]).expect("samples");
        let verdict = |base, head, base_contention, head_contention| {
            let conditions = Conditions { sessions: Sessions::Same, base_contention, head_contention };
            judge(&exact(base), &exact(head), conditions, DEFAULT_STRICTNESS, 5.0)
        };
        assert_eq!(verdict(100.0, 180.0, 0.1, 0.1), Verdict::Slower);
        // Half of the 180 ms may have been waiting: then it took 90.
        assert_eq!(verdict(100.0, 180.0, 0.1, 0.6), Verdict::Same);
        assert_eq!(verdict(180.0, 100.0, 0.6, 0.1), Verdict::Same);
        // Both waited nearly always: nothing can be said of a factor of two.
        assert_eq!(verdict(100.0, 200.0, 0.9, 0.9), Verdict::Same);
        assert_eq!(verdict(100.0, 200.0, 0.25, 0.25), Verdict::Slower);
        // What waited less and took longer is slower all the same.
        assert_eq!(verdict(100.0, 180.0, 0.6, 0.2), Verdict::Slower);
        assert_eq!(verdict(100.0, 400.0, 0.1, 0.6), Verdict::Slower);
    }

    #[test]
    fn noise_alone_is_no_difference_and_a_third_more_is_one() {
        let mut noise = Noise(20_261_124);
        for samples in [5, 7, 10, 20] {
            let mut missed = 0;
            for round in 0..2000 {
                let base = noise.spread(200.0, samples);
                let same = judge(&base, &noise.spread(200.0, samples), quiet(Sessions::Same), DEFAULT_STRICTNESS, 5.0);
                assert_eq!(same, Verdict::Same, "round {round} of {samples} samples");
                if judge(&base, &noise.spread(260.0, samples), quiet(Sessions::Same), DEFAULT_STRICTNESS, 5.0) != Verdict::Slower
                {
                    missed += 1;
                }
            }
            // Five samples, half of which may be wild, are not always enough.
            let tolerated = match samples {
                5 => 700,
                7 => 400,
                _ => 150,
            };
            assert!(missed <= tolerated, "{missed} of 2000 missed with {samples} samples");
        }
    }

    #[test]
    fn between_sessions_only_a_large_difference_counts() {
        let mut noise = Noise(24_112_026);
        let mut missed = 0;
        for round in 0..2000 {
            // The same image at two moments: 20 sessions on one quiet machine had speeds of 0.79 to 1.2 of their median.
            let (one, other) = (0.8 + 0.4 * noise.uniform(), 0.8 + 0.4 * noise.uniform());
            let (base, head) = (noise.spread(200.0 * one, 10), noise.spread(200.0 * other, 10));
            let same = judge(&base, &head, quiet(Sessions::Apart), DEFAULT_STRICTNESS, 5.0);
            assert_eq!(same, Verdict::Same, "round {round}: {one} {other}");
            let slow = noise.spread(500.0, 10);
            missed += usize::from(
                judge(&noise.spread(200.0, 10), &slow, quiet(Sessions::Apart), DEFAULT_STRICTNESS, 5.0) != Verdict::Slower,
            );
        }
        assert!(missed <= 150, "{missed} of 2000 missed");
    }

    #[test]
    fn small_and_few_prove_nothing() {
        let exact = |value: f64, samples: usize| Spread::of(vec![value; samples]).expect("samples");
        assert_eq!(
            judge(&exact(2.0, 9), &exact(4.0, 9), quiet(Sessions::Same), DEFAULT_STRICTNESS, 5.0),
            Verdict::Same,
            "2 ms more are nothing"
        );
        assert_eq!(
            judge(&exact(200.0, 2), &exact(900.0, 9), quiet(Sessions::Same), DEFAULT_STRICTNESS, 5.0),
            Verdict::TooFewSamples
        );
        assert_eq!(judge(&exact(200.0, 3), &exact(100.0, 3), quiet(Sessions::Same), DEFAULT_STRICTNESS, 5.0), Verdict::Faster);
        assert!((quantile(&[4.0, 1.0, 2.0, 3.0], 0.25) - 1.75).abs() < 1e-12);
        assert!((quantile(&[7.0], 0.75) - 7.0).abs() < 1e-12);
    }
}

//! Quantiles of any number of values in little memory: [`QuantileSketch`].
//!
//! Values are counted in buckets whose borders grow by a constant factor, so that a quantile is off by at most 0.1 % of itself
//! (the method of DDSketch: Masson, Rim and Lee, VLDB 2019). Counts add up exactly, whatever the order of the values.

use std::collections::BTreeMap;

/// Largest relative error of a quantile.
pub const RELATIVE_ERROR: f64 = 0.001;

/// Counts of non-negative values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QuantileSketch {
    zeros: u64,
    buckets: BTreeMap<i32, u64>,
    count: u64,
}

impl QuantileSketch {
    fn base() -> f64 {
        ((1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)).ln()
    }

    /// Counts a finite value that is not negative.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        if value <= 0.0 {
            self.zeros += 1;
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "64-bit floats give at most 750,000 buckets")]
        let bucket = (value.ln() / Self::base()).ceil() as i32;
        *self.buckets.entry(bucket).or_default() += 1;
    }

    /// The value that a part of all values does not exceed, by nearest rank; `None` where there are none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
        let rank = ((part * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = self.zeros;
        if rank <= seen {
            return Some(0.0);
        }
        for (bucket, count) in &self.buckets {
            seen += count;
            if rank <= seen {
                // Between the bucket's borders, so that both are equally far; the last bucket's upper one is no number.
                return Some((f64::from(*bucket) * Self::base() + (-RELATIVE_ERROR).ln_1p()).exp().min(f64::MAX));
            }
        }
        None
    }

    /// How many values lie in each power of ten, lowest first: the exponent of its lower border, and the count.
    #[must_use]
    pub fn decades(&self) -> Vec<(i32, u64)> {
        let mut decades: BTreeMap<i32, u64> = BTreeMap::new();
        for (bucket, count) in &self.buckets {
            #[expect(clippy::cast_possible_truncation, reason = "64-bit floats have 632 powers of ten")]
            let exponent = ((f64::from(*bucket) - 0.5) * Self::base() / std::f64::consts::LN_10).floor() as i32;
            *decades.entry(exponent).or_default() += count;
        }
        decades.into_iter().collect()
    }

    /// How many values are zero.
    #[must_use]
    pub fn zeros(&self) -> u64 {
        self.zeros
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_off_by_a_thousandth_at_most(values in prop::collection::vec(0.0..1e9_f64, 1..400), part in 0.0..=1.0_f64) {
            let mut sketch = QuantileSketch::default();
            values.iter().for_each(|value| sketch.add(*value));
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = ((part * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
            let exact = sorted[rank - 1];
            let found = sketch.quantile(part).expect("there are values");
            prop_assert!((found - exact).abs() <= exact * RELATIVE_ERROR * 1.0001, "{found} for {exact}");
        }
    }

    #[test]
    fn the_smallest_and_largest_numbers_have_buckets() {
        let mut sketch = QuantileSketch::default();
        [0.0, 5e-324, f64::MIN_POSITIVE, f64::MAX].into_iter().for_each(|value| sketch.add(value));
        assert_eq!(sketch.quantile(0.0), Some(0.0));
        assert!(sketch.quantile(1.0).expect("a value") > 1e308);
        assert_eq!(sketch.decades().len(), 3);
        assert_eq!(QuantileSketch::default().quantile(0.5), None);
    }
}

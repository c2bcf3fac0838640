//! What is compared row by row, a row being the last dimension: which class wins, which classes lead, in which order all stand.

use std::cmp::Ordering;

/// The index of the largest value, the first of equals; a NaN counts as larger than any number, as in NumPy.
pub(super) fn top_1(row: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if row[best].is_nan() {
            break;
        }
        if value.is_nan() || *value > row[best] {
            best = index;
        }
    }
    best
}

/// The indices of the `k` largest values, the first of equals first, in rising order.
pub(super) fn top_k(row: &[f64], k: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..row.len()).collect();
    // The two zeros are equal; NaN stands above or below all numbers by its sign.
    let by_value = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or_else(|| b.total_cmp(&a));
    indices.sort_by(|a, b| by_value(row[*a], row[*b]).then(a.cmp(b)));
    indices.truncate(k);
    indices.sort_unstable();
    indices
}

/// Spearman's rank correlation with equal values sharing the mean of their ranks; `None` where all values of a row are equal.
pub(super) fn rank_correlation(expected: &[f64], actual: &[f64]) -> Option<f64> {
    pearson(&ranks(expected), &ranks(actual))
}

/// Pearson's correlation; `None` where one side does not vary.
pub(super) fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a row has fewer than 2^53 values")]
    let count = x.len() as f64;
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / count, y.iter().sum::<f64>() / count);
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xy += (a - mean_x) * (b - mean_y);
        xx += (a - mean_x) * (a - mean_x);
        yy += (b - mean_y) * (b - mean_y);
    }
    (xx > 0.0 && yy > 0.0).then(|| (xy / (xx.sqrt() * yy.sqrt())).clamp(-1.0, 1.0))
}

fn ranks(row: &[f64]) -> Vec<f64> {
    let mut indices: Vec<usize> = (0..row.len()).collect();
    indices.sort_by(|a, b| row[*a].partial_cmp(&row[*b]).unwrap_or(Ordering::Equal));
    let mut ranks = vec![0.0; row.len()];
    let mut start = 0;
    while start < indices.len() {
        let mut end = start + 1;
        while end < indices.len() && row[indices[end]] == row[indices[start]] {
            end += 1;
        }
        #[expect(clippy::cast_precision_loss, reason = "a row has fewer than 2^53 values")]
        let shared = (start + end + 1) as f64 / 2.0;
        indices[start..end].iter().for_each(|index| ranks[*index] = shared);
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(top_1(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(top_1(&[f64::NEG_INFINITY, f64::INFINITY, 0.0]), 1);
        assert_eq!(top_1(&[1.0, f64::NAN, 9.0]), 1, "as numpy.argmax");
        assert_eq!(top_k(&[5.0, 1.0, 5.0, 4.0], 2), [0, 2]);
        assert_eq!(top_k(&[1.0], 5), [0]);
    }

    #[test]
    fn ranks_of_equals_are_shared() {
        assert_eq!(ranks(&[10.0, 20.0, 10.0]), [1.5, 3.0, 1.5]);
        let near = |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() < 1e-12);
        assert!(near(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]), 1.0));
        assert!(near(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0));
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
    }
}

//! Whether XLA pays for a model: both ways of serving it, started in turn.
//!
//! XLA replaces oneDNN's kernels by its own and lowers every cluster at each start, so it may win or lose. Both ways are started
//! one after the other, again and again, so that a machine that becomes busy slows both; what decides is the median over pairs.

use crate::report::XlaTimes;

/// Pairs of starts at least and at most.
const ROUNDS: std::ops::RangeInclusive<usize> = 3..=7;
/// How much faster answers must be to count: less is noise.
const MARGIN: f64 = 0.05;
/// Further runs of the first start, whose median says how many a later start has time for.
const FIRST_REPEATS: usize = 5;
/// Milliseconds that the further runs of a later start may take.
const TIME: f64 = 2000.0;

/// What one start told, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// Median of the further runs.
    pub median: f64,
    /// From the process's start until the first run was done.
    pub start: f64,
}

/// Starts both ways in turn until they can be told apart, or it is clear that they cannot. `start` is given whether XLA compiles, and how often to
/// run after the first run.
///
/// # Errors
/// Those of `start`.
pub(super) fn measure<E>(mut start: impl FnMut(bool, usize) -> Result<Sample, E>) -> Result<XlaTimes, E> {
    let mut pairs = Vec::new();
    let mut repeats = FIRST_REPEATS;
    loop {
        let pair = (start(true, repeats)?, start(false, repeats)?);
        repeats = ((TIME / pair.1.median.max(0.01)) as usize).clamp(FIRST_REPEATS, 30);
        pairs.push(pair);
        if pairs.len() >= *ROUNDS.end() || (pairs.len() >= *ROUNDS.start() && agree(&pairs)) {
            return Ok(times(&pairs));
        }
    }
}

/// Whether XLA is to compile: the faster answers win; where they are as fast, the faster start does.
pub(super) fn pays(times: &XlaTimes) -> bool {
    if (times.ratio - 1.0).abs() <= MARGIN { times.start_with < times.start_without } else { times.ratio < 1.0 }
}

/// Whether every pair says the same.
fn agree(pairs: &[(Sample, Sample)]) -> bool {
    let verdict = |pair: &(Sample, Sample)| {
        let ratio = pair.0.median / pair.1.median;
        (ratio > 1.0 + MARGIN, ratio < 1.0 - MARGIN)
    };
    pairs.iter().all(|pair| verdict(pair) == verdict(&pairs[0]))
}

fn times(pairs: &[(Sample, Sample)]) -> XlaTimes {
    let of = |value: &dyn Fn(&(Sample, Sample)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    };
    let round = |milliseconds: f64| (milliseconds * 1e3).round() / 1e3;
    XlaTimes {
        with: round(of(&|pair| pair.0.median)),
        without: round(of(&|pair| pair.1.median)),
        start_with: round(of(&|pair| pair.0.start)),
        start_without: round(of(&|pair| pair.1.start)),
        ratio: round(of(&|pair| pair.0.median / pair.1.median)),
        rounds: pairs.len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measures two ways whose runs take so long in each round, the last one for ever after.
    fn measured(with: &[f64], without: &[f64], starts: (f64, f64)) -> (XlaTimes, Vec<(bool, usize)>) {
        let mut calls = Vec::new();
        let times = measure(|xla, repeats| {
            let round = calls.len() / 2;
            calls.push((xla, repeats));
            let (runs, start) = if xla { (with, starts.0) } else { (without, starts.1) };
            Ok::<_, ()>(Sample { median: runs[round.min(runs.len() - 1)], start })
        });
        (times.expect("nothing fails"), calls)
    }

    #[test]
    fn ways_are_started_in_turn_and_no_longer_than_they_differ() {
        let (times, calls) = measured(&[80.0], &[100.0], (2000.0, 1000.0));
        assert!(pays(&times), "faster answers weigh more than a slower start: {times:?}");
        assert_eq!(calls, [(true, 5), (false, 5), (true, 20), (false, 20), (true, 20), (false, 20)]);
        assert_eq!((times.with, times.without, times.ratio, times.rounds), (80.0, 100.0, 0.8, 3));
        let (times, _) = measured(&[120.0], &[100.0], (1000.0, 2000.0));
        assert!(!pays(&times), "{times:?}");
    }

    #[test]
    fn the_faster_start_wins_where_answers_are_as_fast() {
        for (with, without) in [(97.0, 100.0), (104.0, 100.0)] {
            assert!(pays(&measured(&[with], &[without], (900.0, 1000.0)).0));
            assert!(!pays(&measured(&[with], &[without], (1000.0, 900.0)).0));
        }
    }

    #[test]
    fn a_machine_that_gets_busy_misleads_neither_its_pairs_nor_one_pair_the_others() {
        // Everything becomes three times slower; the ratio stays.
        let (times, _) = measured(&[80.0, 80.0, 240.0], &[100.0, 100.0, 300.0], (2.0, 1.0));
        assert_eq!((times.ratio, times.rounds), (0.8, 3));
        // One start of the faster way met another program: more rounds are made, and it does not count.
        let (times, _) = measured(&[80.0, 300.0, 80.0], &[100.0], (2.0, 1.0));
        assert_eq!((times.ratio, times.rounds), (0.8, 7));
        assert!(pays(&times));
    }
}

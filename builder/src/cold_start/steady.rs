//! The server under load, once it runs: [`measure`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::ColdStartError;
use super::request::{InferRequest, agent};
use crate::report::cold_start::Steady;

/// Requests that are asked before anything is counted.
const UNCOUNTED: usize = 10;

/// How long clients ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// So long.
    Time(Duration),
    /// So many requests, all clients together.
    Requests(u64),
}

/// Lets so many clients ask one request after the other, each on a connection of its own.
pub(super) fn measure(
    address: SocketAddr,
    request: &InferRequest,
    clients: u64,
    load: Load,
    interrupted: &AtomicBool,
) -> Result<Steady, ColdStartError> {
    let first = agent();
    for _ in 0..UNCOUNTED {
        request.send(&first, address)?;
    }
    let taken = AtomicU64::new(0);
    let begun = Instant::now();
    let goes_on = || match load {
        Load::Time(time) => begun.elapsed() < time,
        Load::Requests(count) => taken.fetch_add(1, Ordering::Relaxed) < count,
    };
    let ask = || {
        let agent = agent();
        let mut latencies = Vec::new();
        while goes_on() {
            if interrupted.load(Ordering::Relaxed) {
                return Err(ColdStartError::Interrupted);
            }
            let asked = Instant::now();
            request.send(&agent, address)?;
            latencies.push(asked.elapsed());
        }
        Ok(latencies)
    };
    let answered: Vec<Result<Vec<Duration>, ColdStartError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let elapsed = begun.elapsed();
    let mut latencies = answered.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    latencies.sort_unstable();
    Ok(summarise(clients, &latencies, elapsed))
}

/// Sums sorted latencies up.
fn summarise(clients: u64, latencies: &[Duration], elapsed: Duration) -> Steady {
    // The smallest latency that so many percent of the requests stay within.
    let within = |percent: usize| {
        let rank = (latencies.len() * percent).div_ceil(100).max(1);
        latencies.get(rank - 1).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    };
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    let per_second = latencies.len() as f64 / elapsed.as_secs_f64();
    Steady { clients, requests: latencies.len() as u64, p50_ms: within(50), p95_ms: within(95), p99_ms: within(99), per_second }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latencies: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let steady = summarise(3, &latencies, Duration::from_secs(4));
        assert_eq!((steady.p50_ms, steady.p95_ms, steady.p99_ms, steady.per_second), (100.0, 190.0, 198.0, 50.0));
        assert_eq!(summarise(1, &latencies[..1], Duration::from_secs(1)).p99_ms, 1.0);
        assert_eq!(summarise(1, &[], Duration::from_secs(1)).p50_ms, 0.0);
    }
}

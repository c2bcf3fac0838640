//! A link that is slower and farther than the real one: [`Shaper`] holds answers back, and counts what went over it.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The most bytes that one read takes, so that a slow link is smooth.
const PIECE: usize = 32 << 10;
/// The bucket's depth: time by which a reader may be ahead, which bridges the coarseness of sleeping.
const AHEAD: Duration = Duration::from_millis(2);

/// Shapes what a [`Client`](super::Client) receives: a token bucket that all its connections share, and one round-trip time for each
/// request, for each new connection, and for each new connection's TLS. Requests' own bytes are not shaped.
#[derive(Debug)]
pub struct Shaper {
    bytes_per_second: f64,
    round_trip: Duration,
    round_trips: AtomicU64,
    /// Connections in use, and how many there have been.
    connections: Mutex<(u64, u64)>,
    /// When the link is free again.
    free: Mutex<Instant>,
}

impl Shaper {
    /// A link of this rate and round-trip time.
    #[must_use]
    pub fn new(bits_per_second: f64, round_trip: Duration) -> Self {
        Self {
            bytes_per_second: bits_per_second / 8.0,
            round_trip,
            round_trips: AtomicU64::new(0),
            connections: Mutex::default(),
            free: Mutex::new(Instant::now()),
        }
    }

    /// The link as it is: only counts.
    #[must_use]
    pub fn counting() -> Self {
        Self::new(f64::INFINITY, Duration::ZERO)
    }

    /// Round trips so far.
    #[must_use]
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }

    /// Takes note of an answer's head and holds it back for as many round trips as it takes over the link.
    pub(super) fn answered(self: &Arc<Self>, secure: bool) -> Lane {
        let new = {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.0 += 1;
            let new = connections.0 > connections.1;
            connections.1 = connections.1.max(connections.0);
            new
        };
        let trips = 1 + if new { 1 + u64::from(secure) } else { 0 };
        self.round_trips.fetch_add(trips, Ordering::Relaxed);
        sleep(self.round_trip * u32::try_from(trips).unwrap_or(u32::MAX));
        Lane { shaper: Arc::clone(self) }
    }

    /// Waits until so many bytes would have come.
    fn take(&self, bytes: usize) {
        if self.bytes_per_second.is_infinite() {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a read is far smaller than 2^52 bytes")]
        let cost = Duration::try_from_secs_f64(bytes as f64 / self.bytes_per_second).unwrap_or(Duration::MAX);
        let ends = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = (*free).max(Instant::now().checked_sub(AHEAD).unwrap_or(*free));
            *free = begins.checked_add(cost).unwrap_or(begins);
            *free
        };
        sleep(ends.saturating_duration_since(Instant::now()));
    }
}

/// A connection in use; it is free for the next request when dropped.
#[derive(Debug)]
pub(super) struct Lane {
    shaper: Arc<Shaper>,
}

impl Lane {
    /// Reads no faster than the link.
    pub(super) fn read(&self, reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(PIECE);
        let count = reader.read(&mut buffer[..most])?;
        self.shaper.take(count);
        Ok(count)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shaper.connections.lock().unwrap_or_else(PoisonError::into_inner).0 -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_no_faster_than_the_link_however_many_read() {
        let shaper = Arc::new(Shaper::new(80e6, Duration::from_millis(5)));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let lane = shaper.answered(false);
                    let mut source = io::repeat(7).take(500_000);
                    let mut buffer = [0; 100_000];
                    let mut total = 0;
                    loop {
                        match lane.read(&mut source, &mut buffer).expect("it reads") {
                            0 => break total,
                            count => total += count,
                        }
                    }
                });
            }
        });
        // 1.5 MB at 10 MB/s; slower is the machine's affair.
        assert!(begun.elapsed() >= Duration::from_millis(145), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_connection_costs_its_own_round_trips_once() {
        let shaper = Arc::new(Shaper::counting());
        drop(shaper.answered(true));
        assert_eq!(shaper.round_trips(), 3);
        let lane = shaper.answered(true);
        assert_eq!(shaper.round_trips(), 4);
        let other = shaper.answered(true);
        assert_eq!(shaper.round_trips(), 7);
        drop((lane, other));
    }
}

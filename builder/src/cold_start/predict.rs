//! What a cold start takes over another link, computed: [`predict`].

use crate::report::cold_start::{Link, Prediction};

/// The links that every report predicts.
pub const LINKS: [Link; 3] = [
    Link { bits_per_second: 1e8, latency_ms: 20.0 },
    Link { bits_per_second: 1e9, latency_ms: 5.0 },
    Link { bits_per_second: 1e10, latency_ms: 1.0 },
];

/// What was measured without a link in the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Milliseconds from the name to manifest and config.
    pub resolve_ms: f64,
    /// Round trips of that.
    pub resolve_round_trips: u64,
    /// Milliseconds until the layers had arrived: what this machine takes to receive, hash and write them.
    pub download_ms: f64,
    /// Round trips of that which follow one another.
    pub download_round_trips: u64,
    /// Bytes of the layers.
    pub bytes: u64,
    /// Milliseconds from there to the first answer.
    pub rest_ms: f64,
}

/// Computes the times over a link: bytes by rate, or what this machine takes for them where that is longer, and the round trips.
#[must_use]
pub fn predict(measured: &Measured, link: Link) -> Prediction {
    #[expect(clippy::cast_precision_loss, reason = "an image is far smaller than 2^52 bytes")]
    let (bits, resolve_trips, download_trips) =
        (measured.bytes as f64 * 8.0, measured.resolve_round_trips as f64, measured.download_round_trips as f64);
    let transfer_ms = bits / link.bits_per_second * 1e3;
    let download_ms = transfer_ms.max(measured.download_ms) + download_trips * link.latency_ms;
    let resolve_ms = measured.resolve_ms + resolve_trips * link.latency_ms;
    Prediction { link, download_ms, total_ms: resolve_ms + download_ms + measured.rest_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_is_bound_by_its_rate_and_a_fast_one_by_the_machine() {
        let measured = Measured {
            resolve_ms: 2.0,
            resolve_round_trips: 3,
            download_ms: 100.0,
            download_round_trips: 3,
            bytes: 12_500_000,
            rest_ms: 400.0,
        };
        let [slow, middle, fast] = LINKS.map(|link| predict(&measured, link));
        assert_eq!((slow.download_ms, slow.total_ms), (1060.0, 1522.0));
        assert_eq!((middle.download_ms, middle.total_ms), (115.0, 532.0));
        assert_eq!((fast.download_ms, fast.total_ms), (103.0, 508.0));
    }
}

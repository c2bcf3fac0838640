//! Trying again: [`Tries`] counts failures without progress and waits between them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use crate::progress::Progress;

use super::error::RegistryError;
use super::settings::Retries;

/// Failures in a row, and the waits between them.
#[derive(Debug)]
pub(crate) struct Tries {
    retries: Retries,
    progress: Progress,
    failed: u32,
}

impl Tries {
    pub(crate) fn new(retries: &Retries, progress: &Progress) -> Self {
        Self { retries: retries.clone(), progress: progress.clone(), failed: 0 }
    }

    /// Counts a failure and waits, or ends with the error where it will not get better or happened too often.
    pub(crate) fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if !error.is_transient() {
            return Err(error);
        }
        self.again_anyway(error)
    }

    /// As [`Self::again`] for an error that is final by itself, but not for what is being done.
    pub(crate) fn again_anyway(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.failed += 1;
        if self.failed >= self.retries.attempts {
            return Err(if self.failed == 1 {
                error
            } else {
                RegistryError::GaveUp { attempts: self.failed, source: Box::new(error) }
            });
        }
        let asked = match &error {
            RegistryError::Status(refusal) => refusal.retry_after,
            _ => None,
        };
        if asked.is_some_and(|asked| asked > self.retries.longest_retry_after) {
            return Err(error);
        }
        let bound = self.retries.first_wait.saturating_mul(1 << (self.failed - 1).min(16)).min(self.retries.longest_wait);
        let wait = bound.mul_f64(random_fraction()) + asked.unwrap_or_default();
        self.progress.note(format!("{error}; attempt {} in {:.1} s", self.failed + 1, wait.as_secs_f64()));
        (self.retries.sleep)(wait);
        Ok(())
    }

    /// Forgets the failures: something was achieved since.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }
}

/// Does something until it succeeds or fails for good.
pub(crate) fn retrying<T>(
    retries: &Retries,
    progress: &Progress,
    mut step: impl FnMut() -> Result<T, RegistryError>,
) -> Result<T, RegistryError> {
    let mut tries = Tries::new(retries, progress);
    loop {
        match step() {
            Ok(value) => return Ok(value),
            Err(error) => tries.again(error)?,
        }
    }
}

/// A number from 0 to 1, so that many clients do not come back at the same moment.
fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit into an f64")]
    let fraction = bits as f64 / (1_u64 << 53) as f64;
    fraction
}

/// Reads a `Retry-After`: seconds, or a date.
pub(crate) fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::registry::error::{Refusal, TransportKind};

    fn refusal(status: u16, retry_after: Option<u64>) -> RegistryError {
        RegistryError::Status(Box::new(Refusal {
            registry: "localhost".to_owned(),
            repository: None,
            method: "GET".to_owned(),
            url: "http://localhost/v2/".to_owned(),
            status,
            code: None,
            message: None,
            retry_after: retry_after.map(Duration::from_secs),
        }))
    }

    fn recorded() -> (Retries, Arc<Mutex<Vec<Duration>>>) {
        let waits = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&waits);
        let sleep = Arc::new(move |wait| sink.lock().expect("no panic").push(wait));
        (
            Retries {
                attempts: 5,
                first_wait: Duration::from_secs(1),
                longest_wait: Duration::from_secs(3),
                sleep,
                ..Retries::default()
            },
            waits,
        )
    }

    #[test]
    fn waits_double_to_a_bound_with_jitter_and_end() {
        let mut seen = [Duration::ZERO; 4];
        for _ in 0..200 {
            let (retries, waits) = recorded();
            let result = retrying(&retries, &Progress::silent(), || Err::<(), _>(refusal(503, None)));
            assert!(matches!(result, Err(RegistryError::GaveUp { attempts: 5, .. })));
            let waits = waits.lock().expect("no panic");
            assert_eq!(waits.len(), 4);
            for (most, wait) in seen.iter_mut().zip(waits.iter()) {
                *most = (*most).max(*wait);
            }
        }
        for (most, bound) in seen.into_iter().zip([1.0, 2.0, 3.0, 3.0]) {
            assert!(most.as_secs_f64() <= bound && most.as_secs_f64() > 0.8 * bound, "{most:?} of {bound}");
        }
    }

    #[test]
    fn retry_after_is_a_lower_bound_and_a_very_long_one_ends_it() {
        let (retries, waits) = recorded();
        let mut answers = vec![Ok(()), Err(refusal(429, Some(7)))];
        retrying(&retries, &Progress::silent(), || answers.pop().expect("two")).expect("succeeds in the end");
        let waited = waits.lock().expect("no panic")[0];
        assert!(waited >= Duration::from_secs(7) && waited <= Duration::from_secs(8), "{waited:?}");
        let result = retrying(&retries, &Progress::silent(), || Err::<(), _>(refusal(429, Some(301))));
        assert!(result.expect_err("too long").to_string().ends_with("with status 429, and asks to wait 301 s"));
    }

    #[test]
    fn what_will_not_get_better_is_not_tried_again() {
        let untrusted = RegistryError::Transport {
            registry: String::new(),
            method: String::new(),
            url: String::new(),
            kind: TransportKind::Certificate,
            reason: String::new(),
        };
        for error in [refusal(404, None), refusal(501, None), refusal(403, Some(1)), untrusted] {
            let (retries, waits) = recorded();
            let mut error = Some(error);
            assert!(retrying(&retries, &Progress::silent(), || Err::<(), _>(error.take().expect("asked once"))).is_err());
            assert!(waits.lock().expect("no panic").is_empty());
        }
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        assert_eq!(parse_retry_after(" 12 ", now), Some(Duration::from_secs(12)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(77)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), Some(Duration::ZERO));
        for bad in ["", "soon", "-1", "1.5", "99999999999999999999999"] {
            assert_eq!(parse_retry_after(bad, now), None, "{bad}");
        }
    }
}

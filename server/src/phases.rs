//! The phases of starting, each reported by one line when it ends.
//!
//! `{"imgserve":"phase","time":…,"phase":"dlopen","at_ms":31.2,"took_ms":9.7}`: `at_ms` counts from the start of the
//! process as the kernel recorded it, `took_ms` from the end of the phase before. The kernel's record is in ticks, most
//! often of 10 ms, so `at_ms`, and `took_ms` of `exec`, may be late by up to one tick; every other `took_ms`, and
//! differences of `at_ms`, are exact.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::log::{Line, marked};

/// A part of starting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From the process's start to the program's first line: the loader.
    Exec,
    /// Arguments, file and environment read, and the address bound.
    Config,
    /// The runtime's library opened and initialised.
    Dlopen,
    /// The model read and its session made.
    Session,
    /// The model run once.
    WarmUp,
    /// Requests are answered.
    Ready,
}

impl Phase {
    /// The name in the line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Config => "config",
            Self::Dlopen => "dlopen",
            Self::Session => "session",
            Self::WarmUp => "warm_up",
            Self::Ready => "ready",
        }
    }
}

/// The clock of the phases.
pub struct Phases {
    /// The process's start, as nearly as is known.
    start: Instant,
    state: Mutex<State>,
}

struct State {
    last: Instant,
    ended: Vec<(Phase, Duration)>,
}

impl Phases {
    /// Starts the clock; to be called first.
    pub fn start() -> Self {
        let now = Instant::now();
        let start = since_process_start().and_then(|age| now.checked_sub(age)).unwrap_or(now);
        Self { start, state: Mutex::new(State { last: start, ended: Vec::new() }) }
    }

    /// Ends a phase and reports it.
    pub fn end(&self, phase: Phase) {
        self.end_with(phase, |line| line);
    }

    /// Ends a phase and reports it with more fields.
    pub fn end_with(&self, phase: Phase, fields: impl FnOnce(Line) -> Line) {
        let now = Instant::now();
        let took = {
            let mut state = self.state.lock().expect("no panic can happen while it is held");
            let took = now - state.last;
            state.last = now;
            state.ended.push((phase, took));
            took
        };
        fields(
            marked("phase")
                .field("phase", phase.name())
                .field("at_ms", &milliseconds(now - self.start))
                .field("took_ms", &milliseconds(took)),
        )
        .emit();
    }

    /// The phases that ended, in order, and how long each took.
    pub fn ended(&self) -> Vec<(Phase, Duration)> {
        self.state.lock().expect("no panic can happen while it is held").ended.clone()
    }
}

/// Milliseconds with microseconds after the point.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// How long this process has lived.
fn since_process_start() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let started = parse_start_ticks(&stat)?;
    // SAFETY: `sysconf` has no preconditions.
    let ticks_per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok().filter(|&ticks| ticks > 0)?;
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return None;
    }
    let now = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
    let nanoseconds = u128::from(started) * 1_000_000_000 / u128::from(ticks_per_second);
    now.checked_sub(Duration::from_nanos(u64::try_from(nanoseconds).ok()?))
}

/// The 22nd field of `/proc/PID/stat`, in ticks since boot; the second may hold spaces and brackets.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_start_ticks(&format!("7 (a) b( c) {fields}")), Some(4711));
        assert_eq!(parse_start_ticks("7 (a"), None);
    }

    #[test]
    fn this_process_is_young() {
        let age = since_process_start().expect("/proc is mounted");
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}

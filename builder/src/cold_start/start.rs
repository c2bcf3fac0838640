//! One start of a container, from the call to the first answer: [`start`], and how two clocks become one: [`join`].

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::error::ColdStartError;
use super::machine;
use super::request::Question;
use crate::report::cold_start::Phase;
use crate::runner::{ContainerSpec, LogLine, Runner, RunningContainer, Timings, wait_until_ready};

/// Where the server says that it is ready.
pub(super) const READY: &str = "/v2/health/ready";
/// How long a line may take from the server, which has written it before it says that it is ready.
const LINE_PATIENCE: Duration = Duration::from_secs(5);

/// A measured start. The container runs on.
#[derive(Debug)]
pub(super) struct Started {
    pub container: Box<dyn RunningContainer>,
    /// The phases from `create` to `first_inference`; nothing lies between them.
    pub phases: Vec<(Phase, Duration)>,
    pub total: Duration,
    /// How long of that some task of the machine waited for a CPU, where the kernel tells.
    pub waited: Option<Duration>,
}

/// A phase line of the server's.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct PhaseLine {
    phase: String,
    at_ms: f64,
}

/// Starts the image and asks it once.
pub(super) fn start(
    runner: &dyn Runner,
    spec: &ContainerSpec,
    question: &Question,
    patience: Duration,
) -> Result<Started, ColdStartError> {
    let waited_before = machine::waited();
    let mut container = runner.start(spec)?;
    let lines = container.lines();
    wait_until_ready(container.as_mut(), READY, patience)?;
    let ready = Instant::now();
    question.client(container.address()).time(&question.request)?;
    let answered = Instant::now();
    let waited = waited_before.and_then(|before| machine::waited()?.checked_sub(before));
    let timings = container.timings();
    let lines = phase_lines(&lines, container.as_ref())?;
    let phases = join(&timings, &lines, ready, answered)
        .map_err(|phase| ColdStartError::PhaseMissing { phase, log: container.last_lines() })?;
    Ok(Started { container, phases, total: answered - timings.asked, waited })
}

/// The server's phase lines, and when this process read each.
fn phase_lines(lines: &Receiver<LogLine>, container: &dyn RunningContainer) -> Result<Vec<(Instant, PhaseLine)>, ColdStartError> {
    let mut found = Vec::new();
    let deadline = Instant::now() + LINE_PATIENCE;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let Some(phase) = parse(&line.text) else { continue };
                let is_last = phase.phase == "ready";
                found.push((line.at, phase));
                if is_last {
                    return Ok(found);
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(ColdStartError::PhaseMissing { phase: "ready", log: container.last_lines() });
            }
        }
    }
}

fn parse(line: &str) -> Option<PhaseLine> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    (value["imgserve"] == "phase").then(|| serde_json::from_value(value).ok()).flatten()
}

/// Puts the server's times on this process's clock and cuts the start at them.
///
/// The server counts from a moment of its own; a line is read here a little after it was written. The line that was read the soonest
/// tells where that moment lies, and the differences between the server's own times, which are exact, do the rest.
fn join(
    timings: &Timings,
    lines: &[(Instant, PhaseLine)],
    ready: Instant,
    answered: Instant,
) -> Result<Vec<(Phase, Duration)>, &'static str> {
    let after = |line: &PhaseLine| Duration::try_from_secs_f64(line.at_ms / 1e3).unwrap_or_default();
    let origin = lines.iter().filter_map(|(at, line)| at.checked_sub(after(line))).min().ok_or("exec")?;
    let at =
        |name: &'static str| lines.iter().find(|(_, line)| line.phase == name).map(|(_, line)| origin + after(line)).ok_or(name);
    let ends = [
        // An engine, or a helper on a busy machine, may say so long after the program's first line.
        (Phase::Create, timings.created.min(at("exec")?)),
        (Phase::Start, timings.started.min(at("exec")?)),
        (Phase::Exec, at("config")?),
        (Phase::Dlopen, at("dlopen")?),
        (Phase::Session, at("session")?),
        (Phase::WarmUp, at("warm_up")?),
        (Phase::Ready, ready),
        (Phase::FirstInference, answered),
    ];
    let mut last = timings.asked;
    Ok(ends
        .into_iter()
        .map(|(phase, end)| {
            let end = if phase < Phase::Ready { end.min(ready) } else { end }.max(last);
            let took = end - last;
            last = end;
            (phase, took)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: Instant, phase: &str, at_ms: f64) -> (Instant, PhaseLine) {
        (at, PhaseLine { phase: phase.to_owned(), at_ms })
    }

    #[test]
    fn the_servers_clock_is_laid_where_its_quickest_line_says() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let timings = Timings { asked: zero, created: at(4), started: at(6) };
        // The server's clock began at 5; lines arrive 1 to 9 ms late, the one of `session` at once.
        let lines = [
            line(at(17), "exec", 3.0),
            line(at(17), "config", 4.0),
            line(at(30), "dlopen", 20.0),
            line(at(65), "session", 60.0),
            line(at(72), "warm_up", 65.0),
            line(at(75), "ready", 65.5),
        ];
        let phases = join(&timings, &lines, at(73), at(80)).expect("every line is there");
        let expected = [
            (Phase::Create, 4),
            (Phase::Start, 2),
            (Phase::Exec, 3),
            (Phase::Dlopen, 16),
            (Phase::Session, 40),
            (Phase::WarmUp, 5),
            (Phase::Ready, 3),
            (Phase::FirstInference, 7),
        ]
        .map(|(phase, ms)| (phase, Duration::from_millis(ms)));
        assert_eq!(phases, expected);
        // An engine that comes back late, and a server that was seen ready before its line was: the parts still make up the whole.
        let late = Timings { started: at(50), ..timings };
        let phases = join(&late, &lines, at(60), at(61)).expect("every line is there");
        assert_eq!(phases.iter().map(|(_, took)| *took).sum::<Duration>(), Duration::from_millis(61));
        assert_eq!(phases[1], (Phase::Start, Duration::from_millis(4)));
        let later = Timings { created: at(50), ..late };
        let phases = join(&later, &lines, at(60), at(61)).expect("every line is there");
        assert_eq!((phases[0].1, phases[2].1), (Duration::from_millis(8), Duration::from_millis(1)));
        assert_eq!(join(&timings, &lines[..3], at(73), at(80)), Err("session"));
        assert_eq!(join(&timings, &[], at(73), at(80)), Err("exec"));
    }

    #[test]
    fn only_phase_lines_are_phase_lines() {
        let text = r#"{"imgserve":"phase","time":"x","phase":"session","at_ms":67.738,"took_ms":20.6,"threads":2}"#;
        assert_eq!(parse(text), Some(PhaseLine { phase: "session".to_owned(), at_ms: 67.738 }));
        for other in ["", "hello", r#"{"imgserve":"log"}"#, r#"{"imgserve":"phase"}"#, "[1]"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

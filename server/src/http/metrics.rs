//! Counters, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper::StatusCode;

use crate::backend::Placement;
use crate::phases::Phase;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An inference.
    Infer,
    /// Metadata of the server or the model.
    Metadata,
    /// Liveness or readiness.
    Health,
    /// These counters.
    Metrics,
    /// Nothing that is served.
    Other,
}

impl Kind {
    /// The value of the label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Infer => "infer",
            Self::Metadata => "metadata",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Other => "other",
        }
    }
}

/// Upper bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 16] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// Durations, counted by size.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(index) = BUCKETS.iter().position(|&bound| seconds <= bound) {
            self.buckets[index].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, help: &str) {
        head(out, name, "histogram", help);
        // The total is read first, so that no bucket can be seen above it.
        let total = self.count.load(Ordering::Relaxed);
        let mut below = 0;
        for (bound, bucket) in BUCKETS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            line(out, format_args!("{name}_bucket{{le=\"{bound}\"}} {}", below.min(total)));
        }
        line(out, format_args!("{name}_bucket{{le=\"+Inf\"}} {total}"));
        let seconds = Duration::from_micros(self.microseconds.load(Ordering::Relaxed)).as_secs_f64();
        line(out, format_args!("{name}_sum {seconds}"));
        line(out, format_args!("{name}_count {total}"));
    }
}

/// A number that goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicUsize);

impl Gauge {
    /// Counts one for as long as the guard lives.
    pub fn enter(&self) -> GaugeGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        GaugeGuard(self)
    }

    /// The number now.
    pub fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keeps one counted.
pub struct GaugeGuard<'a>(&'a Gauge);

impl Drop for GaugeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every counter of the process.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(Kind, u16), u64>>,
    /// From a request's head to its answer.
    pub infer: Histogram,
    /// In the runtime.
    pub run: Histogram,
    /// Requests being answered.
    pub in_flight: Gauge,
    /// Requests that wait for a run.
    pub queued: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Handlers that panicked.
    pub panics: AtomicU64,
    /// Phases of starting; set once the model is ready.
    pub phases: OnceLock<Vec<(Phase, Duration)>>,
}

impl Metrics {
    /// Counts an answer.
    pub fn answered(&self, kind: Kind, status: StatusCode) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((kind, status.as_u16())).or_default() += 1;
    }

    /// Writes all of them.
    pub fn render(&self, model: (&str, &str), ready: bool, placement: Option<&Placement>) -> String {
        let mut out = String::with_capacity(4096);
        head(&mut out, "imgserve_info", "gauge", "The server and the model it serves.");
        let (name, version) = (escape(model.0), escape(model.1));
        let server = env!("CARGO_PKG_VERSION");
        line(&mut out, format_args!("imgserve_info{{version=\"{server}\",model=\"{name}\",model_version=\"{version}\"}} 1"));
        head(&mut out, "imgserve_ready", "gauge", "1 while inferences are answered.");
        line(&mut out, format_args!("imgserve_ready {}", u8::from(ready)));

        if let Some(placement) = placement {
            head(&mut out, "imgserve_model_nodes", "gauge", "Nodes of the model, by the provider that runs them.");
            for (provider, count) in &placement.nodes {
                line(&mut out, format_args!("imgserve_model_nodes{{provider=\"{}\"}} {count}", escape(provider)));
            }
        }

        head(&mut out, "imgserve_requests_total", "counter", "Requests answered, by what they were for and the status.");
        for ((kind, code), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            line(&mut out, format_args!("imgserve_requests_total{{kind=\"{}\",code=\"{code}\"}} {count}", kind.name()));
        }
        self.infer.write(&mut out, "imgserve_infer_duration_seconds", "From an inference request's head to its answer.");
        self.run.write(&mut out, "imgserve_run_duration_seconds", "Time in the runtime.");

        for (name, help, gauge) in [
            ("imgserve_requests_in_flight", "Requests being answered.", &self.in_flight),
            ("imgserve_queue_length", "Inference requests that wait for a run.", &self.queued),
            ("imgserve_connections", "Open connections.", &self.connections),
        ] {
            head(&mut out, name, "gauge", help);
            line(&mut out, format_args!("{name} {}", gauge.value()));
        }
        head(&mut out, "imgserve_panics_total", "counter", "Requests that ended in an internal error.");
        line(&mut out, format_args!("imgserve_panics_total {}", self.panics.load(Ordering::Relaxed)));

        if let Some(phases) = self.phases.get() {
            head(&mut out, "imgserve_start_phase_seconds", "gauge", "How long each phase of starting took.");
            for (phase, took) in phases {
                let (name, seconds) = (phase.name(), took.as_secs_f64());
                line(&mut out, format_args!("imgserve_start_phase_seconds{{phase=\"{name}\"}} {seconds}"));
            }
            let load: Duration =
                phases.iter().filter(|(phase, _)| matches!(phase, Phase::Dlopen | Phase::Session)).map(|(_, took)| *took).sum();
            head(&mut out, "imgserve_model_load_seconds", "gauge", "Opening the runtime and loading the model.");
            line(&mut out, format_args!("imgserve_model_load_seconds {}", load.as_secs_f64()));
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (name, help, field) in [
            ("process_resident_memory_bytes", "Resident memory.", "VmRSS:"),
            ("process_resident_memory_max_bytes", "Largest resident memory so far.", "VmHWM:"),
        ] {
            if let Some(kibibytes) = status_field(&status, field) {
                head(&mut out, name, "gauge", help);
                line(&mut out, format_args!("{name} {}", kibibytes * 1024));
            }
        }
        out
    }
}

fn status_field(status: &str, field: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    line(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("writing to a string does not fail");
}

/// A label's value, as the text form wants it.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

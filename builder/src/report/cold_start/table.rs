//! The cold-start report as a table that a person reads at a glance.

use std::fmt::Write as _;

use super::{ColdStartReport, Column, Link, PageCache, Phase, Source, Spread};
use crate::runner::MemoryMeasure;
use crate::units::ByteSize;

/// The longest list of touched files that is shown.
const ROWS: usize = 6;

/// Renders the report for a terminal or a log, without colours, ending in a newline.
#[must_use]
pub fn render(report: &ColdStartReport) -> String {
    let mut text = head(report);
    phases(&mut text, report);
    predictions(&mut text, report);
    steady(&mut text, report);
    touched(&mut text, report);
    text
}

fn head(report: &ColdStartReport) -> String {
    let machine = &report.machine;
    let source = match report.source {
        Source::Registry => "pulled from its registry",
        Source::Local => "pulled from a registry on the loopback that served the local image",
    };
    let link = report.link.map(|link| format!(" over {link}")).unwrap_or_default();
    let stack = report.stack.as_ref().map(|stack| format!(" · {stack}")).unwrap_or_default();
    format!(
        "{}{stack} · {}\n{}\n{source}{link}, started by {}\n{} × {}, {} of memory, {}, {}\n\n",
        report.model,
        report.image.platform,
        report.image.digest,
        report.runner,
        machine.cores,
        machine.cpu,
        ByteSize(machine.memory),
        machine.kernel,
        machine.disk
    )
}

fn phases(text: &mut String, report: &ColdStartReport) {
    let columns = &report.columns;
    let mut row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        let _ = write!(text, "{name:<24}");
        for cell in cells {
            let _ = write!(text, "{cell:>30}");
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    };
    let runs = |column: &Column| column.start_to_first_answer.samples.len();
    row("median (range), ms", &mut columns.iter().map(|column| format!("{}, {} runs", cache(column.cache), runs(column))));
    let times = |column: &Column, phase: Phase| {
        let found = column.phases.iter().find(|times| times.phase == phase);
        found.map_or_else(|| "–".to_owned(), |found| spread(&found.times))
    };
    for phase in Phase::ALL {
        if columns.iter().any(|column| column.phases.iter().any(|times| times.phase == phase)) {
            row(&format!("  {phase}"), &mut columns.iter().map(|column| times(column, phase)));
        }
    }
    row("start to first answer", &mut columns.iter().map(|column| spread(&column.start_to_first_answer)));
    if columns.iter().any(|column| column.contention.is_some()) {
        let part = |column: &Column| column.contention.map_or_else(|| "–".to_owned(), |part| format!("{:.0} %", part * 1e2));
        row("  tasks waited for a CPU", &mut columns.iter().map(part));
    }
    row("nothing to first answer", &mut columns.iter().map(|column| format!("{:.1}", ColdStartReport::total(column))));
    for column in columns {
        let _ = writeln!(text, "{}: {}", cache(column.cache), column.how);
    }
}

fn predictions(text: &mut String, report: &ColdStartReport) {
    if report.predictions.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{:<28}{:>14}{:>26}", "predicted, not measured", "download", "nothing to first answer");
    for prediction in &report.predictions {
        let (link, download, total) = (prediction.link.to_string(), prediction.download_ms, prediction.total_ms);
        let _ = writeln!(text, "  {link:<26}{download:>11.0} ms{total:>23.0} ms");
    }
}

fn steady(text: &mut String, report: &ColdStartReport) {
    if !report.steady.is_empty() {
        let _ = writeln!(
            text,
            "\n{:<10}{:>10}{:>12}{:>12}{:>12}{:>12}",
            "clients", "requests", "p50 ms", "p95 ms", "p99 ms", "per second"
        );
    }
    for row in &report.steady {
        let _ = writeln!(
            text,
            "{:<10}{:>10}{:>12.2}{:>12.2}{:>12.2}{:>12.1}",
            row.clients, row.requests, row.p50_ms, row.p95_ms, row.p99_ms, row.per_second
        );
    }
    if let Some(peak) = report.peak_memory {
        let counted = match peak.measure {
            MemoryMeasure::ControlGroup => "control group, page cache included",
            MemoryMeasure::ResidentSet => "resident set, shared pages included",
        };
        let _ = writeln!(text, "peak memory: {} ({counted})", ByteSize(peak.bytes));
    }
}

fn touched(text: &mut String, report: &ColdStartReport) {
    if report.touched.is_empty() {
        return;
    }
    let touched: u64 = report.touched.iter().map(|file| file.touched).sum();
    let size: u64 = report.touched.iter().map(|file| file.size).sum();
    let _ = writeln!(
        text,
        "\nneeded by the first answer: {} of {} in {} files",
        ByteSize(touched),
        ByteSize(size),
        report.touched.len()
    );
    for file in report.touched.iter().take(ROWS) {
        let (touched, size) = (ByteSize(file.touched).to_string(), ByteSize(file.size).to_string());
        let _ = writeln!(text, "{touched:>12} of {size:>9}  {}", file.path);
    }
}

fn cache(cache: PageCache) -> &'static str {
    match cache {
        PageCache::Cold => "cold",
        PageCache::Warm => "warm",
    }
}

fn spread(spread: &Spread) -> String {
    format!("{:.1} ({:.1} – {:.1})", spread.median, spread.smallest(), spread.largest())
}

impl std::fmt::Display for Link {
    /// As `--link` takes it: `1Gbit/s,5ms`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1.0, "bit/s")];
        let (factor, unit) = units.into_iter().find(|(factor, _)| self.bits_per_second >= *factor).unwrap_or((1.0, "bit/s"));
        f.pad(&format!("{}{unit},{}ms", self.bits_per_second / factor, self.latency_ms))
    }
}

/// A text that is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no link, expected a rate and a round-trip time such as `1Gbit/s,5ms` or `20Mbit/s`")]
pub struct LinkError {
    /// The text as given.
    pub found: String,
}

impl std::str::FromStr for Link {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let error = || LinkError { found: text.to_owned() };
        let (rate, latency) = text.split_once(',').unwrap_or((text, "0ms"));
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            text.parse::<f64>().ok().filter(|number| plain && number.is_finite())
        };
        let units = [("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0)];
        let (rate, factor) = units
            .iter()
            .find_map(|(unit, factor)| rate.trim().strip_suffix(unit).map(|rate| (rate.trim_end(), *factor)))
            .ok_or_else(error)?;
        let latency = latency.trim().strip_suffix("ms").ok_or_else(error)?.trim_end();
        let link =
            Self { bits_per_second: number(rate).ok_or_else(error)? * factor, latency_ms: number(latency).ok_or_else(error)? };
        let usable = (1e3..=1e12).contains(&link.bits_per_second) && link.latency_ms <= 60_000.0;
        if usable { Ok(link) } else { Err(error()) }
    }
}

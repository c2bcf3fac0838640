//! The report as a table that a person reads at a glance.

use std::fmt::Write as _;

use super::{BASE_IMAGE, SizeReport, XlaChooser, XlaMode, XlaReport};
use crate::recipe::Minimize;
use crate::units::ByteSize;

/// The longest list of files or omissions that is shown; the rest is summed up.
const ROWS: usize = 8;

/// Renders the report for a terminal or a log, without colours, ending in a newline.
#[must_use]
pub fn render(report: &SizeReport) -> String {
    let mut text = String::new();
    let mut line = |content: String| {
        text.push_str(content.trim_end());
        text.push('\n');
    };
    line(format!("{} · {} · {} · {}", report.model.name, report.stack, report.base, report.image.platform));
    line(format!("{}", report.image.digest));
    line(String::new());
    line(row("layer", "unpacked", "compressed", "what"));
    for layer in &report.layers {
        let what = match layer.name.as_str() {
            BASE_IMAGE => layer.digest.short(),
            _ => largest(report, &layer.name),
        };
        line(row(&layer.name, &size(layer.unpacked), &size(layer.compressed), &what));
    }
    let totals = &report.totals;
    line(row("total", &size(totals.image.unpacked), &size(totals.image.compressed), ""));
    line(row(
        "  without model",
        &size(totals.without_model.unpacked),
        &size(totals.without_model.compressed),
        "shared by every model of this stack",
    ));
    line(String::new());
    for level in &report.levels {
        let what = match level.minimize {
            Minimize::Package => "every file of the packages",
            Minimize::Closure => "libraries that something links to",
            Minimize::Model => "libraries that this model can reach",
        };
        let mark = if level.minimize == report.minimize { "→ " } else { "  " };
        line(row(&format!("{mark}{}", level.minimize), &size(level.unpacked), &size(level.compressed), what));
    }
    if !report.omitted.is_empty() {
        line(String::new());
        let saved: u64 = report.omitted.iter().map(|omission| omission.unpacked).sum();
        line(format!("left out: {}", ByteSize(saved)));
        for omission in report.omitted.iter().take(ROWS) {
            line(row(
                &format!("  {}", omission.name),
                &size(omission.unpacked),
                "",
                &format!("{}: {}", omission.package, omission.reason),
            ));
        }
        let rest = &report.omitted[ROWS.min(report.omitted.len())..];
        if !rest.is_empty() {
            line(row(&format!("  {} more", rest.len()), &size(rest.iter().map(|o| o.unpacked).sum()), "", "see the report file"));
        }
    }
    line(String::new());
    let mut proof = format!(
        "links: {} objects, {} symbols and {} versions resolve inside the image",
        report.links.objects, report.links.symbols, report.links.versions
    );
    if !report.links.injected.is_empty() {
        let _ = write!(proof, ", {} come from the host", report.links.injected.len());
    }
    line(proof);
    if let Some(xla) = &report.xla {
        line(format!("xla: {}", compiled(xla)));
    }
    if let Some(model) = &report.compiled {
        let rows: Vec<String> = model.rows.iter().map(ToString::to_string).collect();
        let rows = if rows.is_empty() { String::new() } else { format!(", batches of {}", rows.join(", ")) };
        line(format!("compiled: for {}{rows}, by {} and {}", model.processor, model.by, model.linked_by));
    }
    if let Some(reason) = &report.not_compiled {
        line(format!("not compiled ahead of time: {reason}"));
    }
    text
}

/// What XLA does, in words.
fn compiled(xla: &XlaReport) -> String {
    let mut words = match xla.mode {
        XlaMode::Off => "off".to_owned(),
        XlaMode::Auto => "what TensorFlow finds worth it is compiled".to_owned(),
        XlaMode::Model => "what the model asks for is compiled".to_owned(),
    };
    if let Some(times) = xla.milliseconds {
        let _ = write!(
            words,
            "; answers in {:.1} ms with it, {:.1} ms without; starts in {:.0} ms with it, {:.0} ms without",
            times.with, times.without, times.start_with, times.start_without
        );
    } else if xla.chosen_by == Some(XlaChooser::Lock) {
        words.push_str(", as the lock says");
    }
    match (xla.mode, xla.clusters, &xla.cpu, &xla.left_out) {
        (XlaMode::Off, ..) => {}
        (_, Some(clusters), Some(cpu), _) => {
            let _ = write!(words, ", {clusters} clusters ahead on {cpu}");
        }
        (.., Some(reason)) => {
            let _ = write!(words, ", nothing ahead: {reason}");
        }
        _ => {}
    }
    words
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn row(name: &str, unpacked: &str, compressed: &str, what: &str) -> String {
    format!("{name:<38} {unpacked:>11} {compressed:>11}  {what}")
}

/// The largest files of a layer, by name.
fn largest(report: &SizeReport, layer: &str) -> String {
    let mut files: Vec<_> = report.files.iter().filter(|file| file.layer.as_str() == layer).collect();
    files.sort_by(|a, b| b.unpacked.cmp(&a.unpacked).then_with(|| a.path.cmp(&b.path)));
    let shown: Vec<&str> = files.iter().take(3).map(|file| file.path.rsplit('/').next().unwrap_or(&file.path)).collect();
    let more = files.len().saturating_sub(shown.len());
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

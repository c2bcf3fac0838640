//! The verification as text for a terminal and as Markdown for a pull request.

use std::fmt::Write as _;

use crate::verify::policy::Check;
use crate::verify::report::{OutputReport, VerificationReport};

pub(super) fn number(value: f64) -> String {
    if value == 0.0 || (1e-3..1e5).contains(&value.abs()) {
        format!("{value:.6}").trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.3e}")
    }
}

pub(super) fn found(check: &Check) -> String {
    check.found.map_or_else(|| "not defined".to_owned(), number)
}

/// A limit as in `≤ 0.002`.
pub(super) fn allowed(check: &Check) -> String {
    format!("{} {}", if check.at_least { '≥' } else { '≤' }, number(check.limit))
}

pub(super) fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}

pub(super) fn against(report: &VerificationReport) -> String {
    report
        .reference
        .as_ref()
        .map_or_else(|| "the expected outputs of the test set".to_owned(), |digest| format!("the image {}", digest.short()))
}

/// Renders the report for a terminal or a log, without colours.
#[must_use]
pub fn render_text(report: &VerificationReport) -> String {
    let mut text = format!(
        "{} · {} · {} samples of {} ({}) · against {}\n{}\n\n",
        report.model,
        verdict(report.passed),
        report.data.samples,
        report.data.name,
        report.data.digest.short(),
        against(report),
        report.image
    );
    for output in &report.outputs {
        let _ = writeln!(
            text,
            "{} {} {}, {} elements",
            verdict(output.passed),
            output.datatype,
            output.name,
            output.metrics.elements
        );
        for check in &output.checks {
            let mark = if check.passed { ' ' } else { '✗' };
            let _ = writeln!(text, "  {mark} {:<18} {:>12}  {}", check.metric, found(check), allowed(check));
        }
        for line in output.problems.iter().chain(&output.diagnosis) {
            let _ = writeln!(text, "    {line}");
        }
        if output.problem_count > output.problems.len() as u64 {
            let _ = writeln!(text, "    and {} more", output.problem_count - output.problems.len() as u64);
        }
        if !output.passed {
            for worst in &output.metrics.worst {
                let _ =
                    writeln!(text, "    {} at {:?}: {}, expected {}", worst.sample, worst.index, worst.actual, worst.expected);
            }
        }
    }
    text
}

/// Renders the report for a comment on a pull request.
#[must_use]
pub fn render_markdown(report: &VerificationReport) -> String {
    let mark = if report.passed { "✅" } else { "❌" };
    let mut text = format!(
        "### {mark} `{}` {} against {}\n\n{} samples of `{}`, image `{}`\n\n| output | | metric | found | limit |\n|---|---|---|---:|---:|\n",
        cell(&report.model),
        if report.passed { "answers as it should" } else { "does not answer as it should" },
        against(report),
        report.data.samples,
        cell(&report.data.name),
        report.image.short()
    );
    for output in &report.outputs {
        for check in &output.checks {
            let mark = if check.passed { "✅" } else { "❌" };
            let _ = writeln!(
                text,
                "| `{}` | {mark} | {} | {} | {} |",
                cell(&output.name),
                check.metric,
                found(check),
                allowed(check)
            );
        }
    }
    for output in report.outputs.iter().filter(|output| !output.passed) {
        text.push_str(&details(output));
    }
    text
}

fn details(output: &OutputReport) -> String {
    let mut text = format!("\n<details><summary>{}</summary>\n\n", cell(&output.name));
    for line in output.problems.iter().chain(&output.diagnosis) {
        let _ = writeln!(text, "- {}", cell(line));
    }
    if !output.metrics.worst.is_empty() {
        text.push_str("\n| sample | at | actual | expected |\n|---|---|---:|---:|\n");
        for worst in &output.metrics.worst {
            let _ = writeln!(
                text,
                "| {} | {:?} | {} | {} |",
                cell(&worst.sample),
                worst.index,
                cell(&worst.actual),
                cell(&worst.expected)
            );
        }
    }
    text.push_str("\n</details>\n");
    text
}

/// Text that cannot end its table cell, nor start markup.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' => safe.push_str("\\|"),
            '`' => safe.push('\''),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            control if control.is_control() => safe.push(' '),
            other => safe.push(other),
        }
    }
    safe
}

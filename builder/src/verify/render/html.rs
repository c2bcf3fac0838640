//! A verification as one page that needs no network.

use super::plot;
use super::words::{against, allowed, found, number, verdict};
use crate::page::{Page, Row, Section, Table, Tone, Verdict, clean, named};
use crate::verify::metrics::Metrics;
use crate::verify::policy::{Check, Policy};
use crate::verify::report::{OutputReport, VerificationReport};

/// Renders the report as a page with its plots, style and script in it.
#[must_use]
pub fn render_html(report: &VerificationReport) -> String {
    let mut sections = vec![Section { tables: vec![overview(report)], ..Section::default() }];
    sections.extend(report.outputs.iter().map(section));
    sections.push(Section { title: "Policy".to_owned(), tables: vec![policy(&report.policy)], ..Section::default() });
    let mut page = Page::new(format!("{} verified", clean(&report.model)), sections);
    page.verdict = Some(Verdict { good: report.passed, words: if report.passed { "Passed" } else { "Failed" } });
    page.summaries = vec![
        format!("{} samples of {} against {}", report.data.samples, clean(&report.data.name), against(report)),
        format!("image {}", report.image),
        format!("test set {}", report.data.digest),
        format!("policy {}", report.policy_digest),
        format!("started by {}", clean(&report.runner)),
    ];
    page.render()
}

fn tone(passed: bool) -> Tone {
    if passed { Tone::Plain } else { Tone::Worse }
}

fn overview(report: &VerificationReport) -> Table {
    let row = |output: &OutputReport| Row {
        cells: vec![
            clean(&output.name),
            output.datatype.to_string(),
            output.metrics.elements.to_string(),
            verdict(output.passed).to_owned(),
            number(output.metrics.max_absolute),
            number(output.metrics.relative_rmse),
            number(output.metrics.cosine),
        ],
        tone: tone(output.passed),
    };
    Table {
        title: "Outputs".to_owned(),
        columns: named(&["output", "datatype", "elements", "verdict", "max-absolute", "relative-rmse", "cosine"]),
        rows: report.outputs.iter().map(row).collect(),
        note: None,
        detail: false,
    }
}

fn section(output: &OutputReport) -> Section {
    let name = clean(&output.name);
    let mut plots = Vec::new();
    if output.metrics.elements > 0 {
        plots.push(plot::histogram(&format!("Errors of {name}, elements by power of ten"), &output.metrics));
    }
    plots.extend(plot::scatter(&format!("{name}, actual over expected"), &output.metrics.pairs));
    let mut lines: Vec<String> = output.diagnosis.iter().chain(&output.problems).map(|line| clean(line)).collect();
    if output.problem_count > output.problems.len() as u64 {
        lines.push(format!("and {} more", output.problem_count - output.problems.len() as u64));
    }
    let mut tables = vec![checks(output)];
    if !output.metrics.worst.is_empty() {
        tables.push(worst(output));
    }
    tables.push(metrics(output));
    Section { title: format!("{name}, {}: {}", output.datatype, verdict(output.passed)), lines, plots, tables }
}

fn checks(output: &OutputReport) -> Table {
    let row = |check: &Check| Row {
        cells: vec![check.metric.clone(), found(check), allowed(check), verdict(check.passed).to_owned()],
        tone: tone(check.passed),
    };
    Table {
        title: "Limits".to_owned(),
        columns: named(&["metric", "found", "limit", "verdict"]),
        rows: output.checks.iter().map(row).collect(),
        note: None,
        detail: false,
    }
}

fn worst(output: &OutputReport) -> Table {
    let rows = output.metrics.worst.iter().map(|worst| Row {
        cells: vec![
            clean(&worst.sample),
            format!("{:?}", worst.index),
            clean(&worst.actual),
            clean(&worst.expected),
            number(worst.max_absolute),
        ],
        tone: Tone::Plain,
    });
    Table {
        title: "Worst samples".to_owned(),
        columns: named(&["sample", "at", "actual", "expected", "error"]),
        rows: rows.collect(),
        note: None,
        detail: false,
    }
}

/// Everything that was measured, by the names of the policy where it has one.
fn metrics(output: &OutputReport) -> Table {
    let Metrics { samples, elements, unequal, nonfinite_mismatches, .. } = output.metrics;
    let metrics = &output.metrics;
    let some = |value: Option<f64>| value.map_or_else(|| "not defined".to_owned(), number);
    let rows: Vec<(&str, String)> = vec![
        ("samples", samples.to_string()),
        ("elements", elements.to_string()),
        ("unequal elements", unequal.to_string()),
        ("nonfinite", nonfinite_mismatches.to_string()),
        ("NaN, actual and expected", format!("{} and {}", metrics.actual_nan, metrics.expected_nan)),
        ("infinities, actual and expected", format!("{} and {}", metrics.actual_infinite, metrics.expected_infinite)),
        ("max-absolute", number(metrics.max_absolute)),
        ("mean-absolute", number(metrics.mean_absolute)),
        ("p50-absolute", number(metrics.p50_absolute)),
        ("p99-absolute", number(metrics.p99_absolute)),
        ("p999-absolute", number(metrics.p999_absolute)),
        ("rmse", number(metrics.rmse)),
        ("relative-rmse", number(metrics.relative_rmse)),
        ("max-peak", number(metrics.max_peak)),
        ("max-relative", number(metrics.max_relative)),
        ("cosine", number(metrics.cosine)),
        ("top-1", some(metrics.top_1)),
        ("top-k", some(metrics.top_k)),
        ("rank-correlation", some(metrics.rank_correlation)),
        ("samples with an error", format!("{} %", number(100.0 * metrics.samples_with_errors))),
        ("slope of actual over expected", some(metrics.slope)),
        ("correlation", some(metrics.correlation)),
    ];
    let row = |(name, value): (&str, String)| Row { cells: vec![name.to_owned(), value], tone: Tone::Plain };
    Table {
        title: "Everything measured".to_owned(),
        columns: named(&["metric", "found"]),
        rows: rows.into_iter().map(row).collect(),
        note: None,
        detail: true,
    }
}

fn policy(policy: &Policy) -> Table {
    let kinds = [("fp32", &policy.fp32), ("fp16", &policy.fp16), ("bf16", &policy.bf16), ("exact", &policy.exact)];
    let kinds = kinds.into_iter().map(|(name, limits)| (name.to_owned(), limits));
    let outputs = policy.outputs.iter().map(|(name, limits)| (format!("output {}", clean(name)), limits));
    let row = |(name, limits): (String, &crate::verify::policy::Limits)| {
        let limits: Vec<String> = limits.given().iter().map(|check| format!("{} {}", check.metric, allowed(check))).collect();
        Row { cells: vec![name, limits.join(", ")], tone: Tone::Plain }
    };
    Table {
        title: "Policy".to_owned(),
        columns: named(&["for", "limits"]),
        rows: kinds.chain(outputs).map(row).collect(),
        note: Some(format!("relative-floor {}, k {}", number(policy.metrics.relative_floor), policy.metrics.k)),
        detail: false,
    }
}

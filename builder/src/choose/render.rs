//! A choice as one table, as text and as Markdown.

use super::{Choice, Form, Verdict};
use crate::page::tables::{escape, push_markdown, push_text};
use crate::page::{Row, Table, Tone, clean, named};
use crate::report::cold_start::PageCache;
use crate::units::{ByteSize, Milliseconds};

/// What stands for a figure that is not there.
const BLANK: &str = "";

fn table(choice: &Choice) -> Table {
    let columns =
        ["form", "image", "unpacked", "cold start", "start", "latency p50", "answers/s", "memory", "relative-rmse", "verdict"];
    let cache = choice.forms.iter().find_map(|form| form.speed.as_ref()).map(|speed| match speed.cache {
        PageCache::Cold => "cold",
        PageCache::Warm => "warm",
    });
    let note = cache.map(|cache| {
        format!(
            "cold start: from nothing to the first answer, pulled over the loopback; start: without the pull; page cache {cache}"
        )
    });
    Table {
        title: "Forms".to_owned(),
        columns: named(&columns),
        rows: choice.forms.iter().map(row).collect(),
        note,
        detail: false,
    }
}

fn row(form: &Form) -> Row {
    let speed = form.speed.as_ref();
    let time = |value: Option<f64>| value.map_or_else(|| BLANK.to_owned(), |value| Milliseconds(value).to_string());
    let size = |value: Option<u64>| value.map_or_else(|| BLANK.to_owned(), |value| ByteSize(value).to_string());
    let off = |error: f64| if error == 0.0 { "0".to_owned() } else { format!("{error:.1e}") };
    let (off, verdict) = match &form.verdict {
        Verdict::Reference => (BLANK.to_owned(), "the others are held against it"),
        Verdict::Passed { relative_rmse } => (off(*relative_rmse), "passed"),
        Verdict::Failed { relative_rmse, .. } => (off(*relative_rmse), "FAILED"),
        Verdict::Unknown => (BLANK.to_owned(), BLANK),
    };
    let cells = vec![
        clean(&form.name),
        size(form.size.map(|size| size.compressed)),
        size(form.size.map(|size| size.unpacked)),
        time(speed.map(|speed| speed.cold_start)),
        time(speed.map(|speed| speed.start)),
        time(speed.map(|speed| speed.latency)),
        speed.map_or_else(|| BLANK.to_owned(), |speed| format!("{:.1} ({} clients)", speed.per_second, speed.clients)),
        size(speed.and_then(|speed| speed.memory).map(|memory| memory.bytes)),
        off,
        verdict.to_owned(),
    ];
    let tone = if matches!(form.verdict, Verdict::Failed { .. }) { Tone::Worse } else { Tone::Plain };
    Row { cells, tone }
}

/// Sentences below the table: the recommendation with its reasons, then what is missing with its reasons.
fn sentences(choice: &Choice) -> (String, Vec<String>, Vec<String>) {
    let (first, reasons) = match &choice.recommendation {
        Some(recommendation) => (format!("Recommended: {}", clean(&recommendation.form)), recommendation.reasons.clone()),
        None => {
            ("No recommendation: no form has every figure and is known to answer as the first one does".to_owned(), Vec::new())
        }
    };
    let missing = choice.forms.iter().flat_map(|form| form.missing.iter().map(|why| format!("{}: {why}", form.name)));
    (first, reasons.iter().map(|reason| clean(reason)).collect(), missing.map(|line| clean(&line)).collect())
}

fn setting(choice: &Choice) -> String {
    let machine = choice.machine.as_ref().map(|machine| format!("{}, {} cores", clean(&machine.cpu), machine.cores));
    let data = choice.data.as_ref().map(|data| format!("{} samples of {}", data.samples, clean(&data.name)));
    machine.into_iter().chain(data).collect::<Vec<_>>().join("; ")
}

/// Renders the choice for a terminal or a log, without colours.
#[must_use]
pub fn text(choice: &Choice) -> String {
    let mut text = String::new();
    push_text(&mut text, &table(choice));
    let setting = setting(choice);
    if !setting.is_empty() {
        text.push_str(&format!("{setting}\n\n"));
    }
    let (first, reasons, missing) = sentences(choice);
    text.push_str(&format!("{first}\n"));
    reasons.iter().for_each(|reason| text.push_str(&format!("  {reason}\n")));
    if !missing.is_empty() {
        text.push_str("\nNot measured\n");
        missing.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// Renders the choice for a comment on a pull request.
#[must_use]
pub fn markdown(choice: &Choice) -> String {
    let (first, reasons, missing) = sentences(choice);
    let mut text = format!("### {}\n\n", escape(&first));
    reasons.iter().for_each(|reason| text.push_str(&format!("- {}\n", escape(reason))));
    text.push('\n');
    push_markdown(&mut text, &table(choice));
    let setting = setting(choice);
    if !setting.is_empty() {
        text.push_str(&format!("{}\n\n", escape(&setting)));
    }
    if !missing.is_empty() {
        text.push_str("**Not measured**\n\n");
        missing.iter().for_each(|line| text.push_str(&format!("- {}\n", escape(line))));
    }
    text
}

//! The tables that every rendering shows: [`Table`].

use crate::compare::arithmetic::{float, growth};
use crate::compare::{
    Amount, Change, ColumnDifference, Comparison, Comparisons, History, Part, PartDifference, PhaseDifference, SizeDifference,
    Subject, Verdict,
};
use crate::page::{Row, Table, Tone, clean, named};
use crate::report::cold_start::{Column, PageCache, Phase};
use crate::units::{ByteSize, Milliseconds};

/// The longest list of packages or files that is shown.
const ROWS: usize = 20;
/// The longest list of an image's files on a page.
const CONTENTS: usize = 100;
/// What stands for a value that is not known.
const UNKNOWN: &str = "–";

pub fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| UNKNOWN.to_owned(), |bytes| ByteSize(bytes).to_string())
}

pub fn time(value: Option<f64>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| Milliseconds(value).to_string())
}

/// `+1.2 MB`, `−1.2 MB`, `±0`.
fn signed_size(base: Option<u64>, head: Option<u64>) -> String {
    match base.zip(head) {
        None => UNKNOWN.to_owned(),
        Some((base, head)) if base == head => "±0".to_owned(),
        Some((base, head)) if head > base => format!("+{}", ByteSize(head - base)),
        Some((base, head)) => format!("−{}", ByteSize(base - head)),
    }
}

fn percent(base: Option<f64>, head: Option<f64>) -> String {
    match base.zip(head).and_then(|(base, head)| growth(base, head)) {
        Some(value) if value.abs() < 0.05 => "±0 %".to_owned(),
        Some(value) if value < 0.0 => format!("−{:.1} %", -value),
        Some(value) => format!("+{value:.1} %"),
        None => String::new(),
    }
}

/// The part as travelling bytes or as unpacked ones.
fn size_row(name: String, base: Option<u64>, head: Option<u64>) -> Row {
    let tone = match base.zip(head).map(|(base, head)| head.cmp(&base)) {
        Some(std::cmp::Ordering::Greater) => Tone::Worse,
        Some(std::cmp::Ordering::Less) => Tone::Better,
        _ => Tone::Plain,
    };
    let share = percent(base.map(float), head.map(float));
    Row { cells: vec![clean(&name), size(base), size(head), signed_size(base, head), share], tone }
}

/// The sizes of the image and its layers.
fn sizes(comparison: &SizeDifference) -> Table {
    let mut rows = Vec::new();
    for (what, of) in [("compressed", compressed as fn(Amount) -> Option<u64>), ("unpacked", unpacked)] {
        for part in std::iter::once(&comparison.total).chain(&comparison.layers) {
            let (base, head) = (of(part.base), of(part.head));
            // A layer that one side lacks is known to be nothing there.
            let (base, head) = match part.change {
                Change::Came => (Some(0), head),
                Change::Gone => (base, Some(0)),
                _ => (base, head),
            };
            if base.is_some() || head.is_some() {
                let name = if part.name == "image" { format!("image, {what}") } else { format!("layer {}, {what}", part.name) };
                rows.push(size_row(name, base, head));
            }
        }
    }
    Table { title: "Size".to_owned(), columns: named(&["", "base", "head", "difference", "%"]), rows, note: None, detail: false }
}

fn compressed(amount: Amount) -> Option<u64> {
    amount.compressed
}

fn unpacked(amount: Amount) -> Option<u64> {
    amount.unpacked
}

/// What changed among packages or files, the largest difference first.
fn parts(title: &str, parts: &[PartDifference]) -> Option<Table> {
    let is_new_version = |part: &PartDifference| part.base_version != part.head_version;
    let changed: Vec<&PartDifference> = parts.iter().filter(|part| part.change != Change::Same || is_new_version(part)).collect();
    let row = |part: &&PartDifference| {
        let what = match part.change {
            Change::Grew => "grew",
            Change::Shrank => "shrank",
            Change::Came => "came",
            Change::Gone => "gone",
            Change::Same => "as large",
        };
        let mut what = what.to_owned();
        if let Some(was) = &part.was {
            what.push_str(&format!(", was {was}"));
        }
        if let Some((base, head)) = part.base_version.as_ref().zip(part.head_version.as_ref()).filter(|(base, head)| base != head)
        {
            what.push_str(&format!(", {base} → {head}"));
        }
        let tone = match part.delta() {
            1.. => Tone::Worse,
            0 => Tone::Plain,
            _ => Tone::Better,
        };
        let nothing = |side: bool, amount: Option<u64>| if side { Some(0) } else { amount };
        let difference = |of: fn(Amount) -> Option<u64>| {
            signed_size(nothing(part.change == Change::Came, of(part.base)), nothing(part.change == Change::Gone, of(part.head)))
        };
        let cells = vec![
            clean(&part.name),
            size(part.base.unpacked),
            size(part.head.unpacked),
            difference(unpacked),
            difference(compressed),
            clean(&what),
        ];
        Row { cells, tone }
    };
    let rows: Vec<Row> = changed.iter().take(ROWS).map(row).collect();
    let more = changed.len() - rows.len();
    let mut note = format!("{} unchanged", parts.len() - changed.len());
    if more > 0 {
        note = format!("{more} more changed, {note}");
    }
    (!parts.is_empty()).then(|| Table {
        title: title.to_owned(),
        columns: named(&["", "base", "head", "unpacked", "compressed", "what"]),
        rows,
        note: Some(note),
        detail: true,
    })
}

fn column(column: &ColumnDifference) -> Table {
    let cache = match column.cache {
        PageCache::Cold => "page cache cold",
        PageCache::Warm => "page cache warm",
    };
    Table {
        title: format!("Cold start, {cache}"),
        columns: named(&["phase", "base", "head", "difference", "noise", "verdict"]),
        rows: column.phases.iter().map(phase).collect(),
        note: Some("medians; a difference within its noise or 5 ms is none; total: the sum of the phases".to_owned()),
        detail: column.cache == PageCache::Warm,
    }
}

fn phase(phase: &PhaseDifference) -> Row {
    let (verdict, tone) = match phase.verdict {
        Verdict::Same => ("same".to_owned(), Tone::Plain),
        Verdict::Slower => (format!("slower, {}", percent(phase.base_ms, phase.head_ms)), Tone::Worse),
        Verdict::Faster => (format!("faster, {}", percent(phase.base_ms, phase.head_ms)), Tone::Better),
        Verdict::Came => ("came".to_owned(), Tone::Plain),
        Verdict::Gone => ("gone".to_owned(), Tone::Plain),
        Verdict::TooFewSamples => ("too few samples".to_owned(), Tone::Plain),
    };
    let difference = phase.base_ms.zip(phase.head_ms).map_or_else(
        || UNKNOWN.to_owned(),
        |(base, head)| {
            let sign = if head < base { "−" } else { "+" };
            format!("{sign}{}", Milliseconds((head - base).abs()))
        },
    );
    let noise = phase.noise_ms.map_or_else(|| UNKNOWN.to_owned(), |noise| format!("±{}", Milliseconds(noise)));
    Row { cells: vec![phase.phase.clone(), time(phase.base_ms), time(phase.head_ms), difference, noise, verdict], tone }
}

/// The tables of one head against the base.
pub fn of_comparison(comparison: &Comparison) -> Vec<Table> {
    let mut tables = Vec::new();
    if let Some(size) = &comparison.size {
        tables.push(sizes(size));
        tables.extend(parts("Packages", &size.packages));
        tables.extend(parts("Files", &size.files));
    }
    tables.extend(comparison.cold_start.iter().flat_map(|cold| &cold.columns).map(column));
    tables
}

/// All images side by side.
pub fn of_images(comparisons: &Comparisons) -> Table {
    let row = |image: &crate::compare::Side| {
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| UNKNOWN.to_owned(), clean);
        let cells = vec![
            clean(&image.name),
            text(&image.model),
            text(&image.stack),
            text(&image.platform),
            size(image.total.compressed),
            size(image.total.unpacked),
            time(image.cold_start_ms),
        ];
        Row { cells, tone: Tone::Plain }
    };
    Table {
        title: "Images".to_owned(),
        columns: named(&["", "model", "stack", "platform", "compressed", "unpacked", "cold start"]),
        rows: comparisons.images.iter().map(row).collect(),
        note: None,
        detail: false,
    }
}

/// What is over a limit.
pub fn of_excess(comparisons: &Comparisons) -> Table {
    let rows = comparisons.over.iter().map(|excess| Row {
        cells: vec![
            clean(&excess.what),
            clean(&excess.found),
            excess.limit.clone(),
            clean(&excess.because.join(", ")),
            clean(&excess.image),
        ],
        tone: Tone::Plain,
    });
    Table {
        title: "Over budget".to_owned(),
        columns: named(&["", "is", "limit", "because of", "in"]),
        rows: rows.collect(),
        note: None,
        detail: false,
    }
}

/// A history; the difference is to the image before.
pub fn of_history(history: &History) -> Table {
    let mut before: Option<u64> = None;
    let rows = history.points.iter().map(|point| {
        let row = size_row(point.name.clone(), before, point.total.compressed);
        before = point.total.compressed.or(before);
        let cells = vec![
            row.cells[0].clone(),
            size(point.total.compressed),
            row.cells[4].clone(),
            size(point.total.unpacked),
            time(point.cold_start_ms),
            time(point.start_ms),
        ];
        Row { cells, tone: Tone::Plain }
    });
    Table {
        title: history.model.as_deref().map_or_else(|| "History".to_owned(), |model| format!("History of {}", clean(model))),
        columns: named(&["", "compressed", "%", "unpacked", "cold start", "start to answer"]),
        rows: rows.collect(),
        note: Some("ordered by name; % against the image before".to_owned()),
        detail: false,
    }
}

/// One line that says the most important.
pub fn summary(comparison: &Comparison) -> String {
    let mut parts = Vec::new();
    if let Some(sizes) = &comparison.size {
        for (what, of) in [("compressed", compressed as fn(Amount) -> Option<u64>), ("unpacked", unpacked)] {
            let (base, head) = (of(sizes.total.base), of(sizes.total.head));
            if base.is_some() && head.is_some() {
                let share = percent(base.map(float), head.map(float));
                parts.push(format!("{} {what} ({}, {share})", size(head), signed_size(base, head)));
            }
        }
    }
    let column = comparison.cold_start.iter().flat_map(|cold| &cold.columns).min_by_key(|column| column.cache);
    if let Some(total) = column.and_then(|column| column.phases.iter().find(|phase| phase.phase == "total")) {
        let verdict = match total.verdict {
            Verdict::Slower | Verdict::Faster => percent(total.base_ms, total.head_ms),
            Verdict::TooFewSamples => format!("{}, too few samples to judge", percent(total.base_ms, total.head_ms)),
            _ => "within the noise".to_owned(),
        };
        parts.push(format!("cold start {} ({verdict})", time(total.head_ms)));
    }
    parts.join(", ")
}

/// The files of one image, the largest first: what its treemap shows.
pub fn of_contents(subject: &Subject) -> Option<Table> {
    let mut files: Vec<&Part> = subject.sizes.as_ref()?.files.iter().collect();
    files.sort_by(|a, b| b.amount.unpacked.cmp(&a.amount.unpacked).then_with(|| a.name.cmp(&b.name)));
    let more = files.len().saturating_sub(CONTENTS);
    let row = |file: &&Part| {
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| UNKNOWN.to_owned(), clean);
        let cells = vec![
            clean(&file.name),
            text(&file.layer),
            text(&file.package),
            size(file.amount.unpacked),
            size(file.amount.compressed),
        ];
        Row { cells, tone: Tone::Plain }
    };
    Some(Table {
        title: format!("Files of {}", clean(&subject.name)),
        columns: named(&["", "layer", "package", "unpacked", "compressed"]),
        rows: files.iter().take(CONTENTS).map(row).collect(),
        note: (more > 0).then(|| format!("{more} smaller ones are not listed")),
        detail: true,
    })
}

/// The median of every phase, a column for each bar that is drawn.
pub fn of_phases(bars: &[(String, &Column)]) -> Table {
    let median =
        |column: &Column, phase: Phase| column.phases.iter().find(|found| found.phase == phase).map(|found| found.times.median);
    let phases = Phase::ALL.into_iter().filter(|phase| bars.iter().any(|(_, column)| median(column, *phase).is_some()));
    let row = |phase: Phase| {
        let times = bars.iter().map(|(_, column)| time(median(column, phase)));
        Row { cells: std::iter::once(phase.to_string()).chain(times).collect(), tone: Tone::Plain }
    };
    Table {
        title: "Medians".to_owned(),
        columns: std::iter::once("phase".to_owned()).chain(bars.iter().map(|(name, _)| clean(name))).collect(),
        rows: phases.map(row).collect(),
        note: None,
        detail: true,
    }
}

/// The compressed size of every layer, a column for each image.
pub fn of_layers(subjects: &[&Subject]) -> Table {
    let layers = |subject: &Subject| subject.sizes.as_ref().map(|sizes| sizes.layers.clone()).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for layer in subjects.iter().flat_map(|subject| layers(subject)) {
        if !names.contains(&layer.name) {
            names.push(layer.name);
        }
    }
    let row = |name: &String| {
        let of = |subject: &&Subject| {
            layers(subject).iter().find(|layer| layer.name == *name).and_then(|layer| layer.amount.compressed)
        };
        let sizes = subjects.iter().map(|subject| size(of(subject)));
        Row { cells: std::iter::once(clean(name)).chain(sizes).collect(), tone: Tone::Plain }
    };
    Table {
        title: "Compressed".to_owned(),
        columns: std::iter::once("layer".to_owned()).chain(subjects.iter().map(|subject| clean(&subject.name))).collect(),
        rows: names.iter().map(row).collect(),
        note: None,
        detail: true,
    }
}

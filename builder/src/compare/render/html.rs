//! Comparisons and histories as one page each.

use super::table;
use super::treemap::treemap;
use crate::compare::arithmetic::float;
use crate::compare::{Comparisons, History, Subject};
use crate::page::plot::{self, Bar, COLOURS, Line, SERIES, Unit};
use crate::page::{Page, Section, Verdict, clean};
use crate::report::cold_start::{Column, PageCache, Phase};

/// Names that have the first colours wherever they appear.
const LAYERS: [&str; 5] = ["base", "runtime", "server", "model", "base-image"];

/// Renders a comparison of the base, which comes first, and the heads.
#[must_use]
pub fn comparison(comparisons: &Comparisons, subjects: &[Subject]) -> String {
    let mut sections = Vec::new();
    if !comparisons.over.is_empty() {
        sections.push(Section { tables: vec![table::of_excess(comparisons)], ..Section::default() });
    }
    sections.push(Section { tables: vec![table::of_images(comparisons)], ..Section::default() });
    sections.extend(contents(subjects));
    sections.extend(cold_starts(subjects));
    for comparison in &comparisons.comparisons {
        let title = format!("{} → {}", clean(&comparison.base), clean(&comparison.head));
        sections.push(Section { title, tables: table::of_comparison(comparison), ..Section::default() });
    }
    let model = subjects.iter().find_map(|subject| subject.model.as_deref()).unwrap_or("images");
    let mut page = Page::new(format!("{} compared", clean(model)), sections);
    let several = comparisons.comparisons.len() > 1;
    page.summaries = comparisons
        .comparisons
        .iter()
        .map(|comparison| {
            let summary = table::summary(comparison);
            if several { format!("{}: {summary}", clean(&comparison.head)) } else { summary }
        })
        .collect();
    page.verdict = match (comparisons.limited, comparisons.over.is_empty()) {
        (false, _) => None,
        (true, true) => Some(Verdict { good: true, words: "Within budget" }),
        (true, false) => Some(Verdict { good: false, words: "Over budget" }),
    };
    page.notes = comparisons.notes.iter().map(|note| clean(note)).collect();
    page.render()
}

/// Renders a history.
#[must_use]
pub fn history(history: &History) -> String {
    let points: Vec<String> = history.points.iter().map(|point| point.name.clone()).collect();
    let line = |name: &str, values: Vec<Option<f64>>| Line { name: name.to_owned(), values };
    let of = |value: &dyn Fn(&crate::compare::Point) -> Option<f64>| history.points.iter().map(value).collect::<Vec<_>>();
    let sizes = [
        line("compressed", of(&|point| point.total.compressed.map(float))),
        line("unpacked", of(&|point| point.total.unpacked.map(float))),
    ];
    let times = [
        line("nothing to first answer", of(&|point| point.cold_start_ms)),
        line("start to first answer", of(&|point| point.start_ms)),
    ];
    let known = |lines: &[Line]| lines.iter().any(|line| line.values.iter().any(Option::is_some));
    let mut plots = Vec::new();
    if known(&sizes) {
        plots.push(plot::lines("Size", &points, &sizes, Unit::Bytes));
    }
    if known(&times) {
        plots.push(plot::lines("Cold start", &points, &times, Unit::Milliseconds));
    }
    let table = table::of_history(history);
    let title = table.title.clone();
    Page::new(title, vec![Section { plots, tables: vec![table], ..Section::default() }]).render()
}

/// The colour of a layer.
fn colour_of_layer(name: &str) -> usize {
    let place = LAYERS.iter().position(|layer| name.starts_with(layer) && (name.len() == layer.len() || *layer == "base-image"));
    SERIES + place.unwrap_or(LAYERS.len()) % COLOURS
}

fn contents(subjects: &[Subject]) -> Option<Section> {
    let sized: Vec<&Subject> = subjects.iter().filter(|subject| subject.sizes.is_some()).collect();
    let layers = |subject: &&Subject| -> Option<Bar> {
        let sizes = subject.sizes.as_ref()?;
        let segment = |layer: &crate::compare::Part| {
            let bytes = layer.amount.compressed?;
            Some((colour_of_layer(&layer.name), clean(&layer.name), float(bytes)))
        };
        let bar = Bar { label: subject.name.clone(), segments: sizes.layers.iter().filter_map(segment).collect() };
        (!bar.segments.is_empty()).then_some(bar)
    };
    let bars: Vec<Bar> = sized.iter().filter_map(layers).collect();
    let mut plots = Vec::new();
    if !bars.is_empty() {
        plots.push(plot::bars("Layers, compressed", &bars, Unit::Bytes));
    }
    for subject in &sized {
        let label = format!("Files of {}, unpacked", subject.name);
        plots.extend(subject.sizes.as_ref().and_then(|sizes| treemap(&label, sizes, colour_of_layer)));
    }
    let mut tables = vec![table::of_layers(&sized)];
    tables.extend(sized.iter().filter_map(|subject| table::of_contents(subject)).filter(|table| !table.rows.is_empty()));
    (!plots.is_empty()).then(|| Section { title: "What is in them".to_owned(), plots, tables, ..Section::default() })
}

fn cold_starts(subjects: &[Subject]) -> Option<Section> {
    let columns = |subject: &'_ Subject| -> Vec<(String, Column)> {
        let columns = subject.cold_start.iter().flat_map(|report| &report.columns);
        let name = |column: &Column| match column.cache {
            PageCache::Cold => format!("{}, cold", subject.name),
            PageCache::Warm => format!("{}, warm", subject.name),
        };
        columns.map(|column| (name(column), column.clone())).collect()
    };
    let columns: Vec<(String, Column)> = subjects.iter().flat_map(columns).collect();
    let named: Vec<(String, &Column)> = columns.iter().map(|(name, column)| (name.clone(), column)).collect();
    let colour = |phase: Phase| SERIES + Phase::ALL.iter().position(|known| *known == phase).unwrap_or(0) % COLOURS;
    let bar = |(name, column): &(String, &Column)| Bar {
        label: name.clone(),
        segments: column.phases.iter().map(|phase| (colour(phase.phase), phase.phase.to_string(), phase.times.median)).collect(),
    };
    let bars: Vec<Bar> = named.iter().map(bar).collect();
    (!bars.is_empty()).then(|| Section {
        title: "How they start".to_owned(),
        plots: vec![plot::bars("Phases of the cold start, medians", &bars, Unit::Milliseconds)],
        tables: vec![table::of_phases(&named)],
        ..Section::default()
    })
}

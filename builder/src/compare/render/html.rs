//! One page with everything in it: plots, tables, style and the few lines that show a text under the pointer.
//!
//! The page is `templates/report/page.html`; the template engine escapes every text. Only the plots and the page's own style and script
//! go in as they are, and the drawing library escapes what it is given.

use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::plot::{self, Bar, COLOURS, Line, Plot, SERIES, Unit};
use super::table::{self, Table, clean};
use crate::compare::arithmetic::float;
use crate::compare::{Comparisons, History, Subject};
use crate::report::cold_start::{Column, PageCache, Phase};

const PAGE: &str = include_str!("../../../../templates/report/page.html");
const STYLE: &str = include_str!("../../../../templates/report/page.css");
const SCRIPT: &str = include_str!("../../../../templates/report/page.js");

/// Names that have the first colours wherever they appear.
const LAYERS: [&str; 5] = ["base", "runtime", "server", "model", "base-image"];

/// What the template is given.
#[derive(Serialize)]
struct Page {
    title: String,
    summaries: Vec<String>,
    /// `within`, `over`, or empty where there are no limits.
    verdict: &'static str,
    sections: Vec<Section>,
    notes: Vec<String>,
    version: &'static str,
    style: &'static str,
    script: &'static str,
}

/// A heading with plots and the tables that say the same.
#[derive(Serialize)]
struct Section {
    title: String,
    plots: Vec<Plot>,
    tables: Vec<Table>,
}

impl Page {
    fn new(title: String, sections: Vec<Section>) -> Self {
        Self {
            title,
            summaries: Vec::new(),
            verdict: "",
            sections,
            notes: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
            style: STYLE,
            script: SCRIPT,
        }
    }

    fn render(&self) -> String {
        let mut environment = Environment::new();
        // The name's ending turns escaping on.
        environment.add_template("page.html", PAGE).expect("the template is part of the program and tested");
        let template = environment.get_template("page.html").expect("it was just added");
        template.render(Value::from(Serde(self))).expect("the template is part of the program and tested")
    }
}

/// Renders a comparison of the base, which comes first, and the heads.
#[must_use]
pub fn comparison(comparisons: &Comparisons, subjects: &[Subject]) -> String {
    let mut sections = Vec::new();
    if !comparisons.over.is_empty() {
        sections.push(Section { title: String::new(), plots: Vec::new(), tables: vec![table::of_excess(comparisons)] });
    }
    sections.push(Section { title: String::new(), plots: Vec::new(), tables: vec![table::of_images(comparisons)] });
    sections.extend(contents(subjects));
    sections.extend(cold_starts(subjects));
    for comparison in &comparisons.comparisons {
        let title = format!("{} → {}", clean(&comparison.base), clean(&comparison.head));
        sections.push(Section { title, plots: Vec::new(), tables: table::of_comparison(comparison) });
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
        (false, _) => "",
        (true, true) => "within",
        (true, false) => "over",
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
    Page::new(title, vec![Section { title: String::new(), plots, tables: vec![table] }]).render()
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
        plots.extend(subject.sizes.as_ref().and_then(|sizes| plot::treemap(label, sizes, colour_of_layer)));
    }
    let mut tables = vec![table::of_layers(&sized)];
    tables.extend(sized.iter().filter_map(|subject| table::of_contents(subject)).filter(|table| !table.rows.is_empty()));
    (!plots.is_empty()).then(|| Section { title: "What is in them".to_owned(), plots, tables })
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
    })
}

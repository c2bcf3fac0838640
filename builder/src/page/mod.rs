//! One page with everything in it: plots, tables, style and the few lines that show a text under the pointer.
//!
//! The page is `templates/report/page.html`; the template engine escapes every text. Only the plots and the page's own style and script
//! go in as they are, and the drawing library escapes what it is given. [`Page`] holds [`Section`]s of [`plot::Plot`]s and [`Table`]s.

pub(crate) mod plot;
pub(crate) mod tables;

use minijinja::Environment;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use plot::Plot;

const PAGE: &str = include_str!("../../../templates/report/page.html");
const STYLE: &str = include_str!("../../../templates/report/page.css");
const SCRIPT: &str = include_str!("../../../templates/report/page.js");

/// How a row is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tone {
    /// Neither better nor worse.
    Plain,
    /// Larger or slower.
    Worse,
    /// Smaller or faster.
    Better,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// A text for each column.
    pub cells: Vec<String>,
    /// How it is meant.
    pub tone: Tone,
}

/// A table; the first column names things, the others are figures or words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Table {
    /// What it shows.
    pub title: String,
    /// The columns.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// What is not in it.
    pub note: Option<String>,
    /// It is a detail that may be folded away.
    pub detail: bool,
}

/// A text without control characters: names come from files that anyone may have written.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns from their names.
pub(crate) fn named(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|&column| column.to_owned()).collect()
}

/// What a page says first.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Verdict {
    /// True where nothing is wrong.
    pub good: bool,
    /// The verdict.
    pub words: &'static str,
}

/// A heading with plots and the tables that say the same.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Section {
    /// The heading; none where it is empty.
    pub title: String,
    /// Sentences below the heading.
    pub lines: Vec<String>,
    /// The plots.
    pub plots: Vec<Plot>,
    /// The tables.
    pub tables: Vec<Table>,
}

/// What the template is given.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    /// The heading.
    pub title: String,
    /// Sentences below it.
    pub summaries: Vec<String>,
    /// None where nothing was to be judged.
    pub verdict: Option<Verdict>,
    /// What the page consists of.
    pub sections: Vec<Section>,
    /// What else is to be said, at the end.
    pub notes: Vec<String>,
    version: &'static str,
    style: &'static str,
    script: &'static str,
}

impl Page {
    /// A page of some sections.
    pub fn new(title: String, sections: Vec<Section>) -> Self {
        Self {
            title,
            summaries: Vec::new(),
            verdict: None,
            sections,
            notes: Vec::new(),
            version: env!("CARGO_PKG_VERSION"),
            style: STYLE,
            script: SCRIPT,
        }
    }

    /// The page as HTML.
    pub fn render(&self) -> String {
        let mut environment = Environment::new();
        // The name's ending turns escaping on.
        environment.add_template("page.html", PAGE).expect("the template is part of the program and tested");
        let template = environment.get_template("page.html").expect("it was just added");
        template.render(Value::from(Serde(self))).expect("the template is part of the program and tested")
    }
}

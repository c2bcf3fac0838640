//! The trend of one model over many reports: [`History`].

use serde::Serialize;

use super::arithmetic::natural_order;
use super::subject::{Amount, Subject};
use super::{CompareError, difference};
use crate::digest::Digest;

/// The format's name, the first key of the JSON output.
const SCHEMA: &str = "imgbuild.history";
/// The version of the JSON output.
const VERSION: u32 = 1;

/// An image in a history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The file's or tag's name.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Option<Digest>,
    /// The whole image.
    pub total: Amount,
    /// From nothing to the first answer, milliseconds.
    pub cold_start_ms: Option<f64>,
    /// From the call that starts the container to the first answer, milliseconds.
    pub start_ms: Option<f64>,
}

/// Many images of one model, ordered by name: reports carry no time, so names are what orders them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct History {
    /// Always `imgbuild.history`.
    pub schema: &'static str,
    /// The format's version.
    pub version: u32,
    /// The name the model is served under, where they say so.
    pub model: Option<String>,
    /// The images, ordered by name as people do: `1.9` before `1.10`.
    pub points: Vec<Point>,
}

impl History {
    /// Orders the subjects and joins a size report and a cold-start report of one image.
    ///
    /// # Errors
    /// Where they are of different models or platforms and that was not allowed.
    pub fn of(mut subjects: Vec<Subject>, allow_different: bool) -> Result<Self, CompareError> {
        subjects.sort_by(|a, b| natural_order(&a.name, &b.name));
        let model = subjects.iter().find(|subject| subject.model.is_some());
        let platform = subjects.iter().find(|subject| subject.platform.is_some());
        let mut points: Vec<Point> = Vec::new();
        for subject in &subjects {
            if !allow_different {
                same("the model", model, subject, |subject| subject.model.as_deref())?;
                same("the platform", platform, subject, |subject| subject.platform.as_deref())?;
            }
            let point = point(subject);
            let joined = points.iter_mut().find(|known| point.digest.is_some() && known.digest == point.digest);
            match joined.filter(|known| is_other_half(known, &point)) {
                Some(known) if point.cold_start_ms.is_some() => {
                    known.cold_start_ms = point.cold_start_ms;
                    known.start_ms = point.start_ms;
                }
                Some(known) => known.total = point.total,
                None => points.push(point),
            }
        }
        Ok(Self { schema: SCHEMA, version: VERSION, model: model.and_then(|subject| subject.model.clone()), points })
    }
}

fn point(subject: &Subject) -> Point {
    let column = subject.cold_start.as_ref().and_then(difference::leading);
    Point {
        name: subject.name.clone(),
        digest: subject.digest,
        total: subject.sizes.as_ref().map(|sizes| sizes.total).unwrap_or_default(),
        cold_start_ms: column.map(difference::total),
        start_ms: column.map(|column| column.start_to_first_answer.median),
    }
}

/// One has sizes alone and the other times alone.
fn is_other_half(known: &Point, point: &Point) -> bool {
    let halves = |point: &Point| (point.total == Amount::default(), point.cold_start_ms.is_none());
    matches!((halves(known), halves(point)), ((true, false), (false, true)) | ((false, true), (true, false)))
}

fn same(
    what: &str,
    first: Option<&Subject>,
    subject: &Subject,
    field: impl Fn(&Subject) -> Option<&str>,
) -> Result<(), CompareError> {
    match (first.and_then(&field), field(subject)) {
        (Some(expected), Some(found)) if expected != found => Err(CompareError::Different {
            what: what.to_owned(),
            base: first.map(|subject| subject.name.clone()).unwrap_or_default(),
            head: subject.name.clone(),
            found: format!("`{found}`"),
            expected: format!("`{expected}`"),
        }),
        _ => Ok(()),
    }
}

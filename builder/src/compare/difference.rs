//! What grew, shrank, came and went: [`SizeDifference`]; what became slower: [`ColdStartDifference`].

use std::collections::BTreeMap;

use serde::Serialize;

use super::arithmetic::{growth, stem};
use super::noise::{self, Conditions, Sessions, Verdict};
use super::subject::{Amount, Part, Sizes};
use crate::report::cold_start::{ColdStartReport, Column, PageCache, Phase, Spread};

/// What became of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is larger.
    Grew,
    /// It is smaller.
    Shrank,
    /// Only the head has it.
    Came,
    /// Only the base has it.
    Gone,
    /// It is as large as it was, as far as both sides know.
    Same,
}

/// A layer, package or file on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartDifference {
    /// Its name in the head, or in the base where it is gone.
    pub name: String,
    /// Its name in the base, where that is another.
    pub was: Option<String>,
    /// A package's version in the base.
    pub base_version: Option<String>,
    /// A package's version in the head.
    pub head_version: Option<String>,
    /// The layer a file is in.
    pub layer: Option<String>,
    /// The package a file is from.
    pub package: Option<String>,
    /// What became of it.
    pub change: Change,
    /// Its bytes in the base.
    pub base: Amount,
    /// Its bytes in the head.
    pub head: Amount,
}

impl PartDifference {
    /// By how many bytes it grew: unpacked where both sides know that, as it travels otherwise.
    #[must_use]
    pub fn delta(&self) -> i128 {
        let by = |base: Option<u64>, head: Option<u64>| match (self.change, base, head) {
            (Change::Came, _, Some(head)) => Some(i128::from(head)),
            (Change::Gone, Some(base), _) => Some(-i128::from(base)),
            (_, Some(base), Some(head)) => Some(i128::from(head) - i128::from(base)),
            _ => None,
        };
        let unpacked = by(self.base.unpacked, self.head.unpacked).filter(|delta| *delta != 0);
        unpacked.or_else(|| by(self.base.compressed, self.head.compressed)).unwrap_or(0)
    }
}

/// What became of the sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeDifference {
    /// The whole image.
    pub total: PartDifference,
    /// The layers, lowest first.
    pub layers: Vec<PartDifference>,
    /// The packages, the largest difference first.
    pub packages: Vec<PartDifference>,
    /// The files, the largest difference first; only executables and libraries where one side is an image.
    pub files: Vec<PartDifference>,
}

impl SizeDifference {
    /// Compares two sides.
    #[must_use]
    pub fn of(base: &Sizes, head: &Sizes) -> Self {
        let total = |amount: Amount| Part { name: "image".into(), version: None, layer: None, package: None, amount };
        let both = base.complete && head.complete;
        let packages = if base.packages.is_empty() || head.packages.is_empty() {
            Vec::new()
        } else {
            largest_first(pair(&base.packages, &head.packages))
        };
        // Where one side lists libraries alone, the other's remaining files would all seem to have come or gone.
        let files = if base.files.is_empty() || head.files.is_empty() {
            Vec::new()
        } else if both {
            largest_first(pair(&base.files, &head.files))
        } else {
            largest_first(pair(&libraries(base, head), &libraries(head, base)))
        };
        let layers = if base.layers.is_empty() || head.layers.is_empty() { Vec::new() } else { pair(&base.layers, &head.layers) };
        Self { total: difference(Some(&total(base.total)), Some(&total(head.total))), layers, packages, files }
    }

    /// The files that made the image grow, the worst first.
    pub fn grown(&self) -> impl Iterator<Item = &PartDifference> {
        self.files.iter().filter(|file| file.delta() > 0)
    }
}

fn libraries(side: &Sizes, other: &Sizes) -> Vec<Part> {
    let listed = |file: &&Part| {
        let known = other.files.iter().any(|one| one.name == file.name);
        !side.complete || known || stem(&file.name).ends_with(".so")
    };
    side.files.iter().filter(listed).cloned().collect()
}

fn difference(base: Option<&Part>, head: Option<&Part>) -> PartDifference {
    let shown = head.or(base);
    let amount = |part: Option<&Part>| part.map(|part| part.amount).unwrap_or_default();
    let (before, after) = (amount(base), amount(head));
    let grew = |base: Option<u64>, head: Option<u64>| Some(head?.cmp(&base?)).filter(|order| order.is_ne());
    let change = match (base, head) {
        (None, _) => Change::Came,
        (_, None) => Change::Gone,
        _ => match grew(before.unpacked, after.unpacked).or(grew(before.compressed, after.compressed)) {
            Some(std::cmp::Ordering::Greater) => Change::Grew,
            Some(_) => Change::Shrank,
            None => Change::Same,
        },
    };
    let name = shown.map(|part| part.name.clone()).unwrap_or_default();
    PartDifference {
        was: base.map(|part| part.name.clone()).filter(|was| *was != name),
        base_version: base.and_then(|part| part.version.clone()),
        head_version: head.and_then(|part| part.version.clone()),
        layer: shown.and_then(|part| part.layer.clone()),
        package: shown.and_then(|part| part.package.clone()),
        name,
        change,
        base: before,
        head: after,
    }
}

/// Pairs parts by name; what is left by its name without a library's version, where that is unambiguous.
fn pair(base: &[Part], head: &[Part]) -> Vec<PartDifference> {
    let by_name: BTreeMap<&str, &Part> = base.iter().map(|part| (part.name.as_str(), part)).collect();
    let heads: BTreeMap<&str, &Part> = head.iter().map(|part| (part.name.as_str(), part)).collect();
    let mut gone: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    for part in base.iter().filter(|part| !heads.contains_key(part.name.as_str())) {
        gone.entry(stem(&part.name)).or_default().push(part);
    }
    let mut came: BTreeMap<&str, usize> = BTreeMap::new();
    for part in head.iter().filter(|part| !by_name.contains_key(part.name.as_str())) {
        *came.entry(stem(&part.name)).or_default() += 1;
    }
    let mut pairs = Vec::new();
    for part in head {
        let renamed = || {
            let stem = stem(&part.name);
            let single = gone.get(stem).is_some_and(|parts| parts.len() == 1) && came.get(stem) == Some(&1);
            single.then(|| gone.get(stem).map(|parts| parts[0])).flatten()
        };
        let before = by_name.get(part.name.as_str()).copied().or_else(renamed);
        if before.is_some_and(|before| before.name != part.name) {
            gone.remove(stem(&part.name));
        }
        pairs.push(difference(before, Some(part)));
    }
    pairs.extend(gone.into_values().flatten().map(|part| difference(Some(part), None)));
    pairs
}

fn largest_first(mut parts: Vec<PartDifference>) -> Vec<PartDifference> {
    parts.sort_by(|a, b| b.delta().abs().cmp(&a.delta().abs()).then_with(|| a.name.cmp(&b.name)));
    parts
}

/// A phase on both sides; times are milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PhaseDifference {
    /// The phase, `start_to_first_answer`, or `total`.
    pub phase: String,
    /// Median of the base.
    pub base_ms: Option<f64>,
    /// Median of the head.
    pub head_ms: Option<f64>,
    /// How large a difference noise alone may make; `None` where a side has too few samples.
    pub noise_ms: Option<f64>,
    /// What became of it.
    pub verdict: Verdict,
}

impl PhaseDifference {
    /// By how many percent it became slower, beyond the noise; `None` where it did not.
    #[must_use]
    pub fn regression(&self) -> Option<f64> {
        if self.verdict != Verdict::Slower {
            return None;
        }
        growth(self.base_ms?, self.head_ms?)
    }
}

/// Starts with the page cache in one state.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnDifference {
    /// The state.
    pub cache: PageCache,
    /// The phases in their order, then `start_to_first_answer` and `total`: from nothing to the first answer, the sum of the phases' medians.
    pub phases: Vec<PhaseDifference>,
}

/// What became of the cold start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColdStartDifference {
    /// The columns that both sides have.
    pub columns: Vec<ColumnDifference>,
}

/// From nothing to the first answer: the sum of the medians of a column's phases, milliseconds.
#[must_use]
pub fn total(column: &Column) -> f64 {
    column.phases.iter().map(|phase| phase.times.median).sum()
}

/// The column that stands for a report: the one with the page cache cold, where it was measured.
#[must_use]
pub fn leading(report: &ColdStartReport) -> Option<&Column> {
    report.columns.iter().min_by_key(|column| column.cache)
}

impl ColdStartDifference {
    /// Compares two sides; see [`noise::judge`].
    #[must_use]
    pub fn of(base: &ColdStartReport, head: &ColdStartReport, strictness: f64, floor: f64) -> Self {
        let sessions = Sessions::of(base, head);
        let column = |base: &Column| {
            let head = head.columns.iter().find(|column| column.cache == base.cache)?;
            let conditions = Conditions::of(sessions, base, head);
            let judged = |name: &str, base: Option<&Spread>, head: Option<&Spread>| PhaseDifference {
                phase: name.to_owned(),
                base_ms: base.map(|spread| spread.median),
                head_ms: head.map(|spread| spread.median),
                noise_ms: base.zip(head).and_then(|(base, head)| noise::bound(base, head, conditions, strictness)),
                verdict: match (base, head) {
                    (Some(base), Some(head)) => noise::judge(base, head, conditions, strictness, floor),
                    (None, _) => Verdict::Came,
                    (_, None) => Verdict::Gone,
                },
            };
            let of = |column: &'_ Column, phase: Phase| {
                column.phases.iter().find(|found| found.phase == phase).map(|found| found.times.clone())
            };
            let mut phases: Vec<PhaseDifference> = Phase::ALL
                .into_iter()
                .map(|phase| (phase, of(base, phase), of(head, phase)))
                .filter(|(_, base, head)| base.is_some() || head.is_some())
                .map(|(phase, base, head)| judged(phase.as_str(), base.as_ref(), head.as_ref()))
                .collect();
            let sum = sum_of(base, head, &phases, sessions, floor);
            phases.push(judged("start_to_first_answer", Some(&base.start_to_first_answer), Some(&head.start_to_first_answer)));
            phases.push(sum);
            Some(ColumnDifference { cache: base.cache, phases })
        };
        Self { columns: base.columns.iter().filter_map(column).collect() }
    }
}

/// The sum of the phases. Their noises add by their squares, being independent; those of sessions apart, which all phases share, as they are.
fn sum_of(base: &Column, head: &Column, phases: &[PhaseDifference], sessions: Sessions, floor: f64) -> PhaseDifference {
    let (before, after) = (total(base), total(head));
    let noises: Option<Vec<f64>> = phases.iter().map(|phase| phase.noise_ms).collect();
    let noise = noises.map(|noises| match sessions {
        Sessions::Same => noises.iter().map(|noise| noise * noise).sum::<f64>().sqrt(),
        Sessions::Apart => noises.iter().sum(),
    });
    let verdict = match noise {
        None => Verdict::TooFewSamples,
        Some(noise) if (after - before).abs() <= noise.max(floor) => Verdict::Same,
        Some(_) if after > before => Verdict::Slower,
        Some(_) => Verdict::Faster,
    };
    PhaseDifference { phase: "total".to_owned(), base_ms: Some(before), head_ms: Some(after), noise_ms: noise, verdict }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, unpacked: u64) -> Part {
        let (layer, package) = (Some("runtime".to_owned()), Some("onnxruntime".to_owned()));
        Part { name: name.to_owned(), version: None, layer, package, amount: Amount::known(unpacked / 2, unpacked) }
    }

    fn sizes(files: Vec<Part>, complete: bool) -> Sizes {
        let total = files.iter().fold(Amount::known(0, 0), |sum, file| sum.plus(file.amount));
        Sizes { total, layers: Vec::new(), packages: Vec::new(), files, complete, whole_packages: None }
    }

    fn changes(base: &Sizes, head: &Sizes) -> Vec<(String, Change, i128)> {
        let difference = SizeDifference::of(base, head);
        difference.files.iter().map(|file| (file.name.clone(), file.change, file.delta())).collect()
    }

    #[test]
    fn files_grow_shrink_come_go_and_get_new_versions() {
        let base = sizes(vec![file("/a", 10), file("/b.so.1.2", 100), file("/c.so.1", 7), file("/d", 5), file("/e", 3)], true);
        let head = sizes(vec![file("/a", 4), file("/b.so.1.3", 150), file("/c.so.1", 7), file("/e", 3), file("/f", 20)], true);
        let expected =
            [("/b.so.1.3", Change::Grew, 50), ("/f", Change::Came, 20), ("/a", Change::Shrank, -6), ("/d", Change::Gone, -5)];
        let found = changes(&base, &head);
        let found: Vec<_> = found.iter().map(|(name, change, delta)| (name.as_str(), *change, *delta)).collect();
        assert_eq!(found[..4], expected);
        assert!(found[4..].iter().all(|(_, change, _)| *change == Change::Same));
        // Two candidates: nobody knows which became which.
        let several = sizes(vec![file("/b.so.1", 1), file("/b.so.2", 2)], true);
        let found = changes(&several, &sizes(vec![file("/b.so.3", 3)], true));
        assert_eq!(found.iter().filter(|(_, change, _)| *change == Change::Gone).count(), 2);
    }

    #[test]
    fn against_an_image_only_libraries_are_compared() {
        let report = sizes(vec![file("/lib/a.so.1", 10), file("/etc/passwd", 5), file("/usr/bin/imgserve", 8)], true);
        let image = sizes(vec![file("/lib/a.so.1", 12), file("/usr/bin/imgserve", 8)], false);
        let found = changes(&report, &image);
        assert_eq!(found, [("/lib/a.so.1".to_owned(), Change::Grew, 2), ("/usr/bin/imgserve".to_owned(), Change::Same, 0)]);
    }
}

//! What a head must stay within: [`Limits`], from options and a budget file, and the [`Excess`]es that they find.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::arithmetic::{file_name, float, growth, stem};
use super::difference::{self, PartDifference, PhaseDifference};
use super::subject::{Amount, Part, Subject};
use super::{CompareError, Comparison};
use crate::recipe::Budgets;
use crate::report::cold_start::Phase;
use crate::template::strict;
use crate::units::{ByteSize, Milliseconds, Percent};

/// Growth of less than this is none, whatever its percentage.
pub const SIZE_FLOOR: u64 = 16_000;

/// Limits; the keys of a budget file. Those of a recipe's `[budgets]` mean the same there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Bytes of all layers as they travel.
    pub compressed: Option<ByteSize>,
    /// Bytes of all files unpacked.
    pub unpacked: Option<ByteSize>,
    /// From nothing to the first answer, page cache cold where that was measured.
    pub cold_start: Option<Milliseconds>,
    /// Bytes as they travel, by layer name.
    pub layers: BTreeMap<String, ByteSize>,
    /// Bytes unpacked, by the file name of a library, with or without its version.
    pub libraries: BTreeMap<String, ByteSize>,
    /// Bytes unpacked of what was taken, by package name.
    pub packages: BTreeMap<String, ByteSize>,
    /// Median times, by phase.
    pub phases: BTreeMap<Phase, Milliseconds>,
    /// How much the head may be larger or slower than the base.
    pub growth: Growth,
}

/// How much the head may be larger or slower than the base.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Growth {
    /// Of the image, compressed and unpacked, and of every phase beyond the noise.
    pub total: Option<Percent>,
    /// By layer name, compressed.
    pub layers: BTreeMap<String, Percent>,
    /// By the file name of a library, with or without its version, unpacked.
    pub libraries: BTreeMap<String, Percent>,
    /// By package name, unpacked.
    pub packages: BTreeMap<String, Percent>,
    /// By phase; in place of `total`.
    pub phases: BTreeMap<Phase, Percent>,
}

impl From<&Budgets> for Limits {
    fn from(budgets: &Budgets) -> Self {
        Self {
            compressed: budgets.compressed,
            unpacked: budgets.unpacked,
            layers: budgets.layers.clone(),
            libraries: budgets.libraries.clone(),
            ..Self::default()
        }
    }
}

/// Something that is over a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Excess {
    /// In which of the compared images.
    pub image: String,
    /// What is over: `image, compressed`, `library libfoo.so.1, unpacked`, `phase session (cold)`.
    pub what: String,
    /// What it is.
    pub found: String,
    /// What it may be.
    pub limit: String,
    /// What made it so, the worst first.
    pub because: Vec<String>,
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}, limit {}", self.what, self.found, self.limit)?;
        if !self.because.is_empty() {
            write!(f, " ({})", self.because.join(", "))?;
        }
        Ok(())
    }
}

impl Limits {
    /// Reads a budget file.
    ///
    /// # Errors
    /// Where it cannot be read, or a key or value is none of a budget's.
    pub fn load(path: &Path) -> Result<Self, CompareError> {
        let text = std::fs::read_to_string(path).map_err(|source| CompareError::ReadBudget { path: path.to_owned(), source })?;
        Ok(strict::parse(&text, &path.display().to_string())?)
    }

    /// Tells whether anything is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Tells whether cold starts are held against the base.
    #[must_use]
    pub fn compares_times(&self) -> bool {
        self.growth.total.is_some() || !self.growth.phases.is_empty()
    }

    /// What of one image is over its absolute limits.
    #[must_use]
    pub fn check(&self, subject: &Subject) -> Vec<Excess> {
        let mut over = Over { image: &subject.name, found: Vec::new() };
        if let Some(sizes) = &subject.sizes {
            over.size("image, compressed", sizes.total.compressed, self.compressed);
            over.size("image, unpacked", sizes.total.unpacked, self.unpacked);
            for layer in &sizes.layers {
                let limit = self.layers.get(&layer.name).copied();
                over.size(&format!("layer {}, compressed", layer.name), layer.amount.compressed, limit);
            }
            for package in &sizes.packages {
                let limit = self.packages.get(&package.name).copied();
                over.size(&format!("package {}, unpacked", package.name), package.amount.unpacked, limit);
            }
            for file in &sizes.files {
                let name = file_name(&file.name);
                over.size(&format!("library {name}, unpacked"), file.amount.unpacked, of_library(&self.libraries, name));
            }
        }
        let Some(column) = subject.cold_start.as_ref().and_then(difference::leading) else { return over.found };
        over.time("cold start, nothing to first answer", difference::total(column), self.cold_start);
        for phase in &column.phases {
            over.time(&format!("phase {}", phase.phase), phase.times.median, self.phases.get(&phase.phase).copied());
        }
        over.found
    }

    /// What of a comparison's head grew beyond its limits.
    #[must_use]
    pub fn check_growth(&self, comparison: &Comparison) -> Vec<Excess> {
        let mut over = Over { image: &comparison.head, found: Vec::new() };
        let limits = &self.growth;
        if let Some(sizes) = &comparison.size {
            let causes: Vec<String> = sizes.grown().take(3).map(cause).collect();
            over.grown("image, compressed", &sizes.total, |amount| amount.compressed, limits.total, &causes);
            over.grown("image, unpacked", &sizes.total, |amount| amount.unpacked, limits.total, &causes);
            for layer in &sizes.layers {
                let own: Vec<String> =
                    sizes.grown().filter(|file| file.layer.as_ref() == Some(&layer.name)).take(3).map(cause).collect();
                let what = format!("layer {}, compressed", layer.name);
                over.grown(&what, layer, |amount| amount.compressed, limits.layers.get(&layer.name).copied(), &own);
            }
            for package in &sizes.packages {
                let what = format!("package {}, unpacked", package.name);
                over.grown(&what, package, |amount| amount.unpacked, limits.packages.get(&package.name).copied(), &[]);
            }
            for file in &sizes.files {
                let name = file_name(&file.name);
                let limit = of_library(&limits.libraries, name);
                over.grown(&format!("library {name}, unpacked"), file, |amount| amount.unpacked, limit, &[]);
            }
        }
        for column in comparison.cold_start.iter().flat_map(|cold| &cold.columns) {
            for phase in column.phases.iter().filter(|phase| phase.phase != "total") {
                let own = limits.phases.iter().find(|(key, _)| key.as_str() == phase.phase).map(|(_, limit)| *limit);
                let cache = format!("{:?}", column.cache).to_lowercase();
                over.slower(&format!("phase {} ({cache})", phase.phase), phase, own.or(limits.total));
            }
        }
        over.found
    }

    /// Names in the limits that nothing in the image has: a limit that can never be exceeded is likely a slip.
    #[must_use]
    pub fn idle(&self, subject: &Subject) -> Vec<String> {
        let mut idle = Vec::new();
        let mut look = |kind: &str, names: Vec<&String>, known: &dyn Fn(&str) -> bool| {
            idle.extend(
                names
                    .into_iter()
                    .filter(|name| !known(name))
                    .map(|name| format!("limit for {kind} `{name}`: `{}` has none of that name", subject.name)),
            );
        };
        if let Some(sizes) = &subject.sizes {
            let named = |parts: &[Part], name: &str| parts.iter().any(|part| part.name == name);
            look("layer", self.layers.keys().chain(self.growth.layers.keys()).collect(), &|name| named(&sizes.layers, name));
            look("library", self.libraries.keys().chain(self.growth.libraries.keys()).collect(), &|name| {
                sizes.files.iter().map(|file| file_name(&file.name)).any(|file| file == name || stem(file) == name)
            });
            if !sizes.packages.is_empty() {
                let names = self.packages.keys().chain(self.growth.packages.keys()).collect();
                look("package", names, &|name| named(&sizes.packages, name));
            }
        }
        idle
    }
}

/// A limit by a library's file name, or by that without its version.
fn of_library<T: Copy>(limits: &BTreeMap<String, T>, name: &str) -> Option<T> {
    limits.get(name).or_else(|| limits.get(stem(name))).copied()
}

fn cause(file: &PartDifference) -> String {
    let grown = u64::try_from(file.delta()).unwrap_or(0);
    format!("{} +{}", file_name(&file.name), ByteSize(grown))
}

/// Collects what is over.
struct Over<'a> {
    image: &'a str,
    found: Vec<Excess>,
}

impl Over<'_> {
    fn add(&mut self, what: &str, found: String, limit: String, because: &[String]) {
        let (image, what) = (self.image.to_owned(), what.to_owned());
        self.found.push(Excess { image, what, found, limit, because: because.to_vec() });
    }

    fn size(&mut self, what: &str, actual: Option<u64>, limit: Option<ByteSize>) {
        if let Some((actual, limit)) = actual.zip(limit).filter(|(actual, limit)| *actual > limit.0) {
            self.add(what, format!("{} ({actual} bytes)", ByteSize(actual)), format!("{limit} ({} bytes)", limit.0), &[]);
        }
    }

    fn time(&mut self, what: &str, actual: f64, limit: Option<Milliseconds>) {
        if let Some(limit) = limit.filter(|limit| actual > limit.0) {
            self.add(what, Milliseconds(actual).to_string(), limit.to_string(), &[]);
        }
    }

    fn grown(
        &mut self,
        what: &str,
        part: &PartDifference,
        side: impl Fn(Amount) -> Option<u64>,
        limit: Option<Percent>,
        because: &[String],
    ) {
        let Some(((base, head), limit)) = side(part.base).zip(side(part.head)).zip(limit) else { return };
        let percent = growth(float(base), float(head)).unwrap_or(f64::INFINITY);
        if head.saturating_sub(base) > SIZE_FLOOR && percent > limit.0 {
            self.add(what, format!("{} → {}, {percent:+.1} %", ByteSize(base), ByteSize(head)), format!("+{limit}"), because);
        }
    }

    fn slower(&mut self, what: &str, phase: &PhaseDifference, limit: Option<Percent>) {
        let Some((percent, limit)) = phase.regression().zip(limit).filter(|(percent, limit)| *percent > limit.0) else { return };
        let time = |value: Option<f64>| Milliseconds(value.unwrap_or_default());
        let noise = time(phase.noise_ms);
        let found = format!("{} → {}, {percent:+.1} %, noise {noise}", time(phase.base_ms), time(phase.head_ms));
        self.add(what, found, format!("+{limit}"), &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_file_is_read_strictly_and_a_recipes_budgets_are_one() {
        let text = "compressed = \"60MB\"\ncold-start = \"2s\"\n[libraries]\n\"liba.so\" = \"1MB\"\n[phases]\nsession = \"250ms\"\n[growth]\ntotal = \"5%\"\nphases = { warm_up = \"10%\" }\n";
        let limits: Limits = strict::parse(text, "b.toml").expect("a budget");
        assert_eq!(limits.growth.phases[&Phase::WarmUp], Percent(10.0));
        assert_eq!(of_library(&limits.libraries, "liba.so.1.2"), Some(ByteSize(1_000_000)));
        for (text, message, hint) in [
            ("compresed = \"1MB\"", "unknown key `compresed`", "did you mean `compressed`?"),
            ("[phases]\nsesion = \"1s\"", "unknown value `sesion`", "did you mean `session`?"),
            ("[growth]\nlayer = {}", "unknown key `layer`", "did you mean `layers`?"),
        ] {
            let error = strict::parse::<Limits>(text, "b.toml").expect_err(text);
            assert!(error.to_string().contains(message), "{error}");
            assert_eq!(error.hint().as_deref(), Some(hint));
        }
        for bad in ["cold-start = \"2\"", "compressed = 5", "growth = { total = \"5\" }"] {
            strict::parse::<Limits>(bad, "b.toml").expect_err(bad);
        }
    }
}

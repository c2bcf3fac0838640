//! What was built, how big every part is, and why it is there: [`SizeReport`], written as `size.json`; and how fast it starts: [`cold_start`].
//!
//! The format is described in `docs/spec/size-report.md`. Equal builds give equal reports: nothing in it depends on the clock or the machine.

pub mod cold_start;
mod composition;
mod table;

pub use composition::{Composition, LABEL, Library};
pub use table::render;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::recipe::{Minimize, Optimize};
use crate::tree::{LayerName, Origin};

/// The format's name, the first key of the file.
pub const SCHEMA: &str = "imgbuild.size";
/// The newest version of the format.
pub const VERSION: u32 = 1;

/// A size report. All sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeReport {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The format's version.
    pub version: u32,
    /// The builder's version.
    pub imgbuild: String,
    /// The image.
    pub image: ImageIdentity,
    /// The model.
    pub model: ModelIdentity,
    /// How the model was made to start fast; absent in reports of older builders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimization: Option<Optimization>,
    /// Name of the stack.
    pub stack: String,
    /// Name or reference of the base.
    pub base: String,
    /// How much was left out.
    pub minimize: Minimize,
    /// Sums over the whole image.
    pub totals: Totals,
    /// The same image at each level of `--minimize`, this one included.
    pub levels: Vec<Level>,
    /// The layers, lowest first.
    pub layers: Vec<LayerSize>,
    /// The packages that files were taken from.
    pub packages: Vec<PackageSize>,
    /// Every file, by path.
    pub files: Vec<FileSize>,
    /// What was left out, largest first.
    pub omitted: Vec<Omission>,
    /// The proof that the image links.
    pub links: Links,
    /// The GPU that it is for, for stacks that run on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuReport>,
    /// What XLA does, for stacks that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xla: Option<XlaReport>,
    /// How the model was compiled ahead of time, for stacks that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<CompiledReport>,
    /// Why the stack that was tried first does not serve the model, where the stack was left to the builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_compiled: Option<String>,
}

/// How a model was compiled ahead of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompiledReport {
    /// What compiled it.
    pub by: String,
    /// The C++ compiler that compiled the runtime and linked it.
    pub linked_by: String,
    /// The processor that it was compiled for.
    pub processor: String,
    /// The sizes of batches; none where shapes are static.
    pub rows: Vec<u64>,
    /// The files that it was compiled of, by their place in the model's folder; not known of reports of earlier builders.
    #[serde(default)]
    pub sources: BTreeMap<String, Digest>,
    /// Bytes of the library.
    pub library: u64,
    /// Bytes of the weights.
    pub weights: u64,
}

/// The GPU that an image is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuReport {
    /// What runs the model.
    pub provider: String,
    /// The version of CUDA that its libraries are built for.
    pub cuda: String,
    /// The lowest major version of the driver.
    pub driver: String,
    /// The GPUs that there is device code for, `sm_75,sm_86`; `all` where none was taken out.
    pub architectures: String,
    /// Whether the vendor's own libraries were pruned too.
    pub vendor_pruned: bool,
    /// Nodes that the provider has no kernel for.
    pub on_cpu: Vec<OnCpu>,
}

/// Nodes that would run on the CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnCpu {
    /// Their operator.
    pub operator: String,
    /// How many there are.
    pub nodes: u64,
}

/// What XLA does for a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XlaReport {
    /// What is compiled.
    pub mode: XlaMode,
    /// Clusters that XLA compiled when the image was run while it was built.
    pub clusters: Option<u64>,
    /// The processor that they were compiled on.
    pub cpu: Option<String>,
    /// Why nothing was compiled ahead.
    pub left_out: Option<String>,
    /// Times, where both ways were measured.
    pub milliseconds: Option<XlaTimes>,
    /// What chose the mode, where measuring was to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<XlaChooser>,
}

impl Eq for XlaReport {}

/// What XLA compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XlaMode {
    /// Nothing.
    Off,
    /// What TensorFlow finds worth it.
    Auto,
    /// What the model itself asks for.
    Model,
}

/// What chose whether XLA compiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XlaChooser {
    /// Both ways were measured now, or by an earlier build of the same image on the same processor.
    Measured,
    /// The lock, which keeps what was measured.
    Lock,
    /// Nothing: it could not be measured.
    NotMeasured,
}

/// Medians of both ways, in milliseconds: of a run on one input of the smallest size, and of the start until that first run is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XlaTimes {
    /// A run, compiled.
    pub with: f64,
    /// A run, not compiled.
    pub without: f64,
    /// The start, with what was compiled at hand.
    #[serde(default)]
    pub start_with: f64,
    /// The start, nothing compiled.
    #[serde(default)]
    pub start_without: f64,
    /// The median, over the pairs of starts, of a run with over a run without: what decides.
    #[serde(default)]
    pub ratio: f64,
    /// Pairs of starts.
    #[serde(default)]
    pub rounds: u64,
}

/// Which image it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageIdentity {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the config, Docker's image id.
    pub config: Digest,
    /// For instance `linux/amd64`.
    pub platform: String,
}

/// Which model it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelIdentity {
    /// The name it is served under.
    pub name: String,
    /// For instance `onnx`.
    pub format: String,
    /// Bytes of the model with its external data.
    pub size: u64,
}

/// How the model was made to start fast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimization {
    /// The level that was asked for.
    pub asked: Optimize,
    /// The level that was reached.
    pub done: Optimize,
    /// Why that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
    /// The runtime that optimised the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<String>,
    /// What a CPU must have, exactly, to run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Bytes of the file that the runtime maps.
    pub mapped: u64,
    /// Bytes of the model's files as they were given.
    pub before: u64,
    /// Bytes of the model's files in the image.
    pub after: u64,
}

/// Unpacked and compressed bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bytes {
    /// Bytes of the files.
    pub unpacked: u64,
    /// Bytes as they travel.
    pub compressed: u64,
}

impl Bytes {
    /// Adds another pair.
    pub fn add(&mut self, other: Self) {
        self.unpacked += other.unpacked;
        self.compressed += other.compressed;
    }
}

/// Sums over the whole image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// All layers.
    pub image: Bytes,
    /// All layers but the model's: what every model of this stack shares.
    pub without_model: Bytes,
    /// Bytes of manifest and config, which travel with the layers.
    pub metadata: u64,
}

/// How big the packages' part of the image is at one level of minimisation; server, model and generated files are in none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// The level.
    pub minimize: Minimize,
    /// Bytes of its files.
    pub unpacked: u64,
    /// Bytes as they travel: of the package files themselves at level `package`, of the layers' frames otherwise.
    pub compressed: u64,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSize {
    /// `base`, `runtime`, `server` or `model`; `base-image` for layers of a base that is an image.
    pub name: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Media type.
    pub media_type: String,
    /// Bytes of the blob.
    pub compressed: u64,
    /// Bytes of the files in it.
    pub unpacked: u64,
    /// Number of files.
    pub files: u64,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageSize {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Digest of the package file.
    pub digest: Digest,
    /// Its licence as it states it, where it does; several are joined by ` AND `.
    pub license: Option<String>,
    /// Bytes of the package file.
    pub download: u64,
    /// Bytes of all its files.
    pub installed: u64,
    /// Bytes of those that were taken.
    pub taken: u64,
}

impl PackageSize {
    /// Its licences, each as the package names it.
    pub fn licences(&self) -> impl Iterator<Item = &str> {
        self.license.iter().flat_map(|all| all.split(" AND ")).filter(|one| !one.is_empty())
    }
}

/// One file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSize {
    /// Where it is in the image.
    pub path: String,
    /// In which layer.
    pub layer: LayerName,
    /// Its bytes.
    pub unpacked: u64,
    /// Its share of the layer's blob: measured for files with a compression frame of their own, by size within shared frames.
    pub compressed: u64,
    /// Digest of its bytes.
    pub digest: Digest,
    /// From where it came.
    pub origin: Origin,
    /// Why it is there.
    pub reason: String,
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Omission {
    /// A library's file name, or what a group of files has in common.
    pub name: String,
    /// The package it is part of.
    pub package: String,
    /// How many files.
    pub files: u64,
    /// Their bytes: what leaving them out saved.
    pub unpacked: u64,
    /// Why.
    pub reason: String,
}

/// What the link proof checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Links {
    /// Executables and libraries.
    pub objects: u64,
    /// Undefined symbols that were resolved.
    pub symbols: u64,
    /// Symbol versions that were resolved.
    pub versions: u64,
    /// Symbols or libraries that the host injects.
    pub injected: Vec<String>,
    /// Libraries that are needed by name and used by nothing.
    pub dead: Vec<String>,
}

/// What is wrong with a report file.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file cannot be read.
    #[error("failed to read the report `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("failed to write the report `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no report, or was cut short.
    #[error("`{path}` is no `{schema}` report")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What was expected.
        schema: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file is of another kind or version.
    #[error("`{path}` is `{schema}` version {version}, expected `{expected_schema}` version {expected_version}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its schema.
        schema: String,
        /// Its version.
        version: u64,
        /// The schema that was expected.
        expected_schema: &'static str,
        /// The newest version that can be read.
        expected_version: u32,
    },
    /// The parts of the report do not add up: it was edited or cut.
    #[error("`{path}` contradicts itself: {what} is {found}, and its parts give {expected}")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// Which sum.
        what: String,
        /// What the report says.
        found: u64,
        /// What its parts give.
        expected: u64,
    },
    /// The times of the report do not add up: it was edited.
    #[error("`{path}` contradicts itself: {what} is {found} ms, and its samples give {expected} ms")]
    Times {
        /// The file.
        path: PathBuf,
        /// Which time.
        what: String,
        /// What the report says.
        found: f64,
        /// What its samples give.
        expected: f64,
    },
    /// A part of a whole is none.
    #[error("`{path}` contradicts itself: `contention` is {found}, expected 0 to 1")]
    Contention {
        /// The file.
        path: PathBuf,
        /// What the report says.
        found: f64,
    },
    /// A verdict does not follow from what was measured: the report was edited.
    #[error("`{path}` contradicts itself: {what}")]
    Verdict {
        /// The file.
        path: PathBuf,
        /// What does not follow.
        what: String,
    },
}

/// Reads a report whose first keys name its schema and version.
pub(crate) fn parse_versioned<T: DeserializeOwned>(
    text: &str,
    path: &Path,
    schema: &'static str,
    version: u32,
) -> Result<T, ReportError> {
    let parse = |source| ReportError::Parse { path: path.to_owned(), schema, source };
    let value: serde_json::Value = serde_json::from_str(text).map_err(parse)?;
    let found_schema = value["schema"].as_str().unwrap_or("a file without a schema");
    let found_version = value["version"].as_u64().unwrap_or(0);
    if found_schema != schema || found_version != u64::from(version) {
        return Err(ReportError::Version {
            path: path.to_owned(),
            schema: found_schema.to_owned(),
            version: found_version,
            expected_schema: schema,
            expected_version: version,
        });
    }
    serde_json::from_value(value).map_err(parse)
}

impl SizeReport {
    /// The report as it is written: indented JSON with a final newline.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has string keys only");
        text.push('\n');
        text
    }

    /// Writes the report: whole, or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), ReportError> {
        crate::files::write_atomically(path, self.to_json().as_bytes())
            .map_err(|source| ReportError::Write { path: path.to_owned(), source })
    }

    /// Reads a report and checks that its sums hold.
    ///
    /// # Errors
    /// Where the file is no report, is of another version, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, ReportError> {
        let text = std::fs::read_to_string(path).map_err(|source| ReportError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a report from its text; `path` is only for the error.
    ///
    /// # Errors
    /// As [`SizeReport::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ReportError> {
        let report: Self = parse_versioned(text, path, SCHEMA, VERSION)?;
        report.check(path)?;
        Ok(report)
    }

    /// Checks every sum that the format promises, so that a report that was cut or edited is not compared.
    fn check(&self, path: &Path) -> Result<(), ReportError> {
        let same = |what: String, found: u64, expected: u64| {
            if found == expected {
                Ok(())
            } else {
                Err(ReportError::Inconsistent { path: path.to_owned(), what, found, expected })
            }
        };
        let at_most = |what: String, found: u64, limit: u64| same(what, found, found.min(limit));
        let totals = &self.totals;
        let without_model = || self.layers.iter().filter(|layer| layer.name != LayerName::Model.as_str());
        same("totals.image.compressed".to_owned(), totals.image.compressed, sum(self.layers.iter().map(|l| l.compressed)))?;
        same("totals.image.unpacked".to_owned(), totals.image.unpacked, sum(self.layers.iter().map(|l| l.unpacked)))?;
        let shared = totals.without_model;
        same("totals.without_model.compressed".to_owned(), shared.compressed, sum(without_model().map(|l| l.compressed)))?;
        same("totals.without_model.unpacked".to_owned(), shared.unpacked, sum(without_model().map(|l| l.unpacked)))?;
        for layer in self.layers.iter().filter(|layer| layer.name != BASE_IMAGE) {
            let name = &layer.name;
            let files = || self.files.iter().filter(|file| file.layer.as_str() == name);
            same(format!("number of layers `{name}`"), self.layers.iter().filter(|other| other.name == *name).count() as u64, 1)?;
            same(format!("layer `{name}`"), layer.unpacked, sum(files().map(|file| file.unpacked)))?;
            same(format!("number of files of layer `{name}`"), layer.files, files().count() as u64)?;
            at_most(format!("compressed files of layer `{name}`"), sum(files().map(|file| file.compressed)), layer.compressed)?;
        }
        for file in &self.files {
            let layers = self.layers.iter().filter(|layer| layer.name == file.layer.as_str()).count() as u64;
            same(format!("number of layers with `{}`", file.path), layers, 1)?;
        }
        let repeated = self.files.windows(2).filter(|pair| pair[0].path >= pair[1].path).count() as u64;
        same("number of files out of order".to_owned(), repeated, 0)?;
        for package in &self.packages {
            at_most(format!("what was taken of package `{}`", package.name), package.taken, package.installed)?;
        }
        let levels = self.levels.iter().filter(|level| level.minimize == self.minimize).count() as u64;
        same(format!("number of levels `{}`", self.minimize), levels, 1)
    }
}

/// Adds sizes; absurd ones give the largest number instead of an overflow.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// Name of the layers that a base image brought.
pub const BASE_IMAGE: &str = "base-image";

//! What the user asked for: `imgbuild.toml` and the command line, as one validated value.
//!
//! [`RecipeFile`] is what was written; [`Recipe`] is what it means. The command line overrides the file, the file overrides the defaults.

mod engine;
mod file;
mod gpu;

pub use engine::EngineRecord;
pub use file::{
    ExtraFileEntry, ImageSection, PackageEntry, RecipeFile, RuntimeSection, SavedModelSection, ServerSection, TEMPLATE,
};

pub use gpu::{GPU_PLACE, GpuPart};

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fatbin::Sm;
use crate::model::Selection;
use crate::platform::Platform;
use crate::template::PackageChoice;
use crate::template::strict::StrictError;
use crate::tree::{ImagePath, ImagePathError};
use crate::units::ByteSize;
use gpu::{gpus, of_part};

/// The name of a recipe file in a folder.
pub const FILE_NAME: &str = "imgbuild.toml";

/// How much is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Minimize {
    /// Every library of the pinned packages.
    Package,
    /// Libraries that an entry point reaches.
    Closure,
    /// Of those, the libraries that this model's operators can reach.
    #[default]
    Model,
}

impl fmt::Display for Minimize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Package => "package",
            Self::Closure => "closure",
            Self::Model => "model",
        })
    }
}

/// How the model is made to start fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Optimize {
    /// The files go into the image as they are.
    Off,
    /// Large tensors move to a file of their own, which the runtime maps instead of reading it.
    #[default]
    Weights,
    /// The image's runtime also simplifies the graph, keeping the model's own operators.
    Basic,
    /// The image's runtime also fuses operators.
    Extended,
    /// The image's runtime also lays out weights for this machine's CPU; the image runs on equal ones only.
    Hardware,
}

impl Optimize {
    /// Whether the image's runtime takes part.
    #[must_use]
    pub fn is_by_runtime(self) -> bool {
        matches!(self, Self::Basic | Self::Extended | Self::Hardware)
    }
}

impl fmt::Display for Optimize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Weights => "weights",
            Self::Basic => "basic",
            Self::Extended => "extended",
            Self::Hardware => "hardware",
        })
    }
}

/// Whether XLA compiles a SavedModel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum XlaChoice {
    /// Only what the model itself asks to be compiled.
    Off,
    /// What the model asks for, or else whatever TensorFlow finds worth it.
    Auto,
    /// What the model asks for; one that asks for nothing is refused.
    Must,
    /// What the model asks for; for one that asks for nothing, with and without are timed and the faster one is kept.
    #[default]
    Measure,
}

/// What lies at the bottom of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseChoice {
    /// A file of `base-images/`, by name, such as `debian-12` or `scratch`.
    Named(String),
    /// An OCI image, by transport and perhaps digest.
    Image {
        /// As it was written.
        written: String,
        /// What a path in it is relative to.
        folder: PathBuf,
    },
}

impl BaseChoice {
    /// Tells a name from an image by its colon; a path in it is relative to `folder`.
    fn new(text: String, folder: &Path) -> Self {
        if text.contains(':') { Self::Image { written: text, folder: folder.to_owned() } } else { Self::Named(text) }
    }
}

impl fmt::Display for BaseChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Named(text) | Self::Image { written: text, .. }) = self;
        f.write_str(text)
    }
}

/// A numeric user and group, neither of them root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Default for User {
    /// The user `nonroot` of the base images.
    fn default() -> Self {
        Self { uid: 65532, gid: 65532 }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// A file of the user's own that goes into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraFile {
    /// Where it is now.
    pub from: PathBuf,
    /// Where it goes.
    pub to: ImagePath,
    /// Permission bits.
    pub mode: u32,
}

/// Limits that a build must stay within.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Budgets {
    /// Bytes of all layers as they travel.
    pub compressed: Option<ByteSize>,
    /// Bytes of all files unpacked.
    pub unpacked: Option<ByteSize>,
    /// Bytes as they travel, by layer name.
    pub layers: BTreeMap<String, ByteSize>,
    /// Bytes unpacked, by the file name of a library.
    pub libraries: BTreeMap<String, ByteSize>,
}

/// What is to be built. Paths are as the process can open them.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The folder of the lock: that of the recipe file or of the model.
    pub folder: PathBuf,
    /// The model's file or folder.
    pub model: PathBuf,
    /// Which graph and signature of a SavedModel are wanted.
    pub saved_model: Selection,
    /// Whether XLA compiles a SavedModel.
    pub xla: XlaChoice,
    /// Whether the image is run once while it is built, so that XLA compiles ahead.
    pub warm: bool,
    /// The sizes of batches that a SavedModel is compiled for ahead of time, rising; none leaves its shapes as they are.
    pub batch: Vec<u64>,
    /// The processor that it is compiled for; `None` leaves that to the stack.
    pub cpu: Option<String>,
    /// The name the model is served under.
    pub name: String,
    /// The stack's name, or `None` to choose it from the model.
    pub stack: Option<String>,
    /// The base.
    pub base: BaseChoice,
    /// For which platform.
    pub platform: Platform,
    /// How layers are compressed, as written (`auto`, `zstd:19`, …).
    pub compression: String,
    /// How much is left out.
    pub minimize: Minimize,
    /// References the image gets.
    pub tags: Vec<String>,
    /// How the model is made to start fast.
    pub optimize: Optimize,
    /// Whether the runtime packs weights for its kernels at start, which takes time and memory then and saves time in every run.
    pub prepack: bool,
    /// Where the image goes, as transports.
    pub outputs: Vec<String>,
    /// Directory or archive that serves in place of the stack's packages.
    pub runtime: Option<PathBuf>,
    /// Custom-operator libraries.
    pub custom_operators: Vec<PathBuf>,
    /// Domains whose operators those libraries bring.
    pub custom_domains: Vec<String>,
    /// Libraries to keep whatever the rules say, by file name.
    pub keep: Vec<String>,
    /// Whether lookups within libraries are bound, where the stack allows it.
    pub bind: bool,
    /// The GPUs that device code is kept for, sorted; none keeps all of it. The lock pins all of them, whatever `part` says.
    pub gpus: Vec<Sm>,
    /// Which of them this image is for.
    pub part: GpuPart,
    /// Whether the vendor's own libraries are pruned too.
    pub prune_vendor: bool,
    /// What the model's engines were compiled by and for, where it holds some.
    pub engines: Option<EngineRecord>,
    /// What is taken of packages of the stack, by their names; paths are relative to the folder.
    pub packages: BTreeMap<String, PackageChoice>,
    /// The server binary, or `None` for the one beside the builder.
    pub server: Option<PathBuf>,
    /// The name of the lock.
    lock_file: String,
    /// Options of the server that go into its file in the image.
    pub server_options: BTreeMap<String, toml::Value>,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Environment of the image.
    pub environment: BTreeMap<String, String>,
    /// As whom it runs; `None` leaves it to the base.
    pub user: Option<User>,
    /// Files of the user's own.
    pub files: Vec<ExtraFile>,
    /// Limits.
    pub budgets: Budgets,
}

/// What was typed on the command line; every field overrides the recipe file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The model.
    pub model: Option<PathBuf>,
    /// The name it is served under.
    pub name: Option<String>,
    /// The stack.
    pub stack: Option<String>,
    /// The base.
    pub base: Option<String>,
    /// The platform.
    pub platform: Option<Platform>,
    /// Whether it is one of several that are built together: each has a lock of its own.
    pub one_of_several: bool,
    /// The compression.
    pub compression: Option<String>,
    /// How much is left out.
    pub minimize: Option<Minimize>,
    /// How the model is made to start fast.
    pub optimize: Option<Optimize>,
    /// `false` to leave weights unpacked at start.
    pub prepack: Option<bool>,
    /// References, added to those of the file.
    pub tags: Vec<String>,
    /// Transports, in place of those of the file.
    pub outputs: Vec<String>,
    /// The server binary.
    pub server: Option<PathBuf>,
    /// Libraries to keep, added to those of the file.
    pub keep: Vec<String>,
    /// `false` to leave lookups within libraries to the loader.
    pub bind: Option<bool>,
    /// GPUs that device code is kept for, in place of those of the file.
    pub gpus: Vec<Sm>,
    /// Which of them the image is for.
    pub part: GpuPart,
    /// Whether the vendor's own libraries are pruned too.
    pub prune_vendor: Option<bool>,
    /// Packages of the stack in another version or from another place, before those of the file; paths are the process's.
    pub packages: Vec<(String, PackageEntry)>,
    /// Whether XLA compiles a SavedModel.
    pub xla: Option<XlaChoice>,
    /// Whether the image is run once while it is built.
    pub warm: Option<bool>,
    /// Sizes of batches to compile for.
    pub batch: Option<Vec<u64>>,
    /// The processor to compile for.
    pub cpu: Option<String>,
}

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("failed to read the recipe `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is no recipe.
    #[error("failed to understand the recipe")]
    Parse(#[from] StrictError),
    /// Neither the command line nor a recipe names a model.
    #[error("no model is named, and there is no `{FILE_NAME}` in `{folder}`")]
    NoModel {
        /// The folder that was searched.
        folder: PathBuf,
    },
    /// A field's value cannot be used.
    #[error("{field} is `{found}`, expected {expected}")]
    Field {
        /// Which field.
        field: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// A place in the image is no such place.
    #[error("failed to place the file of `files.to`")]
    ImagePath(#[from] ImagePathError),
}

impl RecipeError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoModel { .. } => {
                Some("name a model, `imgbuild build model.onnx`, or write a recipe with `imgbuild init`".to_owned())
            }
            Self::Parse(error) => error.hint(),
            _ => None,
        }
    }
}

impl Recipe {
    /// Reads the recipe file, where there is one, and applies the command line.
    ///
    /// `file` is the file that was named; without it `imgbuild.toml` of the current folder is used unless a model was named.
    ///
    /// # Errors
    /// Where the file cannot be read or understood, no model is named, or a value cannot be used.
    pub fn load(file: Option<&Path>, overrides: Overrides) -> Result<Self, RecipeError> {
        let here = Path::new(FILE_NAME);
        let file = match file {
            Some(file) => Some(file),
            None if overrides.model.is_none() && here.exists() => Some(here),
            None => None,
        };
        let (written, folder) = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
                (RecipeFile::parse(&text, path)?, folder_of(path))
            }
            None => (RecipeFile::default(), overrides.model.as_deref().map_or_else(|| PathBuf::from("."), folder_of)),
        };
        Self::resolve(written, overrides, folder)?.with_engines()
    }

    /// Gives the written recipe its meaning: defaults, paths and checks. Reads nothing.
    ///
    /// # Errors
    /// Where no model is named or a value cannot be used.
    pub fn resolve(written: RecipeFile, overrides: Overrides, folder: PathBuf) -> Result<Self, RecipeError> {
        let in_folder = |path: &Path| folder.join(path);
        let model = overrides
            .model
            .or_else(|| written.model.as_deref().map(in_folder))
            .ok_or_else(|| RecipeError::NoModel { folder: folder.clone() })?;
        let name = match overrides.name.or(written.name) {
            Some(name) => check_name(name, "name")?,
            None => check_name(stem(&model), "the model's file name, from which its served name is taken,")?,
        };
        let platform = match (overrides.platform, &written.platform) {
            (Some(platform), _) => platform,
            (None, Some(text)) => text.parse().map_err(|_| field("platform", text, "`linux/amd64` or `linux/arm64`"))?,
            (None, None) => Platform::host(),
        };
        let for_platform = |path: PathBuf| match path.to_str() {
            Some(text) => PathBuf::from(text.replace("{arch}", platform.architecture())),
            None => path,
        };
        let files = written.files.into_iter().map(|entry| extra_file(entry, &folder)).collect::<Result<_, _>>()?;
        let user = written.image.user.as_deref().map(parse_user).transpose()?;
        let base = match (overrides.base, written.base) {
            (Some(typed), _) => BaseChoice::new(typed, Path::new("")),
            (None, Some(written)) => BaseChoice::new(written, &folder),
            (None, None) => BaseChoice::Named(DEFAULT_BASE.to_owned()),
        };
        for name in written.image.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(field("image.env", name, "a variable's name without `=`"));
            }
        }
        let xla = overrides.xla.or(written.saved_model.xla).unwrap_or_default();
        let warm = overrides.warm.or(written.saved_model.warm).unwrap_or(true);
        let batch = batch(overrides.batch.or_else(|| written.saved_model.batch.clone()).unwrap_or_default())?;
        let cpu = overrides.cpu.or_else(|| written.saved_model.cpu.clone());
        let saved_model = written.saved_model.selection()?;
        let gpus = gpus(overrides.gpus, &written.runtime.gpu)?;
        let part = overrides.part;
        let tags = of_part("tags", [written.tags, overrides.tags].concat(), part)?;
        let outputs = if overrides.outputs.is_empty() { written.outputs } else { overrides.outputs };
        let outputs = of_part("outputs", outputs, part)?;
        let prune_vendor = overrides.prune_vendor.or(written.runtime.prune_vendor).unwrap_or(false);
        if prune_vendor && gpus.is_empty() {
            return Err(field("runtime.prune-vendor", "true", "GPUs to prune for: `--gpu sm_75`, or `gpu` in the recipe"));
        }
        let mut entries = written.runtime.packages;
        for (name, entry) in overrides.packages {
            // Paths of the recipe are relative to its folder, those that were typed are not.
            let path = entry.path.map(|path| std::path::absolute(&path).unwrap_or(path));
            entries.insert(name, PackageEntry { path, ..entry });
        }
        let packages = entries.into_iter().map(|(name, entry)| package(name, entry, &for_platform));
        let packages = packages.collect::<Result<_, _>>()?;
        Ok(Self {
            model,
            saved_model,
            xla,
            warm,
            batch,
            cpu,
            name,
            stack: overrides.stack.or(written.stack).filter(|stack| stack != "auto"),
            base,
            platform,
            compression: overrides.compression.or(written.compression).unwrap_or_else(|| "auto".to_owned()),
            minimize: overrides.minimize.or(written.minimize).unwrap_or_default(),
            optimize: overrides.optimize.or(written.optimize).unwrap_or_default(),
            prepack: overrides.prepack.or(written.prepack).unwrap_or(true),
            tags,
            outputs,
            runtime: written.runtime.path.as_deref().map(in_folder).map(for_platform),
            custom_operators: written.runtime.custom_operators.iter().map(|path| for_platform(in_folder(path))).collect(),
            custom_domains: written.runtime.custom_domains,
            keep: [written.runtime.keep, overrides.keep].concat(),
            bind: overrides.bind.or(written.runtime.bind).unwrap_or(true),
            gpus,
            part,
            prune_vendor,
            engines: None,
            packages,
            server: overrides.server.or_else(|| written.server.binary.as_deref().map(in_folder)).map(for_platform),
            lock_file: match overrides.one_of_several {
                true => format!("imgbuild-{}.lock", platform.architecture()),
                false => "imgbuild.lock".to_owned(),
            },
            server_options: written.server.options,
            labels: written.image.labels,
            environment: written.image.env,
            user,
            files,
            budgets: written.budgets,
            folder,
        })
    }

    /// The file that pins this recipe's inputs.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.folder.join(&self.lock_file)
    }

    /// The GPUs that this image has device code for; none means all that its libraries came with.
    #[must_use]
    pub fn device_gpus(&self) -> &[Sm] {
        match &self.part {
            GpuPart::One(gpu) => std::slice::from_ref(gpu),
            GpuPart::Only | GpuPart::All => &self.gpus,
        }
    }

    /// What the lock depends on besides the stack and base themselves.
    #[must_use]
    pub fn lock_request(&self) -> Digest {
        let runtime = self.runtime.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        Digest::of(format!("{}\n{}\n{}\n{runtime}", self.stack.as_deref().unwrap_or(""), self.base, self.platform).as_bytes())
    }
}

/// The base of images unless the user says otherwise.
pub const DEFAULT_BASE: &str = "debian-12";

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn stem(model: &Path) -> String {
    let canonical = std::path::absolute(model).unwrap_or_else(|_| model.to_owned());
    canonical.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A served name is part of URLs and of paths in the image.
fn check_name(name: String, what: &str) -> Result<String, RecipeError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(valid) {
        return Err(field(
            what,
            &name,
            "1 to 128 letters, digits, `_`, `-` and `.`, not beginning with `.` (set one with `--name`)",
        ));
    }
    Ok(name)
}

fn field(field: &str, found: &str, expected: &str) -> RecipeError {
    RecipeError::Field { field: field.to_owned(), found: found.to_owned(), expected: expected.to_owned() }
}

impl SavedModelSection {
    fn selection(self) -> Result<Selection, RecipeError> {
        let default = Selection::default();
        let tags = self.tags.unwrap_or(default.tags);
        if let Some(tag) = tags.iter().find(|tag| tag.contains('\0')) {
            return Err(field("saved-model.tags", &tag.replace('\0', "\\0"), "tags without a zero byte"));
        }
        Ok(Selection { tags, signature: self.signature })
    }
}

/// Sizes of batches, each once and rising.
fn batch(mut sizes: Vec<u64>) -> Result<Vec<u64>, RecipeError> {
    // More rows than that are no batch, and XLA counts elements in 64 bits.
    const LARGEST: u64 = 65_536;
    if let Some(size) = sizes.iter().find(|size| !(1..=LARGEST).contains(*size)) {
        return Err(field("batch", &size.to_string(), "numbers from 1 to 65536"));
    }
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes)
}

fn parse_user(text: &str) -> Result<User, RecipeError> {
    let error = || field("image.user", text, "`uid:gid`, two numbers of which neither is 0");
    let (uid, gid) = text.split_once(':').unwrap_or((text, text));
    let user = User { uid: uid.parse().map_err(|_| error())?, gid: gid.parse().map_err(|_| error())? };
    if user.uid == 0 || user.gid == 0 { Err(error()) } else { Ok(user) }
}

fn package(
    name: String,
    entry: PackageEntry,
    for_platform: &impl Fn(PathBuf) -> PathBuf,
) -> Result<(String, PackageChoice), RecipeError> {
    let choice = match (entry.version, entry.path) {
        (Some(version), None) => PackageChoice::Version(version),
        (None, Some(path)) => PackageChoice::Path(for_platform(path).to_string_lossy().into_owned()),
        (version, _) => {
            let found = if version.is_some() { "both" } else { "neither" };
            return Err(field(&format!("runtime.packages.{name}"), found, "either `version` or `path`"));
        }
    };
    Ok((name, choice))
}

fn extra_file(entry: ExtraFileEntry, folder: &Path) -> Result<ExtraFile, RecipeError> {
    let mode = match &entry.mode {
        None => 0o644,
        Some(text) => u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or_else(|| field("files.mode", text, "three octal digits such as `0644`"))?,
    };
    Ok(ExtraFile { from: folder.join(entry.from), to: entry.to.parse()?, mode })
}

#[cfg(test)]
mod tests;

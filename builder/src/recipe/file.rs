//! `imgbuild.toml` as it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Budgets, Minimize, Optimize, RecipeError, XlaChoice};
use crate::template::strict;

/// A commented recipe, as `imgbuild init` writes it.
pub const TEMPLATE: &str = include_str!("imgbuild.toml");

/// The recipe file, key by key. Unknown keys are errors.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RecipeFile {
    /// The model's file, relative to the recipe.
    pub model: Option<PathBuf>,
    /// The name the model is served under.
    pub name: Option<String>,
    /// The stack, or `auto`.
    pub stack: Option<String>,
    /// The base.
    pub base: Option<String>,
    /// The platform.
    pub platform: Option<String>,
    /// `auto`, `zstd[:LEVEL]`, `gzip[:LEVEL]` or `none`.
    pub compression: Option<String>,
    /// `package`, `closure` or `model`.
    pub minimize: Option<Minimize>,
    /// `off`, `weights`, `basic`, `extended` or `hardware`.
    pub optimize: Option<Optimize>,
    /// `false` to leave weights unpacked at start.
    pub prepack: Option<bool>,
    /// References.
    pub tags: Vec<String>,
    /// Transports.
    pub outputs: Vec<String>,
    /// What is served of a SavedModel.
    pub saved_model: SavedModelSection,
    /// Where the runtime's files come from.
    pub runtime: RuntimeSection,
    /// The inference server.
    pub server: ServerSection,
    /// The image's config.
    pub image: ImageSection,
    /// Files of the user's own.
    pub files: Vec<ExtraFileEntry>,
    /// Limits.
    pub budgets: Budgets,
}

/// `[saved-model]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SavedModelSection {
    /// Tags of the graph.
    pub tags: Option<Vec<String>>,
    /// Key of the signature.
    pub signature: Option<String>,
    /// `off`, `auto`, `must` or `measure`.
    pub xla: Option<XlaChoice>,
    /// Whether the image is run once while it is built.
    pub warm: Option<bool>,
    /// Sizes of batches to compile for.
    pub batch: Option<Vec<u64>>,
    /// The processor to compile for.
    pub cpu: Option<String>,
}

/// `[runtime]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RuntimeSection {
    /// Directory or archive in place of the stack's packages.
    pub path: Option<PathBuf>,
    /// Custom-operator libraries.
    pub custom_operators: Vec<PathBuf>,
    /// Operator domains that those libraries bring.
    pub custom_domains: Vec<String>,
    /// Libraries to keep, by file name.
    pub keep: Vec<String>,
    /// `false` to leave lookups within libraries to the loader.
    pub bind: Option<bool>,
    /// GPUs that device code is kept for.
    pub gpu: Vec<String>,
    /// Whether the vendor's own libraries are pruned too.
    pub prune_vendor: Option<bool>,
    /// What is taken of a package of the stack, by its name.
    pub packages: BTreeMap<String, PackageEntry>,
}

/// `[runtime.packages.NAME]`: one of the two.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PackageEntry {
    /// A version in place of the template's.
    pub version: Option<String>,
    /// A directory or archive in place of the package.
    pub path: Option<PathBuf>,
}

/// `[server]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ServerSection {
    /// A server binary of the user's own.
    pub binary: Option<PathBuf>,
    /// Options for the server's file in the image.
    pub options: BTreeMap<String, toml::Value>,
}

/// `[image]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ImageSection {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// `uid:gid`.
    pub user: Option<String>,
}

/// `[[files]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExtraFileEntry {
    /// The file, relative to the recipe.
    pub from: PathBuf,
    /// Where it goes in the image.
    pub to: String,
    /// Octal permission bits.
    pub mode: Option<String>,
}

impl RecipeFile {
    /// Reads a recipe from its text; `path` is only for the error.
    ///
    /// # Errors
    /// Where it is no TOML, or a key or value is not a recipe's.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        Ok(strict::parse(text, &path.display().to_string())?)
    }
}

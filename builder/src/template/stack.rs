//! Runtime stacks: [`StackTemplate`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gpu::{DeviceCode, Gpu};
use super::matrix::Accepts;
use super::strict::parse_versioned;
use super::{CompilerTemplate, PathTemplate, TemplateError};
use crate::model::Model;
use crate::platform::Platform;
use crate::recipe::Minimize;
use crate::rewrite::BindRules;
use crate::source::{Glob, Request, WheelTags};

/// The newest format of templates that is read. 2 added what stacks for GPUs say, 3 stand-ins (`docs/spec/templates.md`).
const FORMAT: i64 = 3;

/// A runtime stack: which packages it is made of, what of them goes into an image, and what surrounds it there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StackTemplate {
    /// The format of the file.
    pub format: i64,
    /// The stack's name, for instance `onnx-cpu`.
    pub name: String,
    /// What it is, in a phrase.
    pub summary: String,
    /// Which part of the server runs it, for instance `onnxruntime`.
    pub backend: String,
    /// The formats of models that it serves.
    pub models: Vec<ModelFormat>,
    /// The platforms that it exists for.
    pub platforms: Vec<Platform>,
    /// The base image that it is put on unless the recipe names another one.
    pub base: String,
    /// The file in `templates/operators/` that says which operators it has.
    pub operators: Option<String>,
    /// Which wheels fit.
    pub wheels: Option<WheelTags>,
    /// The sonames of the libraries that the server opens: the closure begins with them. None where models are compiled.
    #[serde(default)]
    pub entry: Vec<String>,
    /// Where its libraries go.
    pub library_folder: PathTemplate,
    /// What runs its models on a GPU, where something does.
    pub gpu: Option<Gpu>,
    /// Variables of the image's environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// The packages it is made of.
    #[serde(default, rename = "package")]
    pub packages: Vec<StackPackage>,
    /// What compiles models into libraries of their own, for stacks that have no runtime to open.
    pub compiler: Option<CompilerTemplate>,
    /// What its libraries open while they run.
    #[serde(default)]
    pub opens: Vec<Opens>,
    /// What the host adds to the container.
    #[serde(default)]
    pub injected: Vec<Injected>,
    /// Libraries that stay out although they are in a package or asked for.
    #[serde(default)]
    pub omit: Vec<Omission>,
}

/// A format of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelFormat {
    /// ONNX.
    Onnx,
    /// TensorFlow's SavedModel.
    SavedModel,
}

impl ModelFormat {
    /// What models of the format are called, in the plural.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Onnx => "ONNX models",
            Self::SavedModel => "SavedModels",
        }
    }
}

/// A package of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StackPackage {
    /// Its name in the registry.
    pub name: String,
    /// From where it comes.
    pub source: PackageSource,
    /// The version that was tested.
    pub version: String,
    /// Versions that must not be used.
    #[serde(default)]
    pub refused: Vec<Refused>,
    /// The versions that go with the others of the stack, where not all do.
    pub accepts: Option<Accepts>,
    /// Its libraries.
    #[serde(default, rename = "library")]
    pub libraries: Vec<LibraryRule>,
    /// Its other files: licences, data.
    #[serde(default)]
    pub copy: Vec<Copy>,
}

/// From where a stack's package comes, unless the recipe names a file or directory instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageSource {
    /// A wheel.
    Pip,
    /// A Debian package.
    Apt,
    /// A folder or archive that the recipe has to name: no registry has the package's files.
    Recipe,
}

/// A version that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Refused {
    /// The version.
    pub version: String,
    /// Why, as a verb phrase: `crashes without a shell`.
    pub reason: String,
}

/// Which files of a package are libraries of the stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LibraryRule {
    /// Alternatives, the best one first: the first that matches regular files says which. Wheels, vendors' archives and
    /// directories are laid out differently.
    pub take: Vec<Glob>,
    /// What the files are called in the image.
    #[serde(default)]
    pub naming: Naming,
    /// Other names by which it is found, as links.
    #[serde(default)]
    pub also: Vec<String>,
    /// Whether symbol tables and debug information are cut off.
    #[serde(default)]
    pub strip: bool,
    /// Where it is given, what a library wants of itself is bound, and exports go that nothing names but these rules.
    pub bind: Option<BindRules>,
    /// Needed libraries that are taken off its list, of which it imports nothing.
    #[serde(default)]
    pub drop_needed: Vec<String>,
    /// Whose the CUDA device code in it is, where it has some that can be pruned.
    pub device_code: Option<DeviceCode>,
    /// Whether its relative relocations are packed, where the vendor's libraries may be changed.
    #[serde(default)]
    pub pack: bool,
    /// Whether a package without such a file is in order.
    #[serde(default)]
    pub optional: bool,
}

/// What a library is called in an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Naming {
    /// By its soname (`DT_SONAME`), or as in the package where it has none: one file, no links.
    #[default]
    Soname,
    /// As in the package, with a link named by its soname where that is another name.
    Link,
}

/// A file of a package that is copied as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Copy {
    /// Alternatives, the best one first.
    pub take: Vec<Glob>,
    /// Where it goes.
    pub to: PathTemplate,
    /// Whether a package without such a file is in order.
    #[serde(default)]
    pub optional: bool,
    /// Whether it is copied only where it is kept by name (`--keep`); it is a program then.
    #[serde(default)]
    pub on_request: bool,
    /// What it is for.
    pub reason: String,
}

/// A library that another one opens while it runs, invisible to `DT_NEEDED`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Opens {
    /// The soname of the library that opens.
    pub from: String,
    /// The name it opens; `*` stands for any characters in names of libraries of the stack.
    pub opens: String,
    /// Whether it works without.
    pub optional: bool,
    /// Whether everything that is opened later may use its symbols (`RTLD_GLOBAL`).
    #[serde(default)]
    pub global: bool,
    /// When and what for.
    pub reason: String,
}

/// A library that the host adds to the container, such as a GPU driver's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Injected {
    /// Its soname.
    pub library: String,
    /// The symbols that may come from it.
    pub symbols: Vec<String>,
    /// Who adds it.
    pub reason: String,
}

/// A library that stays out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Omission {
    /// Its soname or file name; `*` stands for any characters.
    pub library: Glob,
    /// When it stays out.
    pub when: When,
    /// Why that is right.
    pub reason: String,
    /// Whether it stays out at every level, since what it needs is in no package of the stack.
    #[serde(default)]
    pub unlinkable: bool,
    /// Whether an empty library of its name takes its place, since what opens it does not work without.
    #[serde(default)]
    pub stand_in: bool,
    /// Options of the provider that have to go with it.
    #[serde(default)]
    pub provider_options: BTreeMap<String, String>,
    /// Entries of the session's configuration that have to go with it.
    #[serde(default)]
    pub session_config: BTreeMap<String, String>,
}

/// A condition on the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Whatever the model is: `when = "always"`.
    Always,
    /// Where the model has none of these operators: `when = { operators-absent = ["Conv"] }`.
    OperatorsAbsent(Vec<String>),
    /// Where the model has one of these operators.
    OperatorsPresent(Vec<String>),
}

impl When {
    /// Whether it holds for a model; none stands for all models at once.
    #[must_use]
    pub fn holds(&self, model: Option<&Model>) -> bool {
        let uses = |operators: &[String]| model.map(|model| operators.iter().any(|name| model.uses_operator(name)));
        match self {
            Self::Always => true,
            Self::OperatorsAbsent(operators) => uses(operators) == Some(false),
            Self::OperatorsPresent(operators) => uses(operators) == Some(true),
        }
    }
}

impl StackTemplate {
    /// Parses a template. `file` is what errors call it.
    ///
    /// # Errors
    /// Where it is not a template, or does not fit together.
    pub fn parse(text: &str, file: &str) -> Result<Self, TemplateError> {
        let template: Self = parse_versioned(text, file, FORMAT)?;
        let inconsistent = |reason: String| TemplateError::Inconsistent { file: file.to_owned(), reason };
        match &template.compiler {
            Some(compiler) => compiler.check(inconsistent)?,
            None if template.entry.is_empty() => return Err(inconsistent("`entry` names no library".to_owned())),
            None => {}
        }
        if template.wheels.is_none() && template.packages.iter().any(|package| package.source == PackageSource::Pip) {
            return Err(inconsistent("a package comes from `pip`, but `wheels` does not say which wheels fit".to_owned()));
        }
        for package in &template.packages {
            package.check_version(&package.version)?;
        }
        Ok(template)
    }

    /// What should be locked. `choice` says what the recipe wants of a package, where it wants something.
    ///
    /// # Errors
    /// Where the recipe wants a version that must not be used or that does not go with the others, or has to say where a package is.
    pub fn requests(&self, choice: impl Fn(&str) -> Option<PackageChoice>) -> Result<Vec<Request>, TemplateError> {
        let request = |package: &StackPackage| {
            let name = package.name.clone();
            let version = match choice(&name) {
                Some(PackageChoice::Path(path)) => return Ok(Request::Local { name, version: None, path }),
                Some(PackageChoice::Version(version)) => version,
                None if package.source == PackageSource::Recipe => {
                    return Err(TemplateError::NoSource { stack: self.name.clone(), name });
                }
                None => package.version.clone(),
            };
            package.check_version(&version)?;
            Ok(match (package.source, &self.wheels) {
                (PackageSource::Pip, Some(tags)) => Request::Wheel { name, version: Some(version), tags: tags.clone() },
                (PackageSource::Recipe, _) => return Err(TemplateError::NoSource { stack: self.name.clone(), name }),
                _ => Request::Debian { name, version: Some(version).filter(|version| !version.is_empty()) },
            })
        };
        self.packages.iter().map(request).collect()
    }

    /// The rules that leave libraries out of an image of a model. A rule is off where a library that it is about is kept by name.
    pub fn applied<'a>(
        &'a self,
        model: Option<&'a Model>,
        minimize: Minimize,
        keep: &'a [String],
    ) -> impl Iterator<Item = &'a Omission> {
        let is_kept = |rule: &&Omission| keep.iter().any(|name| rule.library.matches(name));
        self.omit.iter().filter(move |rule| minimize == Minimize::Model && rule.when.holds(model) && !is_kept(rule))
    }

    /// Whether what an image gets depends on the model's operators.
    #[must_use]
    pub fn depends_on_model(&self) -> bool {
        self.omit.iter().any(|rule| rule.when != When::Always)
    }
}

/// What a recipe wants of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackageChoice {
    /// A version of it.
    Version(String),
    /// A folder or archive in its place, relative to the recipe.
    Path(String),
}

impl StackPackage {
    /// Checks that a version may be used.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] or [`TemplateError::Combination`] with the reason.
    pub fn check_version(&self, version: &str) -> Result<(), TemplateError> {
        match self.refused.iter().find(|refused| refused.version == version) {
            None => self.accepts.as_ref().map_or(Ok(()), |accepts| accepts.check(self, version)),
            Some(Refused { version, reason }) => {
                Err(TemplateError::Refused { name: self.name.clone(), version: version.clone(), reason: reason.clone() })
            }
        }
    }
}

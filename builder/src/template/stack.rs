//! Runtime stacks: [`StackTemplate`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::strict::parse_versioned;
use super::{CompilerTemplate, PathTemplate, TemplateError};
use crate::platform::Platform;
use crate::rewrite::BindRules;
use crate::source::{Glob, Request, WheelTags};

/// The newest format of templates that is read.
const FORMAT: i64 = 1;

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
    /// Whether symbol tables and debug information are cut off.
    #[serde(default)]
    pub strip: bool,
    /// Where it is given, what a library wants of itself is bound, and exports go that nothing names but these rules.
    pub bind: Option<BindRules>,
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
    /// What it is for.
    pub reason: String,
}

/// A library that another one opens while it runs, invisible to `DT_NEEDED`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Opens {
    /// The soname of the library that opens.
    pub from: String,
    /// The name it opens.
    pub opens: String,
    /// Whether it works without.
    pub optional: bool,
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
    /// Its soname or file name.
    pub library: String,
    /// When it stays out.
    pub when: When,
    /// Why that is right.
    pub reason: String,
}

/// A condition on the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Whatever the model is: `when = "always"`.
    Always,
    /// Where the model has none of these operators: `when = { operators-absent = ["Conv"] }`.
    OperatorsAbsent(Vec<String>),
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

    /// What should be locked. `version` says which version the recipe wants of a package, where it wants one.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] where the recipe wants a version that must not be used.
    pub fn requests(&self, version: impl Fn(&str) -> Option<String>) -> Result<Vec<Request>, TemplateError> {
        let request = |package: &StackPackage| {
            let version = version(&package.name).unwrap_or_else(|| package.version.clone());
            package.check_version(&version)?;
            let name = package.name.clone();
            Ok(match (package.source, &self.wheels) {
                (PackageSource::Pip, Some(tags)) => Request::Wheel { name, version: Some(version), tags: tags.clone() },
                _ => Request::Debian { name, version: Some(version) },
            })
        };
        self.packages.iter().map(request).collect()
    }
}

impl StackPackage {
    /// Checks that a version may be used.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] with the reason.
    pub fn check_version(&self, version: &str) -> Result<(), TemplateError> {
        match self.refused.iter().find(|refused| refused.version == version) {
            None => Ok(()),
            Some(Refused { version, reason }) => {
                Err(TemplateError::Refused { name: self.name.clone(), version: version.clone(), reason: reason.clone() })
            }
        }
    }
}

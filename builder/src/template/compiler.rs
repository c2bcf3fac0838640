//! What a stack compiles models with: [`CompilerTemplate`].

use serde::{Deserialize, Serialize};

use super::{PathTemplate, TemplateError};
use crate::source::{Request, WheelTags};

/// The compiler of a stack whose models become code: packages for the building machine's Python, and what is compiled and linked
/// with the machine's C++ compiler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CompilerTemplate {
    /// What images say compiled them.
    pub title: String,
    /// The licences of what the first package gives to compiled models, as SPDX identifiers joined by ` AND `.
    pub spdx: String,
    /// LLVM's name of the target.
    pub triple: String,
    /// The newest glibc that the packages may ask for.
    pub glibc: String,
    /// Folders of headers in the packages.
    pub headers: Vec<String>,
    /// The folder of the runtime's sources in the packages.
    pub sources: String,
    /// Arguments of the C++ compiler.
    pub compile: Vec<String>,
    /// How far the runtime is optimised.
    pub optimize_runtime: String,
    /// How far the code that calls the model's kernels is optimised.
    pub optimize_model: String,
    /// Arguments of the C++ compiler where it links.
    pub link: Vec<String>,
    /// The processor that is compiled for unless the user says otherwise.
    pub default_processor: String,
    /// The processors that can be compiled for, oldest first.
    #[serde(rename = "processor")]
    pub processors: Vec<Processor>,
    /// Parts of the runtime.
    pub runtime: Vec<RuntimePart>,
    /// The packages, the one that brings the compiler first.
    #[serde(rename = "package")]
    pub packages: Vec<CompilerPackage>,
    /// Licences of what is linked into compiled models.
    #[serde(rename = "licence")]
    pub licences: Vec<Licence>,
}

/// A kind of processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// The name that compilers know it by.
    pub name: String,
    /// The features that its code may use, by the names that the server checks them by.
    pub features: Vec<String>,
    /// An older one that the runtime is compiled for, and what calls it; only the model's own code is for this one then.
    #[serde(default)]
    pub runtime: Option<String>,
}

impl Processor {
    /// What C++ is compiled for.
    #[must_use]
    pub fn runtime(&self) -> &str {
        self.runtime.as_deref().unwrap_or(&self.name)
    }
}

/// A source of the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimePart {
    /// The file.
    pub source: String,
    /// Text of the generated code that needs it; without, it is always linked.
    pub when: Option<String>,
}

/// A wheel for the building machine's Python.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompilerPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A licence text that goes into images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// The file in the packages.
    pub from: String,
    /// Where it goes.
    pub to: PathTemplate,
    /// Whose it is.
    pub reason: String,
}

impl CompilerTemplate {
    /// Checks that the parts fit together.
    pub(super) fn check(&self, inconsistent: impl Fn(String) -> TemplateError) -> Result<(), TemplateError> {
        if self.packages.is_empty() || self.processors.is_empty() {
            return Err(inconsistent("`compiler` has no package or no processor".to_owned()));
        }
        if self.processor(&self.default_processor).is_none() {
            return Err(inconsistent(format!(
                "`compiler.default-processor` is `{}`, which is not listed",
                self.default_processor
            )));
        }
        Ok(())
    }

    /// A processor by its name.
    #[must_use]
    pub fn processor(&self, name: &str) -> Option<&Processor> {
        self.processors.iter().find(|processor| processor.name == name)
    }

    /// What should be locked, for a version of Python such as `3.11`.
    #[must_use]
    pub fn requests(&self, python: &str) -> Vec<Request> {
        let tags = WheelTags { python: python.to_owned(), glibc: self.glibc.clone() };
        let request = |package: &CompilerPackage| Request::Wheel {
            name: package.name.clone(),
            version: Some(package.version.clone()),
            tags: tags.clone(),
        };
        self.packages.iter().map(request).collect()
    }
}

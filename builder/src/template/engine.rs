//! What engines are compiled with: [`EngineCompiler`], a file of `templates/engines/`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::TemplateError;
use super::strict::parse_versioned;
use crate::digest::Digest;
use crate::fatbin::Sm;

/// The newest format of such files.
const FORMAT: i64 = 1;

/// A compiler for engines that needs no GPU.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EngineCompiler {
    /// Version of this file's format.
    pub format: i64,
    /// Its name.
    pub name: String,
    /// What it is, in a line.
    pub summary: String,
    /// The stack whose images run what it compiles.
    pub stack: String,
    /// The provider that does, as the server names it.
    pub provider: String,
    /// The GPUs that it compiles for.
    pub gpus: Vec<Sm>,
    /// The packages that it is made of, with the library first and its interface for Python second.
    #[serde(rename = "package")]
    pub packages: Vec<PinnedPackage>,
}

/// A package of one version, with the digests of its files: one for each version of Python, where they differ.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PinnedPackage {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of each of its files, 64 hex digits.
    pub sha256: Vec<String>,
}

impl EngineCompiler {
    /// Reads a file's text; `file` is only for the error.
    ///
    /// # Errors
    /// Where it is no such file, or what it says does not go together.
    pub fn parse(text: &str, file: &str) -> Result<Self, TemplateError> {
        let compiler: Self = parse_versioned(text, file, FORMAT)?;
        let wrong = |reason: String| Err(TemplateError::Inconsistent { file: file.to_owned(), reason });
        if compiler.packages.is_empty() || compiler.gpus.is_empty() {
            return wrong("it has no `[[package]]`, or `gpus` is empty".to_owned());
        }
        for package in &compiler.packages {
            let is_digest = |text: &String| format!("sha256:{text}").parse::<Digest>().is_ok();
            if package.sha256.is_empty() {
                return wrong(format!("package `{}` has no `sha256`, expected that of each of its files", package.name));
            }
            if let Some(found) = package.sha256.iter().find(|text| !is_digest(text)) {
                return wrong(format!("sha256 `{found}` of `{}` is none, expected 64 hex digits", package.name));
            }
        }
        Ok(compiler)
    }

    /// What pip installs, and nothing else: a line for each package, with the digests that it accepts.
    #[must_use]
    pub fn requirements(&self) -> String {
        let line = |package: &PinnedPackage| {
            let digests: String = package.sha256.iter().map(|digest| format!(" --hash=sha256:{digest}")).collect();
            format!("{}=={}{digests}\n", package.name, package.version)
        };
        self.packages.iter().map(line).collect()
    }

    /// Its packages by name, with their versions.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<&str, &str> {
        self.packages.iter().map(|package| (package.name.as_str(), package.version.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = include_str!("../../../templates/engines/tensorrt-rtx.toml");

    #[test]
    fn the_files_here_are_read_and_pin_every_file() {
        let compiler = EngineCompiler::parse(TEXT, "here").expect("a compiler");
        let lines: Vec<String> = compiler.requirements().lines().map(str::to_owned).collect();
        assert!(lines[0].starts_with("tensorrt-rtx-cu13-libs==1.7.1.116 --hash=sha256:e3fd45fe"), "{lines:?}");
        assert_eq!(lines[1].matches("--hash=sha256:").count(), 6);
    }

    #[test]
    fn what_pins_nothing_is_refused() {
        for (from, to, expected) in [
            ("format = 1", "format = 9", "reads formats up to 1"),
            ("sha256 = [\"e3fd45", "sha256 = [\"zzfd45", "expected 64 hex digits"),
            ("sha256 = [\"e3fd45fed001240d63304e77a2d4006319b839994237cb294b6e7ad72acaabcd\"]", "sha256 = []", "has no `sha256`"),
            ("gpus = [\"sm_86\", \"sm_89\", \"sm_120\", \"sm_121\"]", "gpus = []", "`gpus` is empty"),
            ("gpus = [\"sm_86\"", "gpus = [\"86\"", "86"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = EngineCompiler::parse(&TEXT.replace(from, to), "here").expect_err(to);
            let mut said = error.to_string();
            let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
            while let Some(inner) = cause {
                said.push_str(&format!("; {inner}"));
                cause = inner.source();
            }
            assert!(said.contains(expected), "{to}: {said}");
        }
    }
}

//! What the building machine must have: a Python and a C++ compiler.

use std::path::{Path, PathBuf};

use super::CompileError;
use crate::digest::Digest;
use crate::source::{Ended, Environment, SourceError};

/// The C++ compilers that are looked for unless `CXX` names one.
const COMPILERS: [&str; 3] = ["g++", "clang++", "c++"];
/// The oldest versions that know the names of the x86-64 levels.
const OLDEST: &str = "g++ 11 or clang++ 12, or newer";

/// The programs of this machine.
#[derive(Debug, Clone)]
pub struct Programs {
    environment: Environment,
    python: PathBuf,
    /// The version of Python, such as `3.11`.
    pub python_version: String,
    compiler: PathBuf,
    /// What the C++ compiler says of itself, in a line.
    pub version: String,
}

impl Programs {
    /// Finds the programs and asks them for their versions.
    ///
    /// # Errors
    /// [`CompileError::NoTool`] and [`CompileError::Tool`] say what is missing or too old.
    pub fn find() -> Result<Self, CompileError> {
        let environment = Environment::of_process();
        let named = std::env::var("CXX").ok().filter(|name| !name.trim().is_empty());
        Self::find_in(environment, named.as_deref())
    }

    fn find_in(environment: Environment, named: Option<&str>) -> Result<Self, CompileError> {
        let python = environment.find("python3").ok_or(CompileError::NoTool {
            what: "Python 3",
            tried: "python3".to_owned(),
            package: "python3",
        })?;
        let tried: Vec<&str> = named.map_or(COMPILERS.to_vec(), |named| vec![named]);
        let compiler = tried.iter().find_map(|name| environment.find(name)).ok_or_else(|| CompileError::NoTool {
            what: "a C++ compiler",
            tried: tried.join(", "),
            package: "g++",
        })?;
        let folder = Path::new("/");
        let script = "import sys, zipfile; print('%d.%d' % sys.version_info[:2])";
        let ended = environment.tool(python.clone(), &["-I", "-S", "-c", script]).run(folder, &[""; 0])?;
        let python_version = ended.output.trim().to_owned();
        let minor = python_version.strip_prefix("3.").and_then(|minor| minor.parse::<u32>().ok());
        if !ended.success || minor.is_none() {
            return Err(CompileError::Tool {
                program: python,
                found: first_line(&ended),
                expected: "CPython 3 with its standard library",
            });
        }
        let ended = environment.tool(compiler.clone(), &[]).run(folder, &["--version"])?;
        let version = first_line(&ended);
        if !ended.success || major(&version).is_none_or(|major| major < oldest(&version)) {
            return Err(CompileError::Tool { program: compiler, found: version, expected: OLDEST });
        }
        Ok(Self { environment, python, python_version, compiler, version })
    }

    /// What decides the bytes that the C++ compiler gives, as far as that can be told.
    pub(super) fn compiler_key(&self) -> Digest {
        Digest::of(self.version.as_bytes())
    }

    /// Runs Python in a folder.
    pub(super) fn run_python(&self, folder: &Path, arguments: &[&str]) -> Result<Ended, SourceError> {
        self.environment.tool(self.python.clone(), &[]).run(folder, arguments)
    }

    /// Runs the C++ compiler in a folder.
    pub(super) fn run_compiler(&self, folder: &Path, arguments: &[String]) -> Result<Ended, SourceError> {
        self.environment.tool(self.compiler.clone(), &[]).run(folder, arguments)
    }
}

fn first_line(ended: &Ended) -> String {
    ended.output.lines().next().unwrap_or("silent").trim().to_owned()
}

/// The first number of a line such as `g++ (Debian 12.2.0-14) 12.2.0`, read from its end for that reason.
fn major(version: &str) -> Option<u32> {
    let numbers = |word: &str| word.split('.').next().and_then(|number| number.parse().ok());
    version.split_whitespace().filter(|word| word.contains('.')).filter_map(numbers).next_back()
}

fn oldest(version: &str) -> u32 {
    if version.contains("clang") { 12 } else { 11 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (line, expected) in [
            ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0", Some(12)),
            ("Debian clang version 14.0.6", Some(14)),
            ("Ubuntu clang version 18.1.3 (1ubuntu1)", Some(18)),
            ("g++ (GCC) 8.5.0 20210514 (Red Hat 8.5.0-18)", Some(8)),
            ("", None),
        ] {
            assert_eq!(major(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let nothing = Environment { search: "/nowhere".into(), ..Environment::default() };
        let error = Programs::find_in(nothing, None).expect_err("there is no Python");
        assert!(error.to_string().contains("needs Python 3"), "{error}");
        let folder = tempfile::tempdir().expect("a folder");
        let script = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        };
        script("python3", "echo 3.11");
        let environment = Environment { search: folder.path().into(), ..Environment::default() };
        let error = Programs::find_in(environment.clone(), None).expect_err("there is no compiler");
        assert!(error.to_string().contains("a C++ compiler, and there is none in PATH (g++, clang++, c++)"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("apt-get install g++") && hint.contains("--stack tf-xla")));
        script("g++", "echo 'g++ (GCC) 8.5.0'");
        let error = Programs::find_in(environment.clone(), None).expect_err("it is too old");
        assert!(error.to_string().contains("is g++ (GCC) 8.5.0, expected g++ 11"), "{error}");
        script("g++", "echo 'g++ (GCC) 13.1.0'");
        assert_eq!(Programs::find_in(environment.clone(), None).expect("both are there").python_version, "3.11");
        assert!(Programs::find_in(environment, Some("nonsense")).is_err());
    }
}

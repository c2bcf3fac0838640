//! Running the clients of package registries: [`Environment`], [`Tool`].

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::SourceError;

/// Where programs are found and what they are told besides what this process was told.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The folders in which programs are looked for, as in `PATH`.
    pub search: OsString,
    /// The `pip` to use, from `IMGBUILD_PIP`: a program, or a command such as `python3.12 -m pip`.
    pub pip: Option<OsString>,
    /// Variables that programs get besides those of this process.
    pub variables: Vec<(OsString, OsString)>,
}

impl Environment {
    /// That of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self { search: set("PATH").unwrap_or_default(), pip: set("IMGBUILD_PIP"), variables: Vec::new() }
    }

    /// Finds a program.
    pub(crate) fn find(&self, program: &str) -> Option<PathBuf> {
        let runs = |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        if program.contains('/') {
            return Some(PathBuf::from(program)).filter(runs);
        }
        let folders = std::env::split_paths(&self.search).filter(|folder| folder.is_absolute());
        folders.map(|folder| folder.join(program)).find(runs)
    }

    /// A program with the arguments that always come first.
    pub(crate) fn tool(&self, program: PathBuf, first: &[&str]) -> Tool {
        Tool { program, first: first.iter().map(OsString::from).collect(), environment: self.clone() }
    }
}

/// A program that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Tool {
    program: PathBuf,
    first: Vec<OsString>,
    environment: Environment,
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    /// For instance `exit status: 1`.
    pub(crate) status: String,
    /// All of stdout and stderr, without credentials.
    pub(crate) output: String,
}

impl Tool {
    /// Runs the program in a folder, without a terminal to ask questions at, in the C locale so that its messages can be read.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, folder: &Path, arguments: &[A]) -> Result<Ended, SourceError> {
        let output = Command::new(&self.program)
            .args(&self.first)
            .args(arguments)
            .current_dir(folder)
            .env("PATH", &self.environment.search)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .envs(self.environment.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .map_err(|source| SourceError::Start { program: self.program.clone(), source })?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok(Ended { success: output.status.success(), status: output.status.to_string(), output: mask(&text) })
    }
}

impl Ended {
    /// The end of the output, short enough for an error.
    pub(crate) fn tail(&self) -> String {
        tail(&self.output)
    }
}

/// The last lines of a text: at most 30 lines and about 4 kB.
fn tail(text: &str) -> String {
    const LINES: usize = 30;
    const BYTES: usize = 4096;
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let mut shown = lines[lines.len().saturating_sub(LINES)..].join("\n");
    if shown.len() > BYTES {
        let mut from = shown.len() - BYTES;
        while !shown.is_char_boundary(from) {
            from += 1;
        }
        shown.replace_range(..from, "[…] ");
    }
    shown
}

/// Replaces what stands between `://` and the last `@` of an address's host part: a user's name and password, or a token.
pub(crate) fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let host_ends = after.find(|c: char| c.is_whitespace() || "/?#'\"<>`".contains(c)).unwrap_or(after.len());
        match after[..host_ends].rfind('@') {
            Some(user_ends) => {
                out.push_str("***");
                rest = &after[user_ends..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_addresses_are_masked() {
        for (text, expected) in [
            ("get https://user:pass@host.test/simple now", "get https://***@host.test/simple now"),
            ("https://token@host.test and http://a:b@c.test:80/", "https://***@host.test and http://***@c.test:80/"),
            ("https://u:p@ss@host.test", "https://***@host.test"),
            ("'http://host.test/a@b'", "'http://host.test/a@b'"),
            ("http://host.test user@mail.test", "http://host.test user@mail.test"),
            ("://", "://"),
            ("no address", "no address"),
        ] {
            assert_eq!(mask(text), expected);
        }
    }

    #[test]
    fn output_in_errors_is_bounded() {
        let long = "é".repeat(5000);
        let shown = tail(&format!("first\n{long}\n\nlast\n"));
        assert!(shown.ends_with("é\nlast") && shown.len() < 4200, "{}", shown.len());
        assert_eq!(tail(&"x\n".repeat(100)).lines().count(), 30);
    }

    #[test]
    fn programs_are_found_in_absolute_folders_only() {
        let environment = |search: &str| Environment { search: search.into(), ..Environment::default() };
        assert_eq!(environment("/nowhere:/bin").find("sh"), Some("/bin/sh".into()));
        assert_eq!(environment("").find("sh"), None);
        assert_eq!(environment("bin:.").find("sh"), None);
    }
}

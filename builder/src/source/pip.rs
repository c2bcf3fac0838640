//! Wheels, by `pip download`: [`Pip`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::obtain::{in_words, names_in, pin_file};
use super::pin::{check_name, check_version, normalised};
use super::tool::{Ended, Tool};
use super::{Environment, Pin, Request, Source, SourceError, SourceKind, WheelName, WheelTags};
use crate::digest::Digest;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::Store;

/// The Python for which wheels are fetched that do not say for which version they are.
const ANY_PYTHON: &str = "3.12";
/// The oldest glibc that wheels are built for, as `manylinux_2_5` (once called `manylinux1`).
const OLDEST_GLIBC: u32 = 5;

/// Fetches wheels. Only wheels: source distributions run code.
#[derive(Debug, Clone)]
pub struct Pip {
    environment: Environment,
}

/// The options that say which wheels fit. Equal ones can go to one call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Options {
    python: String,
    abis: Vec<String>,
    platforms: Vec<String>,
}

/// A request with its place among all: place, name and version.
type Numbered<'a> = (usize, &'a str, Option<&'a str>);

impl Pip {
    /// The `pip` of an environment: `IMGBUILD_PIP`, `python3 -m pip`, `pip3` or `pip`.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        Self { environment: environment.clone() }
    }

    fn tool(&self, folder: &Path) -> Result<Tool, SourceError> {
        let environment = &self.environment;
        if let Some(pip) = &environment.pip {
            let text = pip.to_string_lossy();
            let whole = environment.find(&text).map(|program| (program, Vec::new()));
            let command = || {
                let mut words = text.split_whitespace();
                Some((environment.find(words.next()?)?, words.collect()))
            };
            let (program, first) = whole.or_else(command).ok_or(NO_PIP)?;
            return Ok(environment.tool(program, &first));
        }
        if let Some(python) = environment.find("python3") {
            let tool = environment.tool(python, &["-m", "pip"]);
            if tool.run(folder, &["--version"])?.success {
                return Ok(tool);
            }
        }
        let program = environment.find("pip3").or_else(|| environment.find("pip")).ok_or(NO_PIP)?;
        Ok(environment.tool(program, &[]))
    }

    /// Runs `pip download` for lines of a requirements file.
    fn download(&self, options: &Options, lines: &[String], folder: &Path, hashes: bool) -> Result<Ended, SourceError> {
        let list = tempfile::NamedTempFile::new_in(folder).and_then(|file| fs::write(&file, lines.join("\n")).map(|()| file));
        let list = list.map_err(|source| SourceError::Io { action: "create a file in", path: folder.to_owned(), source })?;
        let mut arguments: Vec<String> =
            ["download", "--disable-pip-version-check", "--no-input", "--progress-bar=off", "--no-deps", "--only-binary=:all:"]
                .map(str::to_owned)
                .to_vec();
        arguments.push(format!("--python-version={}", options.python));
        arguments.push("--implementation=cp".to_owned());
        arguments.extend(options.abis.iter().map(|abi| format!("--abi={abi}")));
        arguments.extend(options.platforms.iter().map(|platform| format!("--platform={platform}")));
        if hashes {
            arguments.push("--require-hashes".to_owned());
        }
        arguments.push("--dest=.".to_owned());
        arguments.push(format!("--requirement={}", list.path().display()));
        let tool = self.tool(folder)?;
        let mut ended = tool.run(folder, &arguments)?;
        if !ended.success && ended.output.contains(NO_VERSIONS) {
            // `pip` keeps to itself that an index refused or does not answer, unless it is asked to talk.
            arguments.push("-vv".to_owned());
            let talk = tool.run(folder, &arguments)?.output;
            let reasons = talk.lines().map(str::trim).filter(|line| REASONS.iter().any(|reason| line.contains(reason)));
            for reason in reasons.take(10) {
                ended.output.push_str(reason);
                ended.output.push('\n');
            }
        }
        Ok(ended)
    }
}

/// What `pip` says where it saw no version of a package at all: a wrong name, no wheel that fits, or an index that failed.
const NO_VERSIONS: &str = "(from versions: none)";
/// What begins the lines that say why a version or an index was passed over.
const REASONS: [&str; 3] = ["Could not fetch URL", "Skipping link", "Link requires a different Python"];

const NO_PIP: SourceError = SourceError::NoTool { tool: "pip", what: "wheels" };

impl Source for Pip {
    fn lock(
        &self,
        requests: &[Request],
        platform: Platform,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<Pin>, SourceError> {
        let mut groups: BTreeMap<Options, Vec<Numbered<'_>>> = BTreeMap::new();
        for (at, request) in requests.iter().enumerate() {
            let Request::Wheel { name, version, tags } = request else { return Err(request.wrong_kind(SourceKind::Pip)) };
            check_name(name)?;
            version.as_deref().map_or(Ok(()), check_version)?;
            groups.entry(Options::locking(tags, platform)?).or_default().push((at, name, version.as_deref()));
        }
        let mut pins: Vec<Option<Pin>> = requests.iter().map(|_| None).collect();
        for (options, group) in groups {
            let scratch = store.scratch_folder()?;
            let folder = scratch.path();
            let line = |(_, name, version): &Numbered<'_>| match version {
                Some(version) => format!("{name}=={version}"),
                None => (*name).to_owned(),
            };
            let lines: Vec<String> = group.iter().map(line).collect();
            let _task = progress.task(format!("choose {}", lines.join(", ")), None);
            let ended = self.download(&options, &lines, folder, false)?;
            if !ended.success {
                return Err(failed(&ended, &lines.join(", "), &[]));
            }
            let found = names_in(folder)?;
            for (at, name, _) in group {
                let (file, wheel) = of_package(&found, name).ok_or_else(|| SourceError::NotDelivered {
                    tool: "pip",
                    expected: name.to_owned(),
                    found: in_words(&found),
                })?;
                pins[at] = Some(pin_file(&folder.join(file), name, &wheel.version, SourceKind::Pip, store)?);
            }
        }
        Ok(pins.into_iter().flatten().collect())
    }

    fn fetch_unverified(
        &self,
        pins: &[&Pin],
        folder: &Path,
        _store: &Store,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>, SourceError> {
        let mut groups: BTreeMap<Options, Vec<&Pin>> = BTreeMap::new();
        for pin in pins {
            groups.entry(Options::fetching(&pin.file.parse()?)).or_default().push(pin);
        }
        for (options, group) in &groups {
            let names: Vec<String> = group.iter().map(|pin| format!("{} {}", pin.name, pin.version)).collect();
            let subject = names.join(", ");
            let _task = progress.task(format!("fetch {subject}"), Some(group.iter().map(|pin| pin.size).sum()));
            let line = |pin: &&Pin| format!("{}=={} --hash=sha256:{}", pin.name, pin.version, pin.sha256.hex());
            let ended = self.download(options, &group.iter().map(line).collect::<Vec<_>>(), folder, true)?;
            if !ended.success {
                return Err(failed(&ended, &subject, group));
            }
        }
        let found = names_in(folder)?;
        let path = |pin: &&Pin| {
            let exact = found.iter().find(|file| **file == pin.file);
            let file = exact.or_else(|| of_package(&found, &pin.name).map(|(file, _)| file));
            let missing = || SourceError::NotDelivered { tool: "pip", expected: pin.file.clone(), found: in_words(&found) };
            file.map(|file| folder.join(file)).ok_or_else(missing)
        };
        pins.iter().map(path).collect()
    }
}

impl Options {
    /// Which wheels fit a template: made for its Python, for any Python, or with the stable ABI; for this or an older glibc.
    fn locking(tags: &WheelTags, platform: Platform) -> Result<Self, SourceError> {
        let error = |found: &str, expected| super::NameError { found: found.to_owned(), expected };
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let python = tags.python.strip_prefix("3.").and_then(number);
        let python = python.ok_or_else(|| error(&tags.python, "version of CPython, for instance `3.12`"))?;
        let newest = tags.glibc.strip_prefix("2.").and_then(number).filter(|minor| (17..100).contains(minor));
        let newest = newest.ok_or_else(|| error(&tags.glibc, "version of glibc, for instance `2.28`"))?;
        let machine = platform.machine();
        let mut platforms = Vec::new();
        for minor in (OLDEST_GLIBC..=newest).rev() {
            platforms.push(format!("manylinux_2_{minor}_{machine}"));
            let old_name = match minor {
                17 => "manylinux2014",
                12 => "manylinux2010",
                5 => "manylinux1",
                _ => continue,
            };
            platforms.push(format!("{old_name}_{machine}"));
        }
        platforms.push(format!("linux_{machine}"));
        let abis = vec![format!("cp3{python}"), "abi3".to_owned(), "none".to_owned()];
        Ok(Self { python: tags.python.clone(), abis, platforms })
    }

    /// Which wheels fit a pin: those with the tags of its file.
    fn fetching(wheel: &WheelName) -> Self {
        let split = |tags: &str| tags.split('.').map(str::to_owned).collect::<Vec<_>>();
        let stable = wheel.abi.split('.').any(|abi| matches!(abi, "abi3" | "none"));
        let python = split(&wheel.python)
            .iter()
            .filter(|_| !stable)
            .find_map(|tag| tag.strip_prefix("cp3").map(|minor| format!("3.{minor}")))
            .unwrap_or_else(|| ANY_PYTHON.to_owned());
        Self { python, abis: split(&wheel.abi), platforms: split(&wheel.platform) }
    }
}

/// The wheel of a package among files.
fn of_package<'a>(files: &'a [String], name: &str) -> Option<(&'a String, WheelName)> {
    files.iter().find_map(|file| {
        let wheel: WheelName = file.parse().ok()?;
        (normalised(&wheel.name) == normalised(name)).then_some((file, wheel))
    })
}

/// Reads from `pip`'s output why it failed.
fn failed(ended: &Ended, subject: &str, pins: &[&Pin]) -> SourceError {
    let hex_after = |word: &str| {
        let mut words = ended.output.split_whitespace().skip_while(move |found| *found != word).skip(1);
        words.find_map(|found| Digest::from_hex(found).ok())
    };
    if ended.output.contains("DO NOT MATCH THE HASHES")
        && let (Some(expected), Some(actual)) = (hex_after("Expected"), hex_after("Got"))
    {
        let pin = pins.iter().find(|pin| pin.sha256 == expected);
        let file = pin.map_or_else(|| subject.to_owned(), |pin| pin.file.clone());
        return SourceError::Digest { file, actual, expected };
    }
    // An index that cannot be reached offers no version either: then what `pip` says of it is more than that there is none.
    let nothing = ended.output.contains(NO_VERSIONS) || ended.output.contains("WARNING: Retrying");
    let missing = ended.output.lines().find(|line| line.contains("No matching distribution found for"));
    match missing.filter(|_| !nothing) {
        Some(line) => {
            let wanted = line.rsplit("for ").next().unwrap_or(subject).split(" (").next().unwrap_or(subject);
            let versions = ended.output.split_once("(from versions: ").and_then(|(_, rest)| rest.split_once(')'));
            let available = versions.map(|(versions, _)| newest_of(versions));
            SourceError::NotOffered { tool: "pip", subject: format!("`{wanted}`"), available }
        }
        None => {
            SourceError::Tool { tool: "pip", subject: subject.to_owned(), status: ended.status.clone(), output: ended.tail() }
        }
    }
}

fn newest_of(versions: &str) -> String {
    let versions: Vec<&str> = versions.split(", ").collect();
    let last = &versions[versions.len().saturating_sub(8)..];
    format!("these fit: {}{}", if last.len() < versions.len() { "…, " } else { "" }, last.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_follow_from_the_name_of_a_locked_wheel() {
        for (file, python, abis, platforms) in [
            ("onnxruntime-1.32.0-cp311-cp311-manylinux_2_28_x86_64.whl", "3.11", "cp311", "manylinux_2_28_x86_64"),
            (
                "x-1-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                "3.12",
                "none",
                "manylinux_2_17_x86_64 manylinux2014_x86_64",
            ),
            ("x-1-cp38-abi3-any.whl", "3.12", "abi3", "any"),
        ] {
            let options = Options::fetching(&file.parse().expect(file));
            assert_eq!((&*options.python, &*options.abis.join(" "), &*options.platforms.join(" ")), (python, abis, platforms));
        }
    }

    #[test]
    fn the_newest_glibc_comes_first_and_nonsense_is_refused() {
        let tags = |python: &str, glibc: &str| WheelTags { python: python.into(), glibc: glibc.into() };
        let options = Options::locking(&tags("3.12", "2.28"), Platform::LinuxArm64).expect("valid");
        assert_eq!(options.platforms[0], "manylinux_2_28_aarch64");
        assert!(options.platforms.contains(&"manylinux2014_aarch64".to_owned()));
        for (python, glibc) in [("2.7", "2.28"), ("3.x", "2.28"), ("3.12", "3.0"), ("3.12", "2.5"), ("3.+1", "2.28")] {
            assert!(Options::locking(&tags(python, glibc), Platform::LinuxAmd64).is_err(), "{python} {glibc}");
        }
    }
}

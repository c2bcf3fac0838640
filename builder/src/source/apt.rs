//! Debian packages, by `apt-get download`: [`Apt`].
//!
//! The lists that the system keeps are asked first. Where they do not have what is wanted (no `apt-get update` yet, another
//! architecture, a version that the archive has replaced), lists of our own are kept below the store with the system's sources
//! and keys, so that neither root nor a change to the system is needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::obtain::{in_words, names_in, pin_file};
use super::pin::{check_name, check_version};
use super::tool::{Ended, Tool};
use super::{DebName, Environment, Pin, Request, Source, SourceError, SourceKind};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::Store;

/// Fetches Debian packages.
#[derive(Debug, Clone)]
pub struct Apt {
    environment: Environment,
}

/// Our own lists for one architecture. Held, no other build uses them.
struct Lists {
    configuration: PathBuf,
    folder: PathBuf,
    _lock: File,
}

/// What `apt-get` calls a package: `name:architecture=version`.
struct Wanted {
    name: String,
    version: Option<String>,
    architecture: String,
}

impl Wanted {
    /// `all` is an architecture of package files only, not one that `apt` can be asked for.
    fn argument(&self) -> String {
        let mut text = self.name.clone();
        if self.architecture != "all" {
            text.push(':');
            text.push_str(&self.architecture);
        }
        if let Some(version) = &self.version {
            text.push('=');
            text.push_str(version);
        }
        text
    }
}

impl Apt {
    /// The `apt-get` of an environment.
    #[must_use]
    pub fn new(environment: &Environment) -> Self {
        Self { environment: environment.clone() }
    }

    fn tool(&self) -> Result<Tool, SourceError> {
        let program = self.environment.find("apt-get");
        let program = program.ok_or(SourceError::NoTool { tool: "apt-get", what: "the Debian packages of the base" })?;
        // A folder of root's is closed to the user that `apt` drops its rights to; it then warns and goes on.
        Ok(self.environment.tool(program, &["-q"]))
    }

    /// Downloads packages into a folder: with the system's lists, then with ours, then with ours brought up to date.
    fn download(&self, wanted: &[Wanted], architecture: &str, folder: &Path, store: &Store) -> Result<(), SourceError> {
        let tool = self.tool()?;
        let mut arguments = vec!["download".to_owned()];
        arguments.extend(wanted.iter().map(Wanted::argument));
        if tool.run(folder, &arguments)?.success {
            return Ok(());
        }
        let lists = Lists::open(store, architecture)?;
        let mut with_lists = vec![format!("--config-file={}", lists.configuration.display())];
        with_lists.append(&mut arguments);
        let exact = wanted.iter().all(|wanted| wanted.version.is_some());
        if exact && lists.exist() && tool.run(folder, &with_lists)?.success {
            return Ok(());
        }
        let updated = tool.run(folder, &[&*with_lists[0], "update"])?;
        if !lists.exist() {
            return Err(SourceError::NoLists { architecture: architecture.to_owned(), output: updated.tail() });
        }
        let ended = tool.run(folder, &with_lists)?;
        if ended.success { Ok(()) } else { Err(failed(&ended, &with_lists[2..].join(", "))) }
    }
}

impl Lists {
    fn open(store: &Store, architecture: &str) -> Result<Self, SourceError> {
        let folder = store.root().join("apt").join(architecture);
        let error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| SourceError::Io { action, path, source }
        };
        for below in ["lists/partial", "state", "cache/archives/partial"] {
            let path = folder.join(below);
            fs::create_dir_all(&path).map_err(error("create the folder", &path))?;
        }
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(error("create", &path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| error("lock", &path)(errno.into()))?;
        let status = folder.join("status");
        fs::write(&status, "").map_err(error("write", &status))?;
        let configuration = folder.join("apt.conf");
        fs::write(&configuration, configure(architecture, &folder)?).map_err(error("write", &configuration))?;
        Ok(Self { configuration, folder, _lock: lock })
    }

    /// Whether there is any list of packages.
    fn exist(&self) -> bool {
        let mut entries = fs::read_dir(self.folder.join("lists")).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    }
}

/// The configuration of our own lists. It is read after the system's, so that hooks which act on the system can be cleared.
fn configure(architecture: &str, folder: &Path) -> Result<String, SourceError> {
    let quoted = folder.to_str().filter(|text| !text.contains(['"', '\\', '\n']));
    let folder = quoted.ok_or_else(|| SourceError::Unfit {
        path: folder.to_owned(),
        reason: "the store's path holds characters that `apt` cannot read".to_owned(),
    })?;
    Ok(format!(
        "#clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear APT::Architectures;\n\
         #clear Acquire::IndexTargets::deb::DEP-11;\n\
         #clear Acquire::IndexTargets::deb::DEP-11-icons;\n\
         #clear Acquire::IndexTargets::deb::Contents-deb;\n\
         APT::Architecture \"{architecture}\";\n\
         APT::Architectures {{ \"{architecture}\"; }};\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Dir::State \"{folder}/state\";\n\
         Dir::State::lists \"{folder}/lists\";\n\
         Dir::State::status \"{folder}/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Dir::Cache::archives \"{folder}/cache/archives\";\n\
         Dir::Cache::pkgcache \"{folder}/cache/pkgcache.bin\";\n\
         Dir::Cache::srcpkgcache \"{folder}/cache/srcpkgcache.bin\";\n"
    ))
}

impl Source for Apt {
    fn lock(
        &self,
        requests: &[Request],
        platform: Platform,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<Pin>, SourceError> {
        let architecture = platform.architecture();
        let mut wanted = Vec::new();
        for request in requests {
            let Request::Debian { name, version } = request else { return Err(request.wrong_kind(SourceKind::Apt)) };
            check_name(name)?;
            version.as_deref().map_or(Ok(()), check_version)?;
            wanted.push(Wanted { name: name.clone(), version: version.clone(), architecture: architecture.to_owned() });
        }
        let scratch = store.scratch_folder()?;
        let folder = scratch.path();
        let names: Vec<&str> = wanted.iter().map(|wanted| &*wanted.name).collect();
        let _task = progress.task(format!("choose {}", names.join(", ")), None);
        self.download(&wanted, architecture, folder, store)?;
        let found = names_in(folder)?;
        let pin = |wanted: &Wanted| {
            let file = found.iter().find_map(|file| {
                let parsed: DebName = file.parse().ok()?;
                let fits = parsed.name == wanted.name && [architecture, "all"].contains(&&*parsed.architecture);
                fits.then_some((file, parsed))
            });
            let missing =
                || SourceError::NotDelivered { tool: "apt-get", expected: wanted.name.clone(), found: in_words(&found) };
            let (file, parsed) = file.ok_or_else(missing)?;
            pin_file(&folder.join(file), &wanted.name, &parsed.version, SourceKind::Apt, store)
        };
        wanted.iter().map(pin).collect()
    }

    fn fetch_unverified(
        &self,
        pins: &[&Pin],
        folder: &Path,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>, SourceError> {
        let mut wanted = Vec::new();
        for pin in pins {
            let DebName { architecture, .. } = pin.file.parse()?;
            wanted.push(Wanted { name: pin.name.clone(), version: Some(pin.version.clone()), architecture });
        }
        // All packages of one base have one architecture, or none of their own.
        let special = wanted.iter().find(|wanted| wanted.architecture != "all");
        let architecture = special.map_or(Platform::host().architecture(), |wanted| &wanted.architecture).to_owned();
        let names: Vec<String> = pins.iter().map(|pin| format!("{} {}", pin.name, pin.version)).collect();
        let _task = progress.task(format!("fetch {}", names.join(", ")), Some(pins.iter().map(|pin| pin.size).sum()));
        self.download(&wanted, &architecture, folder, store)?;
        let found = names_in(folder)?;
        let path = |pin: &&Pin| {
            let missing = || SourceError::NotDelivered { tool: "apt-get", expected: pin.file.clone(), found: in_words(&found) };
            found.contains(&pin.file).then(|| folder.join(&pin.file)).ok_or_else(missing)
        };
        pins.iter().map(path).collect()
    }
}

/// Reads from `apt-get`'s output why it failed.
fn failed(ended: &Ended, subject: &str) -> SourceError {
    let quoted = |line: &str| -> Vec<String> { line.split('\'').skip(1).step_by(2).map(str::to_owned).collect() };
    for line in ended.output.lines() {
        let missing = line
            .strip_prefix("E: Unable to locate package ")
            .or_else(|| line.strip_prefix("E: Can't find a source to download version "))
            .or_else(|| line.strip_prefix("E: No packages found"));
        if let Some(name) = missing {
            return SourceError::NotOffered { tool: "apt-get", subject: format!("`{}`", name.trim()), available: None };
        }
        if line.starts_with("E: Version '")
            && line.ends_with("was not found")
            && let [version, name] = &quoted(line)[..]
        {
            return SourceError::NotOffered { tool: "apt-get", subject: format!("`{name}` {version}"), available: None };
        }
        if line.starts_with("E: Failed to fetch") && line.contains(" 404 ") {
            return SourceError::NotOffered { tool: "apt-get", subject: format!("file for {subject}"), available: None };
        }
    }
    SourceError::Tool { tool: "apt-get", subject: subject.to_owned(), status: ended.status.clone(), output: ended.tail() }
}

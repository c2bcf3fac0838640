//! The sources against the real clients and real packages, judged by `sha256sum`, `unzip` and `dpkg-deb`.

mod apt;
mod local;
mod pip;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::{Blob, Store};

/// A store of its own for each test, and what is needed to use it.
struct Bench {
    folder: TempDir,
    store: Store,
    environment: Environment,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("store")).expect("a new store");
        Self { folder, store, environment: Environment::of_process() }
    }

    /// A variable for the programs that are run.
    fn with(mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Self {
        self.environment.variables.push((name.into(), value.into()));
        self
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn sources(&self) -> Sources {
        Sources::new(&self.environment, self.path())
    }

    fn lock(&self, request: Request, platform: Platform) -> Result<Pin, SourceError> {
        let mut pins = self.sources().lock(&[request], platform, &self.store, &Progress::silent())?;
        assert_eq!(pins.len(), 1, "a pin for each request");
        Ok(pins.remove(0))
    }

    fn obtain(&self, pin: &Pin, reach: Reach) -> Result<Blob, SourceError> {
        let mut blobs = self.sources().obtain(&[pin], &self.store, reach, &Progress::silent())?;
        assert_eq!(blobs.len(), 1, "a blob for each pin");
        Ok(blobs.remove(0))
    }

    fn package(&self, pin: &Pin) -> package::Package {
        let blob = self.obtain(pin, Reach::Offline).expect("locked, so in the store");
        package::Package::open(pin, &blob, &self.store).expect("a good package")
    }
}

/// A program of the machine that judges ours.
fn judge(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).env("LC_ALL", "C").output().expect("the judge is installed");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn sha256sum(path: &Path) -> String {
    judge("sha256sum", &[path.to_str().expect("UTF-8")])[..64].to_owned()
}

/// Changes a byte of a file in the store, which is read-only.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).expect("the folder can be written");
    std::fs::write(path, bytes).expect("space");
}

/// The files of a package that are neither directories nor links, and their sizes.
fn files(package: &package::Package) -> BTreeSet<(String, u64)> {
    let size = |entry: &package::PackageEntry| match entry.kind {
        package::EntryKind::File { size, .. } => Some((entry.path.clone(), size)),
        _ => None,
    };
    package.entries().iter().filter_map(size).collect()
}

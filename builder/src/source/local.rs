//! Files, archives and directories that the recipe names: [`Local`].

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::obtain::Reach;
use super::package::{EntryKind, Package, PackageError, folder};
use super::pin::{check_name, check_version};
use super::{Pin, Request, Source, SourceError, SourceKind};
use crate::digest::Digest;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::{Blob, Store, StoreError};

/// Reads what the recipe names by path.
#[derive(Debug, Clone)]
pub struct Local {
    folder: PathBuf,
}

impl Local {
    /// Paths are relative to the recipe's folder.
    #[must_use]
    pub fn new(recipe_folder: &Path) -> Self {
        Self { folder: recipe_folder.to_owned() }
    }

    /// Takes what is at a path into the store: a file as it is, a directory as the list of its files with the files.
    fn take(&self, path: &Path, file: &str, store: &Store) -> Result<(SourceKind, Blob), SourceError> {
        let metadata = fs::metadata(path).map_err(|source| SourceError::Io { action: "read", path: path.to_owned(), source })?;
        if metadata.is_dir() {
            let blob = folder::take(path, file, |path| take_file(path, store), store)?;
            return Ok((SourceKind::Directory, blob));
        }
        if !metadata.is_file() {
            let reason = "it is neither a file nor a directory".to_owned();
            return Err(SourceError::Unfit { path: path.to_owned(), reason });
        }
        Ok((SourceKind::File, take_file(path, store)?))
    }
}

/// Takes a file into the store. One that looks as it did when it was last taken is not read again.
fn take_file(path: &Path, store: &Store) -> Result<Blob, PackageError> {
    let error = |source| PackageError::Io { action: "read", path: path.to_owned(), source };
    let file = File::open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    let looks = format!(
        "{} {} {} {}.{} {}.{}",
        metadata.len(),
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    );
    let key = Digest::of(looks.as_bytes());
    let known = store.record("local-file", &key).and_then(|record| serde_json::from_slice::<Digest>(&record).ok());
    if let Some(known) = known
        && let Some(blob) = store.find(&known)?
    {
        return Ok(blob);
    }
    let blob = store.add(file, None)?;
    // A file that was written within the clock's resolution could still change without a new time.
    let settled = metadata.modified().ok().and_then(|time| time.elapsed().ok()).is_some_and(|age| age.as_secs() >= 2);
    let unchanged = fs::metadata(path).is_ok_and(|after| (after.len(), after.ctime()) == (metadata.len(), metadata.ctime()));
    if settled && unchanged {
        store.put_record("local-file", &key, &serde_json::to_vec(&blob.digest).expect("a digest is plain data"))?;
    }
    Ok(blob)
}

fn path_of(pin: &Pin) -> Result<&str, SourceError> {
    let kind = || SourceError::Kind { name: pin.name.clone(), found: pin.kind, expected: SourceKind::File };
    pin.path.as_deref().ok_or_else(kind)
}

impl Source for Local {
    fn lock(
        &self,
        requests: &[Request],
        _platform: Platform,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<Pin>, SourceError> {
        let mut pins = Vec::new();
        for request in requests {
            let Request::Local { name, version, path } = request else { return Err(request.wrong_kind(SourceKind::File)) };
            check_name(name)?;
            version.as_deref().map_or(Ok(()), check_version)?;
            let real = self.folder.join(path);
            let unfit = |reason: &str| SourceError::Unfit { path: real.clone(), reason: reason.to_owned() };
            if !real.exists() {
                return Err(unfit("it does not exist"));
            }
            let canonical =
                real.canonicalize().map_err(|source| SourceError::Io { action: "read", path: real.clone(), source })?;
            // `.` and `lib/` have no name of their own; the name of a link says more than that of its target.
            let named = if real.file_name().is_some() { &real } else { &canonical };
            let file = named.file_name().ok_or_else(|| unfit("it has no name"))?;
            let file = file.to_str().ok_or_else(|| unfit("its name is not UTF-8"))?;
            let _task = progress.task(format!("read {path}"), None);
            let (kind, blob) = self.take(&real, file, store)?;
            let version = version.clone().unwrap_or_else(|| format!("0+{}", blob.digest.short()));
            pins.push(Pin {
                name: name.clone(),
                version,
                kind,
                file: file.to_owned(),
                path: Some(path.clone()),
                sha256: blob.digest,
                size: blob.size,
            });
        }
        Ok(pins)
    }

    fn fetch_unverified(
        &self,
        pins: &[&Pin],
        _folder: &Path,
        _store: &Store,
        _progress: &Progress,
    ) -> Result<Vec<PathBuf>, SourceError> {
        pins.iter().map(|pin| Ok(self.folder.join(path_of(pin)?))).collect()
    }

    /// A file that is there must be the locked one: bytes of an earlier build of it would be a surprise. One that is not there
    /// is taken from the store.
    fn obtain(&self, pins: &[&Pin], store: &Store, _reach: Reach, _progress: &Progress) -> Result<Vec<Blob>, SourceError> {
        let mut blobs = Vec::new();
        for pin in pins {
            let path = self.folder.join(path_of(pin)?);
            let blob = if path.exists() {
                self.take(&path, &pin.file, store)?.1
            } else {
                let gone = || SourceError::Gone { path: path.clone(), name: pin.name.clone() };
                let blob = store.find(&pin.sha256)?.ok_or_else(gone)?;
                if pin.kind == SourceKind::Directory && !complete(pin, &blob, store)? {
                    return Err(gone());
                }
                blob
            };
            if blob.digest != pin.sha256 {
                return Err(SourceError::Digest { file: path.display().to_string(), actual: blob.digest, expected: pin.sha256 });
            }
            if blob.size != pin.size {
                return Err(SourceError::Size { file: pin.file.clone(), actual: blob.size, expected: pin.size });
            }
            blobs.push(blob);
        }
        Ok(blobs)
    }
}

/// Whether the store has every file of a directory.
fn complete(pin: &Pin, blob: &Blob, store: &Store) -> Result<bool, SourceError> {
    let package = Package::open(pin, blob, store)?;
    let digests = package.entries().iter().filter_map(|entry| match entry.kind {
        EntryKind::File { digest, .. } => digest,
        _ => None,
    });
    let missing = |digest| -> Result<bool, StoreError> { Ok(store.find(&digest)?.is_none()) };
    for digest in digests {
        if missing(digest)? {
            return Ok(false);
        }
    }
    Ok(true)
}

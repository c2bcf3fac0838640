//! What the store holds, and how it is made smaller.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{Store, StoreError, io_error};
use crate::digest::Digest;

/// Unfinished files older than this belong to no running build.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// One blob in the store, as `imgbuild cache list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Seconds since it was last read or written, as far as the file system keeps that.
    pub idle_seconds: u64,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Number of blobs and abandoned files removed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Lists the blobs, largest first.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn list(&self) -> Result<Vec<Usage>, StoreError> {
        let folder = self.root().join("blobs/sha256");
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io_error("read", &folder))? {
            let entry = entry.map_err(io_error("read", &folder))?;
            let Some(digest) = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok()) else { continue };
            // Another process may have removed it since.
            let Ok(metadata) = entry.metadata() else { continue };
            let idle_seconds = idle(&metadata).as_secs();
            found.push(Usage { digest, size: metadata.len(), idle_seconds });
        }
        found.sort_by(|a, b| b.size.cmp(&a.size).then(a.digest.cmp(&b.digest)));
        Ok(found)
    }

    /// Removes blobs that were idle for longer than `idle_longer_than`, and unfinished files of builds that were killed.
    ///
    /// # Errors
    /// Where something cannot be removed.
    pub fn prune(&self, idle_longer_than: Duration) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for usage in self.list()? {
            if Duration::from_secs(usage.idle_seconds) < idle_longer_than {
                continue;
            }
            let name = usage.digest.hex();
            for folder in ["blobs/sha256", "stamps/sha256"] {
                let path = self.root().join(folder).join(&name);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &path)(error)),
                    _ => {}
                }
            }
            pruned.files += 1;
            pruned.bytes += usage.size;
        }
        self.prune_folders(idle_longer_than, &mut pruned)?;
        let scratch = self.scratch();
        for entry in fs::read_dir(&scratch).map_err(io_error("read", &scratch))? {
            let entry = entry.map_err(io_error("read", &scratch))?;
            let Ok(metadata) = entry.metadata() else { continue };
            if idle(&metadata) < ABANDONED {
                continue;
            }
            let path = entry.path();
            let removed = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                // The build that it belonged to, or another prune, was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                removed => removed.map_err(io_error("remove", &path))?,
            }
            pruned.files += 1;
            pruned.bytes += metadata.len();
        }
        Ok(pruned)
    }

    /// Removes made folders that no build used for so long.
    fn prune_folders(&self, idle_longer_than: Duration, pruned: &mut Pruned) -> Result<(), StoreError> {
        for entry in walkdir::WalkDir::new(self.root().join("folders")).min_depth(2).max_depth(2).into_iter().flatten() {
            let used = entry.path();
            let Some(folder) = used.to_str().and_then(|path| path.strip_suffix(".used")).map(std::path::PathBuf::from) else {
                continue;
            };
            if !entry.metadata().is_ok_and(|metadata| idle(&metadata) >= idle_longer_than) {
                continue;
            }
            for file in walkdir::WalkDir::new(&folder).into_iter().flatten().filter(|file| file.file_type().is_file()) {
                pruned.files += 1;
                pruned.bytes += file.metadata().map_or(0, |metadata| metadata.len());
            }
            // Out of the way first: a folder that is there is complete.
            let away = self.scratch_folder()?;
            match fs::rename(&folder, away.path().join("folder")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &folder)(error)),
                _ => {}
            }
            let removed = fs::remove_file(used);
            removed
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
                .map_err(io_error("remove", used))?;
        }
        Ok(())
    }
}

fn idle(metadata: &fs::Metadata) -> Duration {
    let last = metadata.accessed().ok().max(metadata.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH);
    last.elapsed().unwrap_or_default()
}

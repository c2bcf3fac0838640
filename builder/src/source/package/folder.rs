//! Directories: a list of their files stands for them, and each file is a blob of its own.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ENTRY_LIMIT, EntryKind, PackageEntry, PackageError, checked_mode, checked_path, entry_error, format_error};
use crate::source::Pin;
use crate::store::{Blob, Store};

const FORMAT: &str = "list of a directory's files";
const VERSION: u32 = 1;

/// What stands for a directory. Times, owners and the umask are not in it.
#[derive(Serialize, Deserialize)]
struct Listing {
    version: u32,
    entries: Vec<PackageEntry>,
}

/// Takes the files of a directory into the store, and the list of them, whose digest is that of the directory.
pub(in crate::source) fn take(
    folder: &Path,
    file: &str,
    mut take: impl FnMut(&Path) -> Result<Blob, PackageError>,
    store: &Store,
) -> Result<Blob, PackageError> {
    let mut entries = Vec::new();
    for entry in walkdir::WalkDir::new(folder).min_depth(1).sort_by_file_name() {
        let failed = |error: walkdir::Error| PackageError::Io {
            action: "read",
            path: error.path().unwrap_or(folder).to_owned(),
            source: error.into(),
        };
        let entry = entry.map_err(failed)?;
        let below = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let text = below.to_str().ok_or_else(|| entry_error(file, &below.to_string_lossy(), "which is not UTF-8"))?;
        let path = checked_path(file, text)?;
        let kind = entry.file_type();
        let (mode, kind) = if kind.is_dir() {
            (0o755, EntryKind::Directory)
        } else if kind.is_symlink() {
            let failed = |source| PackageError::Io { action: "read the link", path: entry.path().to_owned(), source };
            let target = fs::read_link(entry.path()).map_err(failed)?;
            let target = target.to_str().ok_or_else(|| entry_error(file, text, "a link whose target is not UTF-8"))?;
            if leaves(&path, target) {
                return Err(entry_error(file, text, "a link that leads out of the directory"));
            }
            (0o777, EntryKind::Symlink { target: target.to_owned() })
        } else if kind.is_file() {
            let mode = entry.metadata().map_err(failed)?.permissions().mode();
            let blob = take(entry.path())?;
            (checked_mode(mode), EntryKind::File { size: blob.size, compressed: None, digest: Some(blob.digest) })
        } else {
            return Err(entry_error(file, text, "which is neither a file, a directory nor a link"));
        };
        entries.push(PackageEntry { path, mode, kind });
        if entries.len() > ENTRY_LIMIT {
            return Err(format_error(file, "directory", "it has more than a million entries"));
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let listing = serde_json::to_vec(&Listing { version: VERSION, entries }).expect("a listing is plain data");
    Ok(store.add(&listing[..], None)?)
}

/// Whether a link leads out of the directory it is in.
fn leaves(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    target.starts_with('/')
}

/// Reads the list that stands for a directory.
pub(super) fn read(pin: &Pin, blob: &Blob) -> Result<Vec<PackageEntry>, PackageError> {
    let file = File::open(&blob.path).map_err(|source| PackageError::Io { action: "read", path: blob.path.clone(), source })?;
    let error = |reason: String| format_error(&pin.file, FORMAT, reason);
    let listing: Listing = serde_json::from_reader(std::io::BufReader::new(file)).map_err(|cause| error(cause.to_string()))?;
    if listing.version != VERSION {
        return Err(error(format!("its version is {}, expected {VERSION}", listing.version)));
    }
    for entry in &listing.entries {
        if checked_path(&pin.file, &entry.path)? != entry.path {
            return Err(entry_error(&pin.file, &entry.path, "which is not in its plain form"));
        }
    }
    Ok(listing.entries)
}

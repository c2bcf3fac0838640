//! The content-addressed store: everything that was fetched or built once.
//!
//! ```text
//! version                    the layout's version, `1`
//! blobs/sha256/HEX           a finished blob, read-only
//! stamps/sha256/HEX          how that file looked when its digest was last checked
//! records/KIND/KEY           small JSON facts that can be computed again, each behind its own digest
//! folders/KIND/KEY           folders that can be made again, such as a compiler's unpacked packages; `KEY.used` is touched by each use
//! tmp/                       files being written
//! ```
//! A blob exists only finished: it is written to `tmp/`, hashed on the way, synced and renamed, so that a killed build leaves
//! nothing that a later one would trust, and two builds can share a store without locks. [`Store::find`] trusts a blob whose
//! size, inode and times are those of its stamp, hashes it again where they are not, and removes it where it is damaged.

mod blob;
mod prune;
#[cfg(test)]
mod tests;

pub(crate) use blob::stamp;
pub use blob::{Blob, BlobWriter};
pub use prune::{Pruned, Usage};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

const VERSION: &str = "1\n";

/// An open store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused something.
    #[error("failed to {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder holds a store of another version, or something else.
    #[error("`{path}` is a store of version `{found}`, expected version `1`")]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Bytes do not have the digest they should have.
    #[error("digest is {actual}, expected {expected}")]
    Digest {
        /// What was written.
        actual: Digest,
        /// What was expected.
        expected: Digest,
    },
    /// No folder to keep the store in.
    #[error("there is no folder for the store: neither IMGBUILD_STORE, XDG_CACHE_HOME nor HOME is set")]
    NoFolder,
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

impl Store {
    /// Where the store is unless the user says otherwise: `$IMGBUILD_STORE`, `$XDG_CACHE_HOME/imgbuild` or `~/.cache/imgbuild`.
    ///
    /// # Errors
    /// Where none of the three variables is set.
    pub fn default_root() -> Result<PathBuf, StoreError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("IMGBUILD_STORE")
            .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("imgbuild")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/imgbuild")))
            .ok_or(StoreError::NoFolder)
    }

    /// Opens a store, making it where there is none.
    ///
    /// # Errors
    /// Where the folder cannot be made, or holds a store of another version.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(root).map_err(io_error("create the folder", root))?;
        let root = fs::canonicalize(root).map_err(io_error("open", root))?;
        let store = Self { root };
        let path = store.root.join("version");
        // Before anything is made in it: the folder may be another version's.
        let new = match fs::read_to_string(&path) {
            Ok(found) if found == VERSION => false,
            Ok(found) => return Err(StoreError::Version { path, found: found.trim().to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(source) => return Err(StoreError::Io { action: "read", path, source }),
        };
        for folder in ["blobs/sha256", "stamps/sha256", "records", "tmp"] {
            let path = store.root.join(folder);
            fs::create_dir_all(&path).map_err(io_error("create the folder", &path))?;
        }
        if new {
            store.write_atomically(&path, VERSION.as_bytes())?;
        }
        Ok(store)
    }

    /// The store's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder for files that do not last, on the file system of the blobs.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Makes an empty folder in the store that goes away when dropped.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn scratch_folder(&self) -> Result<tempfile::TempDir, StoreError> {
        let scratch = self.scratch();
        tempfile::tempdir_in(&scratch).map_err(io_error("create a folder in", &scratch))
    }

    /// Looks up a small fact. A damaged or missing one is `None`: facts can be computed again.
    #[must_use]
    pub fn record(&self, kind: &str, key: &Digest) -> Option<Vec<u8>> {
        let content = fs::read(self.record_path(kind, key)).ok()?;
        let (head, body) = content.split_at_checked(65)?;
        (head[..64] == *Digest::of(body).hex().as_bytes() && head[64] == b'\n').then(|| body.to_vec())
    }

    /// Keeps a small fact under a key.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn put_record(&self, kind: &str, key: &Digest, body: &[u8]) -> Result<(), StoreError> {
        let path = self.record_path(kind, key);
        let folder = path.parent().expect("a record lies in a folder");
        fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        let mut content = Digest::of(body).hex().into_bytes();
        content.push(b'\n');
        content.extend_from_slice(body);
        self.write_atomically(&path, &content)
    }

    /// Finds a folder that was made under a key, or has it made: filled elsewhere and renamed when it is complete.
    ///
    /// # Errors
    /// Those of `make`, and where the store cannot be written.
    pub fn folder<E: From<StoreError>>(
        &self,
        kind: &str,
        key: &Digest,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let parent = self.root.join("folders").join(kind);
        fs::create_dir_all(&parent).map_err(io_error("create the folder", &parent))?;
        let path = parent.join(key.hex());
        if !path.is_dir() {
            let scratch = self.scratch_folder()?;
            let inner = scratch.path().join("folder");
            fs::create_dir(&inner).map_err(io_error("create the folder", &inner))?;
            make(&inner)?;
            match fs::rename(&inner, &path) {
                // Another build was faster, and made the same.
                Err(_) if path.is_dir() => {}
                renamed => renamed.map_err(io_error("rename", &inner))?,
            }
        }
        let used = parent.join(format!("{}.used", key.hex()));
        fs::write(&used, b"").map_err(io_error("write", &used))?;
        Ok(path)
    }

    fn record_path(&self, kind: &str, key: &Digest) -> PathBuf {
        self.root.join("records").join(kind).join(key.hex())
    }

    fn write_atomically(&self, path: &Path, content: &[u8]) -> Result<(), StoreError> {
        let scratch = self.scratch();
        let mut file = tempfile::NamedTempFile::new_in(&scratch).map_err(io_error("create a file in", &scratch))?;
        io::Write::write_all(&mut file, content).map_err(io_error("write", file.path()))?;
        file.persist(path).map_err(|error| StoreError::Io { action: "write", path: path.to_owned(), source: error.error })?;
        Ok(())
    }
}

//! Changes of libraries before they go into an image: each makes of one digest another, and is kept in the store by both.

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use crate::digest::Digest;
use crate::elf::{ElfError, Stripped};
use crate::layer;
use crate::store::{Blob, Store, StoreError};
use crate::template::LibraryRule;

/// A change of a library. The order of a list is the order in which they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transformation {
    /// Symbol tables and debug information, which no loader reads, are cut off.
    Strip,
}

/// Why a library could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// It is no library that can be changed.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Transformation {
    /// The changes that a template asks for.
    pub fn of(rule: &LibraryRule) -> Vec<Self> {
        if rule.strip { vec![Self::Strip] } else { Vec::new() }
    }

    /// What it is called where results are kept, with everything that decides the result but the library itself.
    fn key(self, input: &Digest) -> Digest {
        // The rules are a part of the lock's format: a later one may strip otherwise.
        let name = match self {
            Self::Strip => "strip",
        };
        Digest::of(format!("{name} format {} of {input}", layer::FORMAT_VERSION).as_bytes())
    }

    /// What was cut off, as a phrase for the report.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Strip => "symbol tables and debug information, which no loader reads",
        }
    }

    /// Makes the change, or finds what an earlier build made of the same bytes.
    pub fn apply(self, path: &Path, digest: &Digest, store: &Store) -> Result<Blob, TransformError> {
        const KIND: &str = "library-transformation";
        let key = self.key(digest);
        let known = store.record(KIND, &key).and_then(|record| serde_json::from_slice::<Digest>(&record).ok());
        if let Some(known) = known
            && let Some(blob) = store.find(&known)?
        {
            return Ok(blob);
        }
        let blob = self.make(path, store)?;
        store.put_record(KIND, &key, &serde_json::to_vec(&blob.digest).expect("a digest is plain data"))?;
        Ok(blob)
    }

    fn make(self, path: &Path, store: &Store) -> Result<Blob, TransformError> {
        let unreadable = |source| ElfError::Unreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        #[expect(unsafe_code, reason = "mapping is what keeps memory flat")]
        // SAFETY: the file is a blob of the store, which nothing changes once it is there.
        let data = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let mut writer = store.writer()?;
        match self {
            Self::Strip => Stripped::of(&data)?.write(&mut writer).map_err(unreadable)?,
        }
        Ok(writer.finish()?)
    }
}

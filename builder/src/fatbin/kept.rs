//! Pruned libraries that are kept in the store, by the library and the GPUs.

use std::io::{self, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{FatbinError, PruneReport, Sm, map, prune};
use crate::digest::Digest;
use crate::rewrite::RewriteError;
use crate::store::{Blob, Store, StoreError};

/// The kind of the store's records that say what became of a library.
const KIND: &str = "pruned-library";

/// The version of pruning: it grows whenever the same library and GPUs give other bytes.
pub const PRUNE_FORMAT: u32 = 2;

/// A pruned library in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// Its bytes.
    pub blob: Blob,
    /// What was done.
    pub report: PruneReport,
}

/// Why there is no pruned library.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The library stays as it is.
    #[error(transparent)]
    Fatbin(#[from] FatbinError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a record holds.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    report: PruneReport,
}

/// Prunes a library, or finds what an earlier build made of the same one. `digest` is that of the file.
///
/// # Errors
/// As [`prune`], and where the store fails.
pub fn prune_in_store(path: &Path, digest: &Digest, gpus: &[Sm], store: &Store) -> Result<Pruned, KeepError> {
    let decides = (PRUNE_FORMAT, digest.hex(), gpus);
    let key = Digest::of(&serde_json::to_vec(&decides).expect("text and numbers are plain data"));
    let record = store.record(KIND, &key).and_then(|record| serde_json::from_slice::<Record>(&record).ok());
    if let Some(Record { digest, report }) = record
        && let Some(blob) = store.find(&digest)?
    {
        return Ok(Pruned { blob, report });
    }
    let unwritten = |error: io::Error| FatbinError::Rewrite(RewriteError::Write(error));
    let mut file = tempfile::tempfile_in(store.scratch()).map_err(unwritten)?;
    let report = prune(&map(path)?, gpus, &mut file)?;
    file.rewind().map_err(unwritten)?;
    let mut writer = store.writer()?;
    io::copy(&mut file, &mut writer).map_err(unwritten)?;
    let blob = writer.finish()?;
    let record = Record { digest: blob.digest, report };
    store.put_record(KIND, &key, &serde_json::to_vec(&record).expect("text and numbers are plain data"))?;
    Ok(Pruned { blob, report: record.report })
}

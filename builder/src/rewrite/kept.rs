//! Rewritten libraries that are kept in the store, by everything that decides what they are.

use std::io::{self, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Neighbours, REWRITE_FORMAT, RewriteError, RewriteReport, Transformation, rewrite_file};
use crate::digest::Digest;
use crate::store::{Blob, Store, StoreError};

/// The kind of the store's records that say what became of a library.
const KIND: &str = "rewritten-library";

/// A rewritten library in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// Its bytes.
    pub blob: Blob,
    /// What was done.
    pub report: RewriteReport,
}

/// Why there is no rewritten library.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The library stays as it is.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a record holds.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: Digest,
    report: RewriteReport,
}

/// Rewrites a library, or finds what an earlier build made of the same one. `digest` is that of the file, and `known` are the
/// digests of the neighbours' files, in any order.
///
/// # Errors
/// As [`super::rewrite`], and where the store fails.
pub fn rewrite_in_store(
    path: &Path,
    digest: &Digest,
    transformations: &[Transformation],
    neighbours: &Neighbours<'_>,
    known: &[Digest],
    store: &Store,
) -> Result<Rewritten, KeepError> {
    let mut others: Vec<String> = known.iter().map(Digest::hex).collect();
    others.sort_unstable();
    let decides = (REWRITE_FORMAT, digest.hex(), transformations, others);
    let key = Digest::of(&serde_json::to_vec(&decides).expect("text and numbers are plain data"));
    let record = store.record(KIND, &key).and_then(|record| serde_json::from_slice::<Record>(&record).ok());
    if let Some(Record { digest, report }) = record
        && let Some(blob) = store.find(&digest)?
    {
        return Ok(Rewritten { blob, report });
    }
    let mut file = tempfile::tempfile_in(store.scratch()).map_err(RewriteError::Write)?;
    let report = rewrite_file(path, transformations, neighbours, &mut file)?;
    file.rewind().map_err(RewriteError::Write)?;
    let mut writer = store.writer()?;
    io::copy(&mut file, &mut writer).map_err(RewriteError::Write)?;
    let blob = writer.finish()?;
    let record = Record { digest: blob.digest, report };
    store.put_record(KIND, &key, &serde_json::to_vec(&record).expect("text and numbers are plain data"))?;
    Ok(Rewritten { blob, report: record.report })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;
    use crate::elf::tests::compile;
    use crate::rewrite::BindRules;

    #[test]
    fn a_library_is_rewritten_once_for_each_set_of_parameters() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let path =
            compile(folder.path(), "liba.so", "int a(void) { return 1; } int b(void) { return a(); }", &["-shared", "-fPIC"]);
        let digest = Digest::of(&std::fs::read(&path).unwrap());
        let make = |keep: &str, known: &[Digest]| {
            let bind = Transformation::Bind(BindRules { keep: vec![keep.to_owned()] });
            rewrite_in_store(&path, &digest, &[Transformation::Strip, bind], &Neighbours::default(), known, &store)
        };
        let first = make("a", &[]).unwrap();
        assert_ne!(make("b", &[]).unwrap().blob.digest, first.blob.digest);
        // Were it made again, it would fail.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(make("a", &[]).unwrap(), first);
        assert!(make("a", &[Digest::of(b"another neighbour")]).is_err());
        assert_eq!(std::fs::read_dir(store.scratch()).unwrap().count(), 0);
    }
}

//! What was built before: digests of files by how they look, and layers by the recipe of their content.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Compression, CompressionChoice, FORMAT_VERSION, FileBytes, LayerError, LayerFormat, LayerOutcome};
use crate::digest::Digest;
use crate::image::{Descriptor, Layer};
use crate::store::{Store, StoreError, stamp};
use crate::tree::{Content, Entry, ImagePath, Kind};

const FILE_DIGEST: &str = "file-digest";
const LAYER: &str = "layer";

/// A file that was written to so shortly before it was read could be written to again without looking any different.
const RACY: Duration = Duration::from_secs(2);

/// What is known of a file's bytes before they are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    /// Their digest.
    pub digest: Option<Digest>,
    /// How the file looks if the digest can be relied on; a digest without it is what the tree says and has to be checked.
    pub trusted: Option<Vec<u8>>,
}

/// Gives the digest and size of a file, from the store where the file looks as it did when it was last hashed.
///
/// # Errors
/// Where the file cannot be read, or the store cannot be written.
pub fn digest_file(file: &Path, store: &Store) -> Result<(Digest, u64), StoreError> {
    let read = |source| StoreError::Io { action: "read", path: file.to_owned(), source };
    let opened = SystemTime::now();
    let metadata = fs::metadata(file).map_err(read)?;
    if !metadata.is_file() {
        return Err(read(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")));
    }
    if let Some(digest) = cached(file, &metadata, store) {
        return Ok((digest, metadata.len()));
    }
    let open = fs::File::open(file).map_err(read)?;
    let metadata = open.metadata().map_err(read)?;
    let (digest, size) = Digest::of_reader(&open).map_err(read)?;
    if stamp(&open.metadata().map_err(read)?) == stamp(&metadata) {
        remember_file(file, &metadata, opened, digest, store)?;
    }
    Ok((digest, size))
}

/// Looks up what is known of the bytes of each entry without reading files.
pub(crate) fn known(entries: &[(&ImagePath, &Entry)], store: &Store) -> Result<Vec<Known>, LayerError> {
    entries.iter().map(|(path, entry)| known_of(path, entry, store)).collect()
}

fn known_of(path: &ImagePath, entry: &Entry, store: &Store) -> Result<Known, LayerError> {
    let Kind::File { content, digest, .. } = &entry.kind else { return Ok(Known::default()) };
    match (content, digest) {
        (Content::Bytes(bytes), expected) => {
            let actual = Digest::of(bytes);
            match expected {
                Some(expected) if *expected != actual => Err(LayerError::FileDigest {
                    path: path.clone(),
                    file: PathBuf::from("bytes in memory"),
                    actual,
                    expected: *expected,
                }),
                _ => Ok(Known { digest: Some(actual), trusted: Some(Vec::new()) }),
            }
        }
        (Content::Elsewhere, expected) => Ok(Known { digest: *expected, trusted: None }),
        (Content::Disk(file), expected) => {
            // A file that is not there shows when it is opened.
            let Ok(metadata) = fs::metadata(file) else { return Ok(Known { digest: *expected, trusted: None }) };
            let found = match expected {
                Some(digest) if is_blob(file, digest, store)? => Some(*digest),
                _ => cached(file, &metadata, store),
            };
            Ok(match (expected, found) {
                (Some(expected), found) if found != Some(*expected) => Known { digest: Some(*expected), trusted: None },
                (_, Some(found)) => Known { digest: Some(found), trusted: Some(stamp(&metadata)) },
                (_, None) => Known::default(),
            })
        }
    }
}

/// Whether a file is a blob of the store, which the store has checked.
fn is_blob(file: &Path, digest: &Digest, store: &Store) -> Result<bool, StoreError> {
    if file.file_name().is_none_or(|name| name.as_bytes() != digest.hex().as_bytes()) {
        return Ok(false);
    }
    Ok(store.find(digest)?.is_some_and(|blob| blob.path == file))
}

fn cached(file: &Path, metadata: &Metadata, store: &Store) -> Option<Digest> {
    let body = store.record(FILE_DIGEST, &file_key(file, metadata)?)?;
    std::str::from_utf8(&body).ok()?.parse().ok()
}

/// Keeps a file's digest, unless the file could change without looking different. `metadata` and `opened` are from before the
/// file was read.
pub(crate) fn remember_file(
    file: &Path,
    metadata: &Metadata,
    opened: SystemTime,
    digest: Digest,
    store: &Store,
) -> Result<(), StoreError> {
    let touched = metadata.mtime().max(metadata.ctime());
    let settled = u64::try_from(touched).map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds + 1) + RACY);
    match (settled, file_key(file, metadata)) {
        (Ok(settled), Some(key)) if settled < opened => store.put_record(FILE_DIGEST, &key, digest.to_string().as_bytes()),
        _ => Ok(()),
    }
}

fn file_key(file: &Path, metadata: &Metadata) -> Option<Digest> {
    let mut text = std::path::absolute(file).ok()?.into_os_string().as_bytes().to_vec();
    text.push(0);
    text.extend_from_slice(&stamp(metadata));
    Some(Digest::of(&text))
}

/// One entry as the recipe sees it.
#[derive(Serialize)]
enum Line<'a> {
    Directory { path: &'a str, mode: u32 },
    File { path: &'a str, mode: u32, size: u64, digest: Digest },
    Symlink { path: &'a str, target: &'a str },
}

/// The key of a layer: everything that decides its bytes. `None` while the digest of a file is not known.
pub(crate) fn key(
    entries: &[(&ImagePath, &Entry)],
    digests: impl IntoIterator<Item = Option<Digest>>,
    choice: CompressionChoice,
    format: &LayerFormat,
) -> Option<Digest> {
    let choice = choice.fixed().map_or(choice, CompressionChoice::from);
    let mut lines = Vec::with_capacity(entries.len());
    for ((path, entry), digest) in entries.iter().zip(digests) {
        let (path, mode) = (path.as_str(), entry.mode & 0o7777);
        lines.push(match &entry.kind {
            Kind::Directory => Line::Directory { path, mode },
            Kind::File { size, .. } => Line::File { path, mode, size: *size, digest: digest? },
            Kind::Symlink { target } => Line::Symlink { path, target },
        });
    }
    let recipe = (FORMAT_VERSION, choice, format.epoch, lines);
    Some(Digest::of(&serde_json::to_vec(&recipe).expect("plain data becomes JSON")))
}

/// A layer as the store keeps it.
#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    compression: CompressionChoice,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    unpacked: u64,
    overhead: u64,
    files: Vec<(String, u64, u64, Digest)>,
}

/// Keeps a layer under its key.
pub(crate) fn remember(store: &Store, key: &Digest, outcome: &LayerOutcome) -> Result<(), StoreError> {
    let record = Record {
        version: FORMAT_VERSION,
        compression: outcome.compression.into(),
        digest: outcome.layer.descriptor.digest,
        size: outcome.layer.descriptor.size,
        diff_id: outcome.layer.diff_id,
        unpacked: outcome.layer.unpacked,
        overhead: outcome.overhead,
        files: outcome.files.iter().map(|file| (file.path.to_string(), file.size, file.compressed, file.digest)).collect(),
    };
    store.put_record(LAYER, key, &serde_json::to_vec(&record).expect("plain data becomes JSON"))
}

/// Finds a layer by its key, if its blob is still whole.
pub(crate) fn recall(store: &Store, key: &Digest) -> Result<Option<LayerOutcome>, StoreError> {
    let Some(record) = store.record(LAYER, key).and_then(|body| serde_json::from_slice::<Record>(&body).ok()) else {
        return Ok(None);
    };
    let Some(compression) = record.compression.fixed().filter(|_| record.version == FORMAT_VERSION) else { return Ok(None) };
    let Some(blob) = store.find(&record.digest)?.filter(|blob| blob.size == record.size) else { return Ok(None) };
    let files = record
        .files
        .into_iter()
        .map(|(path, size, compressed, digest)| Some(FileBytes { path: path.parse().ok()?, size, compressed, digest }));
    let Some(files) = files.collect::<Option<Vec<_>>>() else { return Ok(None) };
    let layer = layer(compression, blob.digest, blob.size, record.diff_id, record.unpacked, blob.path);
    Ok(Some(LayerOutcome { layer, compression, reused: true, files, overhead: record.overhead }))
}

pub(crate) fn layer(compression: Compression, digest: Digest, size: u64, diff_id: Digest, unpacked: u64, path: PathBuf) -> Layer {
    Layer { descriptor: Descriptor::new(compression.media_type(), digest, size), diff_id, unpacked, path: Some(path) }
}

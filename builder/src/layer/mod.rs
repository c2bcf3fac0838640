//! Layers as bytes: [`write()`] turns the entries of one layer into a finished blob, [`read`] goes through any layer's members,
//! [`unpack()`] and [`Index`] merge several of them.
//!
//! The bytes of a layer depend on its entries and its [`LayerFormat`] alone: not on threads, clocks, folders or users.
//! `docs/spec/format.md` says what they are; [`FORMAT_VERSION`] changes whenever they do.
//!
//! A layer is written in one pass. One thread reads files into frames; each frame goes at once to the hash of the tar stream,
//! to the hash of the file where that is not known yet, and to a compressor; finished frames are written in their order.
//! Frames are compressed independently, so that the number of threads decides how long it takes and nothing else.

mod error;
mod format;
mod frame;
mod header;
mod index;
pub mod read;
mod recipe;
mod resolve;
mod sample;
mod source;
mod unpack;
mod write;

#[cfg(test)]
mod tests;

pub use error::{LayerError, ReadError};
pub use format::{Compression, CompressionChoice, CompressionError, FORMAT_VERSION, LayerFormat};
pub use index::{Index, IndexEntry, IndexKind, LayerTotals};
pub use read::{LayerReader, Limits, Member, MemberKind};
pub use recipe::digest_file;
pub use unpack::{Unpacked, Unpacker, unpack};
pub use write::write;

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::image::Layer;
use crate::tree::{Entry, ImagePath, LayerName, Tree};

/// A written layer, and what each of its files takes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerOutcome {
    /// The finished layer.
    pub layer: Layer,
    /// How it is compressed: what `auto` came to.
    pub compression: Compression,
    /// True where an earlier build had made the same layer: nothing was read, compressed or hashed.
    pub reused: bool,
    /// Its files, in the order of their paths.
    pub files: Vec<FileBytes>,
    /// Bytes of the blob that belong to no file: directories, links and the end of the archive.
    /// With the files' `compressed` bytes they make up the size of the blob.
    pub overhead: u64,
}

/// What a file takes in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBytes {
    /// The file.
    pub path: ImagePath,
    /// Its bytes, unpacked.
    pub size: u64,
    /// Bytes of the blob that it takes, its header included. Exact for a file that has frames of its own (from 256 KiB on,
    /// where the layer is compressed) and in an uncompressed layer; small files that share a frame share its bytes in
    /// proportion to their part of the tar stream.
    pub compressed: u64,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// The entries of one layer of a tree with the directories that they lie in, whichever layer those belong to.
///
/// A layer has to repeat the directories above its files with their modes: unpackers that meet a file below a directory that
/// the layer does not name give that directory a mode of their own.
#[must_use]
pub fn select(tree: &Tree, layer: LayerName) -> BTreeMap<&ImagePath, &Entry> {
    let mut selected = BTreeMap::new();
    for (path, entry) in tree.entries.iter().filter(|(_, entry)| entry.layer == layer) {
        selected.insert(path, entry);
        let mut parent = path.parent();
        while let Some(path) = parent {
            if let Some((path, entry)) = tree.entries.get_key_value(&path) {
                selected.insert(path, entry);
            }
            parent = path.parent();
        }
    }
    selected
}

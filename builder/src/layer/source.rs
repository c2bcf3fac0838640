//! Where an entry's bytes come from, read exactly once and checked not to change meanwhile.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::LayerError;
use crate::tree::{Content, ImagePath};

/// The open bytes of one entry.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    path: &'a ImagePath,
    content: Open<'a>,
    size: u64,
}

#[derive(Debug)]
enum Open<'a> {
    Memory(&'a [u8]),
    Disk { name: &'a Path, file: File, before: Metadata },
}

impl<'a> Source<'a> {
    /// Opens an entry's bytes, of which the tree says how many there are.
    pub(crate) fn open(path: &'a ImagePath, content: &'a Content, size: u64) -> Result<Self, LayerError> {
        let content = match content {
            Content::Bytes(bytes) => Open::Memory(bytes),
            Content::Elsewhere => {
                let source = std::io::Error::new(std::io::ErrorKind::NotFound, "it is in a layer that is not on this machine");
                return Err(LayerError::Read { path: path.clone(), file: PathBuf::from(path.to_string()), source });
            }
            Content::Disk(name) => {
                let read = |source| LayerError::Read { path: path.clone(), file: name.clone(), source };
                // Opening a pipe would wait for a writer.
                let found = std::fs::metadata(name).map_err(read)?;
                if !found.is_file() {
                    return Err(LayerError::NotAFile { path: path.clone(), file: name.clone(), found: kind_name(&found) });
                }
                let file = File::open(name).map_err(read)?;
                let before = file.metadata().map_err(read)?;
                Open::Disk { name, file, before }
            }
        };
        let source = Self { path, content, size };
        match source.actual_size() {
            actual if actual == size => Ok(source),
            actual => Err(LayerError::Size { path: path.clone(), file: source.file(), actual, expected: size }),
        }
    }

    /// How the file looked when it was opened; `None` for bytes in memory.
    pub(crate) fn metadata(&self) -> Option<&Metadata> {
        match &self.content {
            Open::Memory(_) => None,
            Open::Disk { before, .. } => Some(before),
        }
    }

    /// Tells the system that the file is read once from its beginning to its end.
    pub(crate) fn read_ahead(&self) {
        if let Open::Disk { file, .. } = &self.content {
            // Advice only: where it is not taken, reading is slower.
            let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Sequential);
        }
    }

    /// Appends the next `count` bytes, of which there are so many.
    pub(crate) fn read_into(&mut self, buffer: &mut Vec<u8>, count: usize) -> Result<(), LayerError> {
        let read = match &mut self.content {
            Open::Memory(bytes) => {
                let (now, later) = bytes.split_at(count);
                buffer.extend_from_slice(now);
                *bytes = later;
                Ok(count)
            }
            Open::Disk { file, .. } => Read::by_ref(file).take(count as u64).read_to_end(buffer),
        };
        match read {
            Ok(read) if read == count => Ok(()),
            Ok(_) => Err(LayerError::Changed { path: self.path.clone(), file: self.file() }),
            Err(source) => Err(LayerError::Read { path: self.path.clone(), file: self.file(), source }),
        }
    }

    /// Reads `buffer.len()` bytes from an offset; they have to lie within the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), LayerError> {
        match &self.content {
            Open::Memory(bytes) => {
                let start = usize::try_from(offset).expect("bytes in memory have such offsets");
                buffer.copy_from_slice(&bytes[start..start + buffer.len()]);
                Ok(())
            }
            Open::Disk { file, .. } => file.read_exact_at(buffer, offset).map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => LayerError::Changed { path: self.path.clone(), file: self.file() },
                _ => LayerError::Read { path: self.path.clone(), file: self.file(), source },
            }),
        }
    }

    /// Checks after the last byte that the file did not change meanwhile.
    pub(crate) fn finish(self) -> Result<(), LayerError> {
        let Open::Disk { file, before, .. } = &self.content else { return Ok(()) };
        let after = file.metadata().map_err(|source| LayerError::Read { path: self.path.clone(), file: self.file(), source })?;
        if after.len() != self.size {
            return Err(LayerError::Size {
                path: self.path.clone(),
                file: self.file(),
                actual: after.len(),
                expected: self.size,
            });
        }
        // The inode's own time would also change with a new link to the file.
        if (after.mtime(), after.mtime_nsec()) != (before.mtime(), before.mtime_nsec()) {
            return Err(LayerError::Changed { path: self.path.clone(), file: self.file() });
        }
        Ok(())
    }

    fn actual_size(&self) -> u64 {
        match &self.content {
            Open::Memory(bytes) => bytes.len() as u64,
            Open::Disk { before, .. } => before.len(),
        }
    }

    fn file(&self) -> PathBuf {
        match &self.content {
            Open::Memory(_) => PathBuf::from("bytes in memory"),
            Open::Disk { name, .. } => name.to_path_buf(),
        }
    }
}

fn kind_name(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () => "something else",
    }
}

//! Blobs: written once, found again, never trusted when they changed.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tempfile::NamedTempFile;

use super::{Store, StoreError, io_error};
use crate::digest::{Digest, HashingWriter};

/// A finished blob in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Number of its bytes.
    pub size: u64,
    /// The file, read-only.
    pub path: PathBuf,
}

/// A blob being written. Dropped unfinished, it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    file: HashingWriter<UnhashedBlobWriter>,
}

/// A blob being written whose digest someone else computes, on another thread for instance.
#[derive(Debug)]
pub(crate) struct UnhashedBlobWriter {
    store: Store,
    file: NamedTempFile,
    written: u64,
    writeback: Writeback,
}

impl Store {
    /// Begins a blob.
    ///
    /// # Errors
    /// Where no file can be made in the store.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter { file: HashingWriter::new(self.unhashed_writer()?) })
    }

    /// Begins a blob whose digest the caller computes.
    pub(crate) fn unhashed_writer(&self) -> Result<UnhashedBlobWriter, StoreError> {
        let scratch = self.scratch();
        let file = NamedTempFile::new_in(&scratch).map_err(io_error("create a file in", &scratch))?;
        Ok(UnhashedBlobWriter { store: self.clone(), file, written: 0, writeback: Writeback::default() })
    }

    /// Takes a stream in as a blob.
    ///
    /// # Errors
    /// Where the reader fails, the disk is full, or the digest is not the `expected` one.
    pub fn add(&self, mut reader: impl Read, expected: Option<&Digest>) -> Result<Blob, StoreError> {
        let mut writer = self.writer()?;
        io::copy(&mut reader, &mut writer).map_err(io_error("write a blob in", &self.scratch()))?;
        match expected {
            Some(expected) => writer.finish_expecting(expected),
            None => writer.finish(),
        }
    }

    /// Finds a blob, checking that it is whole. A damaged one is removed and not found.
    ///
    /// # Errors
    /// Where the operating system refuses to read or remove it.
    pub fn find(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let path = self.blob_path(digest);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => {
                return Err(StoreError::Io { action: "read the blob", path, source: io::Error::other("it is no regular file") });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::Io { action: "read", path, source }),
        };
        let stamp_path = self.stamp_path(digest);
        let blob = Blob { digest: *digest, size: metadata.len(), path };
        if fs::read(&stamp_path).is_ok_and(|found| found == stamp(&metadata)) {
            return Ok(Some(blob));
        }
        let file = File::open(&blob.path).map_err(io_error("read", &blob.path))?;
        let (actual, _) = Digest::of_reader(file).map_err(io_error("read", &blob.path))?;
        if actual == *digest {
            self.write_atomically(&stamp_path, &stamp(&metadata))?;
            return Ok(Some(blob));
        }
        fs::remove_file(&blob.path).map_err(io_error("remove the damaged blob", &blob.path))?;
        Ok(None)
    }

    /// Gives a blob a second name outside the store, in place of any file that has it. `false` where the blob is not there, or cannot
    /// have a second name there, as on another file system.
    ///
    /// # Errors
    /// Where the blob cannot be read or its stamp cannot be written.
    pub fn link(&self, digest: &Digest, target: &Path) -> Result<bool, StoreError> {
        let (Some(blob), Some(folder)) = (self.find(digest)?, target.parent()) else { return Ok(false) };
        let before = fs::metadata(&blob.path).map_err(io_error("read", &blob.path))?;
        let second = tempfile::Builder::new().prefix(".imgbuild-").make_in(folder, |path| fs::hard_link(&blob.path, path));
        if !second.is_ok_and(|second| second.persist(target).is_ok()) {
            return Ok(false);
        }
        // A new name changes the inode's ctime, and with it the stamp; the bytes are those that were checked if nothing else changed.
        let after = fs::metadata(&blob.path).map_err(io_error("read", &blob.path))?;
        let content = |of: &fs::Metadata| (of.len(), of.dev(), of.ino(), of.mtime(), of.mtime_nsec());
        if content(&before) == content(&after) {
            self.write_atomically(&self.stamp_path(digest), &stamp(&after))?;
        }
        Ok(true)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs/sha256").join(digest.hex())
    }

    fn stamp_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("stamps/sha256").join(digest.hex())
    }
}

/// How a file looks from outside: any write to it changes at least one of these.
pub(crate) fn stamp(metadata: &fs::Metadata) -> Vec<u8> {
    format!(
        "{} {} {} {}.{:09} {}.{:09}\n",
        metadata.len(),
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
    .into_bytes()
}

impl BlobWriter {
    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.file.written()
    }

    /// Completes the blob under whatever digest its bytes have.
    ///
    /// # Errors
    /// Where the disk is full or the store cannot be written.
    pub fn finish(self) -> Result<Blob, StoreError> {
        self.complete(None)
    }

    /// Completes the blob if its digest is the expected one; keeps nothing otherwise.
    ///
    /// # Errors
    /// [`StoreError::Digest`] where the bytes are others, or where the store cannot be written.
    pub fn finish_expecting(self, expected: &Digest) -> Result<Blob, StoreError> {
        self.complete(Some(expected))
    }

    fn complete(self, expected: Option<&Digest>) -> Result<Blob, StoreError> {
        let (file, digest, _) = self.file.finish();
        match expected.filter(|expected| **expected != digest) {
            Some(expected) => Err(StoreError::Digest { actual: digest, expected: *expected }),
            None => file.finish_unverified(digest),
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl UnhashedBlobWriter {
    /// Sets room aside for a blob of known size, so that a full disk shows before the work. File systems that cannot do
    /// that are left to fail later.
    pub(crate) fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        if bytes == 0 {
            return Ok(());
        }
        match fallocate(self.file.as_file(), FallocateFlags::KEEP_SIZE, 0, bytes) {
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Completes the blob under a digest that the caller computed of exactly the bytes written.
    pub(crate) fn finish_unverified(self, digest: Digest) -> Result<Blob, StoreError> {
        let Self { store, file, written, writeback } = self;
        let path = store.blob_path(&digest);
        let error = |path: &Path| io_error("write the blob", path);
        file.as_file().set_permissions(fs::Permissions::from_mode(0o444)).map_err(error(file.path()))?;
        writeback.finish().map_err(error(file.path()))?;
        file.as_file().sync_data().map_err(error(file.path()))?;
        // A blob that another build put there meanwhile stays: somebody may be reading it, and it has the same bytes.
        let mut file = file;
        let file = loop {
            file = match file.persist_noclobber(&path) {
                Ok(file) => break file,
                Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => match store.find(&digest)? {
                    Some(blob) => return Ok(blob),
                    // It was damaged, and is gone now.
                    None => failed.file,
                },
                Err(failed) => return Err(error(&path)(failed.error)),
            };
        };
        // Read after the rename, which changes the inode's times on some file systems.
        let metadata = file.metadata().map_err(error(&path))?;
        store.write_atomically(&store.stamp_path(&digest), &stamp(&metadata))?;
        Ok(Blob { digest, size: written, path })
    }
}

impl Write for UnhashedBlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.file.write(buffer)?;
        self.written += count as u64;
        self.writeback.wrote(self.file.as_file(), count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Sends a long blob to the disk while it is still being written, so that the sync at its end is short and the kernel
/// never holds more of it back than it likes to, which would stall every writer of the machine.
#[derive(Debug, Default)]
struct Writeback {
    pending: u64,
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Writeback {
    /// Bytes between two syncs; shorter blobs never start the thread.
    const INTERVAL: u64 = 64 << 20;

    fn wrote(&mut self, file: &File, bytes: u64) {
        self.pending += bytes;
        if self.pending < Self::INTERVAL {
            return;
        }
        if self.thread.is_none() {
            // Without a second handle or thread, the last sync does all the work.
            let Ok(file) = file.try_clone() else { return };
            let (sender, receiver) = sync_channel::<()>(1);
            let run = move || receiver.iter().try_for_each(|()| file.sync_data());
            let Ok(thread) = std::thread::Builder::new().name("writeback".to_owned()).spawn(run) else { return };
            self.thread = Some((sender, thread));
        }
        // A full channel means that a sync is waiting already, which will cover these bytes.
        if let Some((sender, _)) = &self.thread {
            let _ = sender.try_send(());
        }
        self.pending = 0;
    }

    /// Waits for the syncs under way. Their errors count: the system reports each of them only once.
    fn finish(self) -> io::Result<()> {
        let Some((sender, thread)) = self.thread else { return Ok(()) };
        drop(sender);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

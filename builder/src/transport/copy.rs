//! Writing files whole or not at all, and blobs with their digests checked on the way.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::error::{TransportError, io_error};
use crate::image::{Blobs, Descriptor, open_verified};
use crate::progress::Task;

/// How unfinished files are named.
pub(super) const TEMPORARY: &str = ".imgbuild-";
/// Unfinished files older than this belong to no running command.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes a file with a temporary name in a folder, with the permissions of any other new file.
pub(super) fn temporary(folder: &Path) -> Result<NamedTempFile, TransportError> {
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(io_error("create a file in", folder))
}

/// Gives a finished file its name.
pub(super) fn persist(file: NamedTempFile, target: &Path) -> Result<(), TransportError> {
    file.as_file().sync_data().map_err(io_error("write", target))?;
    file.persist(target).map_err(|failed| io_error("write", target)(failed.error))?;
    Ok(())
}

/// Writes a small file whole or not at all.
pub(super) fn write_atomically(folder: &Path, target: &Path, content: &[u8]) -> Result<(), TransportError> {
    let mut file = temporary(folder)?;
    file.write_all(content).map_err(io_error("write", target))?;
    persist(file, target)
}

/// Copies a blob, failing unless its bytes are those of its descriptor.
pub(super) fn copy_blob(
    blobs: &dyn Blobs,
    descriptor: &Descriptor,
    writer: &mut impl Write,
    target: &Path,
    task: &Task,
) -> Result<(), TransportError> {
    let damaged = |source| TransportError::Blob { digest: descriptor.digest, source };
    let mut reader = open_verified(blobs, descriptor).map_err(damaged)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = reader.read(&mut buffer).map_err(damaged)?;
        if count == 0 {
            return Ok(());
        }
        writer.write_all(&buffer[..count]).map_err(io_error("write", target))?;
        task.advance(count as u64);
    }
}

/// Shares a file's bytes with a new one, where the file system can.
pub(super) fn share_bytes(source: &Path, target: &File) -> bool {
    File::open(source).is_ok_and(|source| rustix::fs::ioctl_ficlone(target, source).is_ok())
}

/// Removes unfinished files of commands that were killed long ago. What cannot be removed stays: it is no one's concern but the disk's.
pub(super) fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > ABANDONED));
        if old && entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

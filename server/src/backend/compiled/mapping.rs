//! A file that is mapped: its pages are read when they are used, and shared by every process that maps it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::{self, NonNull};

use crate::backend::LoadError;

/// The weights, read-only and at the start of a page.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the pages are only read.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file that must have so many bytes. A file of none need not be there.
    pub fn open(path: &Path, expected: u64) -> Result<Self, LoadError> {
        if expected == 0 {
            return Ok(Self { start: NonNull::dangling(), length: 0 });
        }
        let unreadable = |source| LoadError::ModelUnreadable { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?.len();
        if found != expected {
            return Err(LoadError::ModelRefused {
                path: path.to_owned(),
                operator: None,
                file: None,
                locale: None,
                message: format!("it has {found} bytes, expected {expected} by the library: they are not of one model"),
            });
        }
        let too_large = || unreadable(std::io::Error::from(std::io::ErrorKind::FileTooLarge));
        let length = usize::try_from(found).map_err(|_| too_large())?;
        // SAFETY: a new mapping of an open file; it is kept open by the mapping itself.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(place) if start != libc::MAP_FAILED => Ok(Self { start: place, length }),
            _ => Err(unreadable(std::io::Error::last_os_error())),
        }
    }

    /// Where it starts.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: it was mapped with this length, and nothing points into it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}

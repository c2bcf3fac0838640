//! The image's files as the page cache sees them: [`ImageFiles`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rustix::fs::{Advice, fadvise};
use walkdir::WalkDir;

use super::error::ColdStartError;
use crate::report::cold_start::TouchedFile;

/// How often a file's pages are dropped before they count as staying: the kernel keeps new ones in batches for a moment.
const TRIES: usize = 5;

/// The regular files of an unpacked image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFiles {
    files: Vec<ImageFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ImageFile {
    /// In the image.
    path: String,
    /// On this machine.
    place: PathBuf,
    inode: u64,
    size: u64,
}

/// How many of the files' bytes are in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Bytes in memory, in whole pages.
    pub bytes: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Resident {
    /// Whether a start would find next to nothing in memory: less than one byte in a hundred.
    #[must_use]
    pub fn is_cold(self) -> bool {
        self.bytes.saturating_mul(100) <= self.total
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ColdStartError + use<> {
    let path = path.to_owned();
    move |source| ColdStartError::File { action, path, source }
}

impl ImageFiles {
    /// Finds the files of folders that lie over one another, the lowest first. A file with several names is listed once.
    ///
    /// # Errors
    /// Where a folder cannot be read.
    pub fn find(folders: &[PathBuf]) -> Result<Self, ColdStartError> {
        let mut found = BTreeMap::new();
        for folder in folders {
            for entry in WalkDir::new(folder).min_depth(1) {
                let entry = entry.map_err(|error| {
                    let path = error.path().unwrap_or(folder).to_owned();
                    failed("read", &path)(error.into())
                })?;
                let path = format!("/{}", entry.path().strip_prefix(folder).unwrap_or(entry.path()).display());
                let metadata = entry.metadata().map_err(|error| failed("read", entry.path())(error.into()))?;
                let identity = (metadata.dev(), metadata.ino());
                if metadata.is_file() && metadata.len() > 0 {
                    found.insert(
                        path.clone(),
                        (identity, ImageFile { path, place: entry.into_path(), inode: metadata.ino(), size: metadata.len() }),
                    );
                } else {
                    // Something else has taken a lower file's place.
                    found.remove(&path);
                }
            }
        }
        let mut seen = BTreeSet::new();
        let files = found.into_values().filter(|(identity, _)| seen.insert(*identity)).map(|(_, file)| file).collect();
        Ok(Self { files })
    }

    /// Writes every file back and drops it from the page cache, and tells what is left in it.
    ///
    /// # Errors
    /// Where a file cannot be opened or written back.
    pub fn drop_from_cache(&self) -> Result<Resident, ColdStartError> {
        let mut left = Resident::default();
        for file in &self.files {
            let open = file.open()?;
            // Pages that are not on the disk yet cannot be dropped.
            open.sync_data().map_err(failed("write back", &file.place))?;
            let mut resident = file.size;
            for _ in 0..TRIES {
                fadvise(&open, 0, None, Advice::DontNeed).map_err(|error| failed("drop", &file.place)(error.into()))?;
                resident = file.resident(&open)?;
                if resident == 0 {
                    break;
                }
            }
            left.bytes += resident;
            left.total += file.size;
        }
        Ok(left)
    }

    /// Reads every file, so that all are in the page cache where memory allows it.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn read_into_cache(&self) -> Result<(), ColdStartError> {
        for file in &self.files {
            io::copy(&mut file.open()?, &mut io::sink()).map_err(failed("read", &file.place))?;
        }
        Ok(())
    }

    /// Tells how much of each file was needed, the largest part first; files of which nothing was are left out.
    ///
    /// What is in memory is more, as the kernel reads ahead: up to whole libraries. Of a file that the process has mapped, only the
    /// pages that it has in its own page tables count, where the kernel tells them.
    ///
    /// # Errors
    /// Where a file cannot be opened or mapped.
    pub fn touched(&self, process: Option<u32>) -> Result<Vec<TouchedFile>, ColdStartError> {
        let smaps = process.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/smaps")).ok()).unwrap_or_default();
        let mapped = mapped_bytes(&smaps);
        let mut touched = Vec::new();
        for file in &self.files {
            let resident = file.resident(&file.open()?)?;
            let bytes = mapped.get(&file.inode).map_or(resident, |mapped| resident.min(*mapped));
            if bytes > 0 {
                touched.push(TouchedFile { path: file.path.clone(), size: file.size, touched: bytes });
            }
        }
        touched.sort_by(|a, b| b.touched.cmp(&a.touched).then_with(|| a.path.cmp(&b.path)));
        Ok(touched)
    }
}

impl ImageFile {
    fn open(&self) -> Result<File, ColdStartError> {
        File::open(&self.place).map_err(failed("open", &self.place))
    }

    /// Bytes of the file that are in memory; the last page counts only as far as the file goes.
    fn resident(&self, file: &File) -> Result<u64, ColdStartError> {
        // SAFETY: the mapping is never read, only asked about, so that it does not matter who writes to the file.
        let map = unsafe { Mmap::map(file) }.map_err(failed("map", &self.place))?;
        // SAFETY: `sysconf` has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a page has a size");
        let mut pages = vec![0_u8; map.len().div_ceil(page)];
        // SAFETY: the range is that of a live mapping, and there is a byte for each of its pages.
        let answer = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr()) };
        if answer != 0 {
            return Err(failed("ask what is in memory of", &self.place)(io::Error::last_os_error()));
        }
        let count = pages.iter().filter(|page| **page & 1 == 1).count();
        Ok(((count * page) as u64).min(self.size))
    }
}

/// The bytes of each file, by inode, that a process has in its page tables, by `/proc/PID/smaps`.
fn mapped_bytes(smaps: &str) -> BTreeMap<u64, u64> {
    let mut mapped = BTreeMap::new();
    let mut inode = 0;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["Rss:", kibibytes, "kB"] if inode != 0 => {
                *mapped.entry(inode).or_default() += kibibytes.parse::<u64>().unwrap_or(0) << 10;
            }
            // The head of a mapping: addresses, rights, offset, device, inode, path.
            [addresses, _, _, device, number, ..] if addresses.contains('-') && device.contains(':') => {
                inode = number.parse().unwrap_or(0);
            }
            _ => {}
        }
    }
    mapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_a_mapped_file_are_added_up() {
        let smaps = "\
7f00-7f10 r-xp 00000000 fe:00 42    /usr/lib/a b.so\nSize: 64 kB\nRss:   16 kB\nPss: 1 kB\n\
7f10-7f20 r--p 00010000 fe:00 42    /usr/lib/a b.so\nRss:    4 kB\nVmFlags: rd mr mw me\n\
7f20-7f30 rw-p 00000000 00:00 0\nRss:  100 kB\n\
7f30-7f40 r--p 00000000 fe:00 43    /models/m\nRss:    0 kB\n";
        assert_eq!(mapped_bytes(smaps), BTreeMap::from([(42, 20 << 10), (43, 0)]));
        assert_eq!(mapped_bytes("nonsense"), BTreeMap::new());
    }

    #[test]
    fn what_is_read_is_in_memory_and_what_is_dropped_is_not() {
        // Not in /tmp, which may itself be memory.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let (low, high) = (folder.path().join("low"), folder.path().join("high"));
        for place in [&low, &high] {
            fs::create_dir_all(place.join("etc")).expect("a folder");
        }
        fs::write(low.join("etc/a"), vec![1; 300_000]).expect("a file");
        fs::hard_link(low.join("etc/a"), low.join("b")).expect("a second name");
        fs::write(low.join("etc/c"), b"low").expect("a file");
        fs::write(high.join("etc/c"), b"upper").expect("a file");
        fs::write(high.join("empty"), b"").expect("a file");
        let files = ImageFiles::find(&[low, high]).expect("they are found");
        let names: Vec<_> = files.files.iter().map(|file| (file.path.as_str(), file.size)).collect();
        assert_eq!(names, [("/b", 300_000), ("/etc/c", 5)]);
        files.read_into_cache().expect("they are read");
        let touched = files.touched(None).expect("they are seen");
        assert_eq!(touched[0], TouchedFile { path: "/b".to_owned(), size: 300_000, touched: 300_000 });
        assert_eq!(touched[1].touched, 5);
        let left = files.drop_from_cache().expect("they are dropped");
        assert_eq!(left.total, 300_005);
        assert!(left.is_cold(), "{left:?}");
    }
}

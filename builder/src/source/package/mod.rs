//! What is in a package file: [`Package`].
//!
//! Wheels, Debian packages, `tar` and `zip` archives, single files and directories all read as one list of entries, from which
//! chosen files are taken into the store. Nothing is ever unpacked into a folder. The list is kept in the store's records, and
//! so is the digest of every file that was taken out, so that a later build opens no archive at all.

mod archive;
mod deb;
mod error;
pub(super) mod folder;
mod wheel;

#[cfg(test)]
mod tests;

pub use error::PackageError;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use super::{Glob, Pin, SourceKind};
use crate::digest::Digest;
use crate::store::{Blob, Store};
use crate::tree::{ImagePath, Origin};

/// Raised when the list of a package's entries is made or written differently.
const INDEX_VERSION: u32 = 1;
/// Bytes of the longest text that is read into memory: control files, licences, lists.
const TEXT_LIMIT: u64 = 16 << 20;
/// Entries of the largest package that is believed.
const ENTRY_LIMIT: usize = 1 << 20;

/// A package file that was obtained, and what is in it.
#[derive(Debug, Clone)]
pub struct Package {
    pin: Pin,
    blob: Blob,
    format: Format,
    index: Index,
}

/// How a package file is laid out, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Wheel,
    Zip,
    Deb,
    Tar(Codec),
    Single,
    Directory,
}

/// How a `tar` archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

/// What is in a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    /// The licence as the package names it.
    licence: Option<String>,
    /// Of a Debian package: its control file.
    control: Option<String>,
    /// Of a Debian package: its list of MD5 digests.
    md5sums: Option<String>,
    /// By path.
    entries: Vec<PackageEntry>,
}

/// One entry of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageEntry {
    /// Relative path without `.` and `..`.
    pub path: String,
    /// `0o755` for directories and for files that anyone may execute, `0o644` for others: whatever umask packed them.
    pub mode: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of a package is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its bytes.
        size: u64,
        /// Its bytes in the package, where each file is compressed by itself.
        compressed: Option<u64>,
        /// Its digest, where the package says so.
        digest: Option<Digest>,
    },
    /// A symbolic link.
    Symlink {
        /// What it points at, as written.
        target: String,
    },
    /// Another name for a file of the package.
    HardLink {
        /// The path of that file.
        target: String,
    },
}

impl Format {
    fn of(pin: &Pin) -> Self {
        let file = pin.file.to_ascii_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| file.ends_with(suffix));
        match pin.kind {
            SourceKind::Directory => Self::Directory,
            _ if ends(&[".whl"]) => Self::Wheel,
            _ if ends(&[".deb"]) => Self::Deb,
            _ if ends(&[".zip"]) => Self::Zip,
            _ if ends(&[".tar"]) => Self::Tar(Codec::Plain),
            _ if ends(&[".tar.gz", ".tgz"]) => Self::Tar(Codec::Gzip),
            _ if ends(&[".tar.xz", ".txz"]) => Self::Tar(Codec::Xz),
            _ if ends(&[".tar.zst", ".tzst"]) => Self::Tar(Codec::Zstd),
            _ => Self::Single,
        }
    }
}

impl Package {
    /// Lists what is in a package file.
    ///
    /// # Errors
    /// Where the file is damaged, is another package than its name says, or holds entries that could leave an image's folders.
    pub fn open(pin: &Pin, blob: &Blob, store: &Store) -> Result<Self, PackageError> {
        let format = Format::of(pin);
        let key = Digest::of(format!("{INDEX_VERSION} {format:?} {} {} {}", pin.name, pin.version, blob.digest).as_bytes());
        let known = store.record("package-index", &key).and_then(|record| serde_json::from_slice::<Index>(&record).ok());
        let index = match known {
            Some(index) => index,
            None => {
                let index = Self::read_index(pin, blob, format)?;
                let record = serde_json::to_vec(&index).expect("an index is plain data");
                store.put_record("package-index", &key, &record)?;
                index
            }
        };
        Ok(Self { pin: pin.clone(), blob: blob.clone(), format, index })
    }

    fn read_index(pin: &Pin, blob: &Blob, format: Format) -> Result<Index, PackageError> {
        let bare = |entries| Index { licence: None, control: None, md5sums: None, entries };
        let mut index = match format {
            Format::Wheel => wheel::index(pin, blob)?,
            Format::Deb => deb::index(pin, blob)?,
            Format::Zip => bare(wheel::list(&mut wheel::open(&pin.file, blob, "zip archive")?, &pin.file, "zip archive")?),
            Format::Tar(codec) => bare(archive::list(archive::decoder(open(blob)?, codec), &pin.file, "tar archive")?),
            Format::Directory => bare(folder::read(pin, blob)?),
            Format::Single => {
                let kind = EntryKind::File { size: blob.size, compressed: None, digest: Some(blob.digest) };
                bare(vec![PackageEntry { path: checked_path(&pin.file, &pin.file)?, mode: 0o644, kind }])
            }
        };
        index.entries = in_order(index.entries, &pin.file)?;
        Ok(index)
    }

    /// What the lock says of it.
    #[must_use]
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// From where entries of an image that are made of its files come.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.pin.origin()
    }

    /// The licence as the package names it; a Debian package does not, it has a copyright file.
    #[must_use]
    pub fn licence(&self) -> Option<&str> {
        self.index.licence.as_deref()
    }

    /// The control file of a Debian package.
    #[must_use]
    pub fn control(&self) -> Option<&str> {
        self.index.control.as_deref()
    }

    /// The list of MD5 digests of a Debian package, a line `digest  path` a file.
    #[must_use]
    pub fn md5sums(&self) -> Option<&str> {
        self.index.md5sums.as_deref()
    }

    /// Its entries by path.
    #[must_use]
    pub fn entries(&self) -> &[PackageEntry] {
        &self.index.entries
    }

    /// The entry of a path.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<&PackageEntry> {
        let at = self.index.entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()?;
        Some(&self.index.entries[at])
    }

    /// Bytes of all its files, unpacked: what installing the whole package costs.
    #[must_use]
    pub fn unpacked_size(&self) -> u64 {
        let size = |entry: &PackageEntry| if let EntryKind::File { size, .. } = entry.kind { size } else { 0 };
        self.index.entries.iter().map(size).sum()
    }

    /// Bytes that downloading it costs: those of the package file. A directory is not compressed.
    #[must_use]
    pub fn download_size(&self) -> u64 {
        if self.format == Format::Directory { self.unpacked_size() } else { self.blob.size }
    }

    /// The entries that a pattern matches, by path.
    pub fn matching<'a, 'p>(&'a self, pattern: &'p Glob) -> impl Iterator<Item = &'a PackageEntry> + use<'a, 'p> {
        self.index.entries.iter().filter(|entry| pattern.matches(&entry.path))
    }

    /// The regular files of the first pattern that matches any: patterns are alternatives, the best one first.
    ///
    /// # Errors
    /// [`PackageError::NoEntry`] where no pattern matches a regular file.
    pub fn files_of(&self, patterns: &[Glob]) -> Result<Vec<&PackageEntry>, PackageError> {
        for pattern in patterns {
            let found: Vec<_> = self.matching(pattern).filter(|entry| matches!(entry.kind, EntryKind::File { .. })).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let patterns: Vec<&str> = patterns.iter().map(Glob::as_str).collect();
        Err(self.no_entry(&patterns.join("` or `")))
    }

    /// The regular file that a path leads to, over links within the package. An absolute link begins at the package's root.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<&PackageEntry> {
        let mut path = path.to_owned();
        for _ in 0..40 {
            let mut prefix = String::new();
            let mut followed = None;
            for part in path.split('/') {
                let parent = prefix.len();
                if parent > 0 {
                    prefix.push('/');
                }
                prefix.push_str(part);
                if let Some(PackageEntry { kind: EntryKind::Symlink { target }, .. }) = self.entry(&prefix) {
                    let base = if target.starts_with('/') { "" } else { &prefix[..parent] };
                    followed = Some(format!("{base}/{target}/{}", &path[prefix.len()..]));
                    break;
                }
            }
            let Some(unresolved) = followed else {
                let entry = self.entry(&path)?;
                match &entry.kind {
                    EntryKind::HardLink { target } => {
                        path.clone_from(target);
                        continue;
                    }
                    EntryKind::File { .. } => return Some(entry),
                    _ => return None,
                }
            };
            let mut parts = Vec::new();
            for part in unresolved.split('/') {
                match part {
                    "" | "." => {}
                    ".." => drop(parts.pop()?),
                    part => parts.push(part),
                }
            }
            path = parts.join("/");
        }
        None
    }

    /// Takes files into the store, following links, in the order of the paths. What was taken before is found there.
    ///
    /// # Errors
    /// [`PackageError::NoEntry`] where a path leads to no file of the package; [`PackageError::Digest`] and
    /// [`PackageError::Size`] where a file is not as the package says; or where the package is damaged.
    pub fn extract(&self, paths: &[&str], store: &Store) -> Result<Vec<Blob>, PackageError> {
        let mut found: BTreeMap<&str, Option<Blob>> = BTreeMap::new();
        let mut real = Vec::new();
        for path in paths {
            let entry = self.resolve(path).ok_or_else(|| self.no_entry(path))?;
            real.push(&*entry.path);
            found.insert(&entry.path, self.taken_before(entry, store)?);
        }
        let missing: Vec<&PackageEntry> =
            found.iter().filter(|(_, blob)| blob.is_none()).filter_map(|(path, _)| self.entry(path)).collect();
        if !missing.is_empty() {
            let mut take = |entry: &PackageEntry, content: &mut dyn Read| -> Result<(), PackageError> {
                let Some(slot) = found.get_mut(entry.path.as_str()) else { return Ok(()) };
                *slot = Some(self.take(entry, content, store)?);
                Ok(())
            };
            match self.format {
                Format::Wheel | Format::Zip => wheel::read(&self.pin.file, &self.blob, &missing, &mut take)?,
                Format::Deb => deb::read(&self.pin.file, &self.blob, &missing, &mut take)?,
                Format::Tar(codec) => {
                    archive::read(
                        archive::decoder(open(&self.blob)?, codec),
                        &self.pin.file,
                        "tar archive",
                        &missing,
                        &mut take,
                    )?;
                }
                // Their files are in the store since they were locked; one that was damaged since is not found.
                Format::Single | Format::Directory => {}
            }
        }
        let blob = |path: &&str| found.get(path).cloned().flatten().ok_or_else(|| self.no_entry(path));
        real.iter().map(blob).collect()
    }

    /// Reads a small file, such as a licence.
    ///
    /// # Errors
    /// As for [`Package::extract`], and where the file has more than 16 MiB.
    pub fn read(&self, path: &str, store: &Store) -> Result<Vec<u8>, PackageError> {
        let blobs = self.extract(&[path], store)?;
        let [blob] = &blobs[..] else { return Err(self.no_entry(path)) };
        if blob.size > TEXT_LIMIT {
            let (file, entry) = (self.pin.file.clone(), path.to_owned());
            return Err(PackageError::Size { file, entry, actual: blob.size, expected: TEXT_LIMIT });
        }
        std::fs::read(&blob.path).map_err(|source| PackageError::Io { action: "read", path: blob.path.clone(), source })
    }

    fn taken_before(&self, entry: &PackageEntry, store: &Store) -> Result<Option<Blob>, PackageError> {
        let known = match entry.kind {
            EntryKind::File { digest: Some(digest), .. } => Some(digest),
            _ => store.record("package-file", &self.file_key(entry)).and_then(|record| serde_json::from_slice(&record).ok()),
        };
        known.map_or(Ok(None), |digest| Ok(store.find(&digest)?))
    }

    fn file_key(&self, entry: &PackageEntry) -> Digest {
        Digest::of(format!("{} {:?} {}", self.blob.digest, self.format, entry.path).as_bytes())
    }

    /// Takes one file into the store if it is what the package says.
    fn take(&self, entry: &PackageEntry, content: &mut dyn Read, store: &Store) -> Result<Blob, PackageError> {
        let EntryKind::File { size, digest, .. } = entry.kind else { return Err(self.no_entry(&entry.path)) };
        let names = || (self.pin.file.clone(), entry.path.clone());
        let mut writer = store.writer()?;
        let mut content = content.take(size.saturating_add(1));
        copy(&mut content, &mut writer, &self.pin.file, &entry.path)?;
        if writer.written() != size {
            let (file, entry) = names();
            return Err(PackageError::Size { file, entry, actual: writer.written(), expected: size });
        }
        let blob = match digest {
            None => writer.finish()?,
            Some(digest) => match writer.finish_expecting(&digest) {
                Err(crate::store::StoreError::Digest { actual, expected }) => {
                    let (file, entry) = names();
                    return Err(PackageError::Digest { file, entry, actual, expected });
                }
                finished => finished?,
            },
        };
        if digest.is_none() {
            let record = serde_json::to_vec(&blob.digest).expect("a digest is plain data");
            store.put_record("package-file", &self.file_key(entry), &record)?;
        }
        Ok(blob)
    }

    fn no_entry(&self, path: &str) -> PackageError {
        let name = path.rsplit('/').next().unwrap_or(path);
        let likeness = |entry: &&PackageEntry| {
            let other = entry.path.rsplit('/').next().unwrap_or(&entry.path);
            (strsim::jaro_winkler(name, other) * 1000.0) as u32
        };
        let nearest = self.index.entries.iter().filter(|entry| likeness(entry) > 850).max_by_key(likeness);
        PackageError::NoEntry {
            file: self.pin.file.clone(),
            entry: path.to_owned(),
            nearest: nearest.map(|entry| entry.path.clone()),
        }
    }
}

/// Receives a file of a package.
type Visit<'a> = dyn FnMut(&PackageEntry, &mut dyn Read) -> Result<(), PackageError> + 'a;

fn open(blob: &Blob) -> Result<std::fs::File, PackageError> {
    std::fs::File::open(&blob.path).map_err(|source| PackageError::Io { action: "read", path: blob.path.clone(), source })
}

fn format_error(file: &str, expected: &'static str, reason: impl ToString) -> PackageError {
    PackageError::Format { file: file.to_owned(), expected, reason: reason.to_string() }
}

fn entry_error(file: &str, entry: &str, reason: &'static str) -> PackageError {
    PackageError::Entry { file: file.to_owned(), entry: entry.to_owned(), reason }
}

/// Copies an entry's bytes, telling apart a package that cannot be read and a store that cannot be written.
fn copy(from: &mut dyn Read, to: &mut dyn Write, file: &str, entry: &str) -> Result<(), PackageError> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(format_error(file, "package", format!("`{entry}`: {error}"))),
        };
        let failed = |source| PackageError::Io { action: "write to the store the file", path: entry.into(), source };
        to.write_all(&buffer[..count]).map_err(failed)?;
    }
}

/// Reads a text that is kept in memory.
fn read_text(from: &mut dyn Read, file: &str, entry: &str) -> Result<String, PackageError> {
    let mut bytes = Vec::new();
    copy(&mut from.take(TEXT_LIMIT + 1), &mut bytes, file, entry)?;
    if bytes.len() as u64 > TEXT_LIMIT {
        return Err(entry_error(file, entry, "which is too long for a text (16 MiB)"));
    }
    String::from_utf8(bytes).map_err(|_| entry_error(file, entry, "which is not UTF-8"))
}

/// A relative path without `.`, `..` and what else cannot be in an image. A leading `./` and a trailing `/` go.
fn checked_path(file: &str, path: &str) -> Result<String, PackageError> {
    let error = |reason| entry_error(file, path, reason);
    let plain = path.strip_prefix("./").unwrap_or(path);
    let plain = plain.strip_suffix('/').unwrap_or(plain);
    if plain.starts_with('/') {
        return Err(error("an absolute path"));
    }
    if plain.contains('\\') {
        return Err(error("which has a backslash"));
    }
    format!("/{plain}").parse::<ImagePath>().map_err(|cause| error(cause.reason))?;
    Ok(plain.to_owned())
}

fn checked_mode(mode: u32) -> u32 {
    if mode & 0o111 == 0 { 0o644 } else { 0o755 }
}

/// Sorts entries by path; refuses two of one path, and entries below something that is no directory.
fn in_order(entries: Vec<PackageEntry>, file: &str) -> Result<Vec<PackageEntry>, PackageError> {
    let mut by_path: BTreeMap<String, PackageEntry> = BTreeMap::new();
    for entry in entries {
        if let Some(other) = by_path.get(&entry.path)
            && (entry.kind != EntryKind::Directory || other.kind != EntryKind::Directory)
        {
            return Err(entry_error(file, &entry.path, "which is there twice"));
        }
        by_path.insert(entry.path.clone(), entry);
    }
    for path in by_path.keys() {
        let mut parent = path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            if by_path.get(above).is_some_and(|entry| entry.kind != EntryKind::Directory) {
                return Err(entry_error(file, path, "which lies below a file or a link"));
            }
            parent = above;
        }
    }
    Ok(by_path.into_values().collect())
}

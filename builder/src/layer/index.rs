//! What the layers of an image come to, without unpacking them: [`Index`].

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ReadError;
use super::read::{LayerReader, Limits, MemberKind, shown};
use super::resolve::{Node, resolve};
use super::unpack::{copy, opening};
use crate::image::{Blobs, Descriptor, open_verified};
use crate::tree::ImagePath;

/// The merged file system of an image's layers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Index {
    entries: BTreeMap<PathBuf, IndexEntry>,
    layers: Vec<LayerTotals>,
}

/// What one layer holds, whatever other layers make of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTotals {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of the uncompressed tar.
    pub tar: u64,
}

/// One entry of an image's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    /// What it is.
    pub kind: IndexKind,
    /// Permission bits.
    pub mode: u32,
    /// Which layer it comes from, the lowest being 0.
    pub layer: usize,
    /// Which of that layer's members has the content.
    member: u64,
    /// Which layer that member is in: a hard link's content may lie in a lower one.
    content_layer: usize,
}

/// What an entry of an image's file system is. Devices and pipes are left out, as they are where it is unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// What it points at, as written.
        target: PathBuf,
    },
}

impl IndexEntry {
    /// Where its content is: the layer, and the number of the member in it.
    pub(crate) fn content(&self) -> (usize, u64) {
        (self.content_layer, self.member)
    }
}

impl Index {
    /// Reads an image's layers, the lowest first, checking their digests.
    ///
    /// # Errors
    /// Where a layer cannot be read, or is damaged, larger than allowed or hostile.
    pub fn of(layers: &[Descriptor], blobs: &dyn Blobs, limits: &Limits) -> Result<Self, ReadError> {
        let mut index = Self::default();
        let mut limits = *limits;
        for (number, layer) in layers.iter().enumerate() {
            index.add(open_verified(blobs, layer).map_err(opening(number))?, &mut limits)?;
        }
        Ok(index)
    }

    /// Adds a layer on top of those before, taking what it holds from the limits.
    ///
    /// # Errors
    /// Where the layer is damaged, larger than allowed or hostile.
    pub fn add(&mut self, reader: impl Read, limits: &mut Limits) -> Result<(), ReadError> {
        let layer = self.layers.len();
        let mut totals = LayerTotals::default();
        let mut reader = LayerReader::new(reader, layer, *limits)?;
        let mut number = 0;
        while let Some(member) = reader.next_member()? {
            let this = number;
            number += 1;
            if member.kind == MemberKind::Ignored {
                continue;
            }
            let refuse = |reason| ReadError::Place { layer, name: shown(&member.path), reason };
            let place = |parent: Option<&Path>, name: Option<&std::ffi::OsStr>| {
                let (Some(parent), Some(name)) = (parent, name) else { return Ok(PathBuf::new()) };
                Ok(self.directory(parent).map_err(refuse)?.join(name))
            };
            let path = place(member.path.parent(), member.path.file_name())?;
            let kind = match member.kind {
                MemberKind::Ignored => None,
                MemberKind::Opaque => {
                    let directory = self.directory(&member.path).map_err(refuse)?;
                    self.remove(&directory, |at, entry| at == directory || entry.layer == layer);
                    None
                }
                MemberKind::Whiteout => {
                    self.remove(&path, |_, entry| entry.layer == layer);
                    None
                }
                MemberKind::Directory => Some((IndexKind::Directory, this, layer)),
                MemberKind::File => {
                    totals.files += 1;
                    totals.bytes += member.size;
                    Some((IndexKind::File { size: member.size }, this, layer))
                }
                MemberKind::Symlink(target) => Some((IndexKind::Symlink { target }, this, layer)),
                MemberKind::Special => {
                    self.make_directories(&path, layer);
                    self.remove(&path, |_, _| false);
                    None
                }
                MemberKind::HardLink(target) => {
                    let target = place(target.parent(), target.file_name())?;
                    if target != path && target.starts_with(&path) {
                        return Err(refuse("it is a hard link to a file below itself"));
                    }
                    match self.entries.get(&target) {
                        Some(found) if found.kind != IndexKind::Directory => {
                            Some((found.kind.clone(), found.member, found.content_layer))
                        }
                        _ => return Err(refuse("it is a hard link to a file that is not there")),
                    }
                }
            };
            if let Some((kind, member_number, content_layer)) = kind
                && !path.as_os_str().is_empty()
            {
                self.make_directories(&path, layer);
                let stays = kind == IndexKind::Directory
                    && self.entries.get(&path).is_some_and(|entry| entry.kind == IndexKind::Directory);
                if !stays {
                    self.remove(&path, |_, _| false);
                }
                self.entries.insert(path, IndexEntry { kind, mode: member.mode, layer, member: member_number, content_layer });
            }
        }
        limits.bytes -= reader.tar_bytes();
        limits.members -= reader.members();
        totals.tar = reader.tar_bytes();
        self.layers.push(totals);
        Ok(())
    }

    /// What each layer holds, lowest first.
    #[must_use]
    pub fn totals(&self) -> &[LayerTotals] {
        &self.layers
    }

    /// The entry at a path that has no links among its directories.
    #[must_use]
    pub fn get(&self, path: &ImagePath) -> Option<&IndexEntry> {
        self.entries.get(Path::new(path.as_str()))
    }

    /// All entries in the order of their paths, but for those whose names are not UTF-8.
    pub fn entries(&self) -> impl Iterator<Item = (ImagePath, &IndexEntry)> {
        self.entries.iter().filter_map(|(path, entry)| Some((format!("/{}", path.to_str()?).parse().ok()?, entry)))
    }

    /// Where a path leads once all links are followed; `None` where nothing is there.
    #[must_use]
    pub fn resolve(&self, path: &ImagePath) -> Option<ImagePath> {
        let found = self.leads_to(Path::new(path.as_str())).ok()?;
        self.entries.contains_key(&found).then(|| format!("/{}", found.to_str()?).parse().ok())?
    }

    /// Writes chosen files below a folder, under their own paths; gives the file of each. Only layers that hold one of them are
    /// read, their digests checked.
    ///
    /// # Errors
    /// Where a path is no regular file of the image, a layer cannot be read, or the folder cannot be written.
    pub fn extract<'a>(
        &self,
        wanted: impl IntoIterator<Item = &'a ImagePath>,
        layers: &[Descriptor],
        blobs: &dyn Blobs,
        folder: &Path,
        limits: &Limits,
    ) -> Result<BTreeMap<ImagePath, PathBuf>, ReadError> {
        let mut by_layer: BTreeMap<usize, BTreeMap<u64, Vec<&ImagePath>>> = BTreeMap::new();
        for path in wanted {
            let entry = self.get(path).filter(|entry| matches!(entry.kind, IndexKind::File { .. }));
            let entry = entry.ok_or_else(|| ReadError::NotThere { path: path.clone() })?;
            by_layer.entry(entry.content_layer).or_default().entry(entry.member).or_default().push(path);
        }
        let mut extracted = BTreeMap::new();
        for (layer, members) in by_layer {
            let Some(descriptor) = layers.get(layer) else {
                let path = members.into_values().flatten().next().expect("only layers with files are listed").clone();
                return Err(ReadError::NotThere { path });
            };
            let blob = open_verified(blobs, descriptor).map_err(opening(layer))?;
            let mut reader = LayerReader::new(blob, layer, *limits)?;
            let mut number = 0;
            while reader.next_member()?.is_some() {
                let mut content: Option<PathBuf> = None;
                for path in members.get(&number).into_iter().flatten() {
                    let at = folder.join(path.as_str());
                    let failed = |action, at: &Path| {
                        let path = at.to_owned();
                        move |source| ReadError::Write { action, path, source }
                    };
                    let parent = at.parent().unwrap_or(folder);
                    fs::create_dir_all(parent).map_err(failed("create the folder", parent))?;
                    match &content {
                        Some(same) => drop(fs::copy(same, &at).map_err(failed("write", &at))?),
                        None => {
                            let file = OpenOptions::new().write(true).create_new(true).open(&at);
                            copy(&mut reader, &file.map_err(failed("create", &at))?, &at)?;
                            content = Some(at.clone());
                        }
                    }
                    extracted.insert((*path).clone(), at);
                }
                number += 1;
            }
        }
        Ok(extracted)
    }

    fn look(&self, path: &Path) -> Node {
        match self.entries.get(path).map(|entry| &entry.kind) {
            None => Node::Missing,
            Some(IndexKind::Directory) => Node::Directory,
            Some(IndexKind::Symlink { target }) => Node::Symlink(target.clone()),
            Some(IndexKind::File { .. }) => Node::Other,
        }
    }

    fn leads_to(&self, path: &Path) -> Result<PathBuf, &'static str> {
        match resolve::<Infallible>(path, |path| Ok(self.look(path))) {
            Ok(found) => found,
            Err(never) => match never {},
        }
    }

    /// Where a path leads that is to be a directory, as an absolute path without an end; empty for the root.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub(crate) fn directory_at(&self, path: &ImagePath) -> Result<String, &'static str> {
        let found = self.directory(Path::new(path.as_str()))?;
        match found.to_str() {
            Some("") => Ok(String::new()),
            Some(found) => Ok(format!("/{found}")),
            None => Err("its name is not UTF-8"),
        }
    }

    /// Where a path leads that has to be a directory if it is anything.
    fn directory(&self, path: &Path) -> Result<PathBuf, &'static str> {
        let found = self.leads_to(path)?;
        match self.look(&found) {
            Node::Other => Err("a file lies where its directory should be"),
            _ => Ok(found),
        }
    }

    fn make_directories(&mut self, path: &Path, layer: usize) {
        for directory in path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()) {
            if !self.entries.contains_key(directory) {
                let made = IndexEntry { kind: IndexKind::Directory, mode: 0o755, layer, member: 0, content_layer: layer };
                self.entries.insert(directory.to_owned(), made);
            }
        }
    }

    /// Removes what lies at a path and below, but for what is kept and the directories above that.
    fn remove(&mut self, path: &Path, keep: impl Fn(&Path, &IndexEntry) -> bool) {
        let below = self.entries.range(path.to_owned()..).take_while(|(at, _)| at.starts_with(path));
        let gone: Vec<PathBuf> = below.filter(|(at, entry)| !keep(at, entry)).map(|(at, _)| at.clone()).collect();
        // The deepest first: what a directory still has then is kept, and so is the directory.
        for at in gone.into_iter().rev() {
            let next = self.entries.range::<Path, _>((Bound::Excluded(at.as_path()), Bound::Unbounded)).next();
            if next.is_none_or(|(next, _)| !next.starts_with(&at)) {
                self.entries.remove(&at);
            }
        }
    }
}

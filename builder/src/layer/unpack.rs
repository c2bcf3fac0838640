//! Unpacks layers on top of each other into a folder, and never outside of it.
//!
//! Links in the way to a member are followed as if the folder were the root of the system, and a member never writes *through*
//! anything: what lies at its path is removed first, so that neither a symbolic nor a hard link redirects it.
//! Nothing else may write to the folder meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::ReadError;
use super::read::{LayerReader, Limits, Member, MemberKind, shown};
use super::resolve::{Node, resolve};
use crate::image::{Blobs, Descriptor, open_verified};
use crate::progress::Progress;

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Regular files written, those of lower layers that upper ones replaced included.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Devices and pipes that were left out.
    pub skipped: u64,
}

/// Unpacks layers, the lowest first, into an empty folder.
#[derive(Debug)]
pub struct Unpacker {
    root: PathBuf,
    limits: Limits,
    layer: usize,
    /// Modes of directories, which are set at the end: a directory may forbid to write into it.
    modes: BTreeMap<PathBuf, u32>,
    /// What the current layer has put in place: its marks for deletions are about lower layers only.
    own: BTreeSet<PathBuf>,
    unpacked: Unpacked,
}

/// Unpacks the layers of an image, the lowest first, into a folder that is empty or not there.
///
/// Owners, times and extended attributes are not restored; set-user-ID and set-group-ID bits are dropped, devices and pipes
/// left out. Every blob's digest is checked as it is read: what an error leaves in the folder is not to be used.
///
/// # Errors
/// Where a layer is damaged, larger than allowed or hostile, or the folder cannot be written.
pub fn unpack(
    layers: &[Descriptor],
    blobs: &dyn Blobs,
    destination: &Path,
    limits: &Limits,
    progress: &Progress,
) -> Result<Unpacked, ReadError> {
    let mut unpacker = Unpacker::new(destination, *limits)?;
    let task = progress.task("unpack", Some(layers.iter().map(|layer| layer.size).sum()));
    for (number, layer) in layers.iter().enumerate() {
        let blob = open_verified(blobs, layer).map_err(opening(number))?;
        unpacker.layer(blob)?;
        task.advance(layer.size);
    }
    unpacker.finish()
}

pub(crate) fn opening(layer: usize) -> impl FnOnce(io::Error) -> ReadError {
    move |source| ReadError::Io { layer, place: "its blob".to_owned(), source }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReadError + use<> {
    let path = path.to_owned();
    move |source| ReadError::Write { action, path, source }
}

impl Unpacker {
    /// Begins in a folder that is empty or not there. The limits count for all layers together.
    ///
    /// # Errors
    /// Where the folder is not empty or cannot be made.
    pub fn new(destination: &Path, limits: Limits) -> Result<Self, ReadError> {
        fs::create_dir_all(destination).map_err(failed("create the folder", destination))?;
        let root = fs::canonicalize(destination).map_err(failed("open", destination))?;
        if fs::read_dir(&root).map_err(failed("read", &root))?.next().is_some() {
            return Err(ReadError::NotEmpty { path: root });
        }
        Ok(Self { root, limits, layer: 0, modes: BTreeMap::new(), own: BTreeSet::new(), unpacked: Unpacked::default() })
    }

    /// Unpacks the next layer on top of those before.
    ///
    /// # Errors
    /// Where the layer is damaged, larger than allowed or hostile, or the folder cannot be written.
    pub fn layer(&mut self, reader: impl Read) -> Result<(), ReadError> {
        let mut reader = LayerReader::new(reader, self.layer, self.limits)?;
        self.own.clear();
        while let Some(member) = reader.next_member()? {
            self.place(&member, &mut reader)?;
        }
        self.limits.bytes -= reader.tar_bytes();
        self.limits.members -= reader.members();
        self.layer += 1;
        Ok(())
    }

    /// Sets the modes of directories and ends.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub fn finish(self) -> Result<Unpacked, ReadError> {
        // The deepest first: a directory's mode may hide what lies below.
        for (path, mode) in self.modes.iter().rev() {
            let path = self.root.join(path);
            fs::set_permissions(&path, Permissions::from_mode(mode & 0o1777)).map_err(failed("set the mode of", &path))?;
        }
        Ok(self.unpacked)
    }

    fn place<R: Read>(&mut self, member: &Member, reader: &mut LayerReader<R>) -> Result<(), ReadError> {
        let (Some(parent), Some(name)) = (member.path.parent(), member.path.file_name()) else {
            match member.kind {
                MemberKind::Directory => drop(self.modes.insert(PathBuf::new(), member.mode)),
                MemberKind::Opaque => self.remove_lower_children(Path::new(""))?,
                _ => {}
            }
            return Ok(());
        };
        match &member.kind {
            MemberKind::Ignored => return Ok(()),
            MemberKind::Opaque => {
                let directory = self.resolve(&member.path, &member.path)?;
                return self.remove_lower_children(&directory);
            }
            MemberKind::Whiteout => {
                let path = self.resolve(parent, &member.path)?.join(name);
                return self.remove_lower(&path);
            }
            MemberKind::File | MemberKind::Directory | MemberKind::Symlink(_) | MemberKind::HardLink(_) | MemberKind::Special => {
            }
        }
        let parent = self.resolve(parent, &member.path)?;
        self.make_directories(&parent)?;
        let path = parent.join(name);
        let at = self.root.join(&path);
        match &member.kind {
            MemberKind::Directory => {
                if !matches!(self.look(&path)?, Node::Directory) {
                    self.remove(&path)?;
                    fs::create_dir(&at).map_err(failed("create the folder", &at))?;
                }
                self.modes.insert(path.clone(), member.mode);
            }
            MemberKind::File => {
                self.remove(&path)?;
                let file = OpenOptions::new().write(true).create_new(true).open(&at).map_err(failed("create", &at))?;
                copy(reader, &file, &at)?;
                let mode = Permissions::from_mode(member.mode & 0o777);
                file.set_permissions(mode).map_err(failed("set the mode of", &at))?;
                self.unpacked.files += 1;
                self.unpacked.bytes += member.size;
            }
            MemberKind::Symlink(target) => {
                self.remove(&path)?;
                symlink(target, &at).map_err(failed("create the symbolic link", &at))?;
            }
            MemberKind::HardLink(target) => self.hard_link(target, &path, member)?,
            MemberKind::Special => {
                self.remove(&path)?;
                self.unpacked.skipped += 1;
                return Ok(());
            }
            MemberKind::Ignored | MemberKind::Opaque | MemberKind::Whiteout => unreachable!("handled above"),
        }
        self.own.insert(path);
        Ok(())
    }

    fn hard_link(&mut self, target: &Path, path: &Path, member: &Member) -> Result<(), ReadError> {
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return Err(self.refuse(&member.path, "it is a hard link to the root"));
        };
        let target = self.resolve(parent, &member.path)?.join(name);
        match self.look(&target)? {
            Node::Other | Node::Symlink(_) => {}
            Node::Missing => return Err(self.refuse(&member.path, "it is a hard link to a file that is not there")),
            Node::Directory => return Err(self.refuse(&member.path, "it is a hard link to a directory")),
        }
        if target == path {
            return Ok(());
        }
        if target.starts_with(path) {
            return Err(self.refuse(&member.path, "it is a hard link to a file below itself"));
        }
        self.remove(path)?;
        let (target, at) = (self.root.join(target), self.root.join(path));
        fs::hard_link(&target, &at).map_err(failed("create the hard link", &at))
    }

    fn look(&self, path: &Path) -> Result<Node, ReadError> {
        let at = self.root.join(path);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_symlink() => Ok(Node::Symlink(fs::read_link(&at).map_err(failed("read", &at))?)),
            Ok(metadata) if metadata.is_dir() => Ok(Node::Directory),
            Ok(_) => Ok(Node::Other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Node::Missing),
            Err(source) => Err(ReadError::Write { action: "look at", path: at, source }),
        }
    }

    /// Finds the directory that a path below the root leads to, following links.
    fn resolve(&self, directory: &Path, member: &Path) -> Result<PathBuf, ReadError> {
        let found = resolve(directory, |path| self.look(path))?.map_err(|reason| self.refuse(member, reason))?;
        match self.look(&found)? {
            Node::Other => Err(self.refuse(member, "a file lies where its directory should be")),
            _ => Ok(found),
        }
    }

    fn make_directories(&mut self, directory: &Path) -> Result<(), ReadError> {
        let mut path = PathBuf::new();
        for name in directory.iter() {
            path.push(name);
            if matches!(self.look(&path)?, Node::Missing) {
                let at = self.root.join(&path);
                fs::create_dir(&at).map_err(failed("create the folder", &at))?;
                self.modes.insert(path.clone(), 0o755);
                self.own.insert(path.clone());
            }
        }
        Ok(())
    }

    /// Removes whatever lies at a path.
    fn remove(&mut self, path: &Path) -> Result<(), ReadError> {
        let below = |known: &PathBuf| known.starts_with(path);
        for known in self.modes.range(path.to_owned()..).map(|(known, _)| known.clone()).take_while(below).collect::<Vec<_>>() {
            self.modes.remove(&known);
        }
        for known in self.own.range(path.to_owned()..).cloned().take_while(below).collect::<Vec<_>>() {
            self.own.remove(&known);
        }
        remove_all(&self.root.join(path))
    }

    /// Removes what lower layers have at a path and keeps what this one put there.
    fn remove_lower(&mut self, path: &Path) -> Result<(), ReadError> {
        if self.own.range(path.to_owned()..).next().is_none_or(|next| !next.starts_with(path)) {
            return self.remove(path);
        }
        self.remove_lower_children(path)
    }

    fn remove_lower_children(&mut self, directory: &Path) -> Result<(), ReadError> {
        if !directory.as_os_str().is_empty() && !matches!(self.look(directory)?, Node::Directory) {
            return Ok(());
        }
        let at = self.root.join(directory);
        let names = fs::read_dir(&at).and_then(|found| found.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>());
        for name in names.map_err(failed("read", &at))? {
            self.remove_lower(&directory.join(name))?;
        }
        Ok(())
    }

    fn refuse(&self, member: &Path, reason: &'static str) -> ReadError {
        ReadError::Place { layer: self.layer, name: shown(member), reason }
    }
}

/// Removes a file, a link itself, or a directory with all that is in it; nothing is fine too.
fn remove_all(path: &Path) -> Result<(), ReadError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(failed("remove", path))
}

/// Copies the content of the reader's member, telling errors of the layer from those of the file.
pub(crate) fn copy<R: Read>(reader: &mut LayerReader<R>, mut file: &File, at: &Path) -> Result<(), ReadError> {
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => file.write_all(&buffer[..count]).map_err(failed("write", at))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(reader.io(error)),
        }
    }
}

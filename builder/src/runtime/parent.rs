//! Libraries that the image everything is put upon has already: looked up by the names that something wants.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::candidates::Candidates;
use super::{RuntimeError, RuntimeRequest};
use crate::elf::ElfObject;
use crate::layer::IndexKind;
use crate::link::{LinkError, built_in_directories, parse_cache};
use crate::parent::Parent;
use crate::store::Blob;
use crate::tree::ImagePath;

/// What bases are expected to bring, and the names by which others want it.
const EXPECTED: [(&str, &[&str]); 3] = [
    ("glibc", &["ld-linux", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1"]),
    ("libgcc", &["libgcc_s.so.1"]),
    ("libstdc++", &["libstdc++.so.6"]),
];

impl RuntimeRequest<'_> {
    /// The real path of something that is to be put at a path: directories of the base may be links.
    pub(super) fn place(&self, path: ImagePath) -> Result<ImagePath, RuntimeError> {
        Ok(self.parent.map_or(Ok(path.clone()), |parent| parent.listing.place(&path))?)
    }

    /// Where the stack's libraries go: the template's folder, or one that the base's own loader searches.
    pub(super) fn library_folder(&self) -> Result<ImagePath, RuntimeError> {
        let folder = self.stack.library_folder.at(self.platform);
        let Some(parent) = self.parent else { return Ok(folder) };
        let real = |folder: &ImagePath| parent.listing.place(&folder.join("x").ok()?).ok()?.parent();
        let wanted = real(&folder).unwrap_or(folder);
        let searched = self.searched_by_loader(parent)?;
        if searched.is_empty() || searched.iter().any(|folder| real(folder).as_ref() == Some(&wanted)) {
            return Ok(wanted);
        }
        // Of those below /usr the last is the most general one.
        let chosen = searched.iter().rev().find(|folder| folder.as_str().starts_with("usr/")).or(searched.last());
        Ok(chosen.and_then(real).unwrap_or(wanted))
    }

    /// The directories that are built into the loader that starts the server, where the base has it.
    fn searched_by_loader(&self, parent: &Parent) -> Result<Vec<ImagePath>, RuntimeError> {
        let interpreter = ElfObject::load(&self.server).ok().and_then(|server| server.interpreter);
        let Some(loader) = interpreter.and_then(|path| parent.listing.file(&path.parse().ok()?)) else { return Ok(Vec::new()) };
        let directories = extract(parent, &loader)?.and_then(|bytes| built_in_directories(&bytes)).unwrap_or_default();
        Ok(directories.iter().filter_map(|directory| directory.parse().ok()).collect())
    }
}

impl Candidates {
    /// Adds the base's symbolic links; what is put upon it replaces them where it has the same path.
    pub(super) fn add_links_of(&mut self, parent: &Parent) {
        for (path, entry) in parent.listing.entries() {
            if let IndexKind::Symlink { target } = &entry.kind
                && let Some(target) = target.to_str()
            {
                self.root.add_symlink(&path.to_string(), target);
            }
        }
    }

    /// Adds those files of the base that have a name which something wants, the base's own libraries included.
    ///
    /// Only these are taken out of its layers. That a name is wanted does not mean that the loader comes upon this file: the
    /// closure decides that.
    pub(super) fn add_files_of(&mut self, parent: &Parent, opens: &[&str]) -> Result<(), RuntimeError> {
        let mut by_name: BTreeMap<String, Vec<ImagePath>> = BTreeMap::new();
        for (path, entry) in parent.listing.entries() {
            if entry.kind != IndexKind::Directory && path.file_name().contains(".so") {
                by_name.entry(path.file_name().to_owned()).or_default().push(path);
            }
        }
        let own: Vec<_> = self.files.values().filter_map(super::candidates::Candidate::file).collect();
        let mut wanted: BTreeSet<String> = own.into_iter().flat_map(names_wanted_by).collect();
        wanted.extend(opens.iter().map(|name| base_name(name).to_owned()));
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let mut taken: BTreeSet<ImagePath> = BTreeSet::new();
        while !wanted.is_empty() {
            let paths = wanted.iter().filter_map(|name| by_name.get(name)).flatten();
            let files: BTreeSet<ImagePath> = paths.filter_map(|path| parent.listing.file(path)).collect();
            let new: Vec<ImagePath> = files.into_iter().filter(|path| !taken.contains(path)).collect();
            asked.append(&mut wanted);
            for (path, blob) in parent.extract(&new)? {
                wanted.extend(names_wanted_by(&blob.path).into_iter().filter(|name| !asked.contains(name)));
                self.add_file_of(&path, &blob);
                taken.insert(path);
            }
        }
        if let Some(cache) = parent.listing.file(&"/etc/ld.so.cache".parse()?)
            && let Some(cache) = extract(parent, &cache)?.and_then(|bytes| parse_cache(&bytes, self.root.machine()))
        {
            self.root.set_cache(cache);
        }
        Ok(())
    }

    fn add_file_of(&mut self, path: &ImagePath, blob: &Blob) {
        let path = path.to_string();
        // What is put upon the base hides a file of the same path.
        if !self.files.contains_key(&path) {
            self.root.add_file(&path, &blob.path);
            self.of_parent.insert(path, blob.size);
        }
    }
}

/// Reads one file of the base.
fn extract(parent: &Parent, path: &ImagePath) -> Result<Option<Vec<u8>>, RuntimeError> {
    let blob = parent.extract(std::slice::from_ref(path))?.remove(path);
    Ok(blob.and_then(|blob| std::fs::read(blob.path).ok()))
}

/// The last components of the names of what an object needs and is started by; none for what is no ELF file.
fn names_wanted_by(file: &Path) -> Vec<String> {
    let Ok(elf) = ElfObject::load(file) else { return Vec::new() };
    elf.needed().iter().chain(&elf.interpreter).map(|name| base_name(name).to_owned()).collect()
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Turns errors about a base's own libraries into one that says what the base lacks.
pub(super) fn links_error(parent: Option<&Parent>, errors: Vec<LinkError>) -> RuntimeError {
    let lacks = |(_, names): &&(&str, &[&str])| {
        errors.iter().any(|error| {
            let missing = match error {
                LinkError::LibraryMissing { soname, .. } => soname,
                LinkError::InterpreterMissing { interpreter, .. } => interpreter,
                _ => return false,
            };
            names.iter().any(|name| base_name(missing).starts_with(name))
        })
    };
    let lacking: Vec<&str> = EXPECTED.iter().filter(lacks).map(|(what, _)| *what).collect();
    match parent.filter(|_| !lacking.is_empty()) {
        Some(parent) => RuntimeError::BaseLacks { base: parent.name.to_string(), lacking: lacking.join(", "), errors },
        None => RuntimeError::Links(errors),
    }
}

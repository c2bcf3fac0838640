//! Every library that could go into the image, at the place where it would lie.

use std::collections::BTreeMap;
use std::path::Path;

use super::rewriting::{changes, gpus};
use super::{RuntimeError, RuntimeRequest, SERVER_PATH, file_sizes, on_disk, stand_in};
use crate::digest::Digest;
use crate::elf::{ElfObject, Machine};
use crate::fatbin::Sm;
use crate::layer;
use crate::link::LinkRoot;
use crate::platform::Platform;
use crate::recipe::Minimize;
use crate::report::Omission;
use crate::rewrite::Transformation;
use crate::source::package::{EntryKind, Package, PackageEntry, PackageError};
use crate::store::Store;
use crate::template::{FileSource, Naming};
use crate::tree::{Content, ImagePath, Kind, LayerName, Origin};

/// One file or link that could be taken.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub path: ImagePath,
    pub kind: Kind,
    pub mode: u32,
    pub size: u64,
    pub layer: LayerName,
    pub origin: Origin,
    /// What is done to its bytes once it is known what it is loaded with.
    pub changes: Vec<Transformation>,
    /// The GPUs that its device code is then kept for; none keeps all of it.
    pub gpus: Vec<Sm>,
}

/// All candidates, and the root in which they are looked up.
#[derive(Debug, Clone)]
pub(super) struct Candidates {
    pub root: LinkRoot,
    /// Regular files by image path.
    pub files: BTreeMap<String, Candidate>,
    /// Links of packages by image path.
    pub links: BTreeMap<String, Candidate>,
    /// Files of the base image that were taken out of it, with their bytes.
    pub of_parent: BTreeMap<String, u64>,
    /// Image paths of the custom-operator libraries.
    pub custom_operators: Vec<ImagePath>,
    /// Image paths of libraries that are taken whatever the closure says.
    pub kept: Vec<String>,
    /// What was cut off libraries.
    pub cuts: Vec<Omission>,
}

impl Candidate {
    /// A small file that the builder makes on behalf of a package.
    pub fn generated(path: ImagePath, content: Vec<u8>, origin: &Origin) -> Self {
        let size = content.len() as u64;
        let digest = Some(crate::digest::Digest::of(&content));
        let kind = Kind::File { content: Content::Bytes(content), size, digest };
        Self {
            path,
            kind,
            mode: 0o644,
            size,
            layer: LayerName::Base,
            origin: origin.clone(),
            changes: Vec::new(),
            gpus: Vec::new(),
        }
    }

    /// A regular file of a package at a place of its own.
    pub fn of_entry(
        package: &Package,
        entry: &PackageEntry,
        path: ImagePath,
        layer: LayerName,
        store: &Store,
    ) -> Result<Self, RuntimeError> {
        let blobs = package.extract(&[entry.path.as_str()], store)?;
        let blob = blobs.into_iter().next().ok_or_else(|| RuntimeError::NotInPackage {
            package: package.pin().name.clone(),
            patterns: vec![entry.path.clone()],
        })?;
        let kind = on_disk(blob.path, blob.size, Some(blob.digest));
        let (size, origin) = (blob.size, package.origin());
        Ok(Self { path, kind, mode: entry.mode, size, layer, origin, changes: Vec::new(), gpus: Vec::new() })
    }

    /// A file of the user's own, or the server.
    fn of_disk(path: ImagePath, file: &Path, layer: LayerName, origin: Origin, store: &Store) -> Result<Self, RuntimeError> {
        let (digest, size) = layer::digest_file(file, store)?;
        Ok(Self {
            path,
            kind: on_disk(file.to_owned(), size, Some(digest)),
            mode: 0o755,
            size,
            layer,
            origin,
            changes: Vec::new(),
            gpus: Vec::new(),
        })
    }

    pub(super) fn file(&self) -> Option<&Path> {
        match &self.kind {
            Kind::File { content: Content::Disk(path), .. } => Some(path),
            _ => None,
        }
    }

    pub(super) fn digest(&self) -> Option<Digest> {
        match &self.kind {
            Kind::File { digest, .. } => *digest,
            _ => None,
        }
    }
}

/// What is done to a library on its way into the image.
struct Placing {
    /// Whether it is called by its soname.
    by_soname: bool,
    /// The changes of its bytes, in order.
    changes: Vec<Transformation>,
    /// The GPUs that its device code is kept for.
    gpus: Vec<Sm>,
    /// Other names by which it is found.
    also: Vec<String>,
}

/// Files and links of a package whose paths are wanted, at their places in the image.
pub(super) fn of_package(
    package: &Package,
    request: &RuntimeRequest<'_>,
    layer: LayerName,
    store: &Store,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Candidate>, RuntimeError> {
    let chosen: Vec<&PackageEntry> = package.entries().iter().filter(|entry| wanted(&entry.path)).collect();
    let is_file = |entry: &&&PackageEntry| matches!(entry.kind, EntryKind::File { .. } | EntryKind::HardLink { .. });
    let paths: Vec<&str> = chosen.iter().filter(is_file).map(|entry| entry.path.as_str()).collect();
    let mut blobs = package.extract(&paths, store)?.into_iter();
    let mut candidates = Vec::with_capacity(chosen.len());
    for entry in chosen {
        let path = request.base.place(&entry.path, request.platform)?;
        let (kind, size) = match &entry.kind {
            EntryKind::Directory => continue,
            EntryKind::Symlink { target } => (Kind::Symlink { target: target.clone() }, 0),
            EntryKind::File { .. } | EntryKind::HardLink { .. } => {
                let Some(blob) = blobs.next() else { continue };
                (on_disk(blob.path, blob.size, Some(blob.digest)), blob.size)
            }
        };
        let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { entry.mode };
        let (changes, gpus) = (Vec::new(), Vec::new());
        candidates.push(Candidate { path, kind, mode, size, layer, origin: package.origin(), changes, gpus });
    }
    Ok(candidates)
}

impl Candidates {
    /// Collects them: extracts libraries from packages into the store and reads the names they give themselves.
    pub fn collect(request: &RuntimeRequest<'_>, store: &Store) -> Result<Self, RuntimeError> {
        let machine = match request.platform {
            Platform::LinuxAmd64 => Machine::X86_64,
            Platform::LinuxArm64 => Machine::Aarch64,
        };
        let mut candidates = Self {
            root: LinkRoot::new(machine),
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            of_parent: BTreeMap::new(),
            custom_operators: Vec::new(),
            kept: Vec::new(),
            cuts: Vec::new(),
        };
        if let Some(parent) = request.parent {
            candidates.add_links_of(parent);
        }
        candidates.root.set_library_path(request.library_path.clone());
        for link in request.base.links(request.platform) {
            candidates.root.add_symlink(&link.path.at(request.platform).to_string(), &link.target);
        }
        for (rule, package) in request.base.packages.iter().zip(request.base_packages) {
            let reached = |path: &str| rule.rule(path) == Some(FileSource::Reached);
            for candidate in of_package(package, request, LayerName::Base, store, reached)? {
                candidates.add(candidate);
            }
        }
        let folder = request.library_folder()?;
        candidates.add_stack(request, &folder, store)?;
        let server = Origin::Server { version: request.server_version.clone() };
        candidates.add(Candidate::of_disk(
            request.place(SERVER_PATH.parse()?)?,
            &request.server,
            LayerName::Server,
            server,
            store,
        )?);
        for file in request.custom_operators {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let path = folder.join(&name)?;
            let origin = Origin::User { path: file.display().to_string() };
            candidates.add(Candidate::of_disk(path.clone(), file, LayerName::Model, origin, store)?);
            candidates.custom_operators.push(path);
        }
        if let Some((path, file)) = &request.model_library {
            candidates.add(Candidate::of_disk(path.clone(), file, LayerName::Compiled, Origin::Generated, store)?);
        }
        if let Some(parent) = request.parent {
            let opens = request.stack.opens.iter().chain(&request.base.opens).map(|rule| rule.opens.as_str());
            let opens: Vec<&str> = opens.chain(request.stack.entry.iter().map(String::as_str)).collect();
            candidates.add_files_of(parent, &opens)?;
        }
        Ok(candidates)
    }

    /// The stack's own libraries, and those that are kept by request.
    fn add_stack(&mut self, request: &RuntimeRequest<'_>, folder: &ImagePath, store: &Store) -> Result<(), RuntimeError> {
        let mut unknown: Vec<&String> = request.keep.iter().collect();
        // What is copied on request has a place of its own.
        let on_request: Vec<_> =
            request.stack.packages.iter().flat_map(|package| &package.copy).filter(|copy| copy.on_request).collect();
        let is_copied = |path: &str| on_request.iter().any(|copy| copy.take.iter().any(|take| take.matches(path)));
        for (rule, package) in request.stack.packages.iter().zip(request.stack_packages) {
            for library in &rule.libraries {
                let entries = match package.files_of(&library.take) {
                    Err(PackageError::NoEntry { .. }) if library.optional => continue,
                    found => found?,
                };
                for entry in entries {
                    // A link beside its target would be the same library twice.
                    if matches!(entry.kind, EntryKind::File { .. }) {
                        let by_soname = library.naming == Naming::Soname;
                        let placing = Placing {
                            by_soname,
                            changes: changes(library, request),
                            gpus: gpus(library, request),
                            also: library.also.clone(),
                        };
                        self.add_library(package, entry, folder, placing, request, store)?;
                    }
                }
            }
            for path in file_sizes(package).keys() {
                let name = path.rsplit('/').next().unwrap_or(path);
                let wanted = !is_copied(path) && request.keep.iter().any(|kept| kept == name);
                unknown.retain(|kept| *kept != name);
                let is_unlinkable = request.stack.omit.iter().any(|rule| rule.unlinkable && rule.library.matches(name));
                if wanted || (request.minimize == Minimize::Package && is_shared_library(name) && !is_unlinkable) {
                    let entry = package.entry(path).expect("the path is one of the package's");
                    let placing = Placing { by_soname: false, changes: Vec::new(), gpus: Vec::new(), also: Vec::new() };
                    let placed = self.add_library(package, entry, folder, placing, request, store)?;
                    self.kept.push(placed);
                }
            }
        }
        match unknown.first() {
            Some(name) => Err(RuntimeError::NothingToKeep { name: (*name).clone() }),
            None => Ok(()),
        }
    }

    fn add_library(
        &mut self,
        package: &Package,
        entry: &PackageEntry,
        folder: &ImagePath,
        placing: Placing,
        request: &RuntimeRequest<'_>,
        store: &Store,
    ) -> Result<String, RuntimeError> {
        let file_name = entry.path.rsplit('/').next().unwrap_or(&entry.path).to_owned();
        let mut candidate = Candidate::of_entry(package, entry, folder.join(&file_name)?, LayerName::Runtime, store)?;
        candidate.mode = 0o755;
        if let Some(file) = candidate.file() {
            let elf = ElfObject::load(file).map_err(|source| RuntimeError::Library {
                name: entry.path.clone(),
                package: package.pin().name.clone(),
                source,
            })?;
            if let Some(soname) = elf.soname().filter(|_| placing.by_soname) {
                candidate.path = folder.join(soname)?;
            }
            // The same bytes under two names are one library.
            let already = self.files.values().find(|other| other.kind == candidate.kind);
            if let Some(already) = already {
                return Ok(already.path.to_string());
            }
        }
        let path = candidate.path.to_string();
        if request.stand_in_of(candidate.path.file_name()).is_some() {
            let library = stand_in::write(candidate.path.file_name(), request.platform);
            let blob = store.add(library.as_slice(), None)?;
            candidate.kind = on_disk(blob.path, blob.size, Some(blob.digest));
            candidate.size = blob.size;
            candidate.origin = Origin::Generated;
            self.add(candidate);
            return Ok(path);
        }
        candidate.changes = placing.changes;
        candidate.gpus = placing.gpus;
        for name in placing.also {
            let kind = Kind::Symlink { target: candidate.path.file_name().to_owned() };
            let (changes, gpus) = (Vec::new(), Vec::new());
            let link = Candidate { path: folder.join(&name)?, kind, mode: 0o777, size: 0, changes, gpus, ..candidate.clone() };
            self.add(link);
        }
        self.add(candidate);
        Ok(path)
    }

    pub(super) fn add(&mut self, candidate: Candidate) {
        let path = candidate.path.to_string();
        match (&candidate.kind, candidate.file()) {
            (Kind::Symlink { target }, _) => {
                self.root.add_symlink(&path, target);
                self.links.insert(path, candidate);
            }
            (_, Some(file)) => {
                self.root.add_file(&path, file);
                self.files.insert(path, candidate);
            }
            _ => {}
        }
    }
}

/// Tells whether a file name is that of a shared library that programs link to; Python's modules are not.
pub(super) fn is_shared_library(name: &str) -> bool {
    (name.ends_with(".so") || name.contains(".so.")) && !name.contains(".cpython-") && !name.contains(".abi3.")
}

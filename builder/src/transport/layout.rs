//! Writing an OCI layout folder.
//!
//! The order makes it safe: `oci-layout` first, then blobs, then the manifest, and `index.json` last, each under its name only when it is
//! whole. A killed command leaves at most blobs that nothing names. The folder itself is locked while `index.json` changes, so that two
//! commands can write different tags at once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use super::content::{Content, describe, platform_of};
use super::copy::{TEMPORARY, copy_blob, persist, remove_abandoned, share_bytes, temporary, write_atomically};
use super::error::{TransportError, io_error};
use super::files::{Files, blob_name};
use super::name::Selector;
use super::read::{FULL_NAME, REF_NAME, check_version};
use super::referrers::{self, is_artifact};
use super::{Placed, Put};
use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, Image, media_type};
use crate::progress::Task;
use crate::reference::Reference;
use crate::store::Blob;

/// The content of `oci-layout`.
pub(super) const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Describes an image for an `index.json`: with its platform, its tag and its full name.
pub(super) fn entry(content: &Content, name: Option<&str>, full_name: Option<&str>) -> Descriptor {
    let mut entry = content.descriptor();
    if let Content::Image(image) = content {
        if image.parsed.subject.is_some() {
            return referrers::entry(image);
        }
        entry.platform = platform_of(image);
    }
    for (key, value) in [(REF_NAME, name), (FULL_NAME, full_name)] {
        if let Some(value) = value {
            entry.annotations.insert(key.to_owned(), value.to_owned());
        }
    }
    entry
}

/// The two names that an image gets in an `index.json`: what selects it, and the full one where it is known.
pub(super) fn names(selector: &Selector, name: Option<&Reference>) -> (Option<String>, Option<String>) {
    let full = name.and_then(|name| Some(format!("{}:{}", name.name(), name.tag_or_latest()?)));
    match selector {
        Selector::Name(selected) => {
            let own = selected.parse::<Reference>().is_ok().then(|| selected.clone());
            (Some(selected.clone()), own.or(full))
        }
        _ => (name.and_then(|name| name.tag.clone()), full),
    }
}

/// An `index.json` with nothing in it yet.
pub(super) fn empty_index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": [] })
}

/// Puts an image or index into a layout, made here where there is none.
pub(super) fn put(folder: &Path, selector: &Selector, content: &Content, request: &Put) -> Result<Placed, TransportError> {
    prepare(folder)?;
    let bytes = total(content);
    let task = request.progress.task(format!("write `{}`", folder.display()), Some(bytes));
    let mut writer = LayoutWriter { folder, request, task, seen: BTreeSet::new(), written: 0 };
    writer.content(content)?;
    let (name, full_name) = names(selector, request.name);
    let entry = entry(content, name.as_deref(), full_name.as_deref());
    let descriptor = content.descriptor();
    let written = writer.written;
    add_to_index(folder, entry)?;
    Ok(Placed { descriptor, written })
}

/// The bytes of an image or index with all its blobs, each counted once.
pub(super) fn total(content: &Content) -> u64 {
    let mut seen = BTreeSet::new();
    content
        .images()
        .into_iter()
        .flat_map(|image| image.parsed.layers.iter().chain([&image.parsed.config]))
        .filter(|descriptor| seen.insert(descriptor.digest))
        .map(|descriptor| descriptor.size)
        .sum()
}

/// Locks a folder against other writers until the file is dropped.
fn lock(folder: &Path) -> Result<File, TransportError> {
    use rustix::fs::{FlockOperation, flock};
    use rustix::io::Errno;
    let handle = File::open(folder).map_err(io_error("open", folder))?;
    loop {
        match flock(&handle, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            // Some network file systems have no locks on folders; the rename still keeps the index whole.
            Ok(()) | Err(Errno::BADF | Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(handle),
            Err(error) => return Err(io_error("lock", folder)(error.into())),
        }
    }
}

/// Makes the folder a layout, unless it is one or holds something else.
fn prepare(folder: &Path) -> Result<(), TransportError> {
    let occupied = |found| TransportError::Occupied {
        path: folder.to_owned(),
        found,
        expected: "a folder in OCI layout, an empty or a new one",
    };
    match fs::metadata(folder) {
        Ok(metadata) if !metadata.is_dir() => return Err(occupied("a file")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        }
        Err(error) => return Err(io_error("open", folder)(error)),
    }
    let _locked = lock(folder)?;
    let marker = folder.join("oci-layout");
    if marker.exists() {
        check_version(&Files::Folder(folder.to_owned()))?;
        remove_abandoned(folder);
    } else {
        for entry in fs::read_dir(folder).map_err(io_error("read", folder))? {
            let entry = entry.map_err(io_error("read", folder))?;
            if !entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                return Err(occupied("a folder with other things in it"));
            }
        }
        write_atomically(folder, &marker, MARKER)?;
    }
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(io_error("create the folder", &blobs))
}

struct LayoutWriter<'a> {
    folder: &'a Path,
    request: &'a Put<'a>,
    task: Task,
    seen: BTreeSet<Digest>,
    written: u64,
}

impl LayoutWriter<'_> {
    /// Writes everything that a manifest or index names, then itself.
    fn content(&mut self, content: &Content) -> Result<(), TransportError> {
        match content {
            Content::Image(image) => self.image(image),
            Content::Index(index) => {
                for child in &index.children {
                    self.content(child)?;
                }
                self.bytes(&Digest::of(&index.bytes), &index.bytes)
            }
        }
    }

    fn image(&mut self, image: &Image) -> Result<(), TransportError> {
        for layer in &image.parsed.layers {
            if self.seen.insert(layer.digest) {
                self.blob(&*image.blobs, layer)?;
            }
        }
        let config = &image.parsed.config;
        if self.seen.insert(config.digest) {
            let found = Digest::of(&image.config);
            if found != config.digest {
                return Err(TransportError::Config { found, expected: config.digest });
            }
            self.bytes(&config.digest, &image.config)?;
            self.task.advance(config.size);
        }
        self.bytes(&describe(image).digest, &image.manifest)
    }

    /// Writes a blob that is in memory.
    fn bytes(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), TransportError> {
        let target = self.folder.join(blob_name(digest));
        if fs::read(&target).is_ok_and(|present| present == bytes) {
            return Ok(());
        }
        self.written += bytes.len() as u64;
        write_atomically(self.folder, &target, bytes)
    }

    /// Writes a blob that is a file or a stream: as a second name of the store's file, or as a copy.
    fn blob(&mut self, blobs: &dyn Blobs, descriptor: &Descriptor) -> Result<(), TransportError> {
        let target = self.folder.join(blob_name(&descriptor.digest));
        let size = descriptor.size;
        let present = fs::metadata(&target).ok().filter(|metadata| metadata.is_file() && metadata.len() == size);
        if let (Some(store), Some(stored)) = (self.request.store, self.stored(descriptor)?) {
            // The store's own file under a second name was checked with it.
            let identity = |of: &fs::Metadata| (of.dev(), of.ino());
            let own = fs::metadata(&stored.path).map_err(io_error("read", &stored.path))?;
            let is_own = present.as_ref().is_some_and(|present| identity(present) == identity(&own));
            if is_own || store.link(&descriptor.digest, &target)? {
                self.written += if is_own { 0 } else { size };
                self.task.advance(size);
                return Ok(());
            }
        }
        if present.is_some() && has_digest(&target, &descriptor.digest)? {
            self.task.advance(size);
            return Ok(());
        }
        self.written += size;
        let mut file = temporary(self.folder)?;
        let shared = blobs.local_path(descriptor).is_some_and(|source| share_bytes(&source, file.as_file()));
        if shared {
            let mut copy = crate::image::LocalBlobs::default();
            copy.add_file(descriptor.digest, file.path().to_owned());
            copy_blob(&copy, descriptor, &mut io::sink(), &target, &self.task)?;
        } else {
            copy_blob(blobs, descriptor, &mut file, &target, &self.task)?;
        }
        persist(file, &target)
    }

    /// The blob in the store, whole.
    fn stored(&self, descriptor: &Descriptor) -> Result<Option<Blob>, TransportError> {
        let Some(store) = self.request.store else { return Ok(None) };
        Ok(store.find(&descriptor.digest)?.filter(|blob| blob.size == descriptor.size))
    }
}

/// Reads a file to its end and compares its digest.
fn has_digest(path: &Path, digest: &Digest) -> Result<bool, TransportError> {
    let file = File::open(path).map_err(io_error("read", path))?;
    let (found, _) = Digest::of_reader(file).map_err(io_error("read", path))?;
    Ok(found == *digest)
}

/// Adds an entry to `index.json` in place of the one with the same tag. What other tools wrote into the others stays.
fn add_to_index(folder: &Path, entry: Descriptor) -> Result<(), TransportError> {
    let _locked = lock(folder)?;
    let files = Files::Folder(folder.to_owned());
    let mut index = match files.find("index.json")? {
        Some(_) => {
            super::read::read_index(&files)?;
            files.parse::<Value>("index.json", &files.read("index.json")?)?
        }
        None => empty_index(),
    };
    let name = entry.annotations.get(REF_NAME).cloned();
    let replaces = |other: &Value| {
        let other_name = other.pointer("/annotations").and_then(|all| all.get(REF_NAME)).and_then(Value::as_str);
        match &name {
            Some(name) => other_name == Some(name),
            // What belongs to an image replaces nothing but itself, and is replaced by no image.
            None if is_artifact(&entry) || other.get("artifactType").is_some() => {
                other.get("digest").and_then(Value::as_str) == Some(&entry.digest.to_string())
            }
            // Without a tag, an image for another platform is another image.
            None => other_name.is_none() && is_same_platform(&entry, other),
        }
    };
    let manifests = index.get_mut("manifests").and_then(Value::as_array_mut).expect("read as an index above");
    let at = manifests.iter().position(&replaces).unwrap_or(manifests.len());
    manifests.retain(|other| !replaces(other));
    manifests.insert(at.min(manifests.len()), serde_json::to_value(&entry).expect("a descriptor is plain data"));
    let content = serde_json::to_vec(&index).expect("an index is plain data");
    write_atomically(folder, &folder.join("index.json"), &content)
}

fn is_same_platform(entry: &Descriptor, other: &Value) -> bool {
    let of = |key| other.pointer("/platform").and_then(|platform| platform.get(key)).and_then(Value::as_str);
    match (&entry.platform, other.get("platform")) {
        (Some(platform), Some(_)) => {
            of("os") == Some(&platform.os)
                && of("architecture") == Some(&platform.architecture)
                && of("variant") == platform.variant.as_deref()
        }
        _ => true,
    }
}

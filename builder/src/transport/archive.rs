//! Writing archives: `oci-archive:` and `docker-archive:`.
//!
//! Both are a tar of an OCI layout, written as a stream and the same bytes for the same image. A Docker archive has `manifest.json`
//! besides, in which `docker load` finds config, layers and names. Docker reads gzip and plain layers in it, and zstd only since 23.0 (20.10
//! ends with `unexpected EOF`), so zstd layers are plain ones there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::content::{Content, describe};
use super::copy::{copy_blob, persist, temporary};
use super::error::{TransportError, io_error};
use super::files::{Files, blob_name};
use super::layout::{MARKER, empty_index, entry, names};
use super::name::{ImageName, Selector};
use super::tarfile::TarWriter;
use super::{Placed, Put};
use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, Image};
use crate::progress::Task;

/// One row of a Docker archive's `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// What will be in an archive.
pub(super) struct Archive<'a> {
    documents: Vec<(&'static str, Vec<u8>)>,
    blobs: BTreeMap<Digest, Source<'a>>,
}

enum Source<'a> {
    Bytes(&'a [u8]),
    Blob(&'a dyn Blobs, &'a Descriptor),
}

impl<'a> Archive<'a> {
    /// Plans an archive in OCI layout.
    pub fn oci(content: &'a Content, selector: &Selector, request: &Put) -> Result<Self, TransportError> {
        let (name, full_name) = names(selector, request.name);
        Self::plan(content, entry(content, name.as_deref(), full_name.as_deref()))
    }

    /// Plans an archive that Docker loads under some names.
    pub fn docker(content: &'a Content, image: &'a Image, names: &[ImageName]) -> Result<Self, TransportError> {
        let first = names.first();
        let mut archive =
            Self::plan(content, entry(content, first.map(|name| name.tag.as_str()), first.map(ImageName::canonical).as_deref()))?;
        let saved = SavedImage {
            config: blob_name(&image.parsed.config.digest),
            repo_tags: names.iter().map(ToString::to_string).collect(),
            layers: image.parsed.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
        };
        archive.documents.push(("manifest.json", serde_json::to_vec(&[saved]).expect("plain data")));
        Ok(archive)
    }

    fn plan(content: &'a Content, entry: Descriptor) -> Result<Self, TransportError> {
        let mut index = empty_index();
        index["manifests"] = serde_json::json!([entry]);
        let documents = vec![("oci-layout", MARKER.to_vec()), ("index.json", serde_json::to_vec(&index).expect("plain data"))];
        let mut archive = Self { documents, blobs: BTreeMap::new() };
        archive.add(content)?;
        Ok(archive)
    }

    fn add(&mut self, content: &'a Content) -> Result<(), TransportError> {
        match content {
            Content::Image(image) => {
                for layer in &image.parsed.layers {
                    self.blobs.insert(layer.digest, Source::Blob(&*image.blobs, layer));
                }
                let (found, expected) = (Digest::of(&image.config), image.parsed.config.digest);
                if found != expected {
                    return Err(TransportError::Config { found, expected });
                }
                self.blobs.insert(expected, Source::Bytes(&image.config));
                self.blobs.insert(describe(image).digest, Source::Bytes(&image.manifest));
            }
            Content::Index(index) => {
                index.children.iter().try_for_each(|child| self.add(child))?;
                self.blobs.insert(Digest::of(&index.bytes), Source::Bytes(&index.bytes));
            }
        }
        Ok(())
    }

    /// The bytes of all blobs.
    pub fn size(&self) -> u64 {
        let size = |source: &Source| match source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Blob(_, descriptor) => descriptor.size,
        };
        self.blobs.values().map(size).sum()
    }

    /// Writes the archive; `target` is what errors name.
    pub fn write<W: Write>(&self, writer: W, target: &Path, task: &Task) -> Result<W, TransportError> {
        let failed = |error| io_error("write", target)(error);
        let mut tar = TarWriter::new(writer);
        for (name, content) in &self.documents {
            tar.file(name, content).map_err(failed)?;
        }
        for folder in ["blobs", "blobs/sha256"] {
            tar.folder(folder).map_err(failed)?;
        }
        for (digest, source) in &self.blobs {
            let name = blob_name(digest);
            match source {
                Source::Bytes(bytes) => {
                    tar.file(&name, bytes).map_err(failed)?;
                    task.advance(bytes.len() as u64);
                }
                Source::Blob(blobs, descriptor) => {
                    let mut writer = tar.begin_file(&name, descriptor.size).map_err(failed)?;
                    copy_blob(*blobs, descriptor, &mut writer, target, task)?;
                    tar.end_file(descriptor.size).map_err(failed)?;
                }
            }
        }
        tar.finish().map_err(failed)
    }
}

/// Writes an archive to a file, whole or not at all; to a pipe or device as it comes.
pub(super) fn put(file: &Path, archive: &Archive, content: &Content, request: &Put) -> Result<Placed, TransportError> {
    let size = archive.size();
    let task = request.progress.task(format!("write `{}`", file.display()), Some(size));
    let placed = Placed { descriptor: content.descriptor(), written: size };
    // A link is followed, so that the file it leads to is replaced and not the link.
    let target = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(TransportError::Occupied { path: file.to_owned(), found: "a folder", expected: "a file or nothing" });
        }
        Ok(metadata) if !metadata.is_file() => {
            let pipe = fs::OpenOptions::new().write(true).open(&target).map_err(io_error("open", file))?;
            archive.write(BufWriter::with_capacity(1 << 18, pipe), file, &task)?;
            return Ok(placed);
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("open", file)(error)),
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
    let written = archive.write(BufWriter::with_capacity(1 << 18, temporary(folder)?), file, &task)?;
    let written = written.into_inner().map_err(|error| io_error("write", file)(error.into_error()))?;
    persist(written, &target)?;
    Ok(placed)
}

/// Tells whether a file is an archive that only Docker's format describes.
pub(super) fn is_docker_only(path: &Path) -> bool {
    let has = |files: &Files, name| files.find(name).ok().flatten().is_some();
    Files::archive(path, &std::env::temp_dir()).is_ok_and(|files| has(&files, "manifest.json") && !has(&files, "oci-layout"))
}

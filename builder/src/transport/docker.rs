//! Reading Docker archives: what `docker save` writes, old and new.
//!
//! Since 25.0 they hold an OCI layout too, and the image is then the one of that layout, with its digest. An older one becomes an OCI
//! image here: its layers are plain tars whose digests are the config's `diff_ids`, which are checked when the layers are read.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::content::{Content, ambiguous};
use super::error::{TransportError, io_error};
use super::files::{Compression, Files};
use super::name::ImageName;
use super::read::{check_version, image_with_config};
use super::tarfile::Part;
use crate::digest::{Digest, HashingReader};
use crate::image::{Descriptor, Image, Manifest, RootFs, media_type};
use crate::platform::Platform;

const MANIFEST: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl SavedImage {
    fn tags(&self) -> impl Iterator<Item = &String> {
        self.repo_tags.iter().flatten()
    }

    fn label(&self) -> String {
        self.tags().next().unwrap_or(&self.config).clone()
    }
}

/// Reads an image out of a Docker archive.
pub(super) fn open_docker(
    files: &Files,
    name: Option<&ImageName>,
    platform: Option<Platform>,
) -> Result<Content, TransportError> {
    let saved: Vec<SavedImage> = files.parse(MANIFEST, &files.read(MANIFEST)?)?;
    let labels = || saved.iter().map(SavedImage::label).collect::<Vec<_>>();
    let not_found = |wanted: String| TransportError::NotFound { place: files.place(), wanted, available: labels() };
    let chosen = match (name, saved.as_slice()) {
        (Some(name), saved) => {
            saved.iter().find(|image| image.tags().any(|tag| name.is_same(tag))).ok_or_else(|| not_found(name.to_string()))?
        }
        (None, [image]) => image,
        (None, []) => return Err(not_found("any".to_owned())),
        (None, _) => return Err(ambiguous(&files.place(), labels())),
    };
    let config = files.read(&chosen.config)?;
    let image = if files.find("oci-layout")?.is_some() && files.find("index.json")?.is_some() {
        check_version(files)?;
        image_with_config(files, &Digest::of(&config))?
    } else {
        None
    };
    let image = match image {
        Some(image) => image,
        None => assemble(files, chosen, config)?,
    };
    if platform.is_some() {
        Content::Image(image.clone()).image(platform)?;
    }
    Ok(Content::Image(image))
}

/// Makes an OCI image of a config and its layers.
fn assemble(files: &Files, saved: &SavedImage, config: Vec<u8>) -> Result<Image, TransportError> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    let Config { rootfs } = files.parse(&saved.config, &config)?;
    let layers = saved.layers.as_deref().unwrap_or_default();
    if rootfs.diff_ids.len() != layers.len() {
        let expected = format!("{} as the config's `diff_ids`", rootfs.diff_ids.len());
        return Err(files.field(MANIFEST, "Layers", format!("{} rows", layers.len()), expected));
    }
    let mut places = Vec::new();
    let mut descriptors = Vec::new();
    for (name, diff_id) in layers.iter().zip(&rootfs.diff_ids) {
        let (path, part) = found(files, name)?;
        let descriptor = describe_layer(files, name, &path, part, diff_id)?;
        places.push((descriptor.digest, path, part));
        descriptors.push(descriptor);
    }
    let config_descriptor = Descriptor::of(media_type::CONFIG, &config);
    let (path, part) = found(files, &saved.config)?;
    places.push((config_descriptor.digest, path, part));
    let parsed = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: config_descriptor,
        layers: descriptors,
        subject: None,
        annotations: Default::default(),
    };
    let manifest = serde_json::to_vec(&parsed).expect("a manifest is plain data");
    Ok(Image { manifest, parsed, config, blobs: files.hold(places) })
}

fn found(files: &Files, name: &str) -> Result<(PathBuf, Part), TransportError> {
    files.find(name)?.ok_or_else(|| TransportError::Missing { place: files.place(), file: name.to_owned() })
}

/// Describes a layer. A plain one is its own `diff_id`; a compressed one has to be read to know its digest.
fn describe_layer(files: &Files, name: &str, path: &Path, part: Part, diff_id: &Digest) -> Result<Descriptor, TransportError> {
    let open = |limit: u64| -> Result<_, TransportError> {
        use std::io::{Seek, SeekFrom};
        let mut file = std::fs::File::open(path).map_err(io_error("open", path))?;
        file.seek(SeekFrom::Start(part.offset)).map_err(io_error("read", path))?;
        Ok(file.take(limit))
    };
    let mut head = Vec::new();
    open(part.size.min(6))?.read_to_end(&mut head).map_err(io_error("read", path))?;
    let compression = Compression::of(&head);
    let kind = match compression {
        Compression::Gzip => media_type::LAYER_GZIP,
        Compression::Zstd => media_type::LAYER_ZSTD,
        _ => return Ok(Descriptor::new(media_type::LAYER, *diff_id, part.size)),
    };
    let mut hashing = HashingReader::new(open(part.size)?);
    let decoded = compression.decode(&mut hashing).and_then(Digest::of_reader);
    let (unpacked, _) = decoded.map_err(io_error("decompress", path))?;
    if unpacked != *diff_id {
        let place = files.place();
        return Err(TransportError::Digest { place, file: name.to_owned(), found: unpacked, expected: *diff_id });
    }
    // What follows the last frame belongs to the blob as well.
    std::io::copy(&mut hashing, &mut std::io::sink()).map_err(io_error("read", path))?;
    Ok(Descriptor::new(kind, hashing.finish().1, part.size))
}

//! Images as a place takes them: [`to_oci`] for a layout, which holds nothing of Docker's, and `without_zstd` for Docker before 23.0.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::content::{Content, ImageIndex};
use super::error::TransportError;
use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, Image, MediaType, RootFs, media_type, open_verified};

const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The OCI type that means the same as one of Docker's; other types stay as they are.
fn equivalent(found: &str) -> Result<Option<&'static str>, TransportError> {
    Ok(Some(match found {
        media_type::DOCKER_MANIFEST => media_type::MANIFEST,
        media_type::DOCKER_INDEX => media_type::INDEX,
        media_type::DOCKER_CONFIG => media_type::CONFIG,
        DOCKER_LAYER => media_type::LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::LAYER_GZIP,
        DOCKER_LAYER_ZSTD => media_type::LAYER_ZSTD,
        _ if found.starts_with("application/vnd.docker.") => {
            return Err(TransportError::NoEquivalent { found: found.to_owned() });
        }
        _ => return Ok(None),
    }))
}

/// Replaces a type in place and tells whether it did.
fn replace(found: &mut MediaType) -> Result<bool, TransportError> {
    let new = equivalent(found)?;
    if let Some(new) = new {
        new.clone_into(found);
    }
    Ok(new.is_some())
}

/// Gives an image or index with OCI types alone, or `None` where it has no others. Layers and configs stay byte for byte as they are;
/// the manifest's digest changes.
///
/// # Errors
/// [`TransportError::NoEquivalent`] where a type of Docker's has no counterpart, such as a layer that may not be distributed.
pub fn to_oci(content: &Content) -> Result<Option<Content>, TransportError> {
    match content {
        Content::Image(image) => Ok(image_to_oci(image)?.map(Content::Image)),
        Content::Index(index) => Ok(index_to_oci(index)?.map(Content::Index)),
    }
}

fn image_to_oci(image: &Image) -> Result<Option<Image>, TransportError> {
    let mut parsed = image.parsed.clone();
    let mut changed = false;
    if let Some(own) = &mut parsed.media_type {
        changed |= replace(own)?;
    }
    for descriptor in parsed.layers.iter_mut().chain([&mut parsed.config]) {
        changed |= replace(&mut descriptor.media_type)?;
    }
    if !changed {
        return Ok(None);
    }
    parsed.media_type = Some(media_type::MANIFEST.to_owned());
    let manifest = serde_json::to_vec(&parsed).expect("a manifest is plain data");
    Ok(Some(Image { manifest, parsed, config: image.config.clone(), blobs: image.blobs.clone() }))
}

fn index_to_oci(index: &ImageIndex) -> Result<Option<ImageIndex>, TransportError> {
    let mut parsed = index.parsed.clone();
    let mut changed = false;
    if let Some(own) = &mut parsed.media_type {
        changed |= replace(own)?;
    }
    let mut children = Vec::with_capacity(index.children.len());
    for (child, entry) in index.children.iter().zip(&mut parsed.manifests) {
        let converted = to_oci(child)?;
        changed |= converted.is_some() | replace(&mut entry.media_type)?;
        let child = converted.unwrap_or_else(|| child.clone());
        let new = child.descriptor();
        (entry.digest, entry.size) = (new.digest, new.size);
        children.push(child);
    }
    if !changed {
        return Ok(None);
    }
    parsed.media_type = Some(media_type::INDEX.to_owned());
    let bytes = serde_json::to_vec(&parsed).expect("an index is plain data");
    Ok(Some(ImageIndex { bytes, parsed, children }))
}

/// Gives an image whose zstd layers are plain ones, decompressed whenever they are read, or `None` where it has none. The config and with
/// it Docker's identity of the image stay the same.
pub(super) fn without_zstd(image: &Image) -> Result<Option<Image>, TransportError> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    let is_zstd = |layer: &Descriptor| layer.media_type == media_type::LAYER_ZSTD;
    if !image.parsed.layers.iter().any(is_zstd) {
        return Ok(None);
    }
    let place = || PathBuf::from("the image");
    let Config { rootfs } = serde_json::from_slice(&image.config).map_err(|source| TransportError::Json {
        place: place(),
        file: "config".to_owned(),
        source,
    })?;
    if rootfs.diff_ids.len() != image.parsed.layers.len() {
        return Err(TransportError::Field {
            place: place(),
            file: "config".to_owned(),
            field: "rootfs.diff_ids",
            found: format!("{} rows", rootfs.diff_ids.len()),
            expected: format!("{}, one a layer", image.parsed.layers.len()),
        });
    }
    let mut parsed = image.parsed.clone();
    let mut packed = BTreeMap::new();
    for (layer, diff_id) in parsed.layers.iter_mut().zip(rootfs.diff_ids).filter(|(layer, _)| is_zstd(layer)) {
        // An archive says a file's size before its bytes, so a layer is decompressed once to know it and once to be written.
        let (found, size) = decompress(&*image.blobs, layer)
            .and_then(Digest::of_reader)
            .map_err(|source| TransportError::Blob { digest: layer.digest, source })?;
        if found != diff_id {
            let source = io::Error::new(io::ErrorKind::InvalidData, format!("it unpacks to {found}, expected {diff_id}"));
            return Err(TransportError::Blob { digest: layer.digest, source });
        }
        packed.insert(diff_id, layer.clone());
        *layer = Descriptor::new(media_type::LAYER, diff_id, size);
    }
    let manifest = serde_json::to_vec(&parsed).expect("a manifest is plain data");
    let blobs = Arc::new(Decompressed { inner: image.blobs.clone(), packed });
    Ok(Some(Image { manifest, parsed, config: image.config.clone(), blobs }))
}

/// Blobs of which some are stored as zstd and read as what that unpacks to.
#[derive(Debug)]
struct Decompressed {
    inner: Arc<dyn Blobs>,
    packed: BTreeMap<Digest, Descriptor>,
}

impl Blobs for Decompressed {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let Some(packed) = self.packed.get(&descriptor.digest) else {
            return self.inner.open_unverified(descriptor, offset);
        };
        let mut reader = decompress(&*self.inner, packed)?;
        io::copy(&mut (&mut reader).take(offset), &mut io::sink())?;
        Ok(Box::new(reader))
    }

    fn local_path(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        (!self.packed.contains_key(&descriptor.digest)).then(|| self.inner.local_path(descriptor)).flatten()
    }
}

fn decompress(blobs: &dyn Blobs, packed: &Descriptor) -> io::Result<impl Read + Send + use<>> {
    zstd::stream::read::Decoder::new(open_verified(blobs, packed)?)
}

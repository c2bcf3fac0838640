//! Docker's manifests as OCI's: an OCI layout holds nothing else, and the two are never mixed.

use super::content::{Content, ImageIndex};
use super::error::TransportError;
use crate::image::{Image, MediaType, media_type};

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

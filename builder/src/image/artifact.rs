//! What is attached to an image, such as an SBOM: an [`Artifact`], which becomes an [`Image`] without being one that runs.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::{Blobs, Descriptor, Image, Manifest, media_type};
use crate::digest::Digest;

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_BYTES: &[u8] = b"{}";

/// Something to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its kind, a media type.
    pub artifact_type: String,
    /// Its parts.
    pub parts: Vec<ArtifactPart>,
    /// Annotations of its manifest.
    pub annotations: BTreeMap<String, String>,
}

/// A part of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactPart {
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Artifact {
    /// Gives the artifact its manifest, which names what it is attached to. Equal artifacts get equal bytes.
    #[must_use]
    pub fn attached_to(&self, subject: &Descriptor) -> Image {
        let config = Descriptor::of(EMPTY, EMPTY_BYTES);
        let mut parts = BTreeMap::from([(config.digest, EMPTY_BYTES.to_vec())]);
        let mut layers: Vec<Descriptor> = Vec::new();
        for part in &self.parts {
            let mut layer = Descriptor::of(&part.media_type, &part.bytes);
            layer.annotations.clone_from(&part.annotations);
            parts.insert(layer.digest, part.bytes.clone());
            layers.push(layer);
        }
        if layers.is_empty() {
            layers.push(config.clone());
        }
        let parsed = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: Some(self.artifact_type.clone()),
            config,
            layers,
            subject: Some(Descriptor::new(&subject.media_type, subject.digest, subject.size)),
            annotations: self.annotations.clone(),
        };
        let manifest = serde_json::to_vec(&parsed).expect("texts and numbers become JSON");
        let blobs = Arc::new(MemoryBlobs { parts, rest: None });
        Image { manifest, parsed, config: EMPTY_BYTES.to_vec(), blobs }
    }
}

impl Image {
    /// Describes the manifest as a list of what is attached to an image does: with the artifact's kind and annotations.
    #[must_use]
    pub fn artifact_descriptor(&self) -> Descriptor {
        let mut descriptor = self.descriptor();
        // Without a kind of its own, that of the config says what it is.
        let kind = self.parsed.artifact_type.as_ref().unwrap_or(&self.parsed.config.media_type);
        descriptor.artifact_type = Some(kind.clone());
        descriptor.annotations.clone_from(&self.parsed.annotations);
        descriptor
    }
}

/// Bytes in memory, before other places.
#[derive(Debug)]
pub(crate) struct MemoryBlobs {
    pub(crate) parts: BTreeMap<Digest, Vec<u8>>,
    pub(crate) rest: Option<Arc<dyn Blobs>>,
}

impl Blobs for MemoryBlobs {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        if let Some(bytes) = self.parts.get(&descriptor.digest) {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(Box::new(io::Cursor::new(bytes[offset..].to_vec())));
        }
        match &self.rest {
            Some(rest) => rest.open_unverified(descriptor, offset),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("blob {} is not there", descriptor.digest))),
        }
    }
}

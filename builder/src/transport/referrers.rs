//! What is attached to an image in an OCI layout or an archive of one: manifests in `index.json` whose `subject` is the image's.

use std::path::Path;

use super::content::{Content, describe};
use super::error::TransportError;
use super::files::{Files, blob_name};
use super::read::{check_version, read_index};
use super::{Placed, Put, Selector, Transport, layout};
use crate::digest::Digest;
use crate::image::{Descriptor, Image, Manifest, media_type};

/// Manifests of a layout that are looked at.
const MOST_MANIFESTS: usize = 4096;

impl Transport {
    /// Attaches an artifact to the image that its manifest names, in the layout that this is.
    ///
    /// # Errors
    /// [`TransportError::NoReferrers`] where this is no layout; where it is none yet, or cannot be written.
    pub fn attach(&self, artifact: &Image, request: &Put) -> Result<Placed, TransportError> {
        let folder = self.layout_folder()?;
        check_version(&Files::folder(folder)?)?;
        layout::put(folder, &Selector::Only, &Content::Image(artifact.clone()), request)
    }

    /// Lists what is attached to an image in the layout or archive of one that this is; a compressed archive is unpacked into `scratch`.
    ///
    /// # Errors
    /// [`TransportError::NoReferrers`] where this is neither; where it is damaged.
    pub fn referrers(&self, subject: &Digest, scratch: &Path) -> Result<Vec<Descriptor>, TransportError> {
        let files = match self {
            Self::OciArchive { file, .. } => Files::archive(file, scratch)?,
            _ => Files::folder(self.layout_folder()?)?,
        };
        check_version(&files)?;
        let index = read_index(&files)?;
        let mut found: Vec<Descriptor> = Vec::new();
        let manifests = index.manifests.iter().filter(|entry| entry.media_type == media_type::MANIFEST);
        for entry in manifests.take(MOST_MANIFESTS) {
            let bytes = files.read_blob(entry)?;
            let manifest: Manifest = files.parse(&blob_name(&entry.digest), &bytes)?;
            let refers = manifest.subject.as_ref().is_some_and(|of| of.digest == *subject);
            if refers && !found.iter().any(|known| known.digest == entry.digest) {
                let kind = manifest.artifact_type.unwrap_or(manifest.config.media_type);
                let mut descriptor = Descriptor::new(&entry.media_type, entry.digest, entry.size);
                descriptor.artifact_type = Some(kind);
                descriptor.annotations = manifest.annotations;
                found.push(descriptor);
            }
        }
        Ok(found)
    }

    /// The same place with another selection: what has this digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        match self.clone() {
            Self::OciLayout { folder, .. } => Self::OciLayout { folder, selector: Selector::Digest(digest) },
            Self::OciArchive { file, .. } => Self::OciArchive { file, selector: Selector::Digest(digest) },
            Self::Registry(reference) => {
                Self::Registry(crate::reference::Reference { tag: None, digest: Some(digest), ..reference })
            }
            other => other,
        }
    }

    /// Checks that things can be attached to images here.
    ///
    /// # Errors
    /// [`TransportError::NoReferrers`] where this is neither a layout nor a registry.
    pub fn check_referrers(&self) -> Result<(), TransportError> {
        match self {
            Self::OciLayout { .. } | Self::Registry(_) => Ok(()),
            _ => Err(TransportError::NoReferrers { place: self.to_string() }),
        }
    }

    fn layout_folder(&self) -> Result<&Path, TransportError> {
        match self {
            Self::OciLayout { folder, .. } => Ok(folder),
            _ => Err(TransportError::NoReferrers { place: self.to_string() }),
        }
    }
}

/// Whether an entry of an `index.json` is something that belongs to an image, and no image.
pub(super) fn is_artifact(entry: &Descriptor) -> bool {
    entry.artifact_type.as_deref().is_some_and(|kind| !matches!(kind, media_type::CONFIG | media_type::DOCKER_CONFIG))
}

/// The entry of an `index.json` for an artifact.
pub(super) fn entry(artifact: &Image) -> Descriptor {
    let mut entry = describe(artifact);
    entry.artifact_type = artifact.artifact_descriptor().artifact_type;
    entry
}

//! What lies at a place: [`Content`], one image or an index of several.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::TransportError;
use crate::image::{Descriptor, Image, ImageConfig, Index, PlatformFields, label, media_type};
use crate::platform::Platform;

/// What lies at a place.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there are few of them, and an image is what is nearly always there")]
pub enum Content {
    /// One image.
    Image(Image),
    /// An index: one image per platform, or anything else that was put together.
    Index(ImageIndex),
}

/// An index with everything that it names.
#[derive(Debug, Clone)]
pub struct ImageIndex {
    /// The index, byte for byte.
    pub bytes: Vec<u8>,
    /// What it says.
    pub parsed: Index,
    /// What its entries name, in their order.
    pub children: Vec<Content>,
}

impl ImageIndex {
    /// An index over images, each under the platform that its config names, with the GPUs that its labels name as an annotation.
    #[must_use]
    pub fn of(images: Vec<Image>) -> Self {
        let entry = |image: &Image| {
            let mut entry = Descriptor { platform: platform_of(image), ..describe(image) };
            entry.annotations.extend(gpus_of(image).map(|gpus| (label::SM.to_owned(), gpus)));
            entry
        };
        let parsed = Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests: images.iter().map(entry).collect(),
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&parsed).expect("an index has string keys only");
        Self { bytes, parsed, children: images.into_iter().map(Content::Image).collect() }
    }
}

impl From<Image> for Content {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

/// Describes an image's manifest.
#[must_use]
pub fn describe(image: &Image) -> Descriptor {
    let kind = image.parsed.media_type.as_deref().unwrap_or(media_type::MANIFEST);
    let mut descriptor = Descriptor::of(kind, &image.manifest);
    descriptor.artifact_type.clone_from(&image.parsed.artifact_type);
    descriptor
}

/// Reads the platform out of an image's config; `None` where the config is none of an image.
#[must_use]
pub fn platform_of(image: &Image) -> Option<PlatformFields> {
    #[derive(serde::Deserialize)]
    struct Fields {
        architecture: String,
        os: String,
        #[serde(default)]
        variant: Option<String>,
    }
    let Fields { architecture, os, variant } = serde_json::from_slice(&image.config).ok()?;
    Some(PlatformFields { architecture, os, variant, other: Default::default() })
}

/// What an image's labels say of the GPUs that it is for.
#[must_use]
pub fn gpus_of(image: &Image) -> Option<String> {
    let config: ImageConfig = serde_json::from_slice(&image.config).ok()?;
    config.config.labels?.remove(label::SM)
}

fn is_for(fields: &PlatformFields, platform: Platform) -> bool {
    fields.os == "linux" && fields.architecture == platform.architecture()
}

/// A platform as people write it, such as `linux/arm64/v8`.
fn written(fields: &PlatformFields) -> String {
    let variant = fields.variant.as_ref().map(|variant| format!("/{variant}")).unwrap_or_default();
    format!("{}/{}{variant}", fields.os, fields.architecture)
}

impl Content {
    /// Describes the manifest or index.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        match self {
            Self::Image(image) => describe(image),
            Self::Index(index) => Descriptor::of(index.parsed.media_type.as_deref().unwrap_or(media_type::INDEX), &index.bytes),
        }
    }

    /// The platforms it is for, as people write them; what is for none, such as an attestation, is left out.
    #[must_use]
    pub fn platforms(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.each(None, &mut |image, entry| {
            let fields = entry.and_then(|entry| entry.platform.as_ref());
            if let Some(fields) = fields.cloned().or_else(|| platform_of(image)).filter(|fields| fields.os != "unknown") {
                found.push(written(&fields));
            }
        });
        found.dedup();
        found
    }

    /// Visits each image with the entry of the index that names it.
    fn each<'a>(&'a self, entry: Option<&'a Descriptor>, visit: &mut dyn FnMut(&'a Image, Option<&'a Descriptor>)) {
        match self {
            Self::Image(image) => visit(image, entry),
            Self::Index(index) => {
                for (child, entry) in index.children.iter().zip(&index.parsed.manifests) {
                    child.each(Some(entry), visit);
                }
            }
        }
    }

    /// Every image in it, once for each time that it is named.
    #[must_use]
    pub fn images(&self) -> Vec<&Image> {
        let mut found = Vec::new();
        self.each(None, &mut |image, _| found.push(image));
        found
    }

    /// The images for a platform in their order, each with the entry of the index that names it.
    #[must_use]
    pub fn images_for(&self, platform: Platform) -> Vec<(&Image, Option<&Descriptor>)> {
        let mut found = Vec::new();
        self.each(None, &mut |image, entry| {
            let fields = entry.and_then(|entry| entry.platform.clone()).or_else(|| platform_of(image));
            if fields.is_some_and(|fields| is_for(&fields, platform)) {
                found.push((image, entry));
            }
        });
        found
    }

    /// Takes the one image for a platform, or the only one where none is asked for.
    ///
    /// # Errors
    /// [`TransportError::PlatformNeeded`] where there are several and none was asked for, [`TransportError::Platform`] where there is none
    /// for that platform.
    pub fn image(&self, platform: Option<Platform>) -> Result<&Image, TransportError> {
        let mut candidates = Vec::new();
        self.each(None, &mut |image, entry| {
            let fields = entry.and_then(|entry| entry.platform.clone()).or_else(|| platform_of(image));
            let fits = match (&fields, platform) {
                (Some(fields), Some(platform)) => is_for(fields, platform),
                // An artifact that is no image is for every platform, but is never chosen out of an index.
                (None, Some(_)) => matches!(self, Self::Image(_)),
                (fields, None) => fields.as_ref().is_none_or(|fields| fields.os != "unknown"),
            };
            if fits {
                candidates.push(image);
            }
        });
        match (candidates.as_slice(), platform) {
            ([], Some(platform)) => Err(TransportError::Platform { wanted: platform.to_string(), available: self.platforms() }),
            ([image], _) | ([image, ..], Some(_)) => Ok(image),
            _ => Err(TransportError::PlatformNeeded { available: self.platforms() }),
        }
    }
}

/// How a place is named in an error about several images of which none was chosen.
pub(super) fn ambiguous(place: &Path, available: Vec<String>) -> TransportError {
    TransportError::Ambiguous { place: place.to_owned(), available }
}

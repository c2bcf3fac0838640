//! Putting finished layers together: config and manifest, byte for byte the same for the same layers.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Blobs, ContainerConfig, Descriptor, History, Image, ImageConfig, Layer, LocalBlobs, Manifest, RootFs, media_type};
use crate::platform::Platform;

/// One layer and what its history row says.
#[derive(Debug, Clone)]
pub struct LayerWithHistory {
    /// The layer.
    pub layer: Layer,
    /// The row.
    pub history: History,
}

/// What makes an image besides its layers.
#[derive(Debug, Clone)]
pub struct ImageParts {
    /// For which platform.
    pub platform: Platform,
    /// Seconds since 1970, the image's time.
    pub epoch: u64,
    /// How a container is started.
    pub container: ContainerConfig,
    /// History rows of the base that have no layer, in their places, are kept by giving all rows of a base here.
    pub base_history: Vec<History>,
    /// The layers of the base, which have their rows in `base_history`.
    pub base_layers: Vec<Layer>,
    /// Where the layers of the base can be read, those that have no file here.
    pub base_blobs: Option<Arc<dyn Blobs>>,
    /// The layers built here.
    pub layers: Vec<LayerWithHistory>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// Seconds since 1970 as RFC 3339 time in UTC.
#[must_use]
pub fn timestamp(epoch: u64) -> String {
    i64::try_from(epoch)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// Layers built here, before those of the base.
#[derive(Debug)]
struct OnBase {
    own: LocalBlobs,
    rest: Arc<dyn Blobs>,
}

impl Blobs for OnBase {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        match self.own.local_path(descriptor) {
            Some(_) => self.own.open_unverified(descriptor, offset),
            None => self.rest.open_unverified(descriptor, offset),
        }
    }

    fn local_path(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        self.own.local_path(descriptor).or_else(|| self.rest.local_path(descriptor))
    }
}

impl Image {
    /// Makes the image of finished layers. Reads nothing.
    #[must_use]
    pub fn assemble(parts: ImageParts) -> Self {
        let mut history = parts.base_history;
        history.extend(parts.layers.iter().map(|layer| layer.history.clone()));
        let layers: Vec<Layer> = parts.base_layers.into_iter().chain(parts.layers.into_iter().map(|layer| layer.layer)).collect();
        let config = ImageConfig {
            created: Some(timestamp(parts.epoch)),
            architecture: parts.platform.architecture().to_owned(),
            os: "linux".to_owned(),
            config: parts.container,
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: layers.iter().map(|layer| layer.diff_id).collect() },
            history,
            other: BTreeMap::new(),
        };
        let config = serde_json::to_vec(&config).expect("a config has string keys only");
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config: Descriptor::of(media_type::CONFIG, &config),
            layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
            subject: None,
            annotations: parts.annotations,
        };
        let mut blobs = LocalBlobs::default();
        for layer in &layers {
            if let Some(path) = &layer.path {
                blobs.add_file(layer.descriptor.digest, path.clone());
            }
        }
        let bytes = serde_json::to_vec(&manifest).expect("a manifest has string keys only");
        let blobs: Arc<dyn Blobs> = match parts.base_blobs {
            None => Arc::new(blobs),
            Some(rest) => Arc::new(OnBase { own: blobs, rest }),
        };
        Self { manifest: bytes, parsed: manifest, config, blobs }
    }

    /// The manifest's descriptor.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        let media_type = self.parsed.media_type.as_deref().unwrap_or(media_type::MANIFEST);
        Descriptor::of(media_type, &self.manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(timestamp(u64::MAX), "1970-01-01T00:00:00Z");
    }
}

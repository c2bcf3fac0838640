//! What can go wrong with the image that everything is put upon: [`ParentError`].

use crate::digest::Digest;
use crate::layer::ReadError;
use crate::registry::RegistryError;
use crate::store::StoreError;
use crate::transport::{ImageError, NameError, TransportError};

/// What can go wrong with the image that everything is put upon.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The text names no image that can be the base.
    #[error("`{found}` names no base image")]
    Name {
        /// The text as given.
        found: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A place whose images have no digest that others could check.
    #[error("`{found}` cannot be the base: expected `oci:`, `oci-archive:` or `docker://`, whose images keep their digest")]
    Place {
        /// The text as given.
        found: String,
    },
    /// The image cannot be found or read where it is.
    #[error("failed to open the base `{name}`")]
    Open {
        /// The base.
        name: String,
        /// Why not.
        source: TransportError,
    },
    /// The registry does not give it.
    #[error("failed to fetch the base `{name}`")]
    Fetch {
        /// The base.
        name: String,
        /// Why not.
        source: RegistryError,
    },
    /// Its manifest is another than the pinned one.
    #[error("the manifest of the base `{name}` is {actual}, expected {expected} as the lock pins")]
    Digest {
        /// The base.
        name: String,
        /// Digest of the manifest that is there.
        actual: Digest,
        /// The pinned one.
        expected: Digest,
    },
    /// The store does not have what is needed of it, and the network may not be used.
    #[error("{what} of the base `{name}` is not in the store, and `--offline` forbids fetching it")]
    Offline {
        /// The base.
        name: String,
        /// What is missing.
        what: String,
    },
    /// It is something else than an image, such as an attestation.
    #[error("the base `{name}` is no image: its config is of type `{found}`, expected `{}`", crate::image::media_type::CONFIG)]
    NoImage {
        /// The base.
        name: String,
        /// Media type of its config.
        found: String,
    },
    /// Its manifest or config is no JSON, or lacks a field.
    #[error("failed to parse the {what} of the base `{name}`")]
    Document {
        /// The base.
        name: String,
        /// `manifest` or `config`.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// It does not hold together: a digest, a count or a field is wrong.
    #[error("the base `{name}` is damaged")]
    Damaged {
        /// The base.
        name: String,
        /// What is wrong.
        source: ImageError,
    },
    /// A layer cannot be read.
    #[error("failed to read the layers of the base `{name}`")]
    Layers {
        /// The base.
        name: String,
        /// Why not.
        source: ReadError,
    },
    /// A layer cannot be fetched.
    #[error("failed to fetch the layer {digest} of the base `{name}`")]
    Layer {
        /// The base.
        name: String,
        /// The layer.
        digest: Digest,
        /// Why not.
        source: std::io::Error,
    },
    /// Its user is neither numeric nor in its `/etc/passwd`.
    #[error("the base `{name}` runs as `{user}`, which is not in its `/etc/passwd`")]
    User {
        /// The base.
        name: String,
        /// Its user.
        user: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ParentError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name { source, .. } => source.hint(),
            Self::Place { .. } => {
                Some("copy it with `imgbuild push` into a layout or registry, and name that by its digest".to_owned())
            }
            Self::Open { source, .. } => source.hint(),
            Self::Fetch { source, .. } => source.hint(),
            Self::Digest { .. } => Some("run `imgbuild lock --update` if the base was to change".to_owned()),
            Self::Offline { .. } => Some("build once without `--offline`".to_owned()),
            Self::Damaged { source, .. } => source.hint(),
            Self::User { .. } => Some("set `image.user` in the recipe".to_owned()),
            Self::NoImage { .. } | Self::Document { .. } | Self::Layers { .. } | Self::Layer { .. } | Self::Store(_) => None,
        }
    }

    /// Whether it could not be had, as opposed to being unfit.
    #[must_use]
    pub fn is_about_fetching(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => !matches!(source, RegistryError::Platform { .. }),
            Self::Digest { .. } | Self::Offline { .. } | Self::Layer { .. } => true,
            _ => false,
        }
    }
}

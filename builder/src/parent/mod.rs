//! The OCI image that everything is put upon, where the base is one: [`Parent`], found and pinned by [`Parents`].
//!
//! Its layers stay byte for byte as they are; only Docker's media types are renamed to OCI's, which changes no digest of a layer.
//! A layer is read once, to learn what it holds: a tar has no table of contents. That listing and the libraries that were taken
//! out of it stay in the store, so that a later build reads no layer, and a push to the registry that has them moves none.

mod blobs;
mod error;
mod listing;
mod name;

pub use error::ParentError;
pub use listing::Listing;
pub use name::ParentName;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::{Descriptor, History, Image, ImageConfig, Layer, Manifest, media_type, open_verified};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::User;
use crate::registry::Client;
use crate::source::Reach;
use crate::store::{Blob, Store};
use crate::transport::{Content, Open, Transport, to_oci};
use crate::tree::ImagePath;
use blobs::{Origin, ParentBlobs};

/// What the lock says of a parent: the manifest of one platform, to its last byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentPin {
    /// The name for which it was chosen.
    pub name: String,
    /// Digest of its manifest.
    pub sha256: Digest,
    /// Bytes of its manifest.
    pub size: u64,
}

/// Finds parents, where and how they may be looked for.
#[derive(Debug)]
pub struct Parents<'a> {
    /// Reaches registries.
    pub client: &'a Client,
    /// Keeps what was fetched.
    pub store: &'a Store,
    /// Whether the network may be used.
    pub reach: Reach,
    /// Where events go.
    pub progress: &'a Progress,
    /// For which platform.
    pub platform: Platform,
}

/// An image that everything is put upon, pinned and listed.
#[derive(Debug, Clone)]
pub struct Parent {
    /// As the recipe names it.
    pub name: ParentName,
    /// Its pin.
    pub pin: ParentPin,
    /// Its config.
    pub config: ImageConfig,
    /// What its layers come to.
    pub listing: Listing,
    /// The image with OCI's media types.
    image: Image,
    store: Store,
}

impl Parents<'_> {
    /// Finds which image a name means now. Its manifest and config are kept.
    ///
    /// # Errors
    /// Where it cannot be found or read, or is for another platform.
    pub fn resolve(&self, name: &ParentName) -> Result<ParentPin, ParentError> {
        let image = self.fetch(name, name.transport())?;
        self.store.add(&image.manifest[..], None)?;
        self.store.add(&image.config[..], None)?;
        let sha256 = Digest::of(&image.manifest);
        Ok(ParentPin { name: name.to_string(), sha256, size: image.manifest.len() as u64 })
    }

    /// Opens the pinned image and lists what its layers hold, reading them where no earlier build has.
    ///
    /// # Errors
    /// Where it cannot be found, is damaged, or is another than the pinned one.
    pub fn open(&self, name: &ParentName, pin: &ParentPin) -> Result<Parent, ParentError> {
        let shown = name.to_string();
        let image = match self.stored(name, pin)? {
            Some(image) => image,
            None => self.fetch(name, &name.at(pin.sha256))?,
        };
        let actual = Digest::of(&image.manifest);
        if actual != pin.sha256 {
            return Err(ParentError::Digest { name: shown, actual, expected: pin.sha256 });
        }
        if !matches!(image.parsed.config.media_type.as_str(), media_type::CONFIG | media_type::DOCKER_CONFIG) {
            return Err(ParentError::NoImage { name: shown, found: image.parsed.config.media_type.clone() });
        }
        let listing = match Listing::known(&image, self.store) {
            Some(listing) => listing,
            None => {
                self.download(name, &image)?;
                Listing::read(&shown, &image, self.store, self.progress)?
            }
        };
        let converted = to_oci(&Content::from(image.clone())).map_err(|source| ParentError::Open { name: shown, source })?;
        let image = match converted {
            Some(Content::Image(converted)) => converted,
            _ => image,
        };
        let config = parse(name, "config", &image.config)?;
        Ok(Parent { name: name.clone(), pin: pin.clone(), config, listing, image, store: self.store.clone() })
    }

    /// The image of a pin out of the store: what is in a registry is asked for once.
    fn stored(&self, name: &ParentName, pin: &ParentPin) -> Result<Option<Image>, ParentError> {
        let Some(reference) = name.reference() else { return Ok(None) };
        let read = |digest: &Digest| -> Result<Option<Vec<u8>>, ParentError> {
            let Some(blob) = self.store.find(digest)? else { return Ok(None) };
            Ok(std::fs::read(blob.path).ok())
        };
        let offline = |what: &str| ParentError::Offline { name: name.to_string(), what: what.to_owned() };
        let Some(manifest) = read(&pin.sha256)? else {
            return if self.reach == Reach::Offline { Err(offline("the manifest")) } else { Ok(None) };
        };
        let parsed: Manifest = parse(name, "manifest", &manifest)?;
        let Some(config) = read(&parsed.config.digest)? else {
            return if self.reach == Reach::Offline { Err(offline("the config")) } else { Ok(None) };
        };
        let origin = match self.reach {
            Reach::Online => Origin::Registry { client: self.client.clone(), reference: reference.clone() },
            Reach::Offline => Origin::OutOfReach,
        };
        let blobs = Arc::new(ParentBlobs { store: self.store.clone(), origin });
        Ok(Some(Image { manifest, parsed, config, blobs }))
    }

    /// Reads manifest and config where the image is.
    fn fetch(&self, name: &ParentName, place: &Transport) -> Result<Image, ParentError> {
        let shown = name.to_string();
        let (mut image, origin) = match place {
            Transport::Registry(_) if self.reach == Reach::Offline => {
                return Err(ParentError::Offline { name: shown, what: "the manifest".to_owned() });
            }
            Transport::Registry(reference) => {
                let opened = self.client.open(reference, self.platform);
                let image = opened.map_err(|source| ParentError::Fetch { name: shown, source })?;
                (image, Origin::Registry { client: self.client.clone(), reference: reference.clone() })
            }
            local => {
                let failed = |source| ParentError::Open { name: shown.clone(), source };
                let request =
                    Open { platform: Some(self.platform), scratch: Some(self.store.scratch()), progress: self.progress };
                let content = local.open(&request).map_err(failed)?;
                let image = content.image(Some(self.platform)).map_err(failed)?.clone();
                let origin = Origin::Local(Arc::clone(&image.blobs));
                (image, origin)
            }
        };
        image.blobs = Arc::new(ParentBlobs { store: self.store.clone(), origin });
        Ok(image)
    }

    /// Takes the layers of an image in a registry into the store.
    fn download(&self, name: &ParentName, image: &Image) -> Result<(), ParentError> {
        if name.reference().is_none() {
            return Ok(());
        }
        for layer in &image.parsed.layers {
            if self.store.find(&layer.digest)?.is_some() {
                continue;
            }
            if self.reach == Reach::Offline {
                let what = format!("the layer {}", layer.digest);
                return Err(ParentError::Offline { name: name.to_string(), what });
            }
            let failed = |source| ParentError::Layer { name: name.to_string(), digest: layer.digest, source };
            let task = self.progress.task(format!("pull `{}`", layer.digest.short()), Some(layer.size));
            let mut reader = open_verified(image.blobs.as_ref(), layer).map_err(failed)?;
            let mut writer = self.store.writer()?;
            io::copy(&mut reader, &mut writer).map_err(failed)?;
            writer.finish_expecting(&layer.digest)?;
            task.advance(layer.size);
        }
        Ok(())
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &ParentName, what: &'static str, bytes: &[u8]) -> Result<T, ParentError> {
    serde_json::from_slice(bytes).map_err(|source| ParentError::Document { name: name.to_string(), what, source })
}

impl Parent {
    /// Takes files, named by their real paths, into the store.
    ///
    /// # Errors
    /// Where there is no such file or a layer cannot be read.
    pub fn extract(&self, wanted: &[ImagePath]) -> Result<BTreeMap<ImagePath, Blob>, ParentError> {
        self.listing.extract(&self.name.to_string(), wanted, &self.image, &self.store)
    }

    /// Its layers, lowest first.
    #[must_use]
    pub fn layers(&self) -> Vec<Layer> {
        let layer = |((descriptor, diff_id), totals): ((&Descriptor, &Digest), &crate::layer::LayerTotals)| Layer {
            descriptor: Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size),
            diff_id: *diff_id,
            unpacked: totals.tar,
            path: None,
        };
        let layers = self.image.parsed.layers.iter().zip(&self.config.rootfs.diff_ids);
        layers.zip(self.listing.totals()).map(layer).collect()
    }

    /// Where its layers can be read.
    #[must_use]
    pub fn blobs(&self) -> Arc<dyn crate::image::Blobs> {
        Arc::clone(&self.image.blobs)
    }

    /// Its history with a row for each layer; rows are made up where it has none at all.
    #[must_use]
    pub fn history(&self) -> Vec<History> {
        if !self.config.history.is_empty() {
            return self.config.history.clone();
        }
        let row = |_: &Descriptor| History { created_by: Some(format!("layer of {}", self.name)), ..History::default() };
        self.image.parsed.layers.iter().map(row).collect()
    }

    /// Its environment.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let pairs = self.config.config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The user it runs as, in numbers; `None` where that is root. Group 0 is not taken over: the user's own number stands for it.
    ///
    /// # Errors
    /// Where its user is a name that its `/etc/passwd` does not have.
    pub fn user(&self) -> Result<Option<User>, ParentError> {
        let written = self.config.config.user.clone().unwrap_or_default();
        let (user, group) = written.split_once(':').map_or((written.as_str(), None), |(user, group)| (user, Some(group)));
        if matches!(user, "" | "0" | "root") {
            return Ok(None);
        }
        let passwd = self.lines("/etc/passwd")?;
        let row =
            passwd.iter().find(|row| row.first().is_some_and(|name| name == user) || row.get(2).is_some_and(|uid| uid == user));
        let number = |text: Option<&String>| text.and_then(|text| text.parse::<u32>().ok());
        let unknown = || ParentError::User { name: self.name.to_string(), user: written.clone() };
        let uid = user.parse().ok().or_else(|| number(row?.get(2))).ok_or_else(unknown)?;
        let gid = match group {
            None => number(row.and_then(|row| row.get(3))),
            Some(group) => match group.parse().ok() {
                Some(gid) => Some(gid),
                None => {
                    let groups = self.lines("/etc/group")?;
                    let row = groups.iter().find(|row| row.first().is_some_and(|name| name == group));
                    Some(number(row.and_then(|row| row.get(2))).ok_or_else(unknown)?)
                }
            },
        };
        Ok((uid != 0).then(|| User { uid, gid: gid.filter(|gid| *gid != 0).unwrap_or(uid) }))
    }

    /// The fields of the lines of one of its user data bases; none where it has no such file.
    fn lines(&self, path: &str) -> Result<Vec<Vec<String>>, ParentError> {
        let path: ImagePath = path.parse().expect("a path");
        let Some(file) = self.listing.file(&path) else { return Ok(Vec::new()) };
        let blob = self.extract(std::slice::from_ref(&file))?.remove(&file);
        let text = blob.and_then(|blob| std::fs::read(blob.path).ok()).unwrap_or_default();
        let fields = |line: &str| line.split(':').map(str::to_owned).collect();
        Ok(String::from_utf8_lossy(&text).lines().map(fields).collect())
    }
}

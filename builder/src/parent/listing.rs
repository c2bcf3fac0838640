//! What a parent's layers come to: [`Listing`], kept in the store so that a layer is read once.

use std::collections::BTreeMap;
use std::fs::File;

use serde::{Deserialize, Serialize};

use super::ParentError;
use crate::digest::Digest;
use crate::image::Image;
use crate::layer::{Index, IndexEntry, IndexKind, LayerTotals, Limits, ReadError};
use crate::progress::Progress;
use crate::store::{Blob, Store};
use crate::transport::validate;
use crate::tree::{ImagePath, LayoutError};

/// Raised when a listing is made or written differently.
const VERSION: u32 = 1;

/// The merged file system of a parent's layers, deletions applied.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Listing {
    index: Index,
}

impl Listing {
    /// The listing that an earlier build made of the same layers.
    pub(super) fn known(image: &Image, store: &Store) -> Option<Self> {
        serde_json::from_slice(&store.record("parent-listing", &key(image))?).ok()
    }

    /// Reads all layers, checking the image as a whole, and keeps what they come to.
    pub(super) fn read(name: &str, image: &Image, store: &Store, progress: &Progress) -> Result<Self, ParentError> {
        validate(image, progress).map_err(|source| ParentError::Damaged { name: name.to_owned(), source })?;
        let index = Index::of(&image.parsed.layers, image.blobs.as_ref(), &Limits::default())
            .map_err(|source| ParentError::Layers { name: name.to_owned(), source })?;
        let listing = Self { index };
        // Names that are not UTF-8 cannot be written as JSON: such a parent is read each time.
        if let Ok(record) = serde_json::to_vec(&listing) {
            store.put_record("parent-listing", &key(image), &record)?;
        }
        Ok(listing)
    }

    /// What each layer holds, lowest first.
    #[must_use]
    pub fn totals(&self) -> &[LayerTotals] {
        self.index.totals()
    }

    /// All entries by path.
    pub fn entries(&self) -> impl Iterator<Item = (ImagePath, &IndexEntry)> {
        self.index.entries()
    }

    /// What lies at a path, links in its directories followed; a link at its end is itself.
    #[must_use]
    pub fn get(&self, path: &ImagePath) -> Option<&IndexEntry> {
        self.index.get(&self.place(path).ok()?)
    }

    /// Where a path leads once all links are followed, if to a regular file.
    #[must_use]
    pub fn file(&self, path: &ImagePath) -> Option<ImagePath> {
        let found = self.index.resolve(path)?;
        matches!(self.index.get(&found)?.kind, IndexKind::File { .. }).then_some(found)
    }

    /// The real path of something that is to be put at a path: its directories may be links.
    ///
    /// # Errors
    /// [`LayoutError::NotADirectory`] where a file lies in the way.
    pub fn place(&self, path: &ImagePath) -> Result<ImagePath, LayoutError> {
        let Some(parent) = path.parent() else { return Ok(path.clone()) };
        let blocked = |what: &str| LayoutError::NotADirectory {
            path: path.clone(),
            parent: parent.clone(),
            what: format!("something else in the base image: {what}"),
        };
        let found = self.index.directory_at(&parent).map_err(&blocked)?;
        format!("{found}/{}", path.file_name()).parse().map_err(|_| blocked("its directory is the root"))
    }

    /// Takes files into the store; what was taken before is found there. Only layers that hold a missing one are read.
    pub(super) fn extract(
        &self,
        name: &str,
        wanted: &[ImagePath],
        image: &Image,
        store: &Store,
    ) -> Result<BTreeMap<ImagePath, Blob>, ParentError> {
        let failed = |source: ReadError| ParentError::Layers { name: name.to_owned(), source };
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        for path in wanted {
            let key = self.content_key(path, image).ok_or_else(|| failed(ReadError::NotThere { path: path.clone() }))?;
            let digest = store.record("parent-file", &key).and_then(|record| serde_json::from_slice::<Digest>(&record).ok());
            match digest.map_or(Ok(None), |digest| store.find(&digest))? {
                Some(blob) => drop(found.insert(path.clone(), blob)),
                None => missing.push((path, key)),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let folder = store.scratch_folder()?;
        let paths = missing.iter().map(|(path, _)| *path);
        let files = self
            .index
            .extract(paths, &image.parsed.layers, image.blobs.as_ref(), folder.path(), &Limits::default())
            .map_err(failed)?;
        for (path, key) in missing {
            let file = files.get(path).ok_or_else(|| failed(ReadError::NotThere { path: path.clone() }))?;
            let open =
                File::open(file).map_err(|source| failed(ReadError::Write { action: "read", path: file.clone(), source }))?;
            let blob = store.add(open, None)?;
            store.put_record("parent-file", &key, &serde_json::to_vec(&blob.digest).expect("a digest is plain data"))?;
            found.insert(path.clone(), blob);
        }
        Ok(found)
    }

    /// What a file's content is kept under: its layer and its number in there.
    fn content_key(&self, path: &ImagePath, image: &Image) -> Option<Digest> {
        let (layer, member) = self.index.get(path)?.content();
        let layer = image.parsed.layers.get(layer)?.digest;
        Some(Digest::of(format!("{VERSION} {layer} {member}").as_bytes()))
    }
}

/// What a listing is kept under: the layers, and the config, which was checked against them.
fn key(image: &Image) -> Digest {
    let layers: Vec<String> = image.parsed.layers.iter().map(|layer| layer.digest.to_string()).collect();
    Digest::of(format!("{VERSION} {} {}", image.parsed.config.digest, layers.join(" ")).as_bytes())
}

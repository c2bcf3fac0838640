//! Where a parent's layers are read: [`ParentBlobs`].

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use crate::image::{Blobs, Descriptor};
use crate::reference::Reference;
use crate::registry::Client;
use crate::store::Store;

/// The layers of a parent: out of the store where it has them, else where the parent is.
#[derive(Debug)]
pub(super) struct ParentBlobs {
    pub store: Store,
    pub origin: Origin,
}

/// Where a parent's layers are besides the store.
#[derive(Debug)]
pub(super) enum Origin {
    /// On this machine.
    Local(Arc<dyn Blobs>),
    /// In a registry, which is not asked before a layer is read.
    Registry { client: Client, reference: Reference },
    /// In a registry that must not be asked.
    OutOfReach,
}

impl ParentBlobs {
    fn stored(&self, descriptor: &Descriptor) -> io::Result<Option<PathBuf>> {
        Ok(self.store.find(&descriptor.digest).map_err(io::Error::other)?.map(|blob| blob.path))
    }
}

impl Blobs for ParentBlobs {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        if let Some(path) = self.stored(descriptor)? {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            return Ok(Box::new(file));
        }
        match &self.origin {
            Origin::Local(blobs) => blobs.open_unverified(descriptor, offset),
            Origin::Registry { client, reference } => {
                client.blobs(reference).map_err(io::Error::other)?.open_unverified(descriptor, offset)
            }
            Origin::OutOfReach => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("layer {} of the base is not in the store, and `--offline` forbids fetching it", descriptor.digest),
            )),
        }
    }

    fn local_path(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        match (self.stored(descriptor), &self.origin) {
            (Ok(Some(path)), _) => Some(path),
            (_, Origin::Local(blobs)) => blobs.local_path(descriptor),
            _ => None,
        }
    }
}

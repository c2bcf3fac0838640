//! An image or index on its way into a registry: blobs first, then the manifest by its digest, then the tags.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, Image, MemoryBlobs};
use crate::reference::{Reference, is_tag};
use crate::transport::Content;

use super::Client;
use super::auth::Scope;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::referrers::list_in_tag;
use super::upload::{Placed, Upload};

/// How an image is pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushOptions {
    /// Tags besides that of the reference.
    pub tags: Vec<String>,
    /// Refuses to move a tag that exists.
    pub immutable: bool,
    /// Repositories of the same registry that may have some of the layers. Those that this client has read or written layers
    /// in are tried without being listed.
    pub mount_from: Vec<String>,
    /// Layers that are sent at the same time.
    pub parallel: usize,
    /// The pieces that large blobs are sent in.
    pub chunking: Chunking,
}

/// The pieces that large blobs are sent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunking {
    /// Chunks of so many bytes: a broken connection costs one at most.
    Of(u64),
    /// One piece, for registries that take no chunks.
    Whole,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { tags: Vec::new(), immutable: false, mount_from: Vec::new(), parallel: 3, chunking: Chunking::Of(32 << 20) }
    }
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pushed {
    /// `registry/repository`.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The tags that point at it now.
    pub tags: Vec<String>,
    /// Bytes of blobs and manifests that left this machine, those that were sent twice included.
    pub bytes_sent: u64,
    /// Those of them that were manifests and indexes: each is sent by its digest first, and then once for each tag.
    pub manifest_bytes: u64,
    /// What happened to each blob: of each image the config first, then the layers; each once.
    pub blobs: Vec<PushedBlob>,
    /// Tags that list what is attached to an image, written because the registry keeps no such lists itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
}

/// What happened to a blob.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PushedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// How it came to be there.
    #[serde(flatten)]
    pub placed: Placed,
}

impl Client {
    /// Pushes an image. A reference without tag and digest means `latest`; one with a digest alone sets no tag.
    ///
    /// # Errors
    /// Where the registry cannot be reached, refuses, or does not store what it was sent; where a layer cannot be read; and
    /// where a tag is to stay as it is.
    pub fn push(&self, image: &Image, reference: &Reference, options: &PushOptions) -> Result<Pushed, RegistryError> {
        self.push_content(&Content::Image(image.clone()), reference, options)
    }

    /// Pushes an image or an index with everything that it names; tags are set last, and on the whole alone.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub fn push_content(&self, content: &Content, reference: &Reference, options: &PushOptions) -> Result<Pushed, RegistryError> {
        let descriptor = content.descriptor();
        let digest = descriptor.digest;
        if reference.digest.is_some_and(|wanted| wanted != digest) {
            return Err(RegistryError::OtherDigest { reference: reference.to_string(), actual: digest });
        }
        let mut tags: Vec<String> = reference.tag_or_latest().map(str::to_owned).into_iter().collect();
        for tag in &options.tags {
            if !is_tag(tag) {
                return Err(RegistryError::Tag { found: tag.clone() });
            }
            if !tags.contains(tag) {
                tags.push(tag.clone());
            }
        }
        let endpoint = self.endpoint(&reference.registry)?;
        let repository = reference.repository.as_str();
        if options.immutable {
            for tag in &tags {
                refuse_to_move(&endpoint, repository, tag, &digest)?;
            }
        }
        let mut push = Push {
            client: self,
            endpoint: &endpoint,
            repository,
            options,
            sent: AtomicU64::new(0),
            manifests: 0,
            blobs: Vec::new(),
            lists: Vec::new(),
        };
        push.content(content)?;
        let bytes = match content {
            Content::Image(image) => &image.manifest,
            Content::Index(index) => &index.bytes,
        };
        for tag in &tags {
            if options.immutable && refuse_to_move(&endpoint, repository, tag, &digest)? {
                continue;
            }
            push.manifest(tag, &descriptor.media_type, bytes)?;
        }
        let Push { sent, manifests, blobs, lists, .. } = push;
        Ok(Pushed {
            name: reference.name(),
            digest,
            tags,
            bytes_sent: sent.into_inner() + manifests,
            manifest_bytes: manifests,
            blobs,
            lists,
        })
    }

    /// Writes a manifest or an index whose parts are in the repository already, under the reference's tag and under its digest.
    ///
    /// # Errors
    /// Where the registry cannot be reached, refuses, or stores something else.
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let digest = Digest::of(bytes);
        if reference.digest.is_some_and(|wanted| wanted != digest) {
            return Err(RegistryError::OtherDigest { reference: reference.to_string(), actual: digest });
        }
        let endpoint = self.endpoint(&reference.registry)?;
        for which in std::iter::once(digest.to_string()).chain(reference.tag_or_latest().map(str::to_owned)) {
            endpoint.put_manifest(&reference.repository, &which, media_type, bytes)?;
        }
        Ok(digest)
    }

    /// Sends blobs, several at a time; the first failure ends all.
    pub(crate) fn push_blobs(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        wanted: &[&Descriptor],
        blobs: &dyn Blobs,
        options: &PushOptions,
        sent: &AtomicU64,
    ) -> Result<Vec<Placed>, RegistryError> {
        let queue: Mutex<VecDeque<usize>> = Mutex::new((0..wanted.len()).collect());
        let results: Mutex<BTreeMap<usize, Placed>> = Mutex::default();
        let failure: Mutex<Option<RegistryError>> = Mutex::default();
        let stop = AtomicBool::new(false);
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(next) = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
                match self.push_blob(endpoint, repository, wanted[next], blobs, options, sent, &stop) {
                    Ok(placed) => {
                        results.lock().unwrap_or_else(PoisonError::into_inner).insert(next, placed);
                    }
                    Err(error) => {
                        // Those that stop because of the first failure are no cause.
                        if !stop.swap(true, Ordering::Relaxed) {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..options.parallel.clamp(1, 16).min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one push, each used once")]
    fn push_blob(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        descriptor: &Descriptor,
        blobs: &dyn Blobs,
        options: &PushOptions,
        sent: &AtomicU64,
        stop: &AtomicBool,
    ) -> Result<Placed, RegistryError> {
        if descriptor.media_type.contains(".nondistributable.") || descriptor.media_type.contains(".foreign.") {
            return Ok(Placed::NotDistributable);
        }
        let mut mount_from: Vec<String> = self.known_places(&endpoint.registry, &descriptor.digest);
        mount_from.extend(options.mount_from.iter().cloned());
        let mut seen = BTreeSet::from([repository.to_owned()]);
        mount_from.retain(|from| seen.insert(from.clone()));
        let task = self.progress().task(format!("push `{}`", descriptor.digest.short()), Some(descriptor.size));
        let chunk = match options.chunking {
            Chunking::Of(bytes) => Some(bytes.max(1)),
            Chunking::Whole => None,
        };
        let upload = Upload { endpoint, repository, descriptor, blobs, chunk, mount_from: &mount_from, sent, stop, task: &task };
        let placed = upload.run()?;
        self.remember(&endpoint.registry, repository, [descriptor.digest]);
        Ok(placed)
    }
}

/// One push on its way.
struct Push<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    repository: &'a str,
    options: &'a PushOptions,
    /// Bytes of blobs that were sent.
    sent: AtomicU64,
    /// Bytes of manifests that were sent.
    manifests: u64,
    blobs: Vec<PushedBlob>,
    /// Tags that list what is attached to something.
    lists: Vec<String>,
}

impl Push<'_> {
    /// Sends everything that a manifest or index names, then itself by its digest.
    fn content(&mut self, content: &Content) -> Result<(), RegistryError> {
        let image = match content {
            Content::Image(image) => image,
            Content::Index(index) => {
                for child in &index.children {
                    self.content(child)?;
                }
                let descriptor = content.descriptor();
                return self.manifest(&descriptor.digest.to_string(), &descriptor.media_type, &index.bytes).map(drop);
            }
        };
        let blobs = MemoryBlobs {
            parts: BTreeMap::from([(image.parsed.config.digest, image.config.clone())]),
            rest: Some(Arc::clone(&image.blobs)),
        };
        let mut seen: BTreeSet<Digest> = self.blobs.iter().map(|blob| blob.digest).collect();
        let wanted: Vec<&Descriptor> =
            std::iter::once(&image.parsed.config).chain(&image.parsed.layers).filter(|blob| seen.insert(blob.digest)).collect();
        let placed = self.client.push_blobs(self.endpoint, self.repository, &wanted, &blobs, self.options, &self.sent)?;
        let pushed = wanted.iter().zip(placed).map(|(blob, placed)| PushedBlob { digest: blob.digest, size: blob.size, placed });
        self.blobs.extend(pushed);
        let descriptor = image.artifact_descriptor();
        let keeps_referrers = self.manifest(&descriptor.digest.to_string(), &descriptor.media_type, &image.manifest)?;
        match &image.parsed.subject {
            Some(subject) if !keeps_referrers => {
                self.lists.push(list_in_tag(self.endpoint, self.repository, &subject.digest, &descriptor)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn manifest(&mut self, which: &str, media_type: &str, bytes: &[u8]) -> Result<bool, RegistryError> {
        self.manifests += bytes.len() as u64;
        self.endpoint.put_manifest(self.repository, which, media_type, bytes)
    }
}

/// Checks that a tag may be set: `true` where it points there already.
fn refuse_to_move(endpoint: &Endpoint, repository: &str, tag: &str, digest: &Digest) -> Result<bool, RegistryError> {
    match endpoint.head_manifest(repository, tag, &Scope::push(repository))? {
        Some(found) if found.digest != *digest => {
            Err(RegistryError::TagExists { reference: endpoint.name(repository, tag), actual: found.digest, expected: *digest })
        }
        found => Ok(found.is_some()),
    }
}

//! Images out of registries: opened without their layers, which are streamed where somebody reads them.

use std::io::{self, Read, Write};
use std::sync::Arc;

use ureq::http::{Method, header};

use crate::digest::Digest;
use crate::image::{Blobs, Descriptor, Image, ImageConfig, Index, Manifest, media_type, open_verified};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Blob, Store};
use crate::transport::{Content, ImageIndex};

use super::Client;
use super::auth::Scope;
use super::endpoint::{Ask, Endpoint};
use super::error::{RegistryError, TransportKind, shown};
use super::manifest::{FetchedManifest, MANIFEST_LIMIT};
use super::retry::Tries;

/// Indexes inside indexes are followed so deep.
const DEEPEST: usize = 3;
/// Manifests of an index that are copied with it.
const MOST_DOCUMENTS: usize = 4096;
/// Bytes after which a broken download counts as having got further.
const GAIN: u64 = 64 * 1024;

impl Client {
    /// Opens an image: its manifest and config are read and checked, its layers are streamed from the registry when read.
    /// From an index the image for the platform is taken.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses, there is no such image or none for the platform, or bytes are not
    /// those that their digest promises.
    pub fn open(&self, reference: &Reference, platform: Platform) -> Result<Image, RegistryError> {
        let mut manifest = self.fetch_manifest(reference)?;
        let endpoint = self.endpoint(&reference.registry)?;
        let repository = reference.repository.as_str();
        for _ in 0..DEEPEST {
            if !is_index(&manifest.descriptor.media_type) {
                return self.open_manifest(reference, &endpoint, manifest, Some(platform));
            }
            let index: Index = parse(&manifest.bytes, || format!("index {reference}"))?;
            let chosen = choose(&index, platform).ok_or_else(|| RegistryError::Platform {
                reference: reference.to_string(),
                wanted: platform,
                available: available(&index),
            })?;
            let which = chosen.digest.to_string();
            manifest =
                endpoint.get_manifest(repository, &which, &Scope::pull(repository))?.ok_or_else(|| RegistryError::Document {
                    what: format!("index {reference}"),
                    reason: format!("it names {which}, which the registry does not have"),
                })?;
        }
        Err(RegistryError::Document {
            what: format!("index {reference}"),
            reason: "indexes lie too deep in one another".to_owned(),
        })
    }

    /// Opens whatever a reference names: an image for any platform, an artifact, or an index with all that it names.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn open_all(&self, reference: &Reference) -> Result<Content, RegistryError> {
        let manifest = self.fetch_manifest(reference)?;
        self.open_tree(reference, manifest, &mut 0, DEEPEST)
    }

    fn open_tree(
        &self,
        reference: &Reference,
        manifest: FetchedManifest,
        documents: &mut usize,
        depth: usize,
    ) -> Result<Content, RegistryError> {
        let what = || format!("index {reference}");
        let refuse = |reason: String| Err(RegistryError::Document { what: what(), reason });
        let endpoint = self.endpoint(&reference.registry)?;
        *documents += 1;
        if *documents > MOST_DOCUMENTS {
            return refuse(format!("it names more than {MOST_DOCUMENTS} manifests"));
        }
        if !is_index(&manifest.descriptor.media_type) {
            return Ok(Content::Image(self.open_manifest(reference, &endpoint, manifest, None)?));
        }
        if depth == 0 {
            return refuse("indexes lie too deep in one another".to_owned());
        }
        let parsed: Index = parse(&manifest.bytes, what)?;
        let mut children = Vec::with_capacity(parsed.manifests.len());
        for entry in &parsed.manifests {
            let (repository, which) = (reference.repository.as_str(), entry.digest.to_string());
            let Some(child) = endpoint.get_manifest(repository, &which, &Scope::pull(repository))? else {
                return refuse(format!("it names {which}, which the registry does not have"));
            };
            let place = Reference { tag: None, digest: Some(entry.digest), ..reference.clone() };
            children.push(self.open_tree(&place, child, documents, depth - 1)?);
        }
        Ok(Content::Index(ImageIndex { bytes: manifest.bytes, parsed, children }))
    }

    /// Reads what a reference names, an image's manifest or an index, byte for byte.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn fetch_manifest(&self, reference: &Reference) -> Result<FetchedManifest, RegistryError> {
        let endpoint = self.endpoint(&reference.registry)?;
        let which = which(reference);
        endpoint
            .get_manifest(&reference.repository, &which, &Scope::pull(&reference.repository))?
            .ok_or_else(|| RegistryError::NotFound { reference: endpoint.name(&reference.repository, &which) })
    }

    /// Finds what a reference names without reading it; `None` where there is nothing.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses.
    pub fn head_manifest(&self, reference: &Reference) -> Result<Option<Descriptor>, RegistryError> {
        let endpoint = self.endpoint(&reference.registry)?;
        endpoint.head_manifest(&reference.repository, &which(reference), &Scope::pull(&reference.repository))
    }

    /// Whether a repository has a blob.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses.
    pub fn has_blob(&self, repository: &Reference, descriptor: &Descriptor) -> Result<bool, RegistryError> {
        let endpoint = self.endpoint(&repository.registry)?;
        super::upload::exists(&endpoint, &repository.repository, descriptor, &Scope::pull(&repository.repository))
    }

    /// Lists the tags of a repository.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses.
    pub fn list_tags(&self, repository: &Reference) -> Result<Vec<String>, RegistryError> {
        self.endpoint(&repository.registry)?.list_tags(&repository.repository)
    }

    /// The blobs of a repository, streamed when read, going on where a connection breaks.
    ///
    /// # Errors
    /// Where it cannot be found out how the registry is reached.
    pub fn blobs(&self, repository: &Reference) -> Result<Arc<dyn Blobs>, RegistryError> {
        let endpoint = self.endpoint(&repository.registry)?;
        Ok(Arc::new(RemoteBlobs { endpoint, repository: repository.repository.clone() }))
    }

    /// Takes a blob into the store, unless it is there.
    ///
    /// # Errors
    /// Where the registry cannot be reached or does not have it, its bytes are others, or the store cannot be written.
    pub fn download_blob(&self, repository: &Reference, descriptor: &Descriptor, store: &Store) -> Result<Blob, RegistryError> {
        if let Some(blob) = store.find(&descriptor.digest)? {
            return Ok(blob);
        }
        let error = |source| RegistryError::ReadBlob { digest: descriptor.digest, source };
        let task = self.progress().task(format!("pull `{}`", descriptor.digest.short()), Some(descriptor.size));
        let blobs = self.blobs(repository)?;
        let mut reader = open_verified(&*blobs, descriptor).map_err(error)?;
        let mut writer = store.writer()?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = reader.read(&mut buffer).map_err(error)?;
            if count == 0 {
                break;
            }
            writer.write_all(&buffer[..count]).map_err(error)?;
            task.advance(count as u64);
        }
        Ok(writer.finish_expecting(&descriptor.digest)?)
    }

    fn open_manifest(
        &self,
        reference: &Reference,
        endpoint: &Arc<Endpoint>,
        manifest: FetchedManifest,
        platform: Option<Platform>,
    ) -> Result<Image, RegistryError> {
        let what = || format!("manifest {reference}");
        if !matches!(manifest.descriptor.media_type.as_str(), media_type::MANIFEST | media_type::DOCKER_MANIFEST) {
            return Err(RegistryError::Document {
                what: what(),
                reason: format!("its media type is `{}`, expected `{}`", manifest.descriptor.media_type, media_type::MANIFEST),
            });
        }
        let parsed: Manifest = parse(&manifest.bytes, what)?;
        if parsed.config.size > MANIFEST_LIMIT {
            return Err(RegistryError::TooLarge { what: format!("the config of {reference}"), limit: MANIFEST_LIMIT });
        }
        let blobs: Arc<dyn Blobs> =
            Arc::new(RemoteBlobs { endpoint: Arc::clone(endpoint), repository: reference.repository.clone() });
        let mut config = Vec::new();
        open_verified(&*blobs, &parsed.config)
            .and_then(|mut reader| reader.read_to_end(&mut config))
            .map_err(|source| RegistryError::ReadBlob { digest: parsed.config.digest, source })?;
        if let Some(platform) = platform
            && matches!(parsed.config.media_type.as_str(), media_type::CONFIG | media_type::DOCKER_CONFIG)
        {
            let read: ImageConfig = parse(&config, || format!("the config of {reference}"))?;
            if read.architecture != platform.architecture() || read.os != "linux" {
                return Err(RegistryError::Platform {
                    reference: reference.to_string(),
                    wanted: platform,
                    available: format!("{}/{}", read.os, read.architecture),
                });
            }
        }
        self.remember(&endpoint.registry, &reference.repository, parsed.layers.iter().map(|layer| layer.digest));
        Ok(Image { manifest: manifest.bytes, parsed, config, blobs })
    }
}

/// The digest of a reference, or its tag.
fn which(reference: &Reference) -> String {
    match reference.digest {
        Some(digest) => digest.to_string(),
        None => reference.tag_or_latest().expect("there is a tag where there is no digest").to_owned(),
    }
}

pub(super) fn is_index(kind: &str) -> bool {
    matches!(kind, media_type::INDEX | media_type::DOCKER_INDEX)
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes).map_err(|error| RegistryError::Document { what: what(), reason: error.to_string() })
}

/// The entry for a platform. The variants of 64-bit ARM are one platform here, `v8` before any other.
fn choose(index: &Index, platform: Platform) -> Option<&Descriptor> {
    let fits = |entry: &&Descriptor| {
        entry.platform.as_ref().is_some_and(|found| found.os == "linux" && found.architecture == platform.architecture())
    };
    let rank = |entry: &&Descriptor| match entry.platform.as_ref().and_then(|found| found.variant.as_deref()) {
        None | Some("" | "v1" | "v8") => 0,
        Some(_) => 1,
    };
    index.manifests.iter().filter(fits).min_by_key(rank)
}

fn available(index: &Index) -> String {
    let named: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(|platform| format!("{}/{}", platform.os, platform.architecture))
        .collect();
    if named.is_empty() { "platforms that its index does not name".to_owned() } else { named.join(", ") }
}

/// The blobs of a repository.
#[derive(Debug)]
struct RemoteBlobs {
    endpoint: Arc<Endpoint>,
    repository: String,
}

impl Blobs for RemoteBlobs {
    fn open_unverified(&self, descriptor: &Descriptor, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut reader = RemoteReader {
            endpoint: Arc::clone(&self.endpoint),
            repository: self.repository.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
            position: offset,
            body: None,
            tries: Tries::new(&self.endpoint.transport.settings().retries, &self.endpoint.progress),
            failed_at: offset,
        };
        reader.reach()?;
        Ok(Box::new(reader))
    }
}

/// A blob being read; a connection that breaks is made anew from where it broke.
struct RemoteReader {
    endpoint: Arc<Endpoint>,
    repository: String,
    digest: Digest,
    size: u64,
    position: u64,
    body: Option<Box<dyn Read + Send>>,
    tries: Tries,
    failed_at: u64,
}

impl RemoteReader {
    /// Connects until it works.
    fn reach(&mut self) -> io::Result<()> {
        while self.body.is_none() && self.position < self.size {
            match self.connect() {
                Ok(body) => self.body = Some(body),
                Err(error) => self.tries.again(error).map_err(io::Error::other)?,
            }
        }
        Ok(())
    }

    fn connect(&self) -> Result<Box<dyn Read + Send>, RegistryError> {
        let url = self.endpoint.url(&self.repository, &format!("blobs/{}", self.digest));
        let mut ask = Ask::new(Method::GET, url, &self.repository, Scope::pull(&self.repository));
        if self.position > 0 {
            ask = ask.header(header::RANGE, format!("bytes={}-", self.position));
        }
        let answer = self.endpoint.send_once(&ask)?;
        match answer.status {
            206 if self.position > 0 => {
                let range = answer.header("content-range").unwrap_or_default().to_owned();
                if range.trim().strip_prefix("bytes ").and_then(|range| range.split('-').next()?.parse().ok())
                    != Some(self.position)
                {
                    return Err(answer.unexpected(format!("range `{range}`"), "a range from where the last connection broke"));
                }
                Ok(Box::new(answer.into_reader()))
            }
            200 => {
                // A registry that knows no ranges sends all of it again.
                let broken = |error: &io::Error| self.broken(error);
                let mut reader = answer.into_reader();
                let skipped = io::copy(&mut Read::by_ref(&mut reader).take(self.position), &mut io::sink())
                    .map_err(|error| broken(&error))?;
                if skipped < self.position {
                    return Err(broken(&io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended")));
                }
                Ok(Box::new(reader))
            }
            400.. => Err(self.endpoint.error(answer)),
            status => Err(answer.unexpected(format!("status {status}"), "the blob")),
        }
    }

    fn broken(&self, error: &io::Error) -> RegistryError {
        RegistryError::Transport {
            registry: self.endpoint.registry.clone(),
            method: "GET".to_owned(),
            url: shown(&self.endpoint.url(&self.repository, &format!("blobs/{}", self.digest))),
            kind: TransportKind::Broken,
            reason: format!("{error} after {} of {} bytes", self.position, self.size),
        }
    }
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.reach()?;
            let Some(body) = &mut self.body else { return Ok(0) };
            let error = match body.read(buffer) {
                Ok(0) if !buffer.is_empty() => io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"),
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.body = None;
            if self.position >= self.failed_at + GAIN {
                self.tries.progressed();
            }
            self.failed_at = self.position;
            let error = self.broken(&error);
            self.tries.again(error).map_err(io::Error::other)?;
        }
    }
}

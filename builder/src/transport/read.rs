//! Reading an OCI layout, in a folder or an archive.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::content::{Content, ImageIndex, ambiguous};
use super::error::TransportError;
use super::files::{Files, blob_name};
use super::name::Selector;
use super::referrers::is_artifact;
use crate::digest::Digest;
use crate::image::{Descriptor, Image, Index, Manifest, media_type};
use crate::platform::Platform;

/// Indexes in indexes are read to this depth.
const MAX_DEPTH: usize = 8;
/// Manifests and indexes are read up to this number.
const MAX_DOCUMENTS: usize = 4096;

/// The annotation that holds the tag.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation that holds the full name.
pub(super) const FULL_NAME: &str = "io.containerd.image.name";

/// What a manifest or index shows before it is read as one of the two.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Index,
}

impl Kind {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            media_type::MANIFEST | media_type::DOCKER_MANIFEST => Some(Self::Manifest),
            media_type::INDEX | media_type::DOCKER_INDEX => Some(Self::Index),
            _ => None,
        }
    }
}

/// Reads an image or index out of a layout.
pub(super) fn open_layout(files: &Files, selector: &Selector, platform: Option<Platform>) -> Result<Content, TransportError> {
    check_version(files)?;
    let index = read_index(files)?;
    let mut reader = LayoutReader { files, documents: 0 };
    let descriptor = match selector {
        Selector::Digest(digest) => reader.find_digest(&index, digest)?,
        Selector::Only => {
            let (artifacts, images): (Vec<&Descriptor>, Vec<&Descriptor>) =
                index.manifests.iter().partition(|entry| is_artifact(entry));
            one_of(files, if images.is_empty() { artifacts } else { images }, platform, None)?
        }
        Selector::Name(name) => {
            let named = |key: &str| -> Vec<&Descriptor> {
                index.manifests.iter().filter(|entry| entry.annotations.get(key) == Some(name)).collect()
            };
            let found = [REF_NAME, FULL_NAME].into_iter().map(named).find(|found| !found.is_empty());
            let found = found.ok_or_else(|| TransportError::NotFound {
                place: files.place(),
                wanted: name.clone(),
                available: index.manifests.iter().map(label).collect(),
            })?;
            one_of(files, found, platform, Some(name))?
        }
    };
    reader.read(&descriptor, platform, 0)
}

/// Checks the `oci-layout` file.
pub(super) fn check_version(files: &Files) -> Result<(), TransportError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = files.parse("oci-layout", &files.read("oci-layout")?)?;
    if marker.image_layout_version != "1.0.0" {
        return Err(TransportError::LayoutVersion { place: files.place(), found: marker.image_layout_version });
    }
    Ok(())
}

/// Reads `index.json`.
pub(super) fn read_index(files: &Files) -> Result<Index, TransportError> {
    const NAME: &str = "index.json";
    let content = files.read(NAME)?;
    match probe(files, NAME, &content, None)? {
        Kind::Index => files.parse(NAME, &content),
        Kind::Manifest => Err(files.field(NAME, "mediaType", media_type::MANIFEST, format!("`{}`", media_type::INDEX))),
    }
}

/// Finds out what a document is, and refuses one that could be taken for either.
fn probe(files: &Files, name: &str, content: &[u8], declared: Option<&str>) -> Result<Kind, TransportError> {
    let probe: Probe = files.parse(name, content)?;
    if probe.schema_version != Some(2) {
        let found = probe.schema_version.map_or("absent".to_owned(), |version| version.to_string());
        return Err(files.field(name, "schemaVersion", found, "2"));
    }
    const EXPECTED: &str = "the type of an image manifest or index";
    if let (Some(own), Some(declared)) = (&probe.media_type, declared)
        && own != declared
    {
        return Err(files.field(name, "mediaType", own, format!("`{declared}` as its descriptor says")));
    }
    let has = (probe.manifests.is_some(), probe.config.is_some() || probe.layers.is_some());
    let kind = match probe.media_type.as_deref().or(declared) {
        Some(found) => Kind::of(found).ok_or_else(|| files.field(name, "mediaType", found, EXPECTED))?,
        None if has.0 => Kind::Index,
        None => Kind::Manifest,
    };
    match (kind, has) {
        (Kind::Manifest, (true, _)) => Err(files.field(name, "manifests", "present", "a manifest to have none")),
        (Kind::Index, (_, true)) => Err(files.field(name, "layers", "present", "an index to have none")),
        _ => Ok(kind),
    }
}

/// How an entry of an index is named in errors.
fn label(entry: &Descriptor) -> String {
    let name = entry.annotations.get(REF_NAME).or_else(|| entry.annotations.get(FULL_NAME));
    name.cloned().unwrap_or_else(|| match &entry.platform {
        Some(platform) => format!("@{} ({}/{})", entry.digest, platform.os, platform.architecture),
        None => format!("@{}", entry.digest),
    })
}

/// Chooses one of several entries: the only one, the same one named twice, or the only one for the platform.
fn one_of(
    files: &Files,
    mut entries: Vec<&Descriptor>,
    platform: Option<Platform>,
    wanted: Option<&str>,
) -> Result<Descriptor, TransportError> {
    if let (true, Some(platform)) = (entries.len() > 1, platform) {
        let fits = |entry: &&Descriptor| {
            entry.platform.as_ref().is_some_and(|fields| fields.os == "linux" && fields.architecture == platform.architecture())
        };
        let fitting: Vec<_> = entries.iter().copied().filter(fits).collect();
        if !fitting.is_empty() {
            entries = fitting;
        }
    }
    let digests: BTreeSet<Digest> = entries.iter().map(|entry| entry.digest).collect();
    match (digests.len(), entries.first()) {
        (1, Some(entry)) => Ok((*entry).clone()),
        (0, _) | (_, None) => Err(TransportError::NotFound {
            place: files.place(),
            wanted: wanted.unwrap_or("any").to_owned(),
            available: Vec::new(),
        }),
        _ => Err(ambiguous(&files.place(), entries.into_iter().map(label).collect())),
    }
}

struct LayoutReader<'a> {
    files: &'a Files,
    documents: usize,
}

impl LayoutReader<'_> {
    fn document(&mut self, descriptor: &Descriptor, depth: usize) -> Result<(Vec<u8>, Kind), TransportError> {
        self.documents += 1;
        let too_many =
            |depth, limit| TransportError::Nesting { place: self.files.place(), digest: descriptor.digest, depth, limit };
        if depth > MAX_DEPTH {
            return Err(too_many(depth, MAX_DEPTH));
        }
        if self.documents > MAX_DOCUMENTS {
            return Err(too_many(self.documents, MAX_DOCUMENTS));
        }
        let name = blob_name(&descriptor.digest);
        let content = self.files.read_blob(descriptor)?;
        let kind = probe(self.files, &name, &content, Some(&descriptor.media_type))?;
        Ok((content, kind))
    }

    fn read(&mut self, descriptor: &Descriptor, platform: Option<Platform>, depth: usize) -> Result<Content, TransportError> {
        let (content, kind) = self.document(descriptor, depth)?;
        let name = blob_name(&descriptor.digest);
        if kind == Kind::Manifest {
            return self.image(&name, content, platform).map(Content::Image);
        }
        let parsed: Index = self.files.parse(&name, &content)?;
        // What is not asked for need not be there.
        if let Some(platform) = platform {
            let fits = |entry: &&Descriptor| match &entry.platform {
                Some(fields) => fields.os == "linux" && fields.architecture == platform.architecture(),
                None => true,
            };
            let mut other = None;
            // An entry that says its platform comes before one that has to be opened to know.
            let (said, unsaid): (Vec<_>, Vec<_>) =
                parsed.manifests.iter().filter(fits).partition(|entry| entry.platform.is_some());
            for entry in said.into_iter().chain(unsaid) {
                match self.read(entry, Some(platform), depth + 1) {
                    Err(TransportError::Platform { .. }) => {}
                    Err(error) if entry.platform.is_none() && matches!(error, TransportError::Field { .. }) => {
                        other = Some(error)
                    }
                    done => return done,
                }
            }
            return Err(other.unwrap_or_else(|| TransportError::Platform {
                wanted: platform.to_string(),
                available: parsed
                    .manifests
                    .iter()
                    .filter_map(|entry| entry.platform.as_ref())
                    .filter(|fields| fields.os != "unknown")
                    .map(|fields| format!("{}/{}", fields.os, fields.architecture))
                    .collect(),
            }));
        }
        let children = parsed.manifests.iter().map(|entry| self.read(entry, None, depth + 1)).collect::<Result<_, _>>()?;
        Ok(Content::Index(ImageIndex { bytes: content, parsed, children }))
    }

    fn image(&self, name: &str, manifest: Vec<u8>, platform: Option<Platform>) -> Result<Image, TransportError> {
        let parsed: Manifest = self.files.parse(name, &manifest)?;
        let config = self.files.read_blob(&parsed.config)?;
        let blobs = self.files.blobs(parsed.layers.iter().chain([&parsed.config]))?;
        let image = Image { manifest, parsed, config, blobs };
        if platform.is_some() {
            Content::Image(image.clone()).image(platform)?;
        }
        Ok(image)
    }

    /// Looks for a digest in the index and in the indexes it names.
    fn find_digest(&mut self, index: &Index, digest: &Digest) -> Result<Descriptor, TransportError> {
        let mut waiting: Vec<(Descriptor, usize)> = index.manifests.iter().map(|entry| (entry.clone(), 0)).collect();
        waiting.reverse();
        let mut seen = BTreeSet::new();
        while let Some((entry, depth)) = waiting.pop() {
            if entry.digest == *digest {
                return Ok(entry);
            }
            if Kind::of(&entry.media_type) != Some(Kind::Index) || !seen.insert(entry.digest) {
                continue;
            }
            let (content, _) = self.document(&entry, depth)?;
            let nested: Index = self.files.parse(&blob_name(&entry.digest), &content)?;
            waiting.extend(nested.manifests.into_iter().rev().map(|entry| (entry, depth + 1)));
        }
        Err(TransportError::NotFound {
            place: self.files.place(),
            wanted: format!("@{digest}"),
            available: index.manifests.iter().map(label).collect(),
        })
    }
}

/// Finds the image with a certain config, passing over what is not there: an archive need not hold every platform of an index.
pub(super) fn image_with_config(files: &Files, config: &Digest) -> Result<Option<Image>, TransportError> {
    let mut reader = LayoutReader { files, documents: 0 };
    let mut waiting: Vec<(Descriptor, usize)> = read_index(files)?.manifests.into_iter().map(|entry| (entry, 0)).collect();
    let mut seen = BTreeSet::new();
    while let Some((entry, depth)) = waiting.pop() {
        let name = blob_name(&entry.digest);
        if !seen.insert(entry.digest) || files.find(&name)?.is_none() {
            continue;
        }
        let (content, kind) = reader.document(&entry, depth)?;
        match kind {
            Kind::Index => {
                let nested: Index = files.parse(&name, &content)?;
                waiting.extend(nested.manifests.into_iter().map(|entry| (entry, depth + 1)));
            }
            Kind::Manifest => {
                let parsed: Manifest = files.parse(&name, &content)?;
                if parsed.config.digest == *config {
                    return reader.image(&name, content, None).map(Some);
                }
            }
        }
    }
    Ok(None)
}

//! What is attached to an image, such as an SBOM: through the registry's referrers API, or by the tag that stands in for it.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::image::{Artifact, Descriptor, Image, Index, media_type};
use crate::reference::Reference;

use super::Client;
use super::auth::Scope;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::manifest::MANIFEST_LIMIT;
use super::pull::{is_index, parse};
use super::push::PushOptions;

/// What attaching did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Attached {
    /// The artifact's manifest.
    pub descriptor: Descriptor,
    /// The tag that lists it, where the registry does not.
    pub fallback_tag: Option<String>,
    /// Bytes of its blobs and its manifest that left this machine.
    pub bytes_sent: u64,
}

impl Client {
    /// Attaches an artifact to a manifest of a repository.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses.
    pub fn attach(&self, repository: &Reference, subject: &Descriptor, artifact: &Artifact) -> Result<Attached, RegistryError> {
        self.push_referrer(repository, &artifact.attached_to(subject))
    }

    /// Pushes something whose manifest names the image that it belongs to, and lists it there where the registry does not.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses, or the manifest names no subject.
    pub fn push_referrer(&self, repository: &Reference, artifact: &Image) -> Result<Attached, RegistryError> {
        let descriptor = artifact.artifact_descriptor();
        if artifact.parsed.subject.is_none() {
            return Err(RegistryError::Document {
                what: format!("manifest {}", descriptor.digest),
                reason: "it has no `subject`, and can be attached to nothing".to_owned(),
            });
        }
        let place = Reference { tag: None, digest: Some(descriptor.digest), ..repository.clone() };
        let pushed = self.push(artifact, &place, &PushOptions::default())?;
        Ok(Attached { descriptor, fallback_tag: pushed.lists.into_iter().next(), bytes_sent: pushed.bytes_sent })
    }

    /// Lists what is attached to a manifest, of one kind or of all.
    ///
    /// # Errors
    /// Where the registry cannot be reached or refuses.
    pub fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let endpoint = self.endpoint(&repository.registry)?;
        let name = repository.repository.as_str();
        let mut url = endpoint.url(name, &format!("referrers/{subject}"));
        if let Some(kind) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", kind);
        }
        let mut found = Vec::new();
        let what = format!("the referrers of {}", endpoint.name(name, &subject.to_string()));
        let has_api = match endpoint.pages(name, url, &what, |page: Index| found.extend(page.manifests)) {
            // A registry that does not know the path may take it for something else.
            Err(error) if matches!(error.status(), Some(400 | 405 | 406 | 501)) => false,
            result => result?,
        };
        if !has_api {
            found = read_tag(&endpoint, name, subject)?.map(|index| index.manifests).unwrap_or_default();
        }
        found.retain(|entry| artifact_type.is_none_or(|kind| entry.artifact_type.as_deref() == Some(kind)));
        Ok(found)
    }
}

/// The tag that lists what is attached to a digest where the registry does not.
fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

fn read_tag(endpoint: &Endpoint, repository: &str, subject: &Digest) -> Result<Option<Index>, RegistryError> {
    let tag = fallback_tag(subject);
    let Some(manifest) = endpoint.get_manifest(repository, &tag, &Scope::push(repository))? else { return Ok(None) };
    let what = || format!("the list of referrers {}", endpoint.name(repository, &tag));
    if !is_index(&manifest.descriptor.media_type) {
        let reason = format!("its media type is `{}`, expected `{}`", manifest.descriptor.media_type, media_type::INDEX);
        return Err(RegistryError::Document { what: what(), reason });
    }
    parse(&manifest.bytes, what).map(Some)
}

/// Adds an entry to the tag's list. Another client may write it at the same time: what was written is read again.
pub(super) fn list_in_tag(
    endpoint: &Endpoint,
    repository: &str,
    subject: &Digest,
    entry: &Descriptor,
) -> Result<String, RegistryError> {
    let tag = fallback_tag(subject);
    for _ in 0..5 {
        let mut index = read_tag(endpoint, repository, subject)?.unwrap_or_else(|| Index {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            manifests: Vec::new(),
            annotations: BTreeMap::new(),
        });
        if index.manifests.iter().any(|found| found.digest == entry.digest) {
            return Ok(tag);
        }
        index.manifests.push(entry.clone());
        let bytes = serde_json::to_vec(&index).expect("texts and numbers become JSON");
        if bytes.len() as u64 > MANIFEST_LIMIT {
            return Err(RegistryError::TooLarge { what: endpoint.name(repository, &tag), limit: MANIFEST_LIMIT });
        }
        let kind = index.media_type.clone().unwrap_or_else(|| media_type::INDEX.to_owned());
        endpoint.put_manifest(repository, &tag, &kind, &bytes)?;
    }
    Err(RegistryError::Document {
        what: format!("the list of referrers {}", endpoint.name(repository, &tag)),
        reason: "another client keeps overwriting it".to_owned(),
    })
}

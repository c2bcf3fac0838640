//! Manifests and tags of one registry.

use std::collections::BTreeSet;

use ureq::http::{Method, header};
use url::Url;

use crate::digest::Digest;
use crate::image::{Descriptor, media_type};

use super::auth::Scope;
use super::endpoint::{Ask, Endpoint};
use super::error::RegistryError;
use super::transport::Payload;
use super::upload::check_digest;

/// Registries take no larger manifests, and no larger one is read.
pub(crate) const MANIFEST_LIMIT: u64 = 4 << 20;
const MOST_PAGES: usize = 10_000;

/// A manifest or index, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Its media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes, which have that digest.
    pub bytes: Vec<u8>,
}

impl Endpoint {
    /// Reads a manifest by tag or digest and checks its digest.
    pub(crate) fn get_manifest(
        &self,
        repository: &str,
        which: &str,
        scope: &Scope,
    ) -> Result<Option<FetchedManifest>, RegistryError> {
        let accepted = [media_type::MANIFEST, media_type::INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_INDEX];
        let what = format!("manifest {}", self.name(repository, which));
        let ask = Ask::new(Method::GET, self.url(repository, &format!("manifests/{which}")), repository, scope.clone())
            .header(header::ACCEPT, accepted.join(", "));
        let Some((head, bytes)) = self.read(&ask, MANIFEST_LIMIT, &what)? else { return Ok(None) };
        let actual = Digest::of(&bytes);
        let promised = which.parse().ok().or_else(|| head.header("docker-content-digest")?.parse::<Digest>().ok());
        if let Some(expected) = promised.filter(|expected| *expected != actual) {
            return Err(RegistryError::Digest { what, actual, expected });
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            media_type: Option<String>,
        }
        let kind: Kind =
            serde_json::from_slice(&bytes).map_err(|error| RegistryError::Document { what, reason: error.to_string() })?;
        let told = head.header("content-type").map(|kind| kind.split(';').next().unwrap_or_default().trim().to_owned());
        let media_type = kind.media_type.or(told).unwrap_or_default();
        Ok(Some(FetchedManifest { descriptor: Descriptor::new(&media_type, actual, bytes.len() as u64), bytes }))
    }

    /// What a tag points at, without reading the manifest where the registry tells its digest.
    pub(crate) fn head_manifest(
        &self,
        repository: &str,
        which: &str,
        scope: &Scope,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let accepted = [media_type::MANIFEST, media_type::INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_INDEX];
        let ask = Ask::new(Method::HEAD, self.url(repository, &format!("manifests/{which}")), repository, scope.clone())
            .header(header::ACCEPT, accepted.join(", "));
        let answer = self.send(&ask)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let digest = answer.header("docker-content-digest").and_then(|digest| digest.parse().ok());
        let size = answer.header("content-length").and_then(|size| size.parse().ok());
        let kind = answer.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match (answer.status, digest, size) {
            (200, Some(digest), Some(size)) => Ok(Some(Descriptor::new(kind, digest, size))),
            _ => Ok(self.get_manifest(repository, which, scope)?.map(|manifest| manifest.descriptor)),
        }
    }

    /// Writes a manifest under a tag or its digest. `true` means that the registry keeps its subject's referrers itself.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        which: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<bool, RegistryError> {
        let mut result = self.put_manifest_once(repository, which, media_type, bytes);
        for _ in 0..2 {
            match &result {
                // Damaged on its way and stored all the same: a tag must not be left pointing there.
                Err(RegistryError::Digest { .. }) => result = self.put_manifest_once(repository, which, media_type, bytes),
                _ => break,
            }
        }
        result
    }

    fn put_manifest_once(&self, repository: &str, which: &str, media_type: &str, bytes: &[u8]) -> Result<bool, RegistryError> {
        let expected = Digest::of(bytes);
        let scope = Scope::push(repository);
        let ask = Ask::new(Method::PUT, self.url(repository, &format!("manifests/{which}")), repository, scope.clone())
            .header(header::CONTENT_TYPE, media_type)
            .payload(Payload::Bytes(bytes))
            .patience(self.transport.settings().timeouts.chunk);
        let answer = self.send(&ask)?;
        if !matches!(answer.status, 200..=204) {
            return Err(match answer.status {
                400.. => self.error(answer),
                status => answer.unexpected(format!("status {status}"), "201"),
            });
        }
        let what = || format!("manifest {}", self.name(repository, which));
        check_digest(&answer, &expected, what)?;
        let keeps_referrers = answer.header("oci-subject").is_some();
        if answer.header("docker-content-digest").is_none() {
            match self.head_manifest(repository, which, &scope)? {
                Some(found) if found.digest == expected => {}
                Some(found) => return Err(RegistryError::Digest { what: what(), actual: found.digest, expected }),
                None => {
                    return Err(answer.unexpected("success, but does not have it", "a manifest that is there once it was taken"));
                }
            }
        }
        answer.discard();
        Ok(keeps_referrers)
    }

    /// All tags of a repository, in the registry's order; none where there is no such repository.
    pub(crate) fn list_tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let first = self.url(repository, "tags/list?n=1000");
        self.pages(repository, first, &format!("the tags of {}/{repository}", self.registry), |page: Page| {
            tags.extend(page.tags.unwrap_or_default());
        })?;
        let mut seen = BTreeSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        Ok(tags)
    }

    /// Reads a list that comes in pages. `false` means that the first one is not there.
    pub(crate) fn pages<T: serde::de::DeserializeOwned>(
        &self,
        repository: &str,
        first: Url,
        what: &str,
        mut take: impl FnMut(T),
    ) -> Result<bool, RegistryError> {
        let mut next = Some(first);
        let mut seen = BTreeSet::new();
        let mut found = false;
        while let Some(url) = next.take().filter(|url| seen.len() < MOST_PAGES && seen.insert(url.to_string())) {
            let ask = Ask::new(Method::GET, url, repository, Scope::pull(repository))
                .header(header::ACCEPT, format!("{}, application/json", media_type::INDEX));
            let Some((head, bytes)) = self.read(&ask, MANIFEST_LIMIT, what)? else { break };
            found = true;
            let page = serde_json::from_slice(&bytes)
                .map_err(|error| RegistryError::Document { what: what.to_owned(), reason: error.to_string() })?;
            take(page);
            next = match head.header("link").and_then(next_link) {
                Some(link) => Some(self.follow(&head.url, link)?),
                None => None,
            };
        }
        Ok(found)
    }

    /// `registry/repository:tag` or `registry/repository@digest`.
    pub(crate) fn name(&self, repository: &str, which: &str) -> String {
        let joint = if which.parse::<Digest>().is_ok() { '@' } else { ':' };
        format!("{}/{repository}{joint}{which}", self.registry)
    }
}

/// The address in `<ADDRESS>; rel="next"`.
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.replace(['"', ' '], "").to_ascii_lowercase().contains("rel=next").then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_link(r#"</v2/a/tags/list?last=x&n=2>; rel="next""#), Some("/v2/a/tags/list?last=x&n=2"));
        assert_eq!(next_link("<https://x/p>; rel=prev, <https://x/n>; Rel = next"), Some("https://x/n"));
        for none in ["", "</x>", "</x>; rel=\"prev\"", "/x; rel=next"] {
            assert_eq!(next_link(none), None, "{none}");
        }
    }
}

//! The files that Docker and podman keep credentials in. They have one format: [`AuthFile`].

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Credential;
use crate::registry::error::RegistryError;
use crate::registry::secret::Secret;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A file with credentials, read.
pub(super) struct AuthFile {
    path: PathBuf,
    known: Known,
    /// Everything in it, for writing it back.
    pub(super) whole: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Known {
    auths: Option<BTreeMap<String, Entry>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl AuthFile {
    /// Reads a file; one that is not there is `None`.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, RegistryError> {
        let error = |source| RegistryError::CredentialsFile { action: "read", path: path.to_owned(), source };
        let content = match std::fs::read(path) {
            Ok(content) => content,
            Err(gone) if matches!(gone.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        let whole: Map<String, Value> = if content.trim_ascii().is_empty() {
            Map::new()
        } else {
            // The parser's own text may repeat what it read.
            serde_json::from_slice(&content).map_err(|found| {
                error(io::Error::other(format!("it is no JSON object (line {}, column {})", found.line(), found.column())))
            })?
        };
        let known = Known::deserialize(Value::Object(whole.clone())).map_err(|_| {
            error(io::Error::other("`auths`, `credHelpers` or `credsStore` has a type that Docker does not write"))
        })?;
        Ok(Some(Self { path: path.to_owned(), known, whole }))
    }

    /// An empty one that will be written there.
    pub(super) fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), known: Known::default(), whole: Map::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The helpers to ask for a registry: the one for its host, then the one for all.
    pub(super) fn helpers_for(&self, registry: &str) -> Vec<&str> {
        let own =
            self.known.cred_helpers.iter().flatten().find(|(key, _)| same_host(key, registry)).map(|(_, name)| name.as_str());
        // An empty name is how a host is taken out of the store for all.
        match own {
            Some("") => Vec::new(),
            own => own.into_iter().chain(self.known.creds_store.as_deref().filter(|name| !name.is_empty())).collect(),
        }
    }

    /// The credential that lies in the file itself: for the longest prefix of `repository`, or for the host alone.
    /// `Err` holds the key of an entry that cannot be decoded.
    pub(super) fn stored(&self, registry: &str, repository: Option<&str>) -> Result<Option<Credential>, String> {
        let rank = |key: &str| -> Option<usize> {
            if same_host(key, registry) {
                return Some(0);
            }
            let repository = repository?;
            let (host, prefix) = key.split_once('/')?;
            let covered = repository.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            (same_host(host, registry) && !prefix.is_empty() && covered).then_some(prefix.len())
        };
        let mut entries: Vec<(usize, &String, &Entry)> =
            self.known.auths.iter().flatten().filter_map(|(key, entry)| Some((rank(key)?, key, entry))).collect();
        // Equal ranks: the key that is the bare host before the one that is an address.
        entries.sort_by_key(|(rank, key, _)| (std::cmp::Reverse(*rank), key.len()));
        for (_, key, entry) in entries {
            if let Some(credential) = entry.credential().map_err(|()| key.clone())? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

impl Entry {
    fn credential(&self) -> Result<Option<Credential>, ()> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(encoded) = filled(&self.auth) {
            let decoded = String::from_utf8(BASE64.decode(encoded.trim()).map_err(drop)?).map_err(drop)?;
            let (user, password) = decoded.split_once(':').ok_or(())?;
            // Docker once padded the password with zero bytes.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Credential::Password { user: user.to_owned(), password }));
        }
        Ok(filled(&self.username)
            .zip(filled(&self.password))
            .map(|(user, password)| Credential::Password { user, password: Secret::new(password) }))
    }
}

/// The text that Docker keeps in `auth`.
pub(super) fn encoded(user: &str, password: &Secret) -> String {
    BASE64.encode(format!("{user}:{}", password.expose()))
}

/// Whether a key names the registry's host: with or without scheme, and where it has one also with any path, such as `/v1/`.
pub(super) fn same_host(key: &str, registry: &str) -> bool {
    let bare = key.trim_end_matches('/');
    match bare.strip_prefix("https://").or_else(|| bare.strip_prefix("http://")) {
        Some(address) => address.split('/').next().is_some_and(|host| host.eq_ignore_ascii_case(registry)),
        None => bare.eq_ignore_ascii_case(registry),
    }
}

//! `login` and `logout`: Docker's file, changed so that Docker still understands it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::file::{self, AuthFile};
use super::{CredentialSources, helper};
use crate::registry::error::RegistryError;
use crate::registry::secret::Secret;

/// What `logout` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggedOut {
    /// There were credentials, and they are gone.
    Removed,
    /// There were none.
    WasNotLoggedIn,
}

impl CredentialSources {
    /// Keeps a user's password for a registry, as `docker login` does: with the helper that Docker's file names, or else in
    /// the file itself, which only its owner can read.
    ///
    /// # Errors
    /// Where there is no folder for the file, or it or the helper fails.
    pub fn login(&self, registry: &str, user: &str, password: &Secret) -> Result<(), RegistryError> {
        let mut file = self.docker_file()?;
        let entry = match file.helpers_for(registry).first() {
            Some(name) => {
                helper::store(&self.helper_program(name), registry, user, password)?;
                json!({})
            }
            None => json!({ "auth": file::encoded(user, password) }),
        };
        let auths = file.whole.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        let auths = auths.as_object_mut().expect("it was made one");
        auths.retain(|key, _| !file::same_host(key, registry));
        auths.insert(registry.to_owned(), entry);
        write(&file)
    }

    /// Forgets a registry's credentials, as `docker logout` does.
    ///
    /// # Errors
    /// Where the file or a helper fails.
    pub fn logout(&self, registry: &str) -> Result<LoggedOut, RegistryError> {
        let mut file = self.docker_file()?;
        let mut found = false;
        let helpers: Vec<String> = file.helpers_for(registry).into_iter().map(str::to_owned).collect();
        for name in helpers {
            let program = self.helper_program(&name);
            if helper::get(&program, registry)?.is_some() {
                helper::erase(&program, registry)?;
                found = true;
            }
        }
        if let Some(auths) = file.whole.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| !file::same_host(key, registry));
            if auths.len() != before {
                found = true;
                write(&file)?;
            }
        }
        Ok(if found { LoggedOut::Removed } else { LoggedOut::WasNotLoggedIn })
    }

    fn docker_file(&self) -> Result<AuthFile, RegistryError> {
        let path = self.docker.as_deref().ok_or(RegistryError::NoConfigFolder)?;
        Ok(AuthFile::load(path)?.unwrap_or_else(|| AuthFile::empty(path)))
    }
}

/// Replaces the file as a whole; a link to it stays a link.
fn write(file: &AuthFile) -> Result<(), RegistryError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let path = fs::canonicalize(file.path()).unwrap_or_else(|_| file.path().to_owned());
    let error = |source: io::Error| RegistryError::CredentialsFile { action: "write", path: path.clone(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(error)?;
    let mut content = Vec::new();
    // Docker indents with tabs.
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut serializer = serde_json::Serializer::with_formatter(&mut content, formatter);
    serde::Serialize::serialize(&file.whole, &mut serializer).map_err(|failed| error(io::Error::from(failed)))?;
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(error)?;
    temporary.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(error)?;
    temporary.write_all(&content).map_err(error)?;
    temporary.as_file().sync_all().map_err(error)?;
    temporary.persist(&path).map_err(|failed| error(failed.error))?;
    Ok(())
}

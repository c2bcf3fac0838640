//! Who this side is: [`CredentialSources`] looks credentials up where other tools keep them.
//!
//! The order, the first that has something wins:
//! 1. `IMGBUILD_REGISTRY_USER` and `IMGBUILD_REGISTRY_PASSWORD`, for the registry `IMGBUILD_REGISTRY_HOST`, or without that
//!    for the one that the user named on the command line; never for a registry that only a base image or a redirect names;
//! 2. Docker's `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`: the helper that `credHelpers` names for the host,
//!    then `credsStore`, then `auths`;
//! 3. podman's `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json` and `~/.config/containers/auth.json`, where a
//!    longer prefix of the repository outranks a shorter one.
//!
//! A file or helper that cannot be used is warned about and passed over: a public image can be read without it.

mod file;
mod helper;
mod login;

use std::path::PathBuf;

use crate::progress::Progress;

#[cfg(test)]
use super::error::RegistryError;
use super::secret::Secret;
use file::AuthFile;

pub use login::LoggedOut;

/// What proves who this side is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user with a password or an access token.
    Password {
        /// The user's name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that a token server changes for others.
    IdentityToken(Secret),
}

/// Where credentials are looked up.
#[derive(Debug, Clone, Default)]
pub struct CredentialSources {
    /// What the environment gives, with the one host it is for.
    pub environment: Option<(String, Credential)>,
    /// Docker's `config.json`.
    pub docker: Option<PathBuf>,
    /// podman's files, the first that exists counts.
    pub podman: Vec<PathBuf>,
    /// Folders where credential helpers are looked for instead of those of `PATH`.
    pub helper_folders: Option<Vec<PathBuf>>,
}

impl CredentialSources {
    /// No credentials at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The one given, for one registry.
    #[must_use]
    pub fn only(registry: &str, credential: Credential) -> Self {
        Self { environment: Some((registry.to_owned(), credential)), ..Self::default() }
    }

    /// Those that the environment names. `target` is the registry that the user named on the command line.
    #[must_use]
    pub fn from_environment(target: Option<&str>) -> Self {
        Self::from_variables(|name| std::env::var(name).ok(), target)
    }

    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>, target: Option<&str>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = |name: &str| set(name).map(PathBuf::from);
        let home = folder("HOME");
        let host = set("IMGBUILD_REGISTRY_HOST").or_else(|| target.map(str::to_owned));
        let environment = match (host, set("IMGBUILD_REGISTRY_USER"), set("IMGBUILD_REGISTRY_PASSWORD")) {
            (Some(host), Some(user), Some(password)) => {
                Some((host, Credential::Password { user, password: Secret::new(password) }))
            }
            _ => None,
        };
        let docker = folder("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let configuration = folder("XDG_CONFIG_HOME").or_else(|| home.as_ref().map(|home| home.join(".config")));
        let podman = match folder("REGISTRY_AUTH_FILE") {
            Some(file) => vec![file],
            None => [folder("XDG_RUNTIME_DIR"), configuration]
                .into_iter()
                .flatten()
                .map(|folder| folder.join("containers/auth.json"))
                .collect(),
        };
        Self { environment, docker: docker.map(|folder| folder.join("config.json")), podman, helper_folders: None }
    }

    /// Finds the credential for a repository of a registry.
    pub(crate) fn find(&self, registry: &str, repository: &str, progress: &Progress) -> Option<Credential> {
        if let Some((host, credential)) = &self.environment
            && file::same_host(host, registry)
        {
            return Some(credential.clone());
        }
        let docker = self.docker.iter().map(|path| (path, false));
        let podman = self.podman.iter().map(|path| (path, true));
        docker.chain(podman).find_map(|(path, prefixes)| {
            let file = match AuthFile::load(path) {
                Ok(file) => file?,
                Err(error) => {
                    progress.warn(format!("no credentials are taken from `{}`: {}", path.display(), cause(&error)));
                    return None;
                }
            };
            self.find_in(&file, registry, repository, prefixes, progress)
        })
    }

    fn find_in(
        &self,
        file: &AuthFile,
        registry: &str,
        repository: &str,
        prefixes: bool,
        progress: &Progress,
    ) -> Option<Credential> {
        for helper in file.helpers_for(registry) {
            match helper::get(&self.helper_program(helper), registry) {
                Ok(Some(credential)) => return Some(credential),
                Ok(None) => {}
                Err(error) => progress.warn(format!("{error}; going on without it")),
            }
        }
        match file.stored(registry, prefixes.then_some(repository)) {
            Ok(found) => found,
            Err(key) => {
                progress
                    .warn(format!("the credentials for `{key}` in `{}` are no base64 of `user:password`", file.path().display()));
                None
            }
        }
    }

    fn helper_program(&self, name: &str) -> PathBuf {
        let program = format!("docker-credential-{name}");
        self.helper_folders
            .iter()
            .flatten()
            .map(|folder| folder.join(&program))
            .find(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from(program))
    }
}

/// The innermost cause, which says what the operating system or the parser found.
fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests;

//! Every input of a build, pinned: [`Lock`], kept in `imgbuild.lock`.
//!
//! Goals of the format: a person can review a change of it; equal requests give equal bytes; nothing in it names a server;
//! `format` pins everything that decides the bytes of layers (tar rules, codecs, levels), so that an image can be built again
//! years later. Only this module chooses versions, and only where a pin is missing or `--update` was given.

mod obtain;

pub use obtain::{Chooser, LockMode, LockRequest, Obtained};

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fatbin::{PRUNE_FORMAT, Sm};
use crate::parent::{ParentError, ParentPin};
use crate::rewrite::REWRITE_FORMAT;
use crate::source::{Pin, SourceError};
use crate::template::strict::{self, StrictError};

/// The newest version of the lock file.
pub const VERSION: u32 = 1;

const HEADER: &str = "# Written by `imgbuild lock`. Pins what goes into the image; change it with `imgbuild lock --update`.\n";

/// The lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    /// Version of this file's format.
    pub version: u32,
    /// Version of the rules that decide the bytes of layers (`docs/spec/format.md`).
    pub format: u32,
    /// Name of the stack.
    pub stack: String,
    /// Name or reference of the base.
    pub base: String,
    /// For which platform.
    pub platform: String,
    /// Digest of what was asked for: stack, base and platform with the content of their data files. A lock for another request is stale.
    pub request: Digest,
    /// What the C++ compiler that linked the model calls itself, where one did. It is the machine's own, so it can be told and not fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linked_by: Option<String>,
    /// The inference server that the image gets.
    pub server: ServerPin,
    /// How libraries are rewritten, where the stack has them rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewriting: Option<RewritingPin>,
    /// How device code is pruned, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_code: Option<DeviceCodePin>,
    /// The model as the image's runtime optimised it, where it was asked to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimized: Option<OptimizedPin>,
    /// Whether XLA compiles the model, where that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xla: Option<XlaPin>,
    /// The image that everything is put upon, where the base is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_image: Option<ParentPin>,
    /// The inputs, in the order of the data files.
    #[serde(rename = "input", default)]
    pub inputs: Vec<Pin>,
    /// The packages of the compiler, where the stack compiles models: they make what is in the image and are not in it.
    #[serde(rename = "compiler", default, skip_serializing_if = "Vec::is_empty")]
    pub compiler: Vec<Pin>,
}

/// The inference server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerPin {
    /// Digest of the binary.
    pub sha256: Digest,
    /// Its bytes.
    pub size: u64,
}

/// What decides the bytes of rewritten libraries besides the libraries themselves and their rules in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewritingPin {
    /// Version of the rewriting.
    pub format: u32,
    /// Whether libraries are bound, and not only stripped.
    pub bind: bool,
}

impl fmt::Display for RewritingPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "format {} {} binding", self.format, if self.bind { "with" } else { "without" })
    }
}

/// What decides the bytes of libraries whose device code is pruned, besides the libraries themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceCodePin {
    /// Version of the pruning.
    pub format: u32,
    /// The GPUs that code is kept for.
    pub gpus: Vec<Sm>,
    /// Whether the vendor's own libraries are pruned too.
    pub vendor: bool,
}

impl fmt::Display for DeviceCodePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpus: Vec<String> = self.gpus.iter().map(Sm::to_string).collect();
        write!(f, "kept for {}{}", gpus.join(", "), if self.vendor { ", the vendor's libraries included" } else { "" })
    }
}

/// A model that the image's runtime optimised at a level that is meant to give the same bytes on every CPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizedPin {
    /// Digest of everything that it was made from.
    pub from: Digest,
    /// Digest of the result.
    pub sha256: Digest,
}

/// Whether XLA compiles a model, as measured: times differ between machines and hours, and images must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XlaPin {
    /// Digest of the graph that was measured. Weights are not in it: new ones are served as the old ones were.
    pub graph: Digest,
    /// Whether what TensorFlow finds worth it is compiled.
    pub compile: bool,
}

/// What is wrong with a lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// There is none, and `--locked` forbids making one.
    #[error("there is no lock `{path}`, and `--locked` forbids writing one")]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is for something else, and `--locked` forbids writing another.
    #[error("the lock `{path}` is stale: {reason}")]
    Stale {
        /// The file.
        path: PathBuf,
        /// What differs, found and expected.
        reason: String,
    },
    /// The runtime optimised the model into other bytes than before, and `--locked` forbids taking them.
    #[error("the optimised model is {found}, expected {expected} by the lock `{path}`")]
    Optimized {
        /// The file.
        path: PathBuf,
        /// The digest of the result.
        found: Digest,
        /// The digest that is pinned.
        expected: Digest,
    },
    /// The machine's C++ compiler is another one than before, and `--locked` forbids what it would make.
    #[error("the C++ compiler is `{found}`, expected `{expected}` by the lock `{path}`")]
    Linker {
        /// The file.
        path: PathBuf,
        /// What this machine has.
        found: String,
        /// What is pinned.
        expected: String,
    },
    /// It was written by a newer version.
    #[error("the lock `{path}` has {what} {found}, and this version of imgbuild knows up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// `version`, `format`, `rewriting.format` or `device-code.format`.
        what: &'static str,
        /// What it says.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// It is no lock.
    #[error("failed to understand the lock")]
    Parse(#[from] StrictError),
    /// It cannot be read or written.
    #[error("failed to {action} the lock `{path}`")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something is not pinned, and pinning it needs the network.
    #[error("`{name}` is not pinned, and choosing its version needs the network")]
    Offline {
        /// The package.
        name: String,
    },
    /// The base is an image that cannot be found.
    #[error("failed to pin the base")]
    Base(#[from] ParentError),
    /// A version could not be chosen.
    #[error("failed to pin {names}")]
    Pin {
        /// The packages.
        names: String,
        /// Why not.
        source: Box<SourceError>,
    },
}

impl LockError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some("run `imgbuild lock` and commit the file it writes".to_owned()),
            Self::Stale { .. } => Some("run `imgbuild lock` and commit the change, or build without `--locked`".to_owned()),
            Self::Optimized { .. } => Some(
                "the runtime gives other bytes on this CPU: build with `--optimize weights`, which gives the same everywhere, or without `--locked`"
                    .to_owned(),
            ),
            Self::Linker { .. } => Some(
                "install that compiler, name it in CXX, or build once without `--locked`: another one gives the layer `compiled` other bytes"
                    .to_owned(),
            ),
            Self::Newer { .. } => Some("use the version of imgbuild that wrote it, or a newer one".to_owned()),
            Self::Parse(error) => error.hint(),
            Self::Pin { source, .. } => source.hint(),
            Self::Base(error) => error.hint(),
            Self::Offline { .. } => Some("run `imgbuild lock` once without `--offline`".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

impl Lock {
    /// Reads a lock file; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be read, is no lock, or is from a newer version.
    pub fn load(path: &Path) -> Result<Option<Self>, LockError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LockError::Io { action: "read", path: path.to_owned(), source }),
        }
    }

    /// Reads a lock from its text; `path` is only for the error.
    ///
    /// # Errors
    /// As [`Lock::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, LockError> {
        // The version is looked at before anything else, so that a newer file is refused as newer and not as misspelt.
        let versions: toml::Table = strict::parse(text, &path.display().to_string())?;
        let rewriting = versions.get("rewriting").and_then(|rewriting| rewriting.get("format"));
        let device_code = versions.get("device-code").and_then(|pin| pin.get("format"));
        for (what, found, known) in [
            ("version", versions.get("version"), VERSION),
            ("format", versions.get("format"), crate::layer::FORMAT_VERSION),
            ("rewriting.format", rewriting, REWRITE_FORMAT),
            ("device-code.format", device_code, PRUNE_FORMAT),
        ] {
            let found = found.and_then(toml::Value::as_integer).and_then(|found| u32::try_from(found).ok());
            if let Some(found) = found.filter(|found| *found > known) {
                return Err(LockError::Newer { path: path.to_owned(), what, found, known });
            }
        }
        Ok(strict::parse(text, &path.display().to_string())?)
    }

    /// The text of the lock file.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{HEADER}{}", toml::to_string(self).expect("a lock has string keys and plain values"))
    }

    /// Writes the lock file: whole, or not at all; an equal one is left alone.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), LockError> {
        let text = self.to_text();
        if std::fs::read_to_string(path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        crate::files::write_atomically(path, text.as_bytes()).map_err(|source| LockError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }
}

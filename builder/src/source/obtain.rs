//! The seam: [`Source`], what it is asked ([`Request`]), and all sources together ([`Sources`]).

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Apt, Environment, Local, Pin, Pip, SourceError, SourceKind};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::{Blob, Store, StoreError};

/// What should be locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A wheel.
    Wheel {
        /// The distribution's name.
        name: String,
        /// The version; without one, the newest that fits.
        version: Option<String>,
        /// For which Python and glibc.
        tags: WheelTags,
    },
    /// A Debian package.
    Debian {
        /// The package's name.
        name: String,
        /// The version; without one, the one that `apt` would install.
        version: Option<String>,
    },
    /// A file, an archive or a directory of the recipe.
    Local {
        /// The name of what is in it, for instance `onnxruntime`.
        name: String,
        /// Its version; without one, it is named after its digest.
        version: Option<String>,
        /// The path as the recipe writes it.
        path: String,
    },
}

/// Which wheels fit. Fixed by the template, so that the same file is chosen whatever Python the machine has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelTags {
    /// The version of CPython, for instance `3.12`.
    pub python: String,
    /// The newest glibc that a wheel may ask for, for instance `2.28`.
    pub glibc: String,
}

impl Request {
    /// The name of the package.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Wheel { name, .. } | Self::Debian { name, .. } | Self::Local { name, .. } => name,
        }
    }

    /// The kind of source it goes to; for a path, [`SourceKind::File`] stands for directories too.
    #[must_use]
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Wheel { .. } => SourceKind::Pip,
            Self::Debian { .. } => SourceKind::Apt,
            Self::Local { .. } => SourceKind::File,
        }
    }

    pub(super) fn wrong_kind(&self, expected: SourceKind) -> SourceError {
        SourceError::Kind { name: self.name().to_owned(), found: self.kind(), expected }
    }
}

/// Whether the network may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// What is not in the store is fetched.
    Online,
    /// What is not in the store is an error.
    Offline,
}

/// A place that files come from.
pub trait Source {
    /// Chooses one file for each request, takes it into the store, and pins it. Nothing else in the program chooses versions.
    ///
    /// # Errors
    /// Where nothing fits a request, or it cannot be fetched.
    fn lock(&self, requests: &[Request], platform: Platform, store: &Store, progress: &Progress)
    -> Result<Vec<Pin>, SourceError>;

    /// Fetches the files of pins into an empty folder, or names them where they lie. Nothing is checked here.
    ///
    /// # Errors
    /// Where one cannot be fetched.
    fn fetch_unverified(
        &self,
        pins: &[&Pin],
        folder: &Path,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<PathBuf>, SourceError>;

    /// Finds pinned files in the store; fetches those that are missing or damaged, and takes them into the store only where
    /// digest and size are the pinned ones.
    ///
    /// # Errors
    /// [`SourceError::Digest`] and [`SourceError::Size`] where the bytes are others, [`SourceError::Offline`] where something is
    /// missing and `reach` forbids to fetch it, and those of fetching.
    fn obtain(&self, pins: &[&Pin], store: &Store, reach: Reach, progress: &Progress) -> Result<Vec<Blob>, SourceError> {
        let mut missing = Vec::new();
        for pin in pins {
            if store.find(&pin.sha256)?.is_none() {
                missing.push(*pin);
            }
        }
        if let Some(pin) = missing.first().filter(|_| reach == Reach::Offline) {
            return Err(SourceError::Offline { name: pin.name.clone(), version: pin.version.clone(), file: pin.file.clone() });
        }
        if !missing.is_empty() {
            let folder = store.scratch_folder()?;
            for (pin, path) in missing.iter().zip(self.fetch_unverified(&missing, folder.path(), store, progress)?) {
                let file = File::open(&path).map_err(|source| SourceError::Io { action: "read", path, source })?;
                match store.add(file, Some(&pin.sha256)) {
                    Err(StoreError::Digest { actual, expected }) => {
                        return Err(SourceError::Digest { file: pin.file.clone(), actual, expected });
                    }
                    added => drop(added?),
                }
            }
        }
        pins.iter()
            .map(|pin| match store.find(&pin.sha256)? {
                Some(blob) if blob.size == pin.size => Ok(blob),
                Some(blob) => Err(SourceError::Size { file: pin.file.clone(), actual: blob.size, expected: pin.size }),
                None => {
                    Err(SourceError::Offline { name: pin.name.clone(), version: pin.version.clone(), file: pin.file.clone() })
                }
            })
            .collect()
    }
}

/// All sources.
#[derive(Debug, Clone)]
pub struct Sources {
    pip: Pip,
    apt: Apt,
    local: Local,
}

impl Sources {
    /// Sources that find their programs in an environment, and local files below the recipe's folder.
    #[must_use]
    pub fn new(environment: &Environment, recipe_folder: &Path) -> Self {
        Self { pip: Pip::new(environment), apt: Apt::new(environment), local: Local::new(recipe_folder) }
    }

    fn of(&self, kind: SourceKind) -> &dyn Source {
        match kind {
            SourceKind::Pip => &self.pip,
            SourceKind::Apt => &self.apt,
            SourceKind::File | SourceKind::Directory => &self.local,
        }
    }

    /// Locks requests of any kind; the pins come in the order of the requests.
    ///
    /// # Errors
    /// See [`Source::lock`].
    pub fn lock(
        &self,
        requests: &[Request],
        platform: Platform,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<Pin>, SourceError> {
        in_groups(requests, Request::kind, |kind, group| {
            let group: Vec<Request> = group.iter().map(|request| (*request).clone()).collect();
            self.of(kind).lock(&group, platform, store, progress)
        })
    }

    /// Obtains pins of any kind; the blobs come in the order of the pins.
    ///
    /// # Errors
    /// See [`Source::obtain`].
    pub fn obtain(&self, pins: &[&Pin], store: &Store, reach: Reach, progress: &Progress) -> Result<Vec<Blob>, SourceError> {
        in_groups(
            pins,
            |pin| pin.kind,
            |kind, group| {
                let group: Vec<&Pin> = group.iter().map(|pin| **pin).collect();
                self.of(kind).obtain(&group, store, reach, progress)
            },
        )
    }
}

/// Does one act for each group of items of one kind, and puts the results in the order of the items.
fn in_groups<T, K: Ord + Copy, R>(
    items: &[T],
    kind: impl Fn(&T) -> K,
    act: impl Fn(K, &[&T]) -> Result<Vec<R>, SourceError>,
) -> Result<Vec<R>, SourceError> {
    let mut groups: std::collections::BTreeMap<K, Vec<usize>> = std::collections::BTreeMap::new();
    for (at, item) in items.iter().enumerate() {
        groups.entry(kind(item)).or_default().push(at);
    }
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    for (kind, places) in groups {
        let group: Vec<&T> = places.iter().map(|at| &items[*at]).collect();
        for (at, result) in places.into_iter().zip(act(kind, &group)?) {
            results[at] = Some(result);
        }
    }
    Ok(results.into_iter().flatten().collect())
}

/// Takes a file into the store and pins it under the given names.
pub(super) fn pin_file(path: &Path, name: &str, version: &str, kind: SourceKind, store: &Store) -> Result<Pin, SourceError> {
    let source = |action| move |source| SourceError::Io { action, path: path.to_owned(), source };
    let blob = store.add(File::open(path).map_err(source("read"))?, None)?;
    let file = path.file_name().and_then(|file| file.to_str()).unwrap_or(name).to_owned();
    Ok(Pin { name: name.to_owned(), version: version.to_owned(), kind, file, path: None, sha256: blob.digest, size: blob.size })
}

/// The names of the files in a folder, sorted, and in words for errors.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, SourceError> {
    let source = |source| SourceError::Io { action: "read the folder", path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(source)? {
        names.extend(entry.map_err(source)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// What is in a folder, in words.
pub(super) fn in_words(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => format!("`{}`", names.join("`, `")),
    }
}

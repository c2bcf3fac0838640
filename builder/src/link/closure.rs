//! The set of objects that an image's programs reach.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::bind::{self, Findings};
use super::dead::{self, DeadNeed};
use super::error::LinkError;
use super::process::Loader;
use super::request::{DroppedNeed, EntryPoint, InjectedList, RuntimeOpen};
use super::root::LinkRoot;
use super::search::Files;
use crate::elf::ElfObject;

/// One step of the chain that brought an object in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// The chain starts at an entry point.
    EntryPoint {
        /// Its path.
        path: String,
        /// The reason given for it.
        reason: String,
    },
    /// The next object is the interpreter that starts this program.
    InterpreterOf {
        /// Path of the program.
        object: String,
    },
    /// The next object is needed by this one.
    NeededBy {
        /// Path of the object that needs it.
        object: String,
        /// The needed name.
        name: String,
    },
    /// The next object is opened by this one at run time.
    OpenedBy {
        /// Path of the object that opens it.
        object: String,
        /// The name opened.
        name: String,
        /// The reason given for it.
        reason: String,
    },
}

/// An object of the closure.
#[derive(Debug, Clone, Serialize)]
pub struct LinkObject {
    /// The path by which it was first found in the image.
    pub path: String,
    /// Its real path, past all symbolic links.
    pub file: String,
    /// Every path by which it was found. The image needs them all, see [`LinkRoot::links`].
    pub paths: Vec<String>,
    /// Its soname.
    pub soname: Option<String>,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// The chain that first reached it, from an entry point on.
    pub why: Vec<Step>,
    /// The object itself.
    #[serde(skip)]
    pub elf: Arc<ElfObject>,
}

impl LinkObject {
    pub(super) fn new(path: String, file: String, elf: Arc<ElfObject>, why: Vec<Step>) -> Self {
        let soname = elf.soname().map(str::to_owned);
        Self { paths: vec![path.clone()], path, file, soname, bytes: elf.bytes, why, elf }
    }

    pub(super) fn add_path(&mut self, path: String) {
        if !self.paths.contains(&path) {
            self.paths.push(path);
        }
    }

    /// Whether a soname, a file name or a path means this object.
    pub fn is_called(&self, name: &str) -> bool {
        let ends_with_name = |path: &String| path == name || path.rsplit('/').next() == Some(name);
        self.soname.as_deref() == Some(name) || self.file == name || self.paths.iter().any(ends_with_name)
    }
}

/// A library that is not in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The name that was looked for.
    pub name: String,
    /// Paths of the objects that want it.
    pub wanted_by: Vec<String>,
    /// The directories where it was looked for, in order.
    pub searched: Vec<String>,
    /// Files of that name that were passed over, with the reason.
    pub rejected: Vec<(String, String)>,
    /// Whether it would be opened at run time, not needed at the start.
    pub opened: bool,
    /// Whether its opener copes with its absence.
    pub optional: bool,
}

/// Everything that the entry points reach, and what came to light on the way.
#[derive(Debug, Clone, Serialize)]
pub struct Closure {
    /// The objects, in the order in which they would be loaded.
    pub objects: Vec<LinkObject>,
    /// Libraries that are not in the image, the optional ones included.
    pub missing: Vec<Missing>,
    /// Needed entries of which the needing object uses nothing.
    pub dead: Vec<DeadNeed>,
    /// Sonames of injected libraries that are wanted.
    pub injected: Vec<String>,
    #[serde(skip)]
    pub(super) findings: Findings,
}

impl Closure {
    /// Follows everything from the entry points on, breadth first, and binds all symbols.
    ///
    /// Whatever is wrong with the image is kept for [`super::prove`]; the closure itself always comes about.
    pub fn resolve(root: &LinkRoot, entry_points: &[EntryPoint], opens: &[RuntimeOpen], injected: &InjectedList) -> Self {
        Self::resolve_without(root, entry_points, opens, injected, &[])
    }

    /// Does the same as if some needed entries were not there. The answer to "what if it were dropped" is the proof of
    /// this closure.
    pub fn resolve_without(
        root: &LinkRoot,
        entry_points: &[EntryPoint],
        opens: &[RuntimeOpen],
        injected: &InjectedList,
        dropped: &[DroppedNeed],
    ) -> Self {
        let mut loader = Loader::new(Files::new(root), opens, injected, dropped);
        let processes: Vec<_> = entry_points.iter().filter_map(|entry| loader.start(entry)).collect();
        let mut findings = Findings { errors: loader.errors, ..Findings::default() };
        let mut wanted: BTreeSet<usize> = BTreeSet::new();
        for process in &processes {
            bind::bind(process, &loader.objects, injected, &mut findings);
            wanted.extend(&process.injected);
        }
        let dead = dead::find(&loader.objects, &loader.edges, &processes, &findings);
        let injected = wanted.into_iter().map(|position| injected.libraries[position].soname.clone()).collect();
        Self { objects: loader.objects, missing: loader.missing, dead, injected, findings }
    }

    /// The object that a soname, file name or path means.
    pub fn object(&self, name: &str) -> Option<&LinkObject> {
        self.objects.iter().find(|object| object.is_called(name))
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes).sum()
    }

    /// The files to be copied: real path in the image, in the closure's order.
    pub fn files<'a>(&'a self, root: &'a LinkRoot) -> impl Iterator<Item = (&'a str, PathBuf)> {
        self.objects.iter().filter_map(|object| root.find(&object.file).map(|(_, disk)| (object.file.as_str(), disk.to_owned())))
    }
}

impl Missing {
    pub(super) fn error(&self, unresolved: usize) -> LinkError {
        LinkError::LibraryMissing {
            soname: self.name.clone(),
            verb: if self.opened { "opens" } else { "needs" },
            wanted_by: self.wanted_by.clone(),
            searched: self.searched.clone(),
            rejected: self.rejected.clone(),
            unresolved,
        }
    }
}

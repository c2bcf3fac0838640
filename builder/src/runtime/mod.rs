//! From pinned packages to the libraries that this model needs: [`Runtime`].
//!
//! Every candidate library is put where it would lie in the image; the closure is resolved from the server on; what it reaches
//! is taken, everything else is left out with a reason; and the proof that the result links is made before anything is written.
//! Libraries whose rules say so are then rewritten, and the proof is made again.

mod candidates;
mod error;
mod licence;
mod omissions;
mod parent;
mod rewriting;
mod stand_in;

pub use error::RuntimeError;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::fatbin::Sm;
use crate::link::{Closure, EntryPoint, InjectedLibrary, InjectedList, LinkError, LinkProof, RuntimeOpen, Step, prove};
use crate::model::Model;
use crate::parent::Parent;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::recipe::Minimize;
use crate::report::{Level, Library, Links, Omission, PackageSize};
use crate::source::package::{EntryKind, Package, PackageError};
use crate::source::{Glob, debian};
use crate::store::Store;
use crate::template::{BaseImage, FileSource, Omission as OmissionRule, StackTemplate};
use crate::tree::{Content, ImagePath, Kind, LayerName, Origin, Provenance};
use candidates::{Candidate, Candidates};

/// Where the server lies in every image.
pub const SERVER_PATH: &str = "/usr/bin/imgserve";

/// What a runtime is resolved from.
#[derive(Debug)]
pub struct RuntimeRequest<'a> {
    /// The stack.
    pub stack: &'a StackTemplate,
    /// The base.
    pub base: &'a BaseImage,
    /// The image that everything is put upon, where the base is one.
    pub parent: Option<&'a Parent>,
    /// The directories that the image's environment gives as `LD_LIBRARY_PATH`.
    pub library_path: Vec<String>,
    /// The stack's packages, in the order of the template.
    pub stack_packages: &'a [Package],
    /// The base's packages, in the order of its data file.
    pub base_packages: &'a [Package],
    /// The server binary.
    pub server: PathBuf,
    /// Its version, for the report.
    pub server_version: String,
    /// Custom-operator libraries.
    pub custom_operators: &'a [PathBuf],
    /// The library that the model was compiled into, and where it goes.
    pub model_library: Option<(ImagePath, &'a Path)>,
    /// The model; none where layers are made that every model shares.
    pub model: Option<&'a Model>,
    /// For which platform.
    pub platform: Platform,
    /// How much is left out.
    pub minimize: Minimize,
    /// Whether libraries are bound.
    pub bind: bool,
    /// The GPUs that device code is kept for; none keeps all of it.
    pub gpus: &'a [Sm],
    /// Whether the vendor's own libraries are pruned too.
    pub prune_vendor: bool,
    /// Libraries to keep, by file name.
    pub keep: &'a [String],
}

/// One entry that the image gets.
#[derive(Debug, Clone)]
pub struct Taken {
    /// Where it goes.
    pub path: ImagePath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// From where and why.
    pub provenance: Provenance,
}

impl RuntimeRequest<'_> {
    /// The stack's rules that leave libraries out of this image.
    fn applied(&self) -> impl Iterator<Item = &OmissionRule> {
        self.stack.applied(self.model, self.minimize, self.keep)
    }

    /// The rule by which an empty library takes the place of this one.
    fn stand_in_of(&self, library: &str) -> Option<&OmissionRule> {
        self.applied().find(|rule| rule.stand_in && rule.library.matches(library))
    }
}

/// The libraries and files that the image gets from packages, and why.
#[derive(Debug)]
pub struct Runtime {
    /// What is taken, the server included.
    pub taken: Vec<Taken>,
    /// Executables and libraries with the chain that brought each one in.
    pub libraries: Vec<Library>,
    /// What is left out.
    pub omitted: Vec<Omission>,
    /// The proof.
    pub links: Links,
    /// The packages.
    pub packages: Vec<PackageSize>,
    /// Bytes at level `package`: every file, and the package files as they are downloaded.
    pub package_level: Level,
    /// Paths in the image of the custom-operator libraries.
    pub custom_operators: Vec<ImagePath>,
}

/// Candidates, and the proof that what the server reaches of them links.
struct Linked {
    candidates: Candidates,
    closure: Closure,
    proof: LinkProof,
}

impl Linked {
    /// Resolves the closure from the server on.
    ///
    /// # Errors
    /// Where it does not link.
    fn of(request: &RuntimeRequest<'_>, candidates: Candidates) -> Result<Self, Vec<LinkError>> {
        let libraries = request.stack.injected.iter().map(|injected| InjectedLibrary {
            soname: injected.library.clone(),
            symbols: injected.symbols.clone(),
            reason: injected.reason.clone(),
        });
        let injected = InjectedList { libraries: libraries.collect() };
        let entry = [EntryPoint { path: SERVER_PATH.to_owned(), reason: "the inference server".to_owned() }];
        let closure = Closure::resolve(&candidates.root, &entry, &opens(request, &candidates), &injected);
        let proof = prove(&closure)?;
        Ok(Self { candidates, closure, proof })
    }
}

impl Runtime {
    /// Chooses what the image gets and proves that it links.
    ///
    /// # Errors
    /// Where a package lacks what the template names, a library cannot be read, or the image would not link.
    pub fn resolve(request: &RuntimeRequest<'_>, store: &Store, progress: &Progress) -> Result<Self, RuntimeError> {
        let linked = Linked::of(request, Candidates::collect(request, store)?);
        let linked = linked.map_err(|errors| parent::links_error(request.parent, errors))?;
        let Linked { candidates, closure, proof } = linked.rewritten(request, store, progress)?;
        let mut runtime = Self {
            taken: Vec::new(),
            libraries: Vec::new(),
            omitted: Vec::new(),
            links: Links {
                objects: proof.objects as u64,
                symbols: proof.symbols,
                versions: proof.versions,
                injected: proof.injected_libraries.clone(),
                dead: closure.dead.iter().map(|dead| format!("{} needs {}", dead.object, dead.soname)).collect(),
            },
            packages: Vec::new(),
            package_level: Level { minimize: Minimize::Package, unpacked: 0, compressed: 0 },
            custom_operators: candidates.custom_operators.clone(),
        };
        runtime.take_objects(&closure, &candidates, request);
        runtime.take_package_files(request, store)?;
        runtime.leave_out(request, &candidates.cuts, store)?;
        Ok(runtime)
    }

    /// Takes every object of the closure, and the links through which it is found.
    fn take_objects(&mut self, closure: &Closure, candidates: &Candidates, request: &RuntimeRequest<'_>) {
        for object in &closure.objects {
            let chain: Vec<String> = object.why.iter().map(describe).collect();
            if let (Some(parent), Some(size)) = (request.parent, candidates.of_parent.get(&object.file)) {
                let from = format!("the base {}", parent.name);
                self.libraries.push(Library { path: object.file.clone(), size: *size, from, chain });
                continue;
            }
            let candidate = candidates.files.get(&object.file).expect("every file of the root is a candidate");
            self.libraries.push(Library {
                path: object.file.clone(),
                size: candidate.size,
                from: whose(&candidate.origin),
                chain: chain.clone(),
            });
            let mut reason = chain.last().cloned().unwrap_or_default();
            if let Some(rule) = request.stand_in_of(candidate.path.file_name()) {
                reason = format!("an empty library in the place of one that is opened and not called: {}", rule.reason);
            }
            self.take(candidate, reason);
            for name in &object.paths {
                for link in candidates.root.links(name) {
                    if let Some(link) = candidates.links.get(&link) {
                        self.take(link, format!("the name by which {} is found", object.file));
                    }
                }
            }
        }
        self.libraries.sort_by(|a, b| a.path.cmp(&b.path));
    }

    fn take(&mut self, candidate: &Candidate, reason: String) {
        if self.taken.iter().any(|taken| taken.path == candidate.path) {
            return;
        }
        let provenance = Provenance { layer: candidate.layer, origin: candidate.origin.clone(), reason };
        self.taken.push(Taken { path: candidate.path.clone(), kind: candidate.kind.clone(), mode: candidate.mode, provenance });
    }

    /// Takes what the data files always take: licences, scanners' metadata.
    fn take_package_files(&mut self, request: &RuntimeRequest<'_>, store: &Store) -> Result<(), RuntimeError> {
        for (rule, package) in request.base.packages.iter().zip(request.base_packages) {
            let origin = package.origin();
            let used = rule.is_always_used() || self.taken.iter().any(|taken| taken.provenance.origin == origin);
            if !used {
                continue;
            }
            let always = |path: &str| rule.rule(path) == Some(FileSource::Always);
            for candidate in candidates::of_package(package, request, LayerName::Base, store, always)? {
                self.take(&candidate, rule.reason.clone());
            }
            let paths: Vec<String> = package
                .entries()
                .iter()
                .filter(|entry| {
                    request
                        .base
                        .place(&entry.path, request.platform)
                        .is_ok_and(|path| self.taken.iter().any(|taken| taken.path == path))
                })
                .map(|entry| entry.path.clone())
                .collect();
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            for file in debian::scanner_files(package, &paths) {
                let path: ImagePath = format!("/{}", file.path.trim_start_matches('/')).parse()?;
                self.take(
                    &Candidate::generated(path, file.content, &origin),
                    "tells vulnerability scanners about the package".to_owned(),
                );
            }
        }
        for (rule, package) in request.stack.packages.iter().zip(request.stack_packages) {
            for copy in &rule.copy {
                let kept = |name: &str| request.keep.iter().any(|kept| kept == name);
                let entry = match package.files_of(&copy.take) {
                    Ok(found) => found[0],
                    Err(PackageError::NoEntry { .. }) if copy.optional => continue,
                    Err(error) => return Err(error.into()),
                };
                let path = request.place(copy.to.at(request.platform))?;
                if copy.on_request && !kept(path.file_name()) {
                    continue;
                }
                let mut candidate = Candidate::of_entry(package, entry, path, LayerName::Runtime, store)?;
                if copy.on_request {
                    // Wheels keep programs for their owner and group.
                    candidate.mode = 0o755;
                }
                self.take(&candidate, copy.reason.clone());
            }
        }
        Ok(())
    }
}

/// What opens what at run time.
fn opens(request: &RuntimeRequest<'_>, candidates: &Candidates) -> Vec<RuntimeOpen> {
    let by_server = |opens: String, reason: &str| RuntimeOpen {
        from: SERVER_PATH.to_owned(),
        opens,
        optional: false,
        global: false,
        reason: reason.to_owned(),
    };
    let mut opens: Vec<RuntimeOpen> = Vec::new();
    for entry in &request.stack.entry {
        opens.push(by_server(entry.clone(), &format!("the runtime of stack {}", request.stack.name)));
    }
    for path in &candidates.custom_operators {
        opens.push(by_server(path.to_string(), "custom operators of the recipe"));
    }
    if let Some((path, _)) = &request.model_library {
        opens.push(by_server(path.to_string(), "the model, compiled ahead of time"));
    }
    let names: Vec<&str> = candidates.files.values().map(|candidate| candidate.path.file_name()).collect();
    for rule in request.stack.opens.iter().chain(&request.base.opens) {
        for opened in names_of(&rule.opens, &names) {
            if request.applied().any(|omission| !omission.stand_in && omission.library.matches(&opened)) {
                continue;
            }
            opens.push(RuntimeOpen {
                from: rule.from.clone(),
                opens: opened,
                optional: rule.optional,
                global: rule.global,
                reason: rule.reason.clone(),
            });
        }
    }
    // Last, and by the runtime: plug-ins among them use what it opens for everyone.
    let reason = if request.minimize == Minimize::Package { "every library of the package is taken" } else { "kept by request" };
    for path in &candidates.kept {
        let from = request.stack.entry.first().cloned().unwrap_or_else(|| SERVER_PATH.to_owned());
        opens.push(RuntimeOpen { from, opens: path.clone(), optional: false, global: false, reason: reason.to_owned() });
    }
    opens
}

/// The name that is opened, or those that a pattern stands for.
fn names_of(opened: &str, names: &[&str]) -> Vec<String> {
    match opened.parse::<Glob>() {
        Ok(pattern) if !pattern.is_literal() => {
            names.iter().filter(|name| pattern.matches(name)).map(|name| (*name).to_owned()).collect()
        }
        _ => vec![opened.to_owned()],
    }
}

/// One step of a chain, for people.
fn describe(step: &Step) -> String {
    match step {
        Step::EntryPoint { path, reason } => format!("{path} is {reason}"),
        Step::InterpreterOf { object } => format!("{object} is started by it"),
        Step::NeededBy { object, name } => format!("{object} needs {name}"),
        Step::OpenedBy { object, name, reason } => format!("{object} opens {name}: {reason}"),
    }
}

fn whose(origin: &Origin) -> String {
    match origin {
        Origin::Package { name, version, .. } => format!("{name} {version}"),
        Origin::User { path } => path.clone(),
        Origin::Server { version } => format!("imgserve {version}"),
        Origin::BaseImage => "the base image".to_owned(),
        Origin::Generated => "imgbuild".to_owned(),
    }
}

/// The files of a package by path, with their sizes.
fn file_sizes(package: &Package) -> BTreeMap<&str, u64> {
    let size = |kind: &EntryKind| match kind {
        EntryKind::File { size, .. } => Some(*size),
        _ => None,
    };
    package.entries().iter().filter_map(|entry| Some((entry.path.as_str(), size(&entry.kind)?))).collect()
}

/// The content of a file on disk.
fn on_disk(path: PathBuf, size: u64, digest: Option<crate::digest::Digest>) -> Kind {
    Kind::File { content: Content::Disk(path), size, digest }
}

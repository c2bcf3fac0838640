//! One process as the loader would build it: what is loaded, in which order, and where each object's symbols are sought.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::closure::{LinkObject, Missing, Step};
use super::error::LinkError;
use super::request::{DroppedNeed, EntryPoint, InjectedList, RuntimeOpen};
use super::search::{Files, Found, Outcome, parent};
use crate::elf::{Dynamic, ElfObject, Kind};

/// An object in its place in a process.
pub(super) struct Loaded {
    /// Its position among all objects of the closure.
    pub(super) object: usize,
    /// Names by which it was asked for, its soname apart.
    names: Vec<String>,
    /// The directory that `$ORIGIN` stands for.
    origin: String,
    /// Who had it loaded.
    loader: Option<usize>,
    /// The group that it was loaded with, and is bound in.
    pub(super) group: usize,
    /// Its needed libraries, once they have been followed.
    needed: Option<Vec<Target>>,
}

/// What a needed or opened name came to.
#[derive(Clone, Copy)]
enum Target {
    Loaded(usize),
    /// Injected by the host, or missing and noted as such.
    Elsewhere,
}

/// A process. The first group holds what is there when it starts, each further one what one `dlopen` added.
pub(super) struct Process {
    pub(super) loaded: Vec<Loaded>,
    /// The objects in which symbols are sought, in order: for the first group the global scope, for the others what comes
    /// after it.
    pub(super) scopes: Vec<Vec<usize>>,
    /// The groups that were opened for everyone, in order.
    pub(super) global: Vec<usize>,
    /// Positions in the injected list of the libraries that something here wants.
    pub(super) injected: BTreeSet<usize>,
    /// Names that were wanted and could not be had.
    pub(super) unavailable: BTreeSet<String>,
}

impl Process {
    /// The global scope as it is when a group is bound: what was there at the start, and what was opened for everyone before.
    pub(super) fn global_scope(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let opened = self.global.iter().filter(move |&&opened| opened < group).flat_map(|&opened| &self.scopes[opened]);
        self.scopes[0].iter().chain(opened).copied()
    }

    /// The loaded object of a name, as the loader compares names.
    pub(super) fn named(&self, name: &str, objects: &[LinkObject]) -> Option<usize> {
        self.loaded.iter().position(|loaded| {
            loaded.names.iter().any(|known| known == name) || objects[loaded.object].soname.as_deref() == Some(name)
        })
    }
}

/// How one object came to want another.
#[derive(Clone, Copy)]
enum Want<'a> {
    Needed,
    Opened(&'a RuntimeOpen),
}

/// A needed entry and the object it came to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    /// The needed name; `None` for interpreters and run-time openings.
    pub(super) needed: Option<String>,
}

/// Builds processes over one set of objects.
pub(super) struct Loader<'a> {
    pub(super) files: Files<'a>,
    opens: &'a [RuntimeOpen],
    injected: &'a InjectedList,
    dropped: &'a [DroppedNeed],
    pub(super) objects: Vec<LinkObject>,
    by_file: HashMap<String, usize>,
    pub(super) edges: Vec<Edge>,
    known_edges: HashSet<Edge>,
    pub(super) missing: Vec<Missing>,
    pub(super) errors: Vec<LinkError>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(
        files: Files<'a>,
        opens: &'a [RuntimeOpen],
        injected: &'a InjectedList,
        dropped: &'a [DroppedNeed],
    ) -> Self {
        Self {
            files,
            opens,
            injected,
            dropped,
            objects: Vec::new(),
            by_file: HashMap::new(),
            edges: Vec::new(),
            known_edges: HashSet::new(),
            missing: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Starts a program, or loads a library, with all that it needs and opens. `None` if the entry point itself cannot be.
    pub(super) fn start(&mut self, entry: &EntryPoint) -> Option<Process> {
        let step = Step::EntryPoint { path: entry.path.clone(), reason: entry.reason.clone() };
        let wanted_by = format!("the entry point ({})", entry.reason);
        let (file, outcome) = self.files.open(&entry.path);
        if matches!(outcome, Outcome::Absent) {
            self.fail(LinkError::EntryPointMissing { path: entry.path.clone(), reason: entry.reason.clone() });
        }
        let elf = self.accept(&entry.path, wanted_by, outcome)?;
        let mut process = Process {
            loaded: Vec::new(),
            scopes: Vec::new(),
            global: Vec::new(),
            injected: BTreeSet::new(),
            unavailable: BTreeSet::new(),
        };
        let interpreter = elf.interpreter.clone();
        // The kernel gives a program's real path; a library keeps the path by which it was asked for.
        let origin = if interpreter.is_some() { parent(&file) } else { parent(&entry.path) }.to_owned();
        let object = self.object(&entry.path, file, elf, || vec![step]);
        process.loaded.push(Loaded { object, names: vec![entry.path.clone()], origin, loader: None, group: 0, needed: None });
        let defaults = self.files.defaults(interpreter.as_deref());
        if let Some(path) = interpreter {
            self.load_interpreter(&mut process, path);
        }
        let scope = self.scope(&mut process, 0, 0, &defaults);
        process.scopes.push(scope);
        self.open_all(&mut process, &defaults);
        Some(process)
    }

    fn load_interpreter(&mut self, process: &mut Process, path: String) {
        let program = process.loaded[0].object;
        let program_path = self.objects[program].path.clone();
        let (file, outcome) = self.files.open(&path);
        if matches!(outcome, Outcome::Absent) {
            self.fail(LinkError::InterpreterMissing { object: program_path.clone(), interpreter: path.clone() });
        }
        let Some(elf) = self.accept(&path, format!("`{program_path}` as its interpreter"), outcome) else {
            process.unavailable.insert(path);
            return;
        };
        let mut why = self.objects[program].why.clone();
        why.push(Step::InterpreterOf { object: program_path });
        let object = self.object(&path, file, elf, || why);
        self.connect(program, object, None);
        let origin = parent(&path).to_owned();
        process.loaded.push(Loaded { object, names: vec![path], origin, loader: Some(0), group: 0, needed: None });
    }

    /// Notes why a file that must be loaded cannot be.
    fn accept(&mut self, path: &str, wanted_by: String, outcome: Outcome) -> Option<Arc<ElfObject>> {
        match outcome {
            Outcome::Object(elf) => return Some(elf),
            Outcome::Absent => {}
            Outcome::OtherMachine(found) => {
                let expected = self.files.root.machine();
                self.fail(LinkError::OtherMachine { path: path.to_owned(), found, expected });
            }
            Outcome::Broken(source) => self.fail(LinkError::Broken { path: path.to_owned(), wanted_by, source }),
        }
        None
    }

    /// Loads what an object needs, breadth first: the order in which symbols are sought.
    fn scope(&mut self, process: &mut Process, root: usize, group: usize, defaults: &[String]) -> Vec<usize> {
        let mut scope = vec![root];
        let mut at = 0;
        while let Some(&index) = scope.get(at) {
            if process.loaded[index].needed.is_none() {
                let needed = self.follow(process, index, group, defaults);
                process.loaded[index].needed = Some(needed);
            }
            for target in process.loaded[index].needed.iter().flatten() {
                if let Target::Loaded(next) = *target
                    && !scope.contains(&next)
                {
                    scope.push(next);
                }
            }
            at += 1;
        }
        scope
    }

    fn follow(&mut self, process: &mut Process, index: usize, group: usize, defaults: &[String]) -> Vec<Target> {
        let object = process.loaded[index].object;
        let elf = Arc::clone(&self.objects[object].elf);
        let mut targets = Vec::with_capacity(elf.needed().len());
        for name in elf.needed() {
            let is_dropped =
                self.dropped.iter().any(|dropped| dropped.soname == *name && self.objects[object].is_called(&dropped.object));
            if !is_dropped {
                targets.push(self.want(process, name, index, Want::Needed, group, defaults));
            }
        }
        targets
    }

    /// Performs the declared openings of every object, those of objects that were opened included.
    fn open_all(&mut self, process: &mut Process, defaults: &[String]) {
        let opens = self.opens;
        let mut index = 0;
        while index < process.loaded.len() {
            for open in opens {
                if !self.objects[process.loaded[index].object].is_called(&open.from) {
                    continue;
                }
                let (before, group) = (process.loaded.len(), process.scopes.len());
                let target = self.want(process, &open.opens, index, Want::Opened(open), group, defaults);
                if let Target::Loaded(opened) = target
                    && opened >= before
                {
                    let scope = self.scope(process, opened, group, defaults);
                    process.scopes.push(scope);
                    if open.global {
                        process.global.push(group);
                    }
                }
            }
            index += 1;
        }
    }

    /// Finds what a name stands for and loads it if it is new.
    fn want(
        &mut self,
        process: &mut Process,
        name: &str,
        from: usize,
        want: Want<'_>,
        group: usize,
        defaults: &[String],
    ) -> Target {
        let name = self.files.expand(name, &process.loaded[from].origin);
        let from_object = process.loaded[from].object;
        let needed = match want {
            Want::Needed => Some(name.clone()),
            Want::Opened(_) => None,
        };
        if let Some(index) = process.named(&name, &self.objects) {
            self.connect(from_object, process.loaded[index].object, needed);
            return Target::Loaded(index);
        }
        let directories = self.directories(process, from, &name, defaults);
        let (path, file, elf) = match self.files.search(&name, directories) {
            Found::Object { path, file, object } => (path, file, object),
            Found::Broken { path, source } => {
                let wanted_by = format!("`{}`", self.objects[from_object].path);
                self.fail(LinkError::Broken { path, wanted_by, source });
                process.unavailable.insert(name);
                return Target::Elsewhere;
            }
            Found::Nowhere { searched, rejected } => {
                match self.injected.position(&name) {
                    Some(position) => _ = process.injected.insert(position),
                    None => self.miss(process, name, from_object, want, searched, rejected),
                }
                return Target::Elsewhere;
            }
        };
        if let Some(index) = process.loaded.iter().position(|loaded| self.objects[loaded.object].file == file) {
            let object = process.loaded[index].object;
            process.loaded[index].names.push(name);
            self.objects[object].add_path(path);
            self.connect(from_object, object, needed);
            return Target::Loaded(index);
        }
        if let Some(found) = unloadable(&elf, want) {
            let wanted_by = format!("`{}`", self.objects[from_object].path);
            self.fail(LinkError::NotLoadable { path, wanted_by, found });
            process.unavailable.insert(name);
            return Target::Elsewhere;
        }
        let mut why = self.objects[from_object].why.clone();
        let from_path = self.objects[from_object].path.clone();
        why.push(match want {
            Want::Needed => Step::NeededBy { object: from_path, name: name.clone() },
            Want::Opened(open) => Step::OpenedBy { object: from_path, name: name.clone(), reason: open.reason.clone() },
        });
        let object = self.object(&path, file, elf, || why);
        self.connect(from_object, object, needed);
        let origin = parent(&path).to_owned();
        process.loaded.push(Loaded { object, names: vec![name, path], origin, loader: Some(from), group, needed: None });
        Target::Loaded(process.loaded.len() - 1)
    }

    /// Notes that a library is nowhere.
    fn miss(
        &mut self,
        process: &mut Process,
        name: String,
        from: usize,
        want: Want<'_>,
        searched: Vec<String>,
        rejected: Vec<(String, String)>,
    ) {
        let wanted_by = self.objects[from].path.clone();
        let (opened, optional) = match want {
            Want::Needed => (false, false),
            Want::Opened(open) => (true, open.optional),
        };
        if !optional {
            process.unavailable.insert(name.clone());
        }
        match self
            .missing
            .iter_mut()
            .find(|missing| missing.name == name && (missing.opened, missing.optional) == (opened, optional))
        {
            Some(missing) if missing.wanted_by.contains(&wanted_by) => {}
            Some(missing) => missing.wanted_by.push(wanted_by),
            None => self.missing.push(Missing { name, wanted_by: vec![wanted_by], searched, rejected, opened, optional }),
        }
    }

    /// The directories in which a loaded object's libraries are sought, in the loader's order.
    fn directories(&self, process: &Process, from: usize, name: &str, defaults: &[String]) -> Vec<String> {
        let mut found = Vec::new();
        let mut add = |list: &[String], index: usize| {
            let origin = &process.loaded[index].origin;
            found.extend(list.iter().map(|entry| self.files.expand(entry, origin)));
        };
        let dynamic = |index: usize| self.objects[process.loaded[index].object].elf.dynamic.as_ref();
        let rpath = |dynamic: &'_ Dynamic| dynamic.runpath.is_none().then(|| dynamic.rpath.clone());
        let runpath = dynamic(from).and_then(|dynamic| dynamic.runpath.as_ref());
        if runpath.is_none() {
            // The RPATH of the object, of the one that had it loaded, and so on; of the program in any case.
            let chain = std::iter::successors(Some(from), |&index| process.loaded[index].loader);
            for index in chain.chain([0]) {
                add(&dynamic(index).and_then(rpath).unwrap_or_default(), index);
            }
        }
        add(self.files.root.library_path(), 0);
        if let Some(list) = runpath {
            add(list, from);
        }
        if !dynamic(from).is_some_and(Dynamic::ignores_default_directories) {
            found.extend(self.files.root.cached(name).map(|path| parent(path).to_owned()));
            found.extend_from_slice(defaults);
        }
        found
    }

    /// The position of a file's object, which is new or has been reached before.
    fn object(&mut self, path: &str, file: String, elf: Arc<ElfObject>, why: impl FnOnce() -> Vec<Step>) -> usize {
        if let Some(&index) = self.by_file.get(&file) {
            self.objects[index].add_path(path.to_owned());
            return index;
        }
        let index = self.objects.len();
        self.by_file.insert(file.clone(), index);
        self.objects.push(LinkObject::new(path.to_owned(), file, elf, why()));
        index
    }

    fn connect(&mut self, from: usize, to: usize, needed: Option<String>) {
        let edge = Edge { from, to, needed };
        if self.known_edges.insert(edge.clone()) {
            self.edges.push(edge);
        }
    }

    fn fail(&mut self, error: LinkError) {
        // Two processes may stumble over the same file.
        let text = error.to_string();
        if !self.errors.iter().any(|known| known.to_string() == text) {
            self.errors.push(error);
        }
    }
}

/// What keeps the loader from taking a file for a library.
fn unloadable(elf: &ElfObject, want: Want<'_>) -> Option<&'static str> {
    let Some(dynamic) = &elf.dynamic else { return Some("a static program") };
    if elf.kind == Kind::Executable {
        Some("a program")
    } else if dynamic.is_executable() {
        Some("a position-independent program")
    } else if dynamic.forbids_open() && matches!(want, Want::Opened(_)) {
        Some("a library that forbids dlopen")
    } else {
        None
    }
}

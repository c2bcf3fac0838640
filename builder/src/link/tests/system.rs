//! Whole programs of this machine, against what its loader says of them.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use crate::elf::ElfObject;
use crate::elf::tests::onnxruntime;

/// What the loader reports without running the file: objects, faults, and needed libraries of which nothing is used.
struct Trace {
    objects: BTreeSet<PathBuf>,
    faults: Vec<String>,
    unused: BTreeSet<PathBuf>,
}

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

fn trace(path: &Path) -> Trace {
    let ask = |debug: &str| {
        let mut command = Command::new(LOADER);
        command.arg(path).env("LD_TRACE_LOADED_OBJECTS", "1").env("LD_WARN", "yes").env("LD_BIND_NOW", "yes").env("LC_ALL", "C");
        if !debug.is_empty() {
            command.env("LD_DEBUG", debug);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    let (listed, complaints) = ask("");
    let mut objects = BTreeSet::from([fs::canonicalize(path).unwrap()]);
    let mut faults: Vec<String> = Vec::new();
    for line in listed.lines().chain(complaints.lines()) {
        if line.contains("not found")
            || line.contains("undefined symbol")
            || line.contains("symbol lookup error")
            || line.contains("error while loading")
        {
            faults.push(line.trim().to_owned());
        }
        let found = line.split_once(" => ").map_or(line, |(_, rest)| rest);
        if let Some((object, _)) = found.trim().split_once(" (0x")
            && object.starts_with('/')
        {
            objects.insert(fs::canonicalize(object).unwrap());
        }
    }
    let unused = ask("unused").0.lines().filter_map(|line| fs::canonicalize(line.trim()).ok()).collect();
    Trace { objects, faults, unused }
}

/// Compares one file, and returns whether it links.
fn compare(root: &LinkRoot, path: &Path) -> bool {
    let name = path.to_str().unwrap();
    let entry = EntryPoint { path: name.to_owned(), reason: "compared".to_owned() };
    let closure = Closure::resolve(root, &[entry], &[], &InjectedList::default());
    let trace = trace(path);
    let verdict = prove(&closure);
    assert_eq!(verdict.is_ok(), trace.faults.is_empty(), "{name}: {verdict:#?} {:#?}", trace.faults);
    let real = |path: &str| fs::canonicalize(path).unwrap();
    let ours: BTreeSet<PathBuf> = closure.objects.iter().map(|object| real(&object.file)).collect();
    let mut theirs = trace.objects;
    // The trace is made by a loader that is there even if nothing needs it, and may leave itself out.
    let loader = real(LOADER);
    if !ours.contains(&loader) {
        theirs.remove(&loader);
    }
    let difference: Vec<_> = ours.symmetric_difference(&theirs).filter(|path| **path != loader).collect();
    assert!(difference.is_empty(), "{name}: {difference:?}");
    if verdict.is_ok() {
        let own = fs::canonicalize(path).unwrap();
        let dead =
            closure.dead.iter().filter(|dead| closure.object(&dead.object).is_some_and(|object| real(&object.file) == own));
        let dead: BTreeSet<PathBuf> = dead.map(|dead| real(&dead.library)).collect();
        // The loader does not count versions as a use, we do: it fails if the library of a wanted version is not there.
        let elf = ElfObject::load(path).unwrap();
        let versioned = |library: &PathBuf| {
            let object = closure.objects.iter().find(|object| real(&object.file) == *library);
            let needs = elf.dynamic.iter().flat_map(|dynamic| &dynamic.version_needs);
            needs.map(|need| &need.file).any(|file| object.is_some_and(|object| object.is_called(file)))
        };
        let unused: BTreeSet<PathBuf> = trace.unused.into_iter().filter(|library| !versioned(library)).collect();
        assert_eq!(dead, unused, "{name}");
    }
    verdict.is_ok()
}

/// Every dynamic program and library of this machine's usual directories, or some of them, evenly spread.
fn system_files(most: usize) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for directory in ["/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu"] {
        for entry in walkdir::WalkDir::new(directory).sort_by_file_name() {
            let entry = entry.unwrap();
            let is_candidate = entry.file_type().is_file()
                && (directory.ends_with("bin") || entry.path().to_str().is_some_and(|path| path.contains(".so")));
            if is_candidate
                && ElfObject::load(entry.path()).is_ok_and(|elf| elf.dynamic.is_some() && elf.machine == Machine::X86_64)
            {
                files.push(entry.into_path());
            }
        }
    }
    let step = files.len().div_ceil(most).max(1);
    files.into_iter().step_by(step).collect()
}

#[test]
fn programs_and_libraries_of_this_machine_get_the_loaders_verdict() {
    // All of them on request: it takes a while.
    let most = std::env::var("IMGBUILD_TEST_SYSTEM_FILES").ok().and_then(|most| most.parse().ok()).unwrap_or(40);
    let mut root = host();
    let files = system_files(most);
    for directory in ["/usr/bin", "/usr/sbin", "/usr/lib", "/etc/alternatives"] {
        add_tree(&mut root, Path::new(directory));
    }
    for link in ["/bin", "/sbin"] {
        add_entry(&mut root, Path::new(link));
    }
    let linking = files.iter().filter(|path| compare(&root, path)).count();
    assert!(files.len() > 20 && linking > files.len() / 2, "{linking} of {}", files.len());
}

#[test]
fn onnxruntime_links_and_needs_nothing_dead() {
    let path = onnxruntime();
    let mut root = host();
    root.add_file(path.to_str().unwrap(), &path);
    assert!(compare(&root, &path));
    let entry = EntryPoint { path: path.to_str().unwrap().to_owned(), reason: "the server opens it".to_owned() };
    let started = Instant::now();
    let closure = Closure::resolve(&root, std::slice::from_ref(&entry), &[], &InjectedList::default());
    let proof = prove(&closure).unwrap();
    let took = started.elapsed();
    assert!(proof.symbols > 500 && proof.versions > 20, "{proof:?}");
    // A build on a busy machine with an unoptimised test still has it in well under a second.
    assert!(took.as_millis() < 2000, "{took:?}");
    eprintln!("{proof:?} in {took:?}");
}

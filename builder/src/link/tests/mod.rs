//! Judged by the loader of this machine: what links in an image must load here, and what does not must not.

mod cases;
mod plugins;
mod system;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::*;
use crate::elf::Machine;
use crate::elf::tests::compile;

/// A directory in which libraries and programs are built, run, and resolved under their paths on this machine.
struct Bench {
    directory: tempfile::TempDir,
}

/// Options of a library that needs nothing else.
const ALONE: &[&str] = &["-shared", "-fPIC", "-nostdlib"];
const RUNPATH: &str = "-Wl,-rpath,$ORIGIN";

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Builds a shared library whose soname is its file name.
    fn library(&self, name: &str, source: &str, options: &[&str]) -> PathBuf {
        let soname = format!("-Wl,-soname,{}", Path::new(name).file_name().unwrap().to_str().unwrap());
        let mut all = vec!["-shared", "-fPIC", &soname];
        all.extend(options);
        self.program(name, source, &all)
    }

    /// Builds with the directory as a place for `-l:NAME`.
    fn program(&self, name: &str, source: &str, options: &[&str]) -> PathBuf {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        let here = format!("-L{}", self.directory.path().display());
        let mut all: Vec<&str> = options.to_vec();
        all.extend([here.as_str(), "-Wl,--allow-shlib-undefined"]);
        compile(self.directory.path(), name, source, &all)
    }

    fn versions(&self, name: &str, script: &str) -> String {
        fs::write(self.path(name), script).unwrap();
        format!("-Wl,--version-script={}", self.path(name).display())
    }

    fn root(&self) -> LinkRoot {
        let mut root = host();
        add_tree(&mut root, self.directory.path());
        root
    }

    fn entry(&self, name: &str) -> EntryPoint {
        EntryPoint { path: self.text(name), reason: "the test starts it".to_owned() }
    }

    fn resolve(&self, name: &str, opens: &[RuntimeOpen]) -> Closure {
        Closure::resolve(&self.root(), &[self.entry(name)], opens, &InjectedList::default())
    }

    /// Runs a program and resolves it; both must succeed.
    fn links(&self, name: &str, opens: &[RuntimeOpen]) -> (Closure, LinkProof) {
        let (succeeds, said) = run(&mut Command::new(self.path(name)));
        assert!(succeeds, "the loader says: {said}");
        let closure = self.resolve(name, opens);
        let proof = prove(&closure).unwrap_or_else(|errors| panic!("{errors:#?}"));
        (closure, proof)
    }

    /// Runs a program and resolves it; both must fail and say so.
    fn fails(&self, name: &str, opens: &[RuntimeOpen], loader_says: &str, we_say: &str) -> Vec<LinkError> {
        let (succeeds, said) = run(&mut Command::new(self.path(name)));
        assert!(!succeeds && said.contains(loader_says), "the loader says: {said}");
        let errors = prove(&self.resolve(name, opens)).expect_err("the loader refuses it");
        let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(all.iter().any(|error| error.contains(we_say)), "{all:#?}");
        errors
    }
}

/// Whether a program started and ended well with everything bound at once, and what it said otherwise.
fn run(command: &mut Command) -> (bool, String) {
    match command.env("LD_BIND_NOW", "1").env("LC_ALL", "C").stdin(Stdio::null()).output() {
        Ok(output) => (output.status.success(), format!("{} {}", String::from_utf8_lossy(&output.stderr), output.status)),
        Err(error) => (false, error.to_string()),
    }
}

/// The libraries of this machine.
fn host() -> LinkRoot {
    let mut root = LinkRoot::new(Machine::X86_64);
    for directory in ["/lib", "/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"] {
        add_entry(&mut root, Path::new(directory));
        for entry in fs::read_dir(directory).unwrap() {
            add_entry(&mut root, &entry.unwrap().path());
        }
    }
    root
}

fn add_tree(root: &mut LinkRoot, directory: &Path) {
    for entry in walkdir::WalkDir::new(directory) {
        add_entry(root, entry.unwrap().path());
    }
}

fn add_entry(root: &mut LinkRoot, path: &Path) {
    let Some(text) = path.to_str() else { return };
    if let Ok(target) = fs::read_link(path) {
        root.add_symlink(text, target.to_str().unwrap());
    } else if path.is_file() {
        root.add_file(text, path);
    }
}

/// Replaces bytes that occur exactly `times` times.
fn replace(path: &Path, old: &[u8], new: &[u8], times: usize) {
    assert_eq!(old.len(), new.len());
    let mut data = fs::read(path).unwrap();
    let places: Vec<usize> = (0..=data.len() - old.len()).filter(|&at| &data[at..at + old.len()] == old).collect();
    assert_eq!(places.len(), times, "{old:?} in {}", path.display());
    for at in places {
        data[at..at + new.len()].copy_from_slice(new);
    }
    fs::write(path, data).unwrap();
}

/// The hash that version tables hold, as the ELF specification writes it down.
fn version_hash(name: &str) -> [u8; 4] {
    let mut hash: u32 = 0;
    for byte in name.bytes() {
        hash = (hash << 4) + u32::from(byte);
        let high = hash & 0xf000_0000;
        if high != 0 {
            hash ^= high >> 24;
        }
        hash &= !high;
    }
    hash.to_le_bytes()
}

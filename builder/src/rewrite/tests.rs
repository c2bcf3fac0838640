//! Judged by the loader, `readelf` and GNU `strip`; and the verifier judged by damage that it must find.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::elf::ElfObject;
use crate::elf::tests::{compile, foreign, onnxruntime, output};

const ONE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__thread int counter = 5;
extern __thread int shared;
int number = 7;
static int hidden(void) { return number; }
int internal(int x) { return x + hidden() + counter; }
int (*table[])(int) = {internal, internal};
const char *names[] = {"a", "b", "c"};
int *pointer = &number;
__attribute__((weak)) int twice(int x) { return 2 * x; }
int (*chosen)(int) = twice;
int other(int);
static int fast(int x) { return x + 1; }
static int (*pick(void))(int) { return fast; }
int picked(int) __attribute__((ifunc("pick")));
int TF_Answer(int x) {
    counter++;
    shared++;
    char *copy = malloc(16);
    snprintf(copy, 16, "%s%s", names[0], names[2]);
    int sum = table[1](x) + *pointer + chosen(x) + other(x) + picked(x) + copy[1];
    free(copy);
    return sum;
}
int callback(int x) { return internal(x) * 3; }
"#;

const TWO: &str = r#"
#include <stdlib.h>
__thread int shared = 100;
int callback(int);
int twice(int x) { return 200 * x; }
int other(int x) { return callback(x) + twice(x) + shared + (getenv("NOWHERE_SET") != 0); }
"#;

const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    int (*answer)(int) = (int (*)(int))dlsym(library, "TF_Answer");
    if (!answer) return 2;
    printf("%d %d %d\n", answer(1), answer(20), dlsym(library, "internal") != 0);
    return count != 2;
}
"#;

/// Two libraries that need one another, and a program that opens the first.
struct Pair {
    directory: tempfile::TempDir,
}

impl Pair {
    fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = ["-shared", "-fPIC", "-O1"];
        let two = compile(directory.path(), "libtwo.so", TWO, &[&shared[..], &["-Wl,-soname,libtwo.so"], options].concat());
        let one = ["-Wl,-soname,libone.so", two.to_str().unwrap()];
        compile(directory.path(), "libone.so", ONE, &[&shared[..], &one, options].concat());
        compile(directory.path(), "program", PROGRAM, &["-ldl"]);
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the program with the libraries of a folder.
    fn run(&self, folder: &Path) -> String {
        let command = Command::new(self.path("program"))
            .arg(folder.join("libone.so"))
            .env("LD_LIBRARY_PATH", folder)
            .env("LD_BIND_NOW", "1")
            .output()
            .unwrap();
        assert!(command.status.success(), "{}", String::from_utf8_lossy(&command.stderr));
        String::from_utf8(command.stdout).unwrap()
    }
}

fn system(names: &[&str]) -> Vec<ElfObject> {
    names.iter().map(|name| ElfObject::load(&Path::new("/lib/x86_64-linux-gnu").join(name)).unwrap()).collect()
}

fn bind() -> Vec<Transformation> {
    vec![Transformation::Strip, Transformation::Bind(BindRules { keep: vec!["TF_*".to_owned()] })]
}

/// Rewrites bytes, and gives the new ones.
fn rewritten(
    library: &[u8],
    transformations: &[Transformation],
    neighbours: &Neighbours<'_>,
) -> Result<(Vec<u8>, RewriteReport), RewriteError> {
    let mut file = tempfile::tempfile().unwrap();
    let report = rewrite(library, transformations, neighbours, &mut file)?;
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, report.bytes_after);
    Ok((bytes, report))
}

#[test]
fn bound_libraries_run_as_before() {
    let libc = system(&["libc.so.6"]);
    for options in [
        &["-g"][..],
        &["-Wl,-z,now"],
        &["-Wl,-z,lazy", "-Wl,--hash-style=sysv"],
        &["-Wl,-z,separate-code,-z,pack-relative-relocs"],
    ] {
        let pair = Pair::new(options);
        let target = tempfile::tempdir().unwrap();
        let objects = ["libone.so", "libtwo.so"].map(|name| ElfObject::load(&pair.path(name)).unwrap());
        for (name, other) in [("libone.so", 1), ("libtwo.so", 0)] {
            let neighbours = Neighbours::new([&objects[other], &libc[0]]);
            let mut file = File::options().read(true).write(true).create_new(true).open(target.path().join(name)).unwrap();
            let report = rewrite_file(&pair.path(name), &bind(), &neighbours, &mut file).unwrap();
            let bound = report.bind.unwrap();
            assert!(bound.unpacked_because.is_none(), "{options:?}: {bound:?}");
            if name == "libone.so" {
                assert!(bound.bound >= 4 && bound.packed >= 8, "{options:?}: {bound:?}");
                assert!(bound.exports_dropped >= 5 && bound.exports_kept == 1, "{options:?}: {bound:?}");
            }
        }
        let (before, after) = (pair.run(pair.directory.path()), pair.run(target.path()));
        assert_eq!(before.rsplit_once(' ').unwrap().0, after.rsplit_once(' ').unwrap().0, "{options:?}");
        assert!(before.ends_with(" 1\n") && after.ends_with(" 0\n"), "an export that nothing names is still there: {after}");
        let path = target.path().join("libone.so");
        let listed = output("readelf", &["-aW", path.to_str().unwrap()]);
        assert!(listed.contains("GLIBC_ABI_DT_RELR") && listed.contains(".relr.dyn"), "{listed}");
        assert!(!listed.contains(".symtab"), "{listed}");
    }
}

#[test]
fn a_name_that_two_libraries_define_stays_with_the_loader() {
    let pair = Pair::new(&[]);
    let two = ElfObject::load(&pair.path("libtwo.so")).unwrap();
    let libc = system(&["libc.so.6"]);
    let library = fs::read(pair.path("libone.so")).unwrap();
    let (_, report) = rewritten(&library, &bind(), &Neighbours::new([&two, &libc[0]])).unwrap();
    let report = report.bind.unwrap();
    assert!(report.left["another library defines it too"] >= 1, "{report:?}");
    assert!(report.left["its address is found by a function of the library"] >= 1, "{report:?}");
    // `callback` is wanted by the other library, `twice` is defined by both.
    assert_eq!(report.exports_named, 2, "{report:?}");
}

#[test]
fn nothing_is_packed_for_a_c_library_that_cannot_read_it() {
    let pair = Pair::new(&[]);
    let two = ElfObject::load(&pair.path("libtwo.so")).unwrap();
    let library = fs::read(pair.path("libone.so")).unwrap();
    let (bytes, report) = rewritten(&library, &bind(), &Neighbours::new([&two])).unwrap();
    let report = report.bind.unwrap();
    assert_eq!((report.packed, report.packed_bytes), (0, 0));
    assert!(report.unpacked_because.unwrap().contains("does not read packed relocations") && report.bound > 0);
    assert!(!ElfObject::parse(&bytes).unwrap().dynamic.unwrap().has_packed_relocations);
}

#[test]
fn strips_as_gnu_strip_does() {
    let pair = Pair::new(&["-g"]);
    for path in [pair.path("libone.so"), onnxruntime()] {
        let (bytes, _) = rewritten(&fs::read(&path).unwrap(), &[Transformation::Strip], &Neighbours::default()).unwrap();
        let theirs = pair.path("stripped.so");
        output("strip", &["-o", theirs.to_str().unwrap(), path.to_str().unwrap()]);
        let difference = bytes.len().abs_diff(fs::metadata(&theirs).unwrap().len() as usize);
        assert!(difference <= 4096, "{}: {difference} bytes", path.display());
        let ours = pair.path("ours.so");
        fs::write(&ours, &bytes).unwrap();
        let listed = |path: &Path| {
            let text = output("readelf", &["-lSW", path.to_str().unwrap()]);
            let is_segment = |line: &&str| line.starts_with("  LOAD") || line.starts_with("  TLS") || line.starts_with("  GNU");
            text.lines().filter(is_segment).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(listed(&ours), listed(&theirs));
    }
}

#[test]
fn cuts_what_was_cleared_out_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let source =
        "const char big[1 << 20] = {[5] = 1, [1 << 19] = 2, [(1 << 20) - 1] = 3}; const char *at(int i) { return big + i; }";
    let path = compile(directory.path(), "big.so", source, &["-shared", "-fPIC"]);
    let data = fs::read(&path).unwrap();
    let library = Library::parse(&data).unwrap();
    let symbol = output("readelf", &["--dyn-syms", "-W", path.to_str().unwrap()]);
    let address = symbol.lines().find(|line| line.ends_with(" big")).and_then(|line| line.split_whitespace().nth(1)).unwrap();
    let address = u64::from_str_radix(address, 16).unwrap();
    let mut draft = Draft::new(&library);
    for range in [address + 6..address + (1 << 19), address + (1 << 19) + 1..address + (1 << 20) - 1] {
        draft.clear(range).unwrap();
    }
    let mut bytes = Vec::new();
    draft.finish().unwrap().write_to(&mut bytes).unwrap();
    assert!(bytes.len() + 1_000_000 < data.len(), "{} of {}", bytes.len(), data.len());
    verify::verify(&data, &bytes, &BindRules::default(), &[], &Neighbours::default()).unwrap();
    let cut = directory.path().join("cut.so");
    fs::write(&cut, &bytes).unwrap();
    let source = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **arguments) {
    void *library = dlopen(arguments[1], RTLD_NOW);
    const char *(*at)(int) = library ? (const char *(*)(int))dlsym(library, "at") : 0;
    if (!at) return 1;
    int sum = 0;
    for (int i = 0; i < 1 << 20; i++) sum += at(0)[i] * (i % 7 + 1);
    printf("%d\n", sum);
    return count != 2;
}"#;
    let program = compile(directory.path(), "read", source, &["-ldl"]);
    let run = |path: &Path| output(program.to_str().unwrap(), &[path.to_str().unwrap()]);
    assert_eq!(run(&cut), run(&path));
}

#[test]
fn onnxruntime_is_bound_and_small_files_of_another_machine_too() {
    let neighbours = system(&["libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1"]);
    let keep = BindRules { keep: vec!["OrtGetApiBase".to_owned()] };
    let transformations = [Transformation::Strip, Transformation::Bind(keep)];
    let data = fs::read(onnxruntime()).unwrap();
    let (bytes, report) = rewritten(&data, &transformations, &Neighbours::new(&neighbours)).unwrap();
    assert!(report.bind.unwrap().packed > 30_000 && bytes.len() + 600_000 < data.len(), "{}", bytes.len());
    let (again, _) = rewritten(&data, &transformations, &Neighbours::new(&neighbours)).unwrap();
    assert_eq!(bytes, again);

    let foreign = fs::read(foreign("aarch64")).unwrap();
    let bind = Transformation::Bind(BindRules { keep: vec!["PyInit_*".to_owned()] });
    let (bytes, report) = rewritten(&foreign, &[Transformation::Strip, bind], &Neighbours::default()).unwrap();
    assert!(report.bind.unwrap().exports_kept >= 1);
    assert_eq!(ElfObject::parse(&bytes).unwrap().machine, crate::elf::Machine::Aarch64);
}

#[test]
fn refuses_what_is_not_a_shared_library() {
    let pair = Pair::new(&[]);
    let refusal = |data: &[u8]| rewritten(data, &bind(), &Neighbours::default()).unwrap_err().to_string();
    assert_eq!(refusal(&fs::read(pair.path("program")).unwrap()), "kind is a program, expected a shared library");
    assert_eq!(refusal(b"text"), "the file starts with `text`, expected the ELF magic `\\x7fELF`");
}

/// A library, and its bound form.
fn subjects() -> &'static [(Vec<u8>, Vec<u8>)] {
    static SUBJECTS: OnceLock<Vec<(Vec<u8>, Vec<u8>)>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let pair = Pair::new(&["-Wl,-s"]);
        let libc = system(&["libc.so.6"]);
        let data = fs::read(pair.path("libone.so")).unwrap();
        let (bound, _) = rewritten(&data, &bind(), &Neighbours::new(&libc)).unwrap();
        vec![(data, bound)]
    })
}

#[test]
fn the_verifier_sees_every_change_of_memory() {
    let libc = system(&["libc.so.6"]);
    let neighbours = Neighbours::new(&libc);
    let rules = BindRules { keep: vec!["TF_*".to_owned()] };
    let (data, bound) = &subjects()[0];
    verify::verify(data, bound, &rules, &[], &neighbours).unwrap();
    let (original, library) = (Library::parse(data).unwrap(), Library::parse(bound).unwrap());
    // What the loader overwrites, and what it alone reads, may differ in places that say nothing: sizes of symbols, padding.
    let mut free = verify::tables(&original).unwrap();
    free.push(library.dynamic_range.clone());
    let filled = words::words(&library, &neighbours).unwrap();
    let is_filled = |word: &&(u64, words::Word<'_>)| !matches!(word.1, words::Word::Address(_));
    free.extend(filled.iter().filter(is_filled).map(|&(address, _)| address..address + 8));
    let (mut seen, mut missed) = (0, Vec::new());
    for segment in library.segments.iter().filter(|segment| segment.is_load()) {
        for at in (0..segment.file_size).step_by(19) {
            let address = segment.address + at;
            let mut damaged = bound.clone();
            damaged[(segment.offset + at) as usize] ^= 0x55;
            match verify::verify(data, &damaged, &rules, &[], &neighbours) {
                Err(_) => seen += 1,
                Ok(()) if free.iter().any(|range| range.contains(&address)) => {}
                Ok(()) => missed.push(address),
            }
        }
    }
    assert!(missed.is_empty() && seen > 100, "{seen} seen, {missed:x?} missed");
}

/// A place in the file: anywhere, or in the headers and tables, which take up little of it.
fn place() -> impl Strategy<Value = u32> {
    prop_oneof![0..64u32, 0..0x800u32, 0x2c00..0x3400u32, any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_gives_a_library_or_an_error(
        is_bound in any::<bool>(),
        changes in prop::collection::vec((place(), prop_oneof![Just(0u8), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()], 1..9usize), 0..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (original, bound) = &subjects()[0];
        let mut data = if is_bound { bound.clone() } else { original.clone() };
        for (at, value, run) in changes {
            let at = at as usize % data.len();
            let end = (at + run).min(data.len());
            data[at..end].fill(value);
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(original.len() + 1));
        }
        // Whatever comes out has been verified.
        let _ = rewritten(&data, &bind(), &Neighbours::default());
        let _ = rewritten(&data, &[Transformation::Strip], &Neighbours::default());
    }
}

//! Judged by binutils: what `readelf` and `nm` say of the same files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// Runs a command and returns what it printed.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).env("LC_ALL", "C").output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Compiles C source into a file of a directory.
pub(crate) fn compile(directory: &Path, name: &str, source: &str, options: &[&str]) -> PathBuf {
    let (input, target) = (directory.join(format!("{name}.c")), directory.join(name));
    fs::write(&input, source).unwrap();
    let mut arguments = vec!["-o", target.to_str().unwrap(), input.to_str().unwrap()];
    arguments.extend(options);
    output("gcc", &arguments);
    target
}

/// A library of a wheel, fetched once into the workspace's `build/`.
fn from_wheel(package: &str, platform: &str, member: &str) -> PathBuf {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/elf").join(format!("{package}-{platform}"));
    let target = folder.join(Path::new(member).file_name().unwrap());
    if !target.exists() {
        let pinned = package.replace('-', "==");
        // Tests run as processes of their own, several of which may fetch the same file at a time.
        let fetched = folder.join(format!("fetch-{}", std::process::id()));
        let folder_text = fetched.to_str().unwrap();
        let mut arguments = vec!["-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"];
        arguments.extend(["--platform", platform, "-d", folder_text, &pinned]);
        output("python3", &arguments);
        let wheel = fs::read_dir(&fetched)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|end| end == "whl"));
        let mut archive = zip::ZipArchive::new(fs::File::open(wheel.unwrap()).unwrap()).unwrap();
        let partial = target.with_extension(format!("partial-{}", std::process::id()));
        std::io::copy(&mut archive.by_name(member).unwrap(), &mut fs::File::create(&partial).unwrap()).unwrap();
        fs::rename(partial, &target).unwrap();
        fs::remove_dir_all(fetched).unwrap();
    }
    target
}

pub(crate) fn onnxruntime() -> PathBuf {
    from_wheel("onnxruntime-1.32.0", "manylinux_2_28_x86_64", "onnxruntime/capi/libonnxruntime.so.1.32.0")
}

/// A small library of another machine.
pub(crate) fn foreign(machine: &str) -> PathBuf {
    let member = format!("_cffi_backend.cpython-311-{machine}-linux-gnu.so");
    from_wheel("cffi-2.1.1", &format!("manylinux2014_{machine}"), &member)
}

/// A symbol as the judges name it: name, version, whether hidden, binding.
type Named = (String, String, bool, &'static str);

fn binding(binding: Binding) -> &'static str {
    match binding {
        Binding::Local => "LOCAL",
        Binding::Global => "GLOBAL",
        Binding::Weak => "WEAK",
        Binding::Unique => "UNIQUE",
    }
}

fn imports(symbols: &SymbolTable) -> BTreeSet<Named> {
    let undefined = symbols.imports().filter(|import| !import.is_copied);
    undefined
        .map(|import| {
            (import.text().into(), import.version.map_or("", |version| version.name).into(), true, binding(import.binding))
        })
        .collect()
}

fn exports(symbols: &SymbolTable) -> BTreeSet<Named> {
    let name = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    symbols
        .exports()
        .map(|export| {
            // The symbol that stands for a version itself is listed without it.
            let version = export.version.filter(|version| version.as_bytes() != export.name).unwrap_or("");
            (name(export.name), version.into(), export.is_hidden && !version.is_empty(), binding(export.binding))
        })
        .collect()
}

/// What `readelf` says of undefined and defined dynamic symbols.
fn readelf_symbols(path: &str) -> (BTreeSet<Named>, BTreeSet<Named>) {
    let (mut undefined, mut defined) = (BTreeSet::new(), BTreeSet::new());
    for line in output("readelf", &["--dyn-syms", "-W", path]).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [number, value, _, kind, bind, visibility, section, name, ..] = words[..] else { continue };
        if !number.ends_with(':') || number == "Num:" || bind == "LOCAL" || matches!(visibility, "HIDDEN" | "INTERNAL") {
            continue;
        }
        let bind = *["GLOBAL", "WEAK", "UNIQUE"].iter().find(|known| **known == bind).expect("a known binding");
        let (name, version) = name.split_once('@').unwrap_or((name, ""));
        let is_hidden = !version.starts_with('@') && !version.is_empty();
        let symbol = (name.to_owned(), version.trim_start_matches('@').to_owned(), is_hidden, bind);
        if section == "UND" {
            undefined.insert((symbol.0, symbol.1, true, bind));
        } else if !matches!(kind, "SECTION" | "FILE")
            && (kind == "TLS" || section == "ABS" || value.contains(|digit| digit != '0'))
        {
            // A copied variable shows the version it wants, which is not one that it hides.
            let wants = words.get(8).is_some();
            defined.insert((symbol.0, symbol.1, is_hidden && !wants, bind));
        }
    }
    (undefined, defined)
}

fn readelf_dynamic(path: &str, tag: &str) -> Vec<String> {
    let start = format!("({tag})");
    let value = |line: &str| line.split_once('[').map(|(_, rest)| rest.trim_end_matches(']').to_owned());
    output("readelf", &["-dW", path]).lines().filter(|line| line.contains(&start)).filter_map(value).collect()
}

/// Version needs as `file version weak index` and definitions as `version base index parents`.
fn readelf_versions(path: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut needs, mut definitions) = (BTreeSet::new(), Vec::<String>::new());
    let mut file = String::new();
    for line in output("readelf", &["-VW", path]).lines() {
        let after = |label: &str| line.split_once(label).map(|(_, rest)| rest.split_whitespace().next().unwrap_or("").to_owned());
        if let Some(name) = after("File: ") {
            file = name;
        } else if let (Some(name), Some(index)) = (after("Name: "), after("Version: ")) {
            needs.insert(format!("{file} {name} {} {index}", line.contains("WEAK")));
        } else if let (Some(name), Some(index)) = (after("Name: "), after("Index: ")) {
            definitions.push(format!("{name} {} {index}", line.contains("BASE")));
        } else if line.contains("Parent ") {
            let parent = line.rsplit(' ').next().unwrap();
            definitions.last_mut().unwrap().push_str(&format!(" {parent}"));
        }
    }
    (needs, definitions.into_iter().collect())
}

fn compare_with_binutils(path: &Path) {
    let object = ElfObject::load(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let text = path.to_str().unwrap();
    assert_eq!(object.needed(), readelf_dynamic(text, "NEEDED"), "{text}");
    assert_eq!(object.soname().map(str::to_owned), readelf_dynamic(text, "SONAME").pop(), "{text}");
    let dynamic = object.dynamic.as_ref().unwrap();
    assert_eq!(dynamic.rpath.join(":"), readelf_dynamic(text, "RPATH").join(":"), "{text}");
    assert_eq!(dynamic.runpath.as_ref().map(|list| list.join(":")), readelf_dynamic(text, "RUNPATH").pop(), "{text}");
    let (undefined, defined) = readelf_symbols(text);
    let difference = |ours: &BTreeSet<Named>, theirs: &BTreeSet<Named>| -> Vec<Named> {
        ours.symmetric_difference(theirs).take(10).cloned().collect()
    };
    assert_eq!(difference(&imports(&dynamic.symbols), &undefined), [], "{text}");
    assert_eq!(difference(&exports(&dynamic.symbols), &defined), [], "{text}");
    let (needs, definitions) = readelf_versions(text);
    let ours = dynamic.version_needs.iter().flat_map(|need| {
        need.versions.iter().map(move |version| format!("{} {} {} {}", need.file, version.name, version.is_weak, version.index))
    });
    assert_eq!(ours.collect::<BTreeSet<_>>(), needs, "{text}");
    let ours = dynamic.version_definitions.iter().map(|version| {
        let parents: String = version.parents.iter().map(|parent| format!(" {parent}")).collect();
        format!("{} {} {}{parents}", version.name, version.is_base, version.index)
    });
    assert_eq!(ours.collect::<BTreeSet<_>>(), definitions, "{text}");
    let notes = output("readelf", &["-nW", text]);
    let build_id = notes.lines().find_map(|line| line.split_once("Build ID: ")).map(|(_, id)| id.trim().to_owned());
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(object.build_id.as_ref().map(hex), build_id, "{text}");
    let headers = output("readelf", &["-lSW", text]);
    assert_eq!(object.thread_local_bytes.is_some(), headers.contains("\n  TLS "), "{text}");
    assert_eq!(object.is_stripped, !headers.contains(" SYMTAB "), "{text}");
    let interpreter = headers.split_once("interpreter: ").map(|(_, rest)| rest.split(']').next().unwrap().to_owned());
    assert_eq!(object.interpreter, interpreter, "{text}");
    // Each exported name must be found through the file's own hash table.
    for export in dynamic.symbols.exports() {
        let wanted = export.version.map(|name| WantedVersion { name, file: None, is_hidden: true });
        assert!(dynamic.symbols.provides(SymbolName::new(export.name), wanted), "{text}: {export:?}");
    }
}

#[test]
fn reads_system_libraries_as_binutils_do() {
    let directory = Path::new("/lib/x86_64-linux-gnu");
    for name in
        ["libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "libgcc_s.so.1", "libstdc++.so.6", "ld-linux-x86-64.so.2"]
    {
        compare_with_binutils(&directory.join(name));
    }
    compare_with_binutils(Path::new("/bin/ls"));
}

#[test]
fn reads_onnxruntime_as_binutils_do() {
    let path = onnxruntime();
    compare_with_binutils(&path);
    let listed = output("nm", &["-D", path.to_str().unwrap()]);
    let (undefined, defined): (Vec<&str>, Vec<&str>) = listed.lines().partition(|line| line.starts_with(' '));
    let symbols = ElfObject::load(&path).unwrap().dynamic.unwrap().symbols;
    assert_eq!((symbols.imports().count(), symbols.exports().count()), (undefined.len(), defined.len()));
    assert!(undefined.len() > 200, "{}", undefined.len());
}

#[test]
fn reads_other_machines_and_byte_orders() {
    for (name, machine, order) in
        [("aarch64", Machine::Aarch64, ByteOrder::Little), ("s390x", Machine::Other(22), ByteOrder::Big)]
    {
        let path = foreign(name);
        compare_with_binutils(&path);
        let object = ElfObject::load(&path).unwrap();
        assert_eq!((object.machine, object.byte_order, object.class), (machine, order, Class::Elf64));
    }
}

const VERSIONED: &str = "
    __asm__(\".symver old_f, f@V_1\"); __asm__(\".symver new_f, f@@V_2\");
    int old_f(void) { return 1; }
    int new_f(void) { return 2; }
    __thread int per_thread = 3;
    int shown = 4; int kept = 5; extern int elsewhere(void) __attribute__((weak)); extern int strong(void);
    __attribute__((visibility(\"protected\"))) int guarded(void) { return elsewhere ? elsewhere() : strong(); }";

fn versioned(directory: &Path, name: &str, options: &[&str]) -> PathBuf {
    let script = directory.join("versions.map");
    fs::write(&script, "V_1 { global: f; shown; per_thread; guarded; local: kept; }; V_2 { global: f; } V_1;").unwrap();
    let script = format!("-Wl,--version-script={}", script.display());
    let mut all = vec!["-shared", "-fPIC", "-Wl,-soname,libversioned.so.1", &script];
    all.extend(options);
    compile(directory, name, VERSIONED, &all)
}

#[test]
fn reads_every_kind_of_hash_table_and_both_classes() {
    let directory = tempfile::tempdir().unwrap();
    for (name, options) in [
        ("gnu.so", vec!["-Wl,--hash-style=gnu"]),
        ("sysv.so", vec!["-Wl,--hash-style=sysv"]),
        ("both.so", vec!["-Wl,--hash-style=both", "-Wl,-rpath,$ORIGIN/../lib:/opt/x", "-Wl,--disable-new-dtags"]),
        ("relr.so", vec!["-Wl,-z,pack-relative-relocs", "-Wl,-rpath,${ORIGIN}/plug-ins"]),
        ("narrow.so", vec!["-m32", "-nostdlib"]),
    ] {
        let path = versioned(directory.path(), name, &options);
        compare_with_binutils(&path);
        let object = ElfObject::load(&path).unwrap();
        let symbols = &object.dynamic.as_ref().unwrap().symbols;
        assert_eq!(object.class == Class::Elf32, name == "narrow.so");
        let provides = |symbol: &str, version: Option<&str>| {
            symbols.provides(
                SymbolName::new(symbol.as_bytes()),
                version.map(|name| WantedVersion { name, file: None, is_hidden: false }),
            )
        };
        assert!(
            provides("f", Some("V_1"))
                && provides("f", Some("V_2"))
                && provides("f", None)
                && provides("per_thread", Some("V_1")),
            "{name}"
        );
        assert!(
            !provides("f", Some("V_3")) && !provides("kept", None) && !provides("elsewhere", None) && !provides("strong", None),
            "{name}"
        );
        assert_eq!(
            symbols.versions_of(SymbolName::new(b"f")).into_iter().collect::<BTreeSet<_>>(),
            BTreeSet::from(["V_1", "V_2"])
        );
        assert_eq!(
            object.dynamic.as_ref().unwrap().has_packed_relocations,
            name == "relr.so" || readelf_has(&path, "(RELR)"),
            "{name}"
        );
    }
}

fn readelf_has(path: &Path, tag: &str) -> bool {
    output("readelf", &["-dW", path.to_str().unwrap()]).contains(tag)
}

#[test]
fn counts_imports_of_a_file_that_exports_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let source = "#include <stdio.h>\nint main(void) { return puts(\"x\") < 0; }";
    let path = compile(directory.path(), "program", source, &[]);
    compare_with_binutils(&path);
    let object = ElfObject::load(&path).unwrap();
    let puts = object
        .dynamic
        .as_ref()
        .unwrap()
        .symbols
        .imports()
        .find(|import| import.name == b"puts")
        .map(|import| import.version.unwrap());
    assert_eq!(puts, Some(WantedVersion { name: "GLIBC_2.2.5", file: Some("libc.so.6"), is_hidden: false }));
    assert!(object.dynamic.unwrap().is_executable());
}

#[test]
fn needs_no_section_headers() {
    let directory = tempfile::tempdir().unwrap();
    for path in [versioned(directory.path(), "whole.so", &[]), onnxruntime(), PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")] {
        let mut data = fs::read(&path).unwrap();
        let whole = ElfObject::parse(&data).unwrap();
        data[40..48].fill(0);
        data[58..64].fill(0);
        let bare = ElfObject::parse(&data).unwrap();
        assert!(bare.is_stripped);
        let (whole, bare) = (whole.dynamic.unwrap(), bare.dynamic.unwrap());
        assert_eq!(whole.symbols.imports().collect::<Vec<_>>(), bare.symbols.imports().collect::<Vec<_>>());
        assert_eq!(whole.symbols.exports().collect::<Vec<_>>(), bare.symbols.exports().collect::<Vec<_>>());
        assert_eq!(whole.version_needs, bare.version_needs);
    }
}

#[test]
fn takes_static_programs_and_refuses_what_no_loader_takes() {
    let directory = tempfile::tempdir().unwrap();
    let source = "int main(void) { return 0; }";
    let fixed = ElfObject::load(&compile(directory.path(), "static", source, &["-static"])).unwrap();
    assert!(
        fixed.dynamic.is_none() && fixed.interpreter.is_none() && fixed.kind == Kind::Executable && fixed.needed().is_empty()
    );
    let moving = ElfObject::load(&compile(directory.path(), "static-pie", source, &["-static-pie"])).unwrap();
    assert!(moving.dynamic.is_some() && moving.interpreter.is_none() && moving.kind == Kind::Shared);

    let relocatable = compile(directory.path(), "part.o", source, &["-c"]);
    let message = |path: &Path| ElfObject::load(path).unwrap_err().to_string();
    assert_eq!(message(&relocatable), "header field e_type is 1, expected 2 (executable) or 3 (shared object)");
    let text = directory.path().join("text");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    assert_eq!(message(&text), "the file starts with `#!/b`, expected the ELF magic `\\x7fELF`");
    fs::write(&text, "").unwrap();
    assert_eq!(message(&text), "the file is empty, expected an ELF file");
    fs::write(&text, "\x7fELF\x02\x01\x01").unwrap();
    assert_eq!(message(&text), "the file has 7 bytes, expected an ELF header of 20");
    assert!(message(directory.path()).ends_with("is a directory, expected a regular file"));
    let pipe = directory.path().join("pipe");
    output("mkfifo", &[pipe.to_str().unwrap()]);
    assert!(message(&pipe).ends_with("is a special file, expected a regular file"));
    assert!(message(&directory.path().join("absent")).contains("No such file"));
    let library = fs::read(versioned(directory.path(), "whole.so", &[])).unwrap();
    let cut = ElfObject::parse(&library[..library.len() / 3]).unwrap_err().to_string();
    assert!(cut.ends_with("it was cut short"), "{cut}");
}

/// Uses everything that a parsed object offers.
fn exercise(data: &[u8]) {
    let Ok(object) = ElfObject::parse(data) else { return };
    let Some(dynamic) = object.dynamic else { return };
    let names: Vec<&[u8]> =
        dynamic.symbols.exports().map(|export| export.name).chain(dynamic.symbols.imports().map(|import| import.name)).collect();
    for name in names.iter().take(64) {
        dynamic.symbols.provides(SymbolName::new(name), None);
        dynamic.symbols.provides(SymbolName::new(name), Some(WantedVersion { name: "V_1", file: None, is_hidden: false }));
        assert!(dynamic.symbols.versions_of(SymbolName::new(name)).len() <= dynamic.symbols.len());
    }
}

fn subjects() -> &'static [Vec<u8>] {
    static SUBJECTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    SUBJECTS.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let build = |name, options: &[&str]| fs::read(versioned(directory.path(), name, options)).unwrap();
        let small = [
            build("gnu.so", &["-Wl,-s"]),
            build("sysv.so", &["-Wl,-s", "-Wl,--hash-style=sysv"]),
            build("narrow.so", &["-m32", "-nostdlib", "-Wl,-s"]),
        ];
        small
            .into_iter()
            .chain([fs::read("/lib/x86_64-linux-gnu/libdl.so.2").unwrap(), fs::read(foreign("s390x")).unwrap()])
            .collect()
    })
}

/// A place in the file: anywhere, or in one of the tables, which take up little of it.
fn place() -> impl Strategy<Value = u32> {
    prop_oneof![0..64u32, 0..1024u32, 0x200..0x1000u32, 0x2c00..0x3200u32, any::<u32>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn any_damage_gives_a_value_or_an_error(
        subject in 0..5usize,
        changes in prop::collection::vec((place(), prop_oneof![Just(0u8), Just(0xff), Just(0x7f), Just(0x80), any::<u8>()], 1..9usize), 0..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
        shift in 0..8usize,
    ) {
        let original = &subjects()[subject];
        // Another alignment than a file's.
        let mut data = vec![0; shift];
        data.extend(original);
        for (at, value, run) in changes {
            let at = shift + at as usize % original.len();
            let end = (at + run).min(data.len());
            data[at..end].fill(value);
        }
        let length = cut.map_or(original.len(), |cut| cut.index(original.len() + 1));
        exercise(&data[shift..shift + length]);
    }

    #[test]
    fn noise_after_the_magic_gives_a_value_or_an_error(class in 0..4u8, order in 0..4u8, noise in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut data = vec![0x7f, b'E', b'L', b'F', class, order, 1];
        data.extend(noise);
        exercise(&data);
    }
}

#[test]
fn every_truncation_of_a_library_is_survived() {
    let data = &subjects()[0];
    for length in 0..data.len() {
        exercise(&data[..length]);
    }
}

#[test]
fn a_string_named_over_and_over_is_refused_before_memory_runs_out() {
    let bytes = vec![b'a'; 1 << 20];
    let strings = read::Strings::new(&bytes);
    assert!((0..16).all(|_| strings.text("DT_NEEDED", 0).is_ok()));
    let message = strings.text("DT_NEEDED", 0).unwrap_err().to_string();
    assert_eq!(message, "DT_NEEDED has text in all 17825792, expected at most 16 MiB");
}

#[test]
fn an_empty_string_table_outside_the_file_is_no_table() {
    let directory = tempfile::tempdir().unwrap();
    let mut data = fs::read(versioned(directory.path(), "whole.so", &[])).unwrap();
    // DT_STRTAB to nowhere, DT_STRSZ to nothing.
    for (tag, value) in [(5u64, 0x7fff_0000u64), (10, 0)] {
        let at = (0x2000..data.len() - 16).step_by(8).find(|&at| data[at..at + 8] == tag.to_le_bytes()).unwrap();
        data[at + 8..at + 16].copy_from_slice(&value.to_le_bytes());
    }
    let message = ElfObject::parse(&data).unwrap_err().to_string();
    assert!(message.contains("the string table has 0 bytes"), "{message}");
}

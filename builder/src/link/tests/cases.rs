//! Programs and what they need.

use super::*;
use crate::elf::tests::foreign;

const CALLS_F: &str = "extern int f(void); int main(void) { return f() - 7; }";
const F: &str = "int f(void) { return 7; }";

/// A program that needs `libf.so.1` beside it.
fn with_f() -> Bench {
    let bench = Bench::new();
    bench.library("libf.so.1", F, &["-nostdlib"]);
    bench.program("app", CALLS_F, &[RUNPATH, "-l:libf.so.1"]);
    bench
}

#[test]
fn a_whole_program_links() {
    let bench = with_f();
    let (closure, proof) = bench.links("app", &[]);
    let names: Vec<&str> = closure.objects.iter().map(|object| object.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["app", "ld-linux-x86-64.so.2", "libf.so.1", "libc.so.6"]);
    assert_eq!((proof.objects, proof.injected_symbols, proof.warnings.len()), (4, 0, 0));
    assert!(proof.symbols > 5 && proof.versions > 2, "{proof:?}");
    let why = &closure.object("libf.so.1").unwrap().why;
    let path = bench.text("app");
    let entry = Step::EntryPoint { path: path.clone(), reason: "the test starts it".to_owned() };
    assert_eq!(why, &[entry, Step::NeededBy { object: path, name: "libf.so.1".to_owned() }]);
    let json = serde_json::to_value(&closure).unwrap();
    assert_eq!(json["objects"][2]["why"][1]["step"], "needed-by");
    assert_eq!(serde_json::to_value(&proof).unwrap()["objects"], 4);
    assert_eq!(serde_json::to_string(&bench.resolve("app", &[])).unwrap(), serde_json::to_string(&closure).unwrap());
}

#[test]
fn a_missing_library_is_named() {
    let bench = with_f();
    fs::remove_file(bench.path("libf.so.1")).unwrap();
    let errors = bench.fails("app", &[], "libf.so.1: cannot open shared object file", "needs `libf.so.1`, which is in none of");
    let [LinkError::LibraryMissing { wanted_by, searched, unresolved, .. }] = &errors[..] else { panic!("{errors:?}") };
    assert_eq!((wanted_by, *unresolved), (&vec![bench.text("app")], 1));
    assert_eq!(searched[0], bench.directory.path().to_str().unwrap());
    assert!(searched.contains(&"/usr/lib/x86_64-linux-gnu".to_owned()) && errors[0].hint().unwrap().contains("libf.so.1"));
}

#[test]
fn a_missing_symbol_is_named() {
    let bench = with_f();
    bench.library("libf.so.1", "int g(void) { return 7; }", &["-nostdlib"]);
    let errors = bench.fails("app", &[], "undefined symbol: f", "wants the symbol `f`, which nothing in its scope defines");
    assert_eq!(errors.len(), 1);
    // Hidden from other files, it is as good as absent.
    bench.library("libf.so.1", &format!("{F} int g(void) {{ return f(); }}"), &["-nostdlib", "-fvisibility=hidden"]);
    bench.fails("app", &[], "undefined symbol: f", "wants the symbol `f`");
}

const TWO_VERSIONS: &str = "V_1 { global: old; }; V_2 { global: f; } V_1;";
const ONE_VERSION: &str = "V_1 { global: old; f; };";
const OLD_AND_F: &str = "int old(void) { return 1; } int f(void) { return 7; }";

fn with_versions() -> Bench {
    let bench = Bench::new();
    let script = bench.versions("two.map", TWO_VERSIONS);
    bench.library("libf.so.1", OLD_AND_F, &["-nostdlib", &script]);
    bench.program("app", CALLS_F, &[RUNPATH, "-l:libf.so.1"]);
    bench
}

#[test]
fn a_missing_version_is_named_with_the_highest_there_is() {
    let bench = with_versions();
    bench.links("app", &[]);
    let script = bench.versions("one.map", ONE_VERSION);
    bench.library("libf.so.1", OLD_AND_F, &["-nostdlib", &script]);
    let errors =
        bench.fails("app", &[], "version `V_2' not found", "wants V_2 from `libf.so.1`, which provides up to V_1 (for f)");
    assert_eq!(errors.len(), 1, "the symbol is explained by the version: {errors:?}");
}

#[test]
fn a_newer_glibc_is_asked_for() {
    let bench = Bench::new();
    let app = bench.program(
        "app",
        "#include <math.h>\nint main(int c, char **v) { return pow(c, 2) > 9; }",
        &["-lm", "-fno-builtin", "-Wl,-s"],
    );
    bench.links("app", &[]);
    replace(&app, b"GLIBC_2.29\0", b"GLIBC_2.99\0", 1);
    replace(&app, &version_hash("GLIBC_2.29"), &version_hash("GLIBC_2.99"), 1);
    let errors = bench.fails(
        "app",
        &[],
        "version `GLIBC_2.99' not found (required by",
        "wants GLIBC_2.99 from `libm.so.6`, which provides up to GLIBC_2.",
    );
    let hint = errors[0].hint().unwrap();
    assert!(hint.contains("against the base's glibc") && errors[0].to_string().ends_with("(for pow)"), "{} {hint}", errors[0]);
}

#[test]
fn a_symbol_in_another_version_is_told_apart() {
    let bench = with_versions();
    // The version is there, the symbol has moved to the other one and is no default.
    let script = bench.versions("moved.map", "V_1 { global: old; }; V_2 { global: other; } V_1;");
    let source = format!(
        "__asm__(\".symver f_1, f@V_1\"); int f_1(void) {{ return 7; }} int other(void) {{ return 2; }} {}",
        "int old(void) { return 1; }"
    );
    bench.library("libf.so.1", &source, &["-nostdlib", &script]);
    let errors = bench.fails("app", &[], "undefined symbol: f, version V_2", "is there only as V_1 in `");
    assert!(errors[0].to_string().contains("wants the symbol `f` in version V_2 from `libf.so.1`"), "{}", errors[0]);
}

#[test]
fn a_library_that_lost_its_versions_is_taken_with_a_warning_or_refused() {
    let bench = with_versions();
    // Linked with libc it has a version table of its own, in which its symbols have no version.
    bench.library("libf.so.1", &format!("#include <stdlib.h>\n{F} int g(void) {{ return rand(); }}"), &[]);
    let (_, proof) = bench.links("app", &[]);
    assert_eq!(proof.warnings, [LinkWarning::NoVersions { object: bench.text("app"), file: "libf.so.1".to_owned() }]);
    // Without any table the loader takes it for a broken installation.
    bench.library("libf.so.1", F, &["-nostdlib"]);
    bench.fails("app", &[], "Assertion `version->filename == NULL", "which has no symbol versions");
}

#[test]
fn references_without_a_version_take_what_the_loader_takes() {
    let bench = with_f();
    let symver = |lines: &str| {
        format!("{lines} int f_1(void) {{ return 7; }} int f_2(void) {{ return 7; }} int f_3(void) {{ return 7; }}")
    };
    let three = "V_1 { global: a; }; V_2 { global: b; } V_1; V_3 { global: c; } V_2;";
    let script = bench.versions("three.map", three);
    let options = ["-nostdlib", script.as_str()];
    let default = "__asm__(\".symver f_1, f@V_1\"); __asm__(\".symver f_2, f@V_2\"); __asm__(\".symver f_3, f@@V_3\");";
    bench.library("libf.so.1", &symver(default), &options);
    bench.links("app", &[]);
    let newer_hidden = "__asm__(\".symver f_2, f@V_2\"); __asm__(\".symver f_3, f@V_3\");";
    bench.library("libf.so.1", &symver(newer_hidden), &options);
    bench.fails("app", &[], "undefined symbol: f", "is there only as V_");
    let oldest_hidden = "__asm__(\".symver f_1, f@V_1\");";
    bench.library("libf.so.1", &symver(oldest_hidden), &options);
    bench.links("app", &[]);
}

#[test]
fn weak_references_and_weak_versions_may_stay_open() {
    let bench = Bench::new();
    bench.program("app", "extern int f(void) __attribute__((weak)); int main(void) { return f ? 1 : 0; }", &["-fPIE", "-pie"]);
    let before = prove(&bench.resolve("app", &[])).unwrap();
    bench.program("plain", "int main(void) { return 0; }", &[]);
    let (_, plain) = bench.links("plain", &[]);
    assert!(bench.links("app", &[]).1 == before && before.weak_unresolved == plain.weak_unresolved + 1, "{before:?} {plain:?}");

    let bench = with_versions();
    // VER_FLG_WEAK on the version that the program wants.
    let app = bench.path("app");
    let [a, b, c, d] = version_hash("V_2");
    replace(&app, &[a, b, c, d, 0, 0], &[a, b, c, d, 2, 0], 1);
    let script = bench.versions("one.map", ONE_VERSION);
    bench.library("libf.so.1", OLD_AND_F, &["-nostdlib", &script]);
    // The check of versions passes, the lookup of the symbol does not.
    bench.fails("app", &[], "undefined symbol: f, version V_2", "is there only as V_1");
}

#[test]
fn search_paths_are_followed_in_the_loaders_order() {
    let bench = Bench::new();
    let bad = "int g(void) { return 0; }";
    for (new_tags, option) in [(true, "-Wl,--enable-new-dtags"), (false, "-Wl,--disable-new-dtags")] {
        bench.library("libf.so.1", F, &["-nostdlib"]);
        bench.program("bin/app", CALLS_F, &["-Wl,-rpath,${ORIGIN}/../good", option, "-l:libf.so.1"]);
        bench.library("good/libf.so.1", F, &["-nostdlib"]);
        bench.library("bad/libf.so.1", bad, &["-nostdlib"]);
        bench.links("bin/app", &[]);
        // LD_LIBRARY_PATH goes before RUNPATH and after RPATH.
        let (succeeds, said) = run(Command::new(bench.path("bin/app")).env("LD_LIBRARY_PATH", bench.path("bad")));
        assert_eq!(succeeds, !new_tags, "{said}");
        let mut root = bench.root();
        root.set_library_path(vec![bench.text("bad")]);
        let closure = Closure::resolve(&root, &[bench.entry("bin/app")], &[], &InjectedList::default());
        assert_eq!(prove(&closure).is_ok(), !new_tags);
    }
}

#[test]
fn rpath_is_inherited_and_runpath_is_not() {
    let bench = Bench::new();
    bench.library("lib/libf.so.1", F, &["-nostdlib"]);
    let here = format!("-L{}", bench.text("lib"));
    bench.library(
        "lib/libmiddle.so.1",
        "extern int f(void); int middle(void) { return f(); }",
        &["-nostdlib", &here, "-l:libf.so.1"],
    );
    let source = "extern int middle(void); int main(void) { return middle() - 7; }";
    let options = |tags| ["-Wl,-rpath,$ORIGIN/lib", tags, here.as_str(), "-l:libmiddle.so.1"];
    bench.program("app", source, &options("-Wl,--disable-new-dtags"));
    bench.links("app", &[]);
    bench.program("app", source, &options("-Wl,--enable-new-dtags"));
    bench.fails("app", &[], "libf.so.1: cannot open shared object file", "libmiddle.so.1 needs `libf.so.1`");
    // A RUNPATH of the middle one shuts the program's RPATH out.
    bench.library(
        "lib/libmiddle.so.1",
        "extern int f(void); int middle(void) { return f(); }",
        &["-nostdlib", &here, "-l:libf.so.1", "-Wl,-rpath,/nowhere"],
    );
    bench.program("app", source, &options("-Wl,--disable-new-dtags"));
    bench.fails(
        "app",
        &[],
        "libf.so.1: cannot open shared object file",
        "libmiddle.so.1 needs `libf.so.1`, which is in none of /nowhere:",
    );
}

#[test]
fn static_programs_link_with_nothing() {
    let bench = Bench::new();
    for (name, option) in [("fixed", "-static"), ("moving", "-static-pie")] {
        bench.program(name, "int main(void) { return 0; }", &[option]);
        let (closure, proof) = bench.links(name, &[]);
        assert_eq!((closure.objects.len(), proof.symbols, proof.versions), (1, proof.weak_unresolved, 0));
    }
}

#[test]
fn files_of_other_machines_are_passed_over_and_damaged_ones_are_not() {
    let bench = with_f();
    bench.program("app", CALLS_F, &["-Wl,-rpath,$ORIGIN/first:$ORIGIN", "-l:libf.so.1"]);
    fs::create_dir(bench.path("first")).unwrap();
    let first = bench.path("first/libf.so.1");
    let good = fs::read(bench.path("libf.so.1")).unwrap();
    let mut other_machine = good.clone();
    other_machine[18] = 183;
    let mut other_class = good.clone();
    other_class[4] = 1;
    let mut other_order = good.clone();
    other_order[5] = 2;
    for (data, links, loader_says, we_say) in [
        (other_machine, true, "", ""),
        (fs::read(foreign("aarch64")).unwrap(), true, "", ""),
        (fs::read(foreign("s390x")).unwrap(), true, "", ""),
        (other_class, true, "", ""),
        (other_order, false, "not little-endian", "EI_DATA is 2"),
        (Vec::new(), false, "file too short", "the file is empty"),
        (b"INPUT(libf.so.1)\n".to_vec(), false, "file too short", "the file starts with `INPU`"),
        (vec![b'#'; 4096], false, "invalid ELF header", "the file starts with `####`"),
        (good[..40].to_vec(), false, "file too short", "40 bytes, expected an ELF header of 64"),
        (good[..good.len() / 2].to_vec(), false, "", "it was cut short"),
    ] {
        fs::write(&first, data).unwrap();
        if links {
            let (closure, _) = bench.links("app", &[]);
            assert_eq!(closure.object("libf.so.1").unwrap().path, bench.text("libf.so.1"));
        } else {
            bench.fails("app", &[], loader_says, we_say);
        }
    }
    // Only the other machine's is there.
    fs::copy(foreign("aarch64"), &first).unwrap();
    fs::remove_file(bench.path("libf.so.1")).unwrap();
    bench.fails("app", &[], "cannot open shared object file", "is for aarch64 (64-bit))");
    let mut root = LinkRoot::new(Machine::Aarch64);
    add_tree(&mut root, bench.directory.path());
    let errors = prove(&Closure::resolve(&root, &[bench.entry("app")], &[], &InjectedList::default())).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().ends_with("is for x86_64 (64-bit), the image is for aarch64"), "{}", errors[0]);
}

#[test]
fn interpreters_and_entry_points_must_be_there() {
    let bench = with_f();
    bench.program("app", CALLS_F, &[RUNPATH, "-l:libf.so.1", "-Wl,--dynamic-linker,/nowhere/ld.so"]);
    bench.fails("app", &[], "No such file or directory", "the interpreter `/nowhere/ld.so`, which is not in the image");
    bench.fails("absent", &[], "No such file or directory", "(the test starts it) is not a file of the image");
}

#[test]
fn variables_copied_into_a_program_must_come_from_a_library() {
    let bench = Bench::new();
    bench.library("libv.so.1", "int variable = 7; int other = 1;", &["-nostdlib"]);
    let source = "extern int variable; int main(void) { return variable - 7; }";
    bench.program("app", source, &["-no-pie", "-fno-pie", RUNPATH, "-l:libv.so.1"]);
    let (closure, _) = bench.links("app", &[]);
    assert!(closure.dead.is_empty(), "the copy is a use: {:?}", closure.dead);
    let app = closure.object("app").unwrap().elf.dynamic.as_ref().unwrap();
    assert!(app.symbols.imports().any(|import| import.is_copied && import.name == b"variable"));
    bench.library("libv.so.1", "int other = 1;", &["-nostdlib"]);
    bench.fails("app", &[], "undefined symbol: variable", "wants the symbol `variable`");
}

#[test]
fn programs_are_no_libraries() {
    let bench = with_f();
    for (option, loader_says, we_say) in [
        ("-pie", "cannot dynamically load position-independent executable", "is a position-independent program"),
        ("-no-pie", "cannot dynamically load executable", "is a program, expected a shared library"),
    ] {
        bench.program("libf.so.1", &format!("{F} int main(void) {{ return 0; }}"), &[option, "-rdynamic"]);
        bench.fails("app", &[], loader_says, we_say);
    }
}

#[test]
fn versions_of_a_library_that_nothing_loads_are_refused() {
    let bench = with_versions();
    let app = bench.path("app");
    // The needed entry turned into one that the loader ignores.
    let elf = crate::elf::ElfObject::load(&app).unwrap();
    assert_eq!(elf.needed(), ["libf.so.1", "libc.so.6"]);
    let data = fs::read(&app).unwrap();
    let first = (0..data.len() - 16)
        .step_by(8)
        .find(|&at| data[at..at + 8] == 1u64.to_le_bytes() && data[at + 16..at + 24] == 1u64.to_le_bytes())
        .unwrap();
    let mut changed = data;
    changed[first..first + 8].copy_from_slice(&0x6000_0fffu64.to_le_bytes());
    fs::write(&app, changed).unwrap();
    bench.fails(
        "app",
        &[],
        "Assertion `needed != NULL' failed",
        "wants versions from `libf.so.1`, which neither it nor anything before it loads",
    );
}

#[test]
fn one_file_under_several_names_is_loaded_once() {
    let bench = Bench::new();
    let counted = "int count; __attribute__((constructor)) static void once(void) { count++; } int f(void) { return count; }";
    bench.library("libreal.so.1.2", counted, &["-Wl,-soname,libf.so.1"]);
    std::os::unix::fs::symlink("libreal.so.1.2", bench.path("libf.so.1")).unwrap();
    std::os::unix::fs::symlink(bench.path("libf.so.1"), bench.path("libalias.so")).unwrap();
    bench.library("libuser.so.1", "extern int f(void); int g(void) { return f(); }", &["-nostdlib", RUNPATH, "-l:libf.so.1"]);
    // A needed name that is not the soname: the file is taken for the one already loaded.
    replace(&bench.path("libuser.so.1"), b"libf.so.1\0", b"libg.so.1\0", 1);
    std::os::unix::fs::symlink("libalias.so", bench.path("libg.so.1")).unwrap();
    bench.program(
        "app",
        "extern int f(void), g(void); int main(void) { return f() + g() - 2; }",
        &[RUNPATH, "-l:libf.so.1", "-l:libuser.so.1"],
    );
    let (closure, _) = bench.links("app", &[]);
    let object = closure.object("libf.so.1").unwrap();
    assert_eq!(object.file, bench.text("libreal.so.1.2"));
    assert_eq!(object.paths, [bench.text("libf.so.1"), bench.text("libg.so.1")]);
    assert_eq!(
        bench.root().links(&object.paths[1]),
        [bench.text("libg.so.1"), bench.text("libalias.so"), bench.text("libf.so.1")]
    );
}

#[test]
fn dead_needs_are_found_and_can_be_left_out() {
    let bench = Bench::new();
    bench.library("libdeep.so.1", "int deep(void) { return 1; }", &["-nostdlib"]);
    bench.library(
        "libdead.so.1",
        "extern int deep(void); int unused(void) { return deep(); }",
        &["-nostdlib", RUNPATH, "-l:libdeep.so.1"],
    );
    bench.library("libf.so.1", F, &["-nostdlib"]);
    bench.program("app", CALLS_F, &[RUNPATH, "-Wl,--no-as-needed", "-l:libdead.so.1", "-l:libf.so.1"]);
    let (closure, _) = bench.links("app", &[]);
    let [dead] = &closure.dead[..] else { panic!("{:?}", closure.dead) };
    assert_eq!((dead.object.clone(), dead.soname.as_str(), dead.is_droppable), (bench.text("app"), "libdead.so.1", true));
    assert_eq!(dead.exclusive, [bench.text("libdead.so.1"), bench.text("libdeep.so.1")]);
    let size = |name: &str| fs::metadata(bench.path(name)).unwrap().len();
    assert_eq!((dead.bytes, dead.exclusive_bytes), (size("libdead.so.1"), size("libdead.so.1") + size("libdeep.so.1")));

    let dropped = [DroppedNeed { object: "app".to_owned(), soname: "libdead.so.1".to_owned() }];
    let without = Closure::resolve_without(&bench.root(), &[bench.entry("app")], &[], &InjectedList::default(), &dropped);
    assert!(prove(&without).is_ok() && without.dead.is_empty() && without.object("libdeep.so.1").is_none());
    assert_eq!(without.bytes() + dead.exclusive_bytes, closure.bytes());

    // Something else rests on what it brings along: dead, but not to be dropped.
    bench.library("libf.so.1", "extern int deep(void); int f(void) { return 6 + deep(); }", &["-nostdlib"]);
    let (closure, _) = bench.links("app", &[]);
    assert!(closure.dead.iter().all(|dead| dead.soname == "libdead.so.1" && !dead.is_droppable), "{:?}", closure.dead);
    let without = Closure::resolve_without(&bench.root(), &[bench.entry("app")], &[], &InjectedList::default(), &dropped);
    assert!(prove(&without).unwrap_err()[0].to_string().contains("wants the symbol `deep`"));
}

#[test]
fn packed_relocations_must_be_declared() {
    let bench = Bench::new();
    let source = "int main(void); int (*table[])(void) = {main, main}; int main(void) { return 0; }";
    let app = bench.program("app", source, &["-Wl,-z,pack-relative-relocs"]);
    bench.links("app", &[]);
    // The same version as another one that libc has, so that only the declaration is gone.
    replace(&app, b"GLIBC_ABI_DT_RELR\0", b"GLIBC_2.3\0LT_RELR\0", 1);
    replace(&app, &version_hash("GLIBC_ABI_DT_RELR"), &version_hash("GLIBC_2.3"), 1);
    bench.fails("app", &[], "DT_RELR without GLIBC_ABI_DT_RELR dependency", "does not want GLIBC_ABI_DT_RELR");
}

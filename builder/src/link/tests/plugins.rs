//! Libraries that are opened at run time, and those that the host injects.

use super::*;

/// A program that opens the libraries named when it was compiled, one after the other.
const OPENS: &str = "
    #include <dlfcn.h>
    #include <stdio.h>
    int shared_by_program(void) { return 1; }
    int main(void) {
        const char *names[] = { NAMES };
        for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
            if (!dlopen(names[i], RTLD_NOW | RTLD_LOCAL)) { fprintf(stderr, \"%s\\n\", dlerror()); return 1; }
        return 0;
    }";

fn opener(bench: &Bench, names: &[&str]) {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    bench.program("app", OPENS, &[&format!("-DNAMES={}", quoted.join(",")), "-rdynamic", RUNPATH]);
}

fn opens(from: &str, names: &[&str]) -> Vec<RuntimeOpen> {
    let open = |name: &&str| RuntimeOpen {
        global: false,
        from: from.to_owned(),
        opens: (*name).to_owned(),
        optional: false,
        reason: "the test opens it".to_owned(),
    };
    names.iter().map(open).collect()
}

#[test]
fn a_plugin_sees_the_program_and_its_own_libraries() {
    let bench = Bench::new();
    bench.library("libhelper.so.1", "int help(void) { return 2; }", ALONE);
    let source = "extern int shared_by_program(void), help(void); int run(void) { return shared_by_program() + help(); }";
    bench.library("libplugin.so", source, &["-nostdlib", "-Wl,-rpath,$ORIGIN", "-l:libhelper.so.1"]);
    opener(&bench, &["libplugin.so"]);
    let (closure, _) = bench.links("app", &opens("app", &["libplugin.so"]));
    let why = &closure.object("libhelper.so.1").unwrap().why;
    let app = bench.text("app");
    assert!(
        matches!(&why[1], Step::OpenedBy { object, reason, .. } if *object == app && reason == "the test opens it"),
        "{why:?}"
    );
    assert!(matches!(&why[2], Step::NeededBy { name, .. } if name == "libhelper.so.1"), "{why:?}");
    assert_eq!(closure.object("libplugin.so").unwrap().why.len(), 2);
}

#[test]
fn a_plugin_with_a_missing_symbol_is_refused() {
    let bench = Bench::new();
    bench.library("libplugin.so", "extern int nowhere(void); int run(void) { return nowhere(); }", &["-nostdlib"]);
    opener(&bench, &["libplugin.so"]);
    bench.fails("app", &opens("app", &["libplugin.so"]), "undefined symbol: nowhere", "libplugin.so` wants the symbol `nowhere`");
}

#[test]
fn plugins_do_not_see_each_other() {
    let bench = Bench::new();
    bench.library("libone.so", "int one(void) { return 1; }", &["-nostdlib"]);
    bench.library("libtwo.so", "extern int one(void); int two(void) { return one(); }", &["-nostdlib"]);
    opener(&bench, &["libone.so", "libtwo.so"]);
    bench.fails("app", &opens("app", &["libone.so", "libtwo.so"]), "undefined symbol: one", "libtwo.so` wants the symbol `one`");
    // As its own library it may have what is loaded already.
    bench.library("libtwo.so", "extern int one(void); int two(void) { return one(); }", &["-nostdlib", RUNPATH, "-l:libone.so"]);
    let (closure, _) = bench.links("app", &opens("app", &["libone.so", "libtwo.so"]));
    assert_eq!(closure.object("libone.so").unwrap().why.len(), 2);
    bench.fails_to_start_without("libone.so");
}

impl Bench {
    /// Takes a plug-in away: the program reports it, and so do we unless it is optional.
    fn fails_to_start_without(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
        let mut declared = opens("app", &["libone.so", "libtwo.so"]);
        self.fails("app", &declared, "libone.so: cannot open shared object file", "opens `libone.so`, which is in none of");
        declared[0].optional = true;
        let errors = prove(&self.resolve("app", &declared)).unwrap_err();
        assert!(errors[0].to_string().contains("libtwo.so needs `libone.so`"), "{errors:?}");
        let only_optional = &declared[..1];
        let proof = prove(&self.resolve("app", only_optional)).unwrap();
        assert_eq!(proof.optional_missing, ["libone.so"]);
    }
}

#[test]
fn plugins_open_plugins_by_path() {
    let bench = Bench::new();
    bench.library("more/libinner.so", "int inner(void) { return 1; }", ALONE);
    let source = "#include <dlfcn.h>\n__attribute__((constructor)) static void start(void) { if (!dlopen(\"$ORIGIN/more/libinner.so\", RTLD_NOW)) __builtin_trap(); }";
    bench.library("libouter.so", source, &[]);
    opener(&bench, &["libouter.so"]);
    let mut declared = opens("app", &["libouter.so"]);
    declared.extend(opens("libouter.so", &["$ORIGIN/more/libinner.so"]));
    let (closure, _) = bench.links("app", &declared);
    assert_eq!(closure.object("libinner.so").unwrap().why.len(), 3);
    fs::remove_file(bench.path("more/libinner.so")).unwrap();
    bench.fails("app", &declared, "SIG", "libouter.so opens `");
}

#[test]
fn a_library_that_forbids_dlopen_is_not_opened() {
    let bench = Bench::new();
    bench.library("libshy.so", "int f(void) { return 1; }", &["-nostdlib", "-Wl,-z,nodlopen"]);
    opener(&bench, &["libshy.so"]);
    bench.fails("app", &opens("app", &["libshy.so"]), "shared object cannot be dlopen()ed", "is a library that forbids dlopen");
}

#[test]
fn injected_libraries_stand_in_for_the_hosts() {
    let bench = Bench::new();
    let driver = "int cuInit(void) { return 0; } int cuDeviceGet(void) { return 0; } int cuExtra(void) { return 0; }";
    bench.library("libcuda.so.1", driver, &["-nostdlib"]);
    let source = "extern int cuInit(void), cuDeviceGet(void); int main(void) { return cuInit() + cuDeviceGet(); }";
    bench.program("app", source, &[RUNPATH, "-l:libcuda.so.1"]);
    bench.links("app", &[]);
    fs::remove_file(bench.path("libcuda.so.1")).unwrap();
    bench.fails("app", &[], "libcuda.so.1: cannot open shared object file", "needs `libcuda.so.1`");

    let injected = |symbols: &[&str]| InjectedList {
        libraries: vec![InjectedLibrary {
            soname: "libcuda.so.1".to_owned(),
            symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
            reason: "the GPU driver".to_owned(),
        }],
    };
    let verdict = |symbols: &[&str]| prove(&Closure::resolve(&bench.root(), &[bench.entry("app")], &[], &injected(symbols)));
    for symbols in [&["cuInit", "cuDeviceGet"][..], &["cu*"][..]] {
        let proof = verdict(symbols).unwrap();
        assert_eq!((proof.injected_libraries, proof.injected_symbols), (vec!["libcuda.so.1".to_owned()], 2));
    }
    let errors = verdict(&["cuInit", "nv*"]).unwrap_err();
    assert!(errors.len() == 1 && errors[0].to_string().contains("`cuDeviceGet`"), "{errors:?}");
    // The declared list speaks the truth only if the host's library has those symbols.
    bench.library("libcuda.so.1", "int cuInit(void) { return 0; }", &["-nostdlib"]);
    bench.fails("app", &[], "undefined symbol: cuDeviceGet", "`cuDeviceGet`");
    // Nothing wants the driver: its symbols are not lent to others.
    bench.library(
        "libuser.so.1",
        "extern int cuInit(void), cuDeviceGet(void); int use(void) { return cuInit() + cuDeviceGet(); }",
        &["-nostdlib"],
    );
    bench.program("app", "extern int use(void); int main(void) { return use(); }", &[RUNPATH, "-l:libuser.so.1"]);
    let errors = verdict(&["cu*"]).unwrap_err();
    assert_eq!(errors.len(), 2, "{errors:?}");
    bench.fails("app", &[], "undefined symbol: cu", "`cuInit`");
}

#[test]
fn a_library_that_is_opened_for_everyone_serves_later_plugins() {
    let bench = Bench::new();
    bench.library("libone.so", "int one(void) { return 1; }", &["-nostdlib"]);
    bench.library("libtwo.so", "extern int one(void); int two(void) { return one(); }", &["-nostdlib"]);
    let names = ["libone.so", "libtwo.so"];
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let source = OPENS.replace("RTLD_NOW | RTLD_LOCAL", "RTLD_NOW | RTLD_GLOBAL");
    bench.program("app", &source, &[&format!("-DNAMES={}", quoted.join(",")), "-rdynamic", RUNPATH]);
    let mut opened = opens("app", &names);
    opened[0].global = true;
    bench.links("app", &opened);
    // Not one that was opened before it.
    let turned: Vec<RuntimeOpen> = opened.iter().rev().cloned().collect();
    let source = source.replace("{ NAMES }", "{ \"libtwo.so\", \"libone.so\" }");
    bench.program("app", &source, &["-rdynamic", RUNPATH]);
    bench.fails("app", &turned, "undefined symbol: one", "libtwo.so` wants the symbol `one`");
}

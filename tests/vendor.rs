//! Runtimes and servers of the user's own, laid out as vendors do it.

use std::path::Path;
use std::process::Command;

use imgbuild_tests::elf::rename_version;
use imgbuild_tests::{fail_with, has, imgbuild, json_file, lock_in, model_in, root, serve, succeed, text};
use serde_json::Value;

const NAME: &str = "onnxruntime-linux-x64-1.32.0";

/// A folder with a model and the release of the real library, as its makers publish it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    model_in(folder.path(), "magika");
    lock_in(folder.path());
    let fetched = succeed(&mut Command::new(root().join("tests/tools/fetch-onnxruntime.sh")));
    let lib = folder.path().join(NAME).join("lib");
    std::fs::create_dir_all(&lib).expect("a folder");
    std::fs::copy(text(&fetched.stdout).trim(), lib.join("libonnxruntime.so.1.32.0")).expect("the library");
    for (link, target) in [("libonnxruntime.so.1", "libonnxruntime.so.1.32.0"), ("libonnxruntime.so", "libonnxruntime.so.1")] {
        std::os::unix::fs::symlink(target, lib.join(link)).expect("a link");
    }
    std::fs::write(folder.path().join(NAME).join("LICENSE"), "The licence.\n").expect("a file");
    folder
}

fn recipe(folder: &Path, path: &str) {
    std::fs::write(folder.join("imgbuild.toml"), format!("model = \"magika.onnx\"\n[runtime]\npath = \"{path}\"\n"))
        .expect("a recipe");
}

fn build(folder: &Path) -> Value {
    succeed(imgbuild().current_dir(folder).args(["build", "--report", "size.json"]));
    json_file(&folder.join("size.json"))
}

fn paths(report: &Value) -> Vec<String> {
    let files = report["files"].as_array().expect("files").iter();
    files.filter_map(|file| file["path"].as_str().map(str::to_owned)).filter(|path| path.contains("onnxruntime")).collect()
}

#[test]
fn a_vendors_release_serves_as_a_folder_and_as_an_archive() {
    let folder = folder();
    let folder = folder.path();
    let expected = ["/usr/lib/x86_64-linux-gnu/libonnxruntime.so.1", "/usr/share/doc/onnxruntime/LICENSE"];
    recipe(folder, NAME);
    let from_folder = build(folder);
    assert_eq!(paths(&from_folder), expected);
    let lock = std::fs::read_to_string(folder.join("imgbuild.lock")).expect("a lock");
    assert!(lock.contains("kind = \"directory\"") && lock.contains(&format!("path = \"{NAME}\"")), "{lock}");

    succeed(Command::new("tar").current_dir(folder).args(["-czf", "release.tgz", NAME]));
    recipe(folder, "release.tgz");
    let from_archive = build(folder);
    assert_eq!(paths(&from_archive), expected);
    // The same bytes, wherever they come from.
    let runtime = |report: &Value| report["layers"][1]["digest"].clone();
    assert_eq!(runtime(&from_folder), runtime(&from_archive));
    let (mut running, _) = serve(folder, "oci:magika.oci");
    assert_eq!(running.terminate(), Some(0));

    // A reduced build of one's own: a folder with the library alone, named without a version.
    std::fs::create_dir(folder.join("reduced")).expect("a folder");
    std::fs::copy(folder.join(NAME).join("lib/libonnxruntime.so.1.32.0"), folder.join("reduced/libonnxruntime.so"))
        .expect("the library");
    recipe(folder, "reduced");
    assert_eq!(paths(&build(folder)), expected[..1]);

    // A changed library makes the lock stale.
    let path = folder.join("reduced/libonnxruntime.so");
    let bytes = std::fs::read(&path).expect("the library");
    std::fs::write(&path, rename_version(bytes, "GLIBC_2.27", "GLIBC_2.97")).expect("the library");
    fail_with(imgbuild().current_dir(folder).args(["build", "--locked"]), 4);
    // It wants a version that the base's C library does not have.
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 6);
    assert!(error.contains("libonnxruntime.so.1` wants GLIBC_2.97 from `lib"), "{error}");
}

#[test]
fn archives_that_are_not_as_they_should_be_are_refused() {
    let folder = folder();
    let folder = folder.path();
    let tar = |arguments: &[&str]| succeed(Command::new("tar").current_dir(folder).arg("-czPf").args(arguments));
    std::fs::create_dir(folder.join("inner")).expect("a folder");
    tar(&["escaping.tgz", "-C", "inner", &format!("../{NAME}/LICENSE")]);
    recipe(folder, "escaping.tgz");
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 3);
    assert!(error.contains("escaping.tgz") && error.contains("../"), "{error}");
    tar(&["empty.tgz", &format!("{NAME}/LICENSE")]);
    recipe(folder, "empty.tgz");
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 3);
    assert!(error.contains("empty.tgz") && error.contains("libonnxruntime.so"), "{error}");
    std::fs::write(folder.join("cut.tgz"), &std::fs::read(folder.join("empty.tgz")).expect("an archive")[..40]).expect("a file");
    recipe(folder, "cut.tgz");
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 3);
    assert!(error.contains("cut.tgz"), "{error}");
    recipe(folder, "nowhere");
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 5);
    assert!(error.contains("nowhere") && error.contains("does not exist"), "{error}");
}

#[test]
fn a_server_of_the_users_own_brings_its_libraries_and_is_proven() {
    if !has("gcc") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    model_in(folder, "magika");
    lock_in(folder);
    let source = root().join("builder/src/runner/tests/server.c");
    std::fs::write(folder.join("lib.c"), "int more(void) { return 0; }\n").expect("a file");
    succeed(Command::new("gcc").current_dir(folder).args(["-shared", "-fPIC", "-o", "libmore.so", "lib.c"]));
    let compile = |output: &str, more: &[&str]| {
        succeed(Command::new("gcc").current_dir(folder).args(["-O1", "-o", output]).arg(&source).args(more))
    };
    compile("server", &[]);
    compile("needs-more", &["-Wl,--no-as-needed", "libmore.so"]);
    let recipe = |server: &str| {
        let text = format!("model = \"magika.onnx\"\n[server]\nbinary = \"{server}\"\n");
        std::fs::write(folder.join("imgbuild.toml"), text).expect("a recipe");
    };
    let mut command = imgbuild();
    command.env_remove("IMGBUILD_SERVER").current_dir(folder);
    let build = || {
        let mut command = imgbuild();
        command.env_remove("IMGBUILD_SERVER").current_dir(folder).args(["build", "--report", "size.json"]);
        command
    };
    recipe("server");
    succeed(&mut build());
    let own = std::fs::metadata(folder.join("server")).expect("the server").len();
    let report = json_file(&folder.join("size.json"));
    let server = report["files"].as_array().expect("files").iter().find(|file| file["path"] == "/usr/bin/imgserve");
    assert_eq!(server.expect("the server")["unpacked"], own);
    let (mut running, _) = serve(folder, "oci:magika.oci");
    running.terminate();

    recipe("needs-more");
    let error = fail_with(&mut build(), 6);
    assert!(error.contains("/usr/bin/imgserve needs `libmore.so`"), "{error}");
    let bytes = std::fs::read(folder.join("server")).expect("the server");
    std::fs::write(folder.join("newer"), rename_version(bytes, "GLIBC_2.34", "GLIBC_2.99")).expect("a file");
    recipe("newer");
    let error = fail_with(&mut build(), 6);
    assert!(error.contains("`/usr/bin/imgserve` wants GLIBC_2.99 from `libc.so.6`"), "{error}");
    std::fs::write(folder.join("script"), "#!/bin/sh\n").expect("a file");
    recipe("script");
    let error = fail_with(&mut build(), 3);
    assert!(error.contains("script") && error.contains("linux/amd64"), "{error}");
}

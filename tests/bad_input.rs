//! Bad input gets an error that names the file, what was found, what was expected and what to do; nothing is left half-written.

use std::path::Path;
use std::time::Duration;

use imgbuild_tests::elf::rename_version;
use imgbuild_tests::{Running, fail_with, imgbuild, model_in, python, root, succeed, wait_for};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A build that must fail with this exit code, and leaves nothing beside what was there.
fn refused(folder: &Path, arguments: &[&str], code: u8) -> String {
    let before = names(folder);
    let error = fail_with(imgbuild().current_dir(folder).arg("build").args(arguments), code);
    assert_eq!(names(folder), before, "the failed build left something behind");
    error
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn files_that_are_no_models_are_named_for_what_they_are() {
    let folder = folder();
    for (name, content, expected) in [
        ("empty.onnx", &b""[..], "empty"),
        ("text.onnx", b"<!DOCTYPE html><html></html>", "HTML"),
        ("pointer.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS"),
    ] {
        std::fs::write(folder.path().join(name), content).expect("a file");
        let error = refused(folder.path(), &[name], 3);
        assert!(error.contains(name) && error.to_lowercase().contains(&expected.to_lowercase()), "{name}: {error}");
    }
    std::fs::create_dir(folder.path().join("directory.onnx")).expect("a folder");
    let error = refused(folder.path(), &["directory.onnx"], 3);
    assert!(error.contains("directory.onnx"), "{error}");
    let error = refused(folder.path(), &["missing.onnx"], 3);
    assert!(error.contains("missing.onnx"), "{error}");
    let model = model_in(folder.path(), "magika");
    let bytes = std::fs::read(&model).expect("the model");
    std::fs::write(folder.path().join("cut.onnx"), &bytes[..bytes.len() / 2]).expect("a file");
    let error = refused(folder.path(), &["cut.onnx"], 3);
    assert!(error.contains("cut.onnx") && error.contains("truncated"), "{error}");
}

#[test]
fn models_that_the_runtime_does_not_know_are_refused_by_name() {
    let folder = folder();
    let script = root().join("tests/tools/make_models.py");
    for (name, code) in
        [("future-opset", 3), ("unknown-domain", 3), ("unknown-operator", 3), ("external-missing", 3), ("external-dotdot", 3)]
    {
        succeed(python().arg(&script).arg(folder.path()).arg(name));
        let model = names(folder.path()).into_iter().find(|file| file.starts_with(name)).expect("a model");
        let path = folder.path().join(&model);
        let path = if path.is_dir() { path.join("model.onnx") } else { path };
        let error = fail_with(imgbuild().current_dir(&folder).arg("build").arg(&path), code);
        assert!(error.starts_with("error: "), "{error}");
        assert!(error.contains("hint: ") || error.contains("expected"), "{error}");
    }
}

#[test]
fn recipes_and_references_name_the_key_and_the_nearest_valid_one() {
    let folder = folder();
    std::fs::write(folder.path().join("imgbuild.toml"), "model = \"m.onnx\"\ncompresion = \"none\"\n").expect("a recipe");
    let error = refused(folder.path(), &[], 3);
    assert!(error.contains("compresion") && error.contains("compression") && error.contains("imgbuild.toml"), "{error}");
    let model = model_in(folder.path(), "magika");
    let model = model.to_str().expect("UTF-8");
    for (arguments, expected) in [
        (vec![model, "-t", "magika:1"], "magika:1"),
        (vec![model, "--push"], "no reference"),
        (vec![model, "-o", "tar:x"], "tar"),
        (vec![model, "--compression", "brotli"], "brotli"),
        (vec![model, "--stack", "onnx-cuda9"], "onnx-cuda9"),
        (vec![model, "--base", "alpine"], "alpine"),
        (vec![model, "--keep", "libnothing.so"], "libnothing.so"),
        (vec![model, "--server", "nowhere/imgserve"], "nowhere/imgserve"),
    ] {
        let error = refused(folder.path(), &arguments, 3);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn a_lock_that_is_missing_stale_newer_or_wrong_is_refused() {
    let folder = folder();
    let model = model_in(folder.path(), "magika");
    let model = model.to_str().expect("UTF-8").to_owned();
    let error = refused(folder.path(), &[&model, "--locked"], 4);
    assert!(error.contains("imgbuild.lock") && error.contains("imgbuild lock"), "{error}");
    succeed(imgbuild().current_dir(&folder).args(["lock", &model]));
    succeed(imgbuild().current_dir(&folder).args(["build", &model, "--locked", "--offline", "--dry-run"]));

    let lock = folder.path().join("imgbuild.lock");
    let good = std::fs::read_to_string(&lock).expect("a lock");
    for (from, to, code, expected) in [
        ("version = \"1.32.0\"", "version = \"1.31.0\"", 4, "stale"),
        ("version = 1\n", "version = 2\n", 4, "version 2"),
        ("stack = \"onnx-cpu\"", "stack = \"other\"", 4, "`other`"),
    ] {
        std::fs::write(&lock, good.replacen(from, to, 1)).expect("a lock");
        let error = refused(folder.path(), &[&model, "--locked"], code);
        assert!(error.contains(expected), "{error}");
    }
    // Another digest: what is fetched is not what was pinned, and none of it is used.
    let digest = good.lines().filter(|line| line.starts_with("sha256")).nth(1).expect("a pinned file");
    let wrong = format!("sha256 = \"sha256:{}\"", "0".repeat(64));
    std::fs::write(&lock, good.replacen(digest, &wrong, 1)).expect("a lock");
    let error = refused(folder.path(), &[&model, "--locked"], 5);
    assert!(error.contains(&"0".repeat(64)) || error.contains("hash"), "{error}");
    // Nothing in the store, and nothing may be fetched.
    std::fs::write(&lock, good).expect("a lock");
    let empty = folder.path().join("store");
    let error = fail_with(imgbuild().current_dir(&folder).env("IMGBUILD_STORE", &empty).args(["build", &model, "--offline"]), 5);
    assert!(error.contains("onnxruntime") && error.contains("offline"), "{error}");
}

#[test]
fn a_budget_that_is_exceeded_ends_with_its_own_code_and_names_the_library() {
    let folder = folder();
    model_in(folder.path(), "magika");
    let recipe =
        "model = \"magika.onnx\"\n[budgets]\ncompressed = \"100MB\"\n[budgets.libraries]\n\"libonnxruntime.so.1\" = \"1MB\"\n";
    std::fs::write(folder.path().join("imgbuild.toml"), recipe).expect("a recipe");
    let error = fail_with(imgbuild().current_dir(&folder).arg("build"), 7);
    assert!(error.contains("libonnxruntime.so.1") && error.contains("1.0 MB"), "{error}");
    assert!(!folder.path().join("magika.oci").exists());
}

#[test]
fn a_server_that_wants_a_newer_glibc_is_refused_with_symbol_version_and_library() {
    let folder = folder();
    model_in(folder.path(), "magika");
    // The version's name in the binary is replaced by one that the base's glibc does not have.
    let server = std::fs::read(imgbuild_tests::imgserve_path()).expect("the server");
    let bytes = rename_version(server, "GLIBC_2.34", "GLIBC_2.99");
    let patched = folder.path().join("imgserve");
    std::fs::write(&patched, bytes).expect("a file");
    let error = fail_with(imgbuild().current_dir(&folder).args(["build", "magika.onnx", "--server", "imgserve"]), 6);
    assert!(error.contains("GLIBC_2.99") && error.contains("libc.so.6") && error.contains("imgserve"), "{error}");
}

#[test]
fn builds_that_are_killed_anywhere_leave_nothing_that_a_later_build_trusts() {
    let folder = folder();
    let model = model_in(folder.path(), "magika");
    let killed = ["--compression", "zstd", "-o", "oci:killed:1"];
    succeed(imgbuild().current_dir(&folder).args(["build", "--compression", "zstd"]).arg(&model));
    let expected = succeed(imgbuild().current_dir(&folder).args(["inspect", "oci:magika.oci", "--json"])).stdout;
    // A store that has the packages, but none of the layers.
    for step in 0..12 {
        let store = folder.path().join("store");
        std::fs::create_dir_all(&store).expect("a folder");
        let mut running =
            Running::start(imgbuild().current_dir(&folder).env("IMGBUILD_STORE", &store).arg("build").arg(&model).args(killed));
        std::thread::sleep(Duration::from_millis(40 * step * step + 20));
        drop(running.child().kill());
        wait_for(Duration::from_secs(10), || running.child().try_wait().expect("a child can be waited for"));
    }
    succeed(
        imgbuild().current_dir(&folder).env("IMGBUILD_STORE", folder.path().join("store")).arg("build").arg(&model).args(killed),
    );
    let actual = succeed(imgbuild().current_dir(&folder).args(["inspect", "oci:killed:1", "--verify", "--json"])).stdout;
    let digest = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON")["digest"].clone();
    assert_eq!(digest(&actual), digest(&expected));
}

#[test]
fn two_builds_at_once_share_a_store_and_a_layout() {
    let folder = folder();
    let model = model_in(folder.path(), "magika");
    succeed(imgbuild().current_dir(&folder).arg("lock").arg(&model));
    let start = |tag: &str| {
        Running::start(
            imgbuild()
                .current_dir(&folder)
                .env("IMGBUILD_STORE", folder.path().join("store"))
                .arg("build")
                .arg(&model)
                .args(["--compression", "zstd", "-o", &format!("oci:both:{tag}")])
                .stdout(std::process::Stdio::null()),
        )
    };
    let mut both = [start("1"), start("2")];
    for running in &mut both {
        let status = wait_for(Duration::from_secs(300), || running.child().try_wait().expect("a child can be waited for"));
        assert!(status.expect("it ends").success());
    }
    for tag in ["1", "2"] {
        succeed(imgbuild().current_dir(&folder).args(["inspect", &format!("oci:both:{tag}"), "--verify"]));
    }
}

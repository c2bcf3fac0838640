//! A model that was made to start fast computes what it computed before.

use std::path::{Path, PathBuf};
use std::process::Output;

use imgbuild_tests::{fail_with, imgbuild, json_file, model_in, python, root, succeed, text};
use serde_json::Value;

/// Builds a layout `out` whose layers Python can read, and gives what the report says of the model, and the command's output.
fn build(folder: &Path, model: &Path, arguments: &[&str]) -> (Value, Output) {
    let mut command = imgbuild();
    command.current_dir(folder).env("IMGBUILD_STORE", folder.join("store")).arg("build").arg(model).args(arguments);
    let output = succeed(command.args(["--compression", "none", "-o", "oci:out:1", "--report", "size.json"]));
    (json_file(&folder.join("size.json")), output)
}

/// Compares the image's model with the original through ONNX Runtime's Python interface, and gives the server's options.
fn judge(folder: &Path, model: &Path, arguments: &[&str]) -> Value {
    let script = root().join("tests/tools/judge_optimized.py");
    let output = succeed(python().arg(script).args(arguments).arg(folder.join("out")).arg(model));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn made(folder: &Path, name: &str) -> PathBuf {
    succeed(python().arg(root().join("tests/tools/make_models.py")).arg(folder).arg(name));
    folder.join(name).join("model.onnx")
}

#[test]
fn large_tensors_are_mapped_by_default_and_nothing_else_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model_in(folder.path(), "magika");
    let (report, _) = build(folder.path(), &model, &[]);
    let optimization = &report["optimization"];
    assert_eq!((&optimization["asked"], &optimization["done"]), (&Value::from("weights"), &Value::from("weights")));
    assert!(optimization["mapped"].as_u64() > Some(1 << 20), "{optimization}");
    judge(folder.path(), &model, &["--same-tensors"]);

    // Switched off, the files are what they were.
    let (report, _) = build(folder.path(), &model, &["--optimize", "off", "--no-prepack"]);
    assert_eq!(report["optimization"]["after"], std::fs::metadata(&model).expect("the model").len());
    let files = report["files"].as_array().expect("a list");
    assert_eq!(files.iter().filter(|file| file["path"].as_str().is_some_and(|path| path.starts_with("/models/"))).count(), 1);
    assert_eq!(judge(folder.path(), &model, &[])["session_config"]["session.disable_prepacking"], "1");

    // A small model has nothing that is worth it, and the report says so.
    let small = model_in(folder.path(), "basic-pitch");
    let (report, _) = build(folder.path(), &small, &[]);
    assert_eq!(report["optimization"]["done"], "off");
    assert!(report["optimization"]["left"].as_str().is_some_and(|reason| reason.contains("less than")), "{report}");
}

#[test]
fn the_images_own_runtime_optimises_once_and_the_outputs_are_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = model_in(folder.path(), "basic-pitch");
    let (first, said) = build(folder.path(), &model, &["--optimize", "extended", "-v"]);
    assert!(text(&said.stderr).contains("runs of random inputs"), "{}", text(&said.stderr));
    let optimization = &first["optimization"];
    assert_eq!((&optimization["done"], &optimization["runtime"]), (&Value::from("extended"), &Value::from("onnxruntime 1.32.0")));
    judge(folder.path(), &model, &[]);
    // The second time, and without a network, there is nothing to compare: it was done.
    let (second, said) = build(folder.path(), &model, &["--optimize", "extended", "-v", "--locked", "--offline"]);
    assert!(!text(&said.stderr).contains("inputs"), "{}", text(&said.stderr));
    assert_eq!(first, second);
    // A machine whose runtime gives other bytes is told so.
    let lock = folder.path().join("imgbuild.lock");
    let pinned = std::fs::read_to_string(&lock).expect("a lock");
    let (head, rest) = pinned.split_once("[optimized]").expect("the result is pinned");
    let at = rest.find("sha256 = \"sha256:").expect("its digest") + "sha256 = \"sha256:".len();
    let wrong = format!("{head}[optimized]{}{}{}", &rest[..at], "0".repeat(64), &rest[at + 64..]);
    std::fs::write(&lock, &wrong).expect("a lock");
    let arguments = ["build", "basic-pitch.onnx", "--optimize", "extended", "--offline", "--dry-run"];
    let error = fail_with(
        imgbuild().current_dir(&folder).env("IMGBUILD_STORE", folder.path().join("store")).args(arguments).arg("--locked"),
        4,
    );
    assert!(error.contains(&"0".repeat(64)) && error.contains("--optimize weights"), "{error}");
    std::fs::write(&lock, &pinned).expect("a lock");

    let (report, _) = build(folder.path(), &model, &["--optimize", "hardware"]);
    let options = judge(folder.path(), &model, &[]);
    assert_eq!(options["graph_optimization_level"], "disable");
    assert_eq!(options["cpu"], report["optimization"]["cpu"]);
    assert!(options["cpu"].as_str().is_some_and(|cpu| cpu.starts_with(std::env::consts::ARCH)), "{options}");
}

#[test]
fn what_cannot_be_optimised_or_compared_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let external = made(folder.path(), "4MiB-external");
    let (report, said) = build(folder.path(), &external, &["--optimize", "basic"]);
    assert!(text(&said.stderr).contains("files of their own"), "{}", text(&said.stderr));
    assert_eq!(report["optimization"]["done"], "off");
    assert!(report["optimization"]["left"].as_str().is_some_and(|reason| reason.contains("files of their own")), "{report}");

    // A model that refuses made-up inputs is compared on those that lie beside it, and on no others.
    let picky = made(folder.path(), "picky");
    let (_, said) = build(folder.path(), &picky, &["--optimize", "basic", "-v"]);
    assert!(text(&said.stderr).contains("1 runs of data inputs"), "{}", text(&said.stderr));
    std::fs::remove_dir_all(picky.with_file_name("test_data_set_0")).expect("it can be removed");
    let arguments = ["build", "picky/model.onnx", "--optimize", "basic"];
    let error = fail_with(imgbuild().current_dir(&folder).args(arguments), 3);
    assert!(error.contains("cannot be compared") && error.contains("test_data_set_0"), "{error}");
}

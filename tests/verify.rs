//! The promotion gate: an image that answers otherwise is told from one that does not, and each kind of difference in its own words.

use std::path::{Path, PathBuf};

use imgbuild_tests::{fail_with, imgbuild, imgbuild_path, json_file, model, python, root, succeed, text};

fn tool(name: &str) -> PathBuf {
    root().join("tests/tools").join(name)
}

/// Builds an image of a model and gives its transport.
fn image(folder: &Path, model: &Path, name: &str) -> String {
    let place = format!("oci:{}", folder.join(format!("{name}.oci")).display());
    succeed(imgbuild().current_dir(folder).arg("build").arg(model).args(["--name", "m", "-o", &place]));
    place
}

fn verify(folder: &Path, image: &str, data: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = imgbuild();
    command.current_dir(folder).args(["verify", image, "--data", data]).args(arguments);
    command
}

#[test]
fn metrics_are_those_of_numpy_and_scipy() {
    let program = imgbuild_path().with_file_name("examples").join("metrics");
    assert!(program.exists(), "{} is missing: run `make test`, which builds it", program.display());
    let judged = succeed(python().arg(tool("metrics_judge.py")).arg(&program).args(["--cases", "500"]));
    assert!(text(&judged.stdout).starts_with("500 pairs"), "{}", text(&judged.stdout));
}

#[test]
fn variants_of_a_real_model_fall_on_the_right_side_each_in_its_own_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let original = model("basic-pitch");
    succeed(python().arg(tool("model_variants.py")).arg(&original).arg(folder.join("variants")));
    let reference = image(folder, &original, "reference");
    succeed(imgbuild().current_dir(folder).args(["record", &reference, "--data", "variants/inputs.npz", "-o", "expected"]));
    assert_eq!(std::fs::read_dir(folder.join("expected")).expect("a folder").count(), 16);
    // Recorded samples are ONNX's own form: its package reads them.
    let script = "import onnx, sys; t = onnx.load_tensor(sys.argv[1]); print(onnx.numpy_helper.to_array(t).shape)";
    let shape = succeed(python().args(["-c", script]).arg(folder.join("expected/test_data_set_3/input_0.pb")));
    assert_eq!(text(&shape.stdout).trim(), "(1, 43844, 1)");
    succeed(&mut verify(folder, &reference, "expected", &["--report", "same.json"]));
    let same = json_file(&folder.join("same.json"));
    assert_eq!((same["passed"].as_bool(), same["data"]["samples"].as_u64()), (Some(true), Some(16)));

    let variant = |name: &str| image(folder, &folder.join("variants").join(name).join("model.onnx"), name);
    succeed(&mut verify(folder, &variant("weight-0.0005"), "expected", &[]));
    let cases = [
        ("weight-0.005", "relative-rmse"),
        ("weight-0.05", "every sample"),
        ("swapped", "outputs were swapped"),
        ("reversed", "another order"),
        ("preprocessing", "every sample"),
        ("nan", "NaN that should be numbers"),
    ];
    for (name, words) in cases {
        let output = verify(folder, &variant(name), "expected", &[]).output().expect("imgbuild runs");
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{name}: {shown}");
        assert!(shown.contains(words), "{name}: {shown}");
    }

    // Against a second image instead of recorded outputs, and as Markdown.
    let arguments = ["--reference", &reference, "--format", "markdown"];
    let output = verify(folder, "oci:weight-0.05.oci", "variants/inputs.npz", &arguments).output().expect("imgbuild runs");
    assert_eq!(output.status.code(), Some(7));
    assert!(text(&output.stdout).starts_with("### ❌ `m` does not answer as it should"), "{}", text(&output.stdout));
    // A policy that allows more lets it pass.
    std::fs::write(folder.join("policy.toml"), "format = 1\n[fp32]\nrelative-rmse = 0.5\n").expect("a file");
    let policy = ["--reference", &reference, "--policy", "policy.toml"];
    succeed(&mut verify(folder, "oci:weight-0.05.oci", "variants/inputs.npz", &policy));

    bad_input(folder, &reference);
}

fn bad_input(folder: &Path, reference: &str) {
    let says = |command: &mut std::process::Command, code: u8, words: &str| {
        let error = fail_with(command, code);
        assert!(error.contains(words), "{error}");
    };
    let cut = folder.join("expected/test_data_set_2/output_1.pb");
    let whole = std::fs::read(&cut).expect("a file");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("a file");
    says(&mut verify(folder, reference, "expected", &[]), 3, "output_1.pb");
    std::fs::write(&cut, &whole).expect("a file");
    let archive = std::fs::read(folder.join("variants/inputs.npz")).expect("a file");
    std::fs::write(folder.join("cut.npz"), &archive[..archive.len() / 2]).expect("a file");
    says(&mut verify(folder, reference, "cut.npz", &[]), 3, "no NumPy archive, or was cut short");
    says(&mut verify(folder, reference, "variants/inputs.npz", &[]), 3, "no expected outputs");
    says(&mut verify(folder, reference, "nowhere", &[]), 3, "nowhere");
    says(&mut verify(folder, reference, "variants", &["--rename", "x"]), 2, "NAME=NAME");
    std::fs::write(folder.join("bad.toml"), "format = 1\n[fp32]\nmax-relative = 0.1\n").expect("a file");
    says(&mut verify(folder, reference, "expected", &["--policy", "bad.toml"]), 3, "only limit");
    std::fs::write(folder.join("wrong.json"), r#"{"inputs": [{"name": "nothing", "shape": [1], "datatype": "FP32", "data": [1]}], "outputs": [{"name": "StatefulPartitionedCall:0", "shape": [1], "datatype": "FP32", "data": [1]}]}"#).expect("a file");
    says(&mut verify(folder, reference, "wrong.json", &[]), 3, "refused `wrong.json` with status 400");
    says(
        imgbuild().current_dir(folder).args(["record", reference, "--data", "variants/inputs.npz", "-o", "expected"]),
        3,
        "already there",
    );
}

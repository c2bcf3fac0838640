//! One model in several forms, and which one is recommended.

use std::path::Path;

use imgbuild_tests::{fail_with, imgbuild, json_file, lock_in, succeed, text, tiny};
use serde_json::{Value, json};

fn models_in(folder: &Path) {
    lock_in(folder);
    let identity = tiny::identity();
    let at = identity.windows(8).position(|bytes| bytes == b"Identity").expect("the operator");
    let mut other = identity.clone();
    other[at..at + 8].copy_from_slice(b"Softsign");
    std::fs::write(folder.join("m.onnx"), identity).expect("a file");
    std::fs::write(folder.join("other.onnx"), other).expect("a file");
    std::fs::write(folder.join("damaged.onnx"), b"nothing").expect("a file");
    let input = json!({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}]});
    std::fs::write(folder.join("data.json"), input.to_string()).expect("a file");
}

fn form<'a>(choice: &'a Value, name: &str) -> &'a Value {
    let forms = choice["forms"].as_array().expect("forms");
    forms.iter().find(|form| form["name"] == name).unwrap_or_else(|| panic!("no form {name}: {choice}"))
}

#[test]
fn forms_are_built_held_against_the_first_and_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    models_in(here);
    let choose = |words: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(here).arg("choose").args(words).args(["--runs", "1", "--seconds", "0.2", "--clients", "1,2"]);
        command
    };
    let models = ["m.onnx", "other.onnx", "damaged.onnx", "--optimize", "off,weights", "--data", "data.json"];
    let choice: Value = serde_json::from_slice(&succeed(choose(&models).arg("--json")).stdout).expect("JSON");
    assert_eq!((&choice["schema"], choice["data"]["samples"].as_u64()), (&json!("imgbuild.choice"), Some(1)));
    let first = form(&choice, "m.onnx, off");
    assert_eq!(first["verdict"]["is"], "reference");
    assert_eq!(form(&choice, "m.onnx, weights")["verdict"], json!({"is": "passed", "relative_rmse": 0.0}));
    let other = &form(&choice, "other.onnx, off")["verdict"];
    assert_eq!((&other["is"], &other["outputs"]), (&json!("failed"), &json!(["y"])));
    // 1.5 became 1.5 / (1 + 1.5).
    assert!((other["relative_rmse"].as_f64().expect("a number") - 0.6).abs() < 1e-6, "{other}");
    let damaged = form(&choice, "damaged.onnx, off");
    assert!(damaged["size"].is_null() && damaged["speed"].is_null());
    assert!(damaged["missing"][0].as_str().is_some_and(|why| why.starts_with("not built: ")), "{damaged}");

    // The sizes are those of a build, and every measured form has every figure.
    succeed(imgbuild().current_dir(here).args([
        "build",
        "m.onnx",
        "--optimize",
        "off",
        "-o",
        "oci:m:1",
        "--report",
        "size.json",
    ]));
    let built = json_file(&here.join("size.json"));
    assert_eq!(first["image"], built["image"]["digest"]);
    assert_eq!(first["size"], built["totals"]["image"]);
    for name in ["m.onnx, off", "m.onnx, weights", "other.onnx, weights"] {
        let speed = &form(&choice, name)["speed"];
        for figure in ["cold_start", "start", "latency", "per_second"] {
            assert!(speed[figure].as_f64().is_some_and(|value| value > 0.0), "{name}: {figure} in {speed}");
        }
        assert_eq!(speed["steady"].as_array().map(Vec::len), Some(2));
    }
    let recommended = &choice["recommendation"];
    assert!(recommended["form"].as_str().is_some_and(|form| form.starts_with("m.onnx")), "{recommended}");
    let reasons: Vec<&str> = recommended["reasons"].as_array().expect("reasons").iter().filter_map(Value::as_str).collect();
    assert!(
        reasons.iter().any(|reason| reason.contains("`other.onnx, off` was passed over: it answers otherwise")),
        "{reasons:?}"
    );
    assert!(!std::fs::read_dir(here).expect("a folder").flatten().any(|entry| entry.file_name() == "m.oci"));

    // Without a test set nothing is said of answers; Markdown has the same table.
    let shown = text(&succeed(choose(&["m.onnx", "other.onnx"]).args(["--format", "markdown"])).stdout);
    assert!(shown.starts_with("### Recommended: ") && shown.contains("not verified: there is no test set"), "{shown}");
    assert_eq!(shown.lines().filter(|line| line.starts_with("| `")).count(), 2, "{shown}");
    fail_with(&mut choose(&["m.onnx"]), 2);
    fail_with(&mut choose(&["damaged.onnx", "m.onnx"]), 3);
}

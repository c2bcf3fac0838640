//! A SavedModel becomes an image that answers as TensorFlow's Python does, and bad ones are refused by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use imgbuild_tests::{Running, build_folder, fail_with, has, imgbuild, json_file, model, python, root, succeed, text, wait_for};

/// TensorFlow's Python, in an environment of its own.
fn tensorflow() -> Command {
    let folder = build_folder().join("venv-tf");
    let requirements = root().join("tests/tools/requirements-tf.txt");
    succeed(Command::new(root().join("tests/tools/venv.sh")).args([&folder, &requirements]));
    let mut command = Command::new(folder.join("bin/python"));
    command.arg(root().join("tests/tools/tensorflow_reference.py"));
    command
}

/// What TensorFlow's Python answers on 16 random inputs, at batch 1 and 3; kept, because it takes long.
fn reference(model: &Path, name: &str) -> PathBuf {
    let path = build_folder().join(format!("{name}.reference.npz"));
    if !path.exists() {
        let scratch = tempfile::Builder::new().suffix(".npz").tempfile_in(build_folder()).expect("a file").into_temp_path();
        succeed(tensorflow().args([model, &*scratch]));
        scratch.persist(&path).expect("the folder can be written");
    }
    path
}

/// A model that TensorFlow's Python makes; kept as well.
fn made(kind: &str) -> PathBuf {
    let path = build_folder().join("models").join(kind);
    if !path.exists() {
        let scratch = tempfile::tempdir_in(build_folder()).expect("a folder");
        let folder = scratch.path().join(kind);
        succeed(tensorflow().arg("--make").arg(kind).arg(&folder));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be written");
        // Another test may have made the same meanwhile.
        let _ = std::fs::rename(folder, &path);
    }
    path
}

/// A copy of a SavedModel that a test may spoil.
fn copy(model: &Path, folder: &Path) -> PathBuf {
    let target = folder.join("model");
    succeed(Command::new("cp").arg("-r").args([model, &target]));
    target
}

fn build(folder: &Path, model: &Path, arguments: &[&str]) -> serde_json::Value {
    let report = folder.join("size.json");
    let mut command = imgbuild();
    command.current_dir(folder).arg("build").arg(model).args(["--name", "m", "-o", "oci:image:1", "--report"]).arg(&report);
    succeed(command.args(arguments));
    json_file(&report)
}

/// Starts the built image in the embedded runner, and gives its address.
fn serve(folder: &Path, variables: &[&str]) -> (Running, String) {
    let output = folder.join("address");
    let file = std::fs::File::create(&output).expect("a file");
    let log = std::fs::File::create(folder.join("log")).expect("a file");
    let mut command = imgbuild();
    command.current_dir(folder).args(["run", "oci:image:1", "--runner", "embedded", "--wait", "300"]).stdout(file).stderr(log);
    for variable in variables {
        command.args(["-e", variable]);
    }
    let running = Running::start(&mut command);
    let address =
        wait_for(Duration::from_secs(300), || std::fs::read_to_string(&output).ok().filter(|text| text.ends_with('\n')));
    let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let address = address.unwrap_or_else(|| panic!("no address within five minutes:\n{}", log()));
    (running, address.trim().trim_start_matches("http://").to_owned())
}

fn judge(address: &str, tolerance: &str, reference: &Path) -> serde_json::Value {
    let mut command = python();
    command.arg(root().join("tests/tools/judge_saved_model.py"));
    let output = succeed(command.args(["--address", address, "--name", "m", "--atol", tolerance]).arg(reference));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn the_image_of_a_saved_model_answers_as_tensorflows_python_does() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let model = model("basic-pitch-saved-model");
    let report = build(folder.path(), &model, &["--xla", "off"]);
    assert_eq!(report["xla"]["mode"], "off");
    assert_eq!((report["stack"].as_str(), report["model"]["format"].as_str()), (Some("tf-xla"), Some("saved_model")));
    let shared = &report["totals"]["without_model"];
    assert!(shared["unpacked"].as_u64().expect("a number") <= 660_000_000, "{shared}");
    assert!(shared["compressed"].as_u64().expect("a number") <= 160_000_000, "{shared}");
    let cuts = report["omitted"].as_array().expect("a list").iter().filter(|cut| cut["name"] == "libtensorflow_cc.so.2");
    let cut: u64 = cuts.filter_map(|cut| cut["unpacked"].as_u64()).sum();
    assert!(cut > 200_000_000, "the symbol table of the library is accounted for: {cut}");

    let (mut running, address) = serve(folder.path(), &[]);
    let outcome = judge(&address, "1e-4", &reference(&model, "basic-pitch"));
    assert_eq!(outcome["cases"], 16);
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn what_xla_compiles_is_compiled_while_the_image_is_built_and_used_from_its_layer() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let model = model("basic-pitch-saved-model");
    let report = build(folder.path(), &model, &[]);
    let clusters = report["xla"]["clusters"].as_u64().unwrap_or_else(|| panic!("compiled ahead: {}", report["xla"]));
    assert!(clusters > 0 && report["xla"]["mode"] == "auto", "{}", report["xla"]);
    assert!(report["layers"].as_array().expect("a list").iter().any(|layer| layer["name"] == "compiled"));
    let loud = ["TF_CPP_MIN_LOG_LEVEL=0", "TF_CPP_VMODULE=device_executable_persistor=2"];
    let (mut running, address) = serve(folder.path(), &loud);
    let log = std::fs::read_to_string(folder.path().join("log")).expect("a log");
    assert_eq!(log.matches("Loading cached entry for").count() as u64, clusters, "every cluster comes from the image:\n{log}");
    judge(&address, "2e-3", &reference(&model, "basic-pitch"));
    assert_eq!(running.terminate(), Some(0));
    // A model that asks for nothing cannot be made to.
    let error = fail_with(imgbuild().current_dir(&folder).arg("build").arg(&model).args(["--xla", "must", "--name", "m"]), 3);
    assert!(error.contains("does not ask to be compiled"), "{error}");
}

#[test]
fn saved_models_that_cannot_be_served_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let sound = model("basic-pitch-saved-model");
    let refused = |change: &dyn Fn(&Path), recipe: &str| {
        let folder = tempfile::tempdir_in(folder.path()).expect("a folder");
        let model = copy(&sound, folder.path());
        change(&model);
        std::fs::write(folder.path().join("imgbuild.toml"), format!("model = \"model\"\n{recipe}")).expect("a recipe");
        fail_with(imgbuild().current_dir(&folder).arg("build"), 3)
    };
    let unchanged = |_: &Path| {};
    let remove = |name: &'static str| move |model: &Path| std::fs::remove_file(model.join(name)).expect("it is there");
    let cut = |name: &'static str| {
        move |model: &Path| {
            let bytes = std::fs::read(model.join(name)).expect("it is there");
            std::fs::write(model.join(name), &bytes[..bytes.len() / 2]).expect("writable");
        }
    };
    for (error, expected) in [
        (refused(&unchanged, "[saved-model]\ntags = [\"gpu\"]\n"), "no graph tagged `gpu`, expected `serve`"),
        (
            refused(&unchanged, "[saved-model]\nsignature = \"other\"\n"),
            "no signature `other`, expected one of: `serving_default`",
        ),
        (refused(&unchanged, "stack = \"onnx-cpu\"\n"), "does not serve SavedModels, expected ONNX models"),
        (refused(&unchanged, "[runtime]\ncustom-operators = [\"ops.so\"]\n"), "a library of custom operators"),
        (refused(&remove("variables/variables.index"), ""), "needs the file `variables/variables.index`"),
        (refused(&remove("variables/variables.data-00000-of-00001"), ""), "`variables/variables.data-00000-of-00001`"),
        (refused(&cut("variables/variables.data-00000-of-00001"), ""), "truncated `variables/variables.data-00000-of-00001`"),
        (refused(&cut("variables/variables.index"), ""), "damaged `variables/variables.index`"),
        (refused(&cut("saved_model.pb"), ""), "is truncated: field meta_graphs"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
    // An operator that no TensorFlow has, under a name of the same length in the file.
    let unknown = refused(
        &|model: &Path| {
            let path = model.join("saved_model.pb");
            let mut bytes = std::fs::read(&path).expect("it is there");
            let (old, new) = (b"\x06Conv2D", b"\x06Mystic");
            let places: Vec<usize> = bytes.windows(old.len()).enumerate().filter(|(_, w)| w == old).map(|(at, _)| at).collect();
            for at in places {
                bytes[at..at + new.len()].copy_from_slice(new);
            }
            std::fs::write(path, bytes).expect("writable");
        },
        "",
    );
    assert!(unknown.contains("operators that TensorFlow 2.21.0 does not have: `Mystic`"), "{unknown}");
}

#[test]
fn a_stripped_library_is_what_readelf_says() {
    if !has("readelf") || !has("umoci") {
        return;
    }
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    build(folder.path(), &model("basic-pitch-saved-model"), &["--compression", "gzip:1", "--xla", "off"]);
    succeed(Command::new("umoci").current_dir(&folder).args(["unpack", "--rootless", "--image", "image:1", "bundle"]));
    let library = folder.path().join("bundle/rootfs/usr/lib/x86_64-linux-gnu/libtensorflow_cc.so.2");
    let shown = succeed(Command::new("readelf").args(["-SW"]).arg(&library).stdin(Stdio::null()));
    assert!(shown.stderr.is_empty(), "{}", text(&shown.stderr));
    let sections = text(&shown.stdout);
    assert!(sections.contains(".dynsym") && sections.contains(".eh_frame"), "{sections}");
    assert!(!sections.contains(".symtab") && !sections.contains(" .strtab"), "{sections}");
}

#[test]
fn byte_strings_and_signatures_go_through_tensorflow_servings_api() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    build(folder.path(), &made("strings"), &["--xla", "off"]);
    let (mut running, address) = serve(folder.path(), &[]);
    judge(&address, "0", &reference(&made("strings"), "strings"));
    let script = r#"
import json, sys, urllib.request, urllib.error
base = f"http://{sys.argv[1]}/v1/models/m"
def ask(path, body=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(base + path, body and json.dumps(body).encode())) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
assert ask("")[1]["model_version_status"][0]["state"] == "AVAILABLE"
signatures = ask("/metadata")[1]["metadata"]["signature_def"]["signature_def"]
assert sorted(signatures) == ["other", "serving_default"], signatures
assert signatures["other"]["inputs"]["text"]["dtype"] == "DT_STRING"
status, rows = ask(":predict", {"instances": ["a", {"b64": "YmM="}]})
assert (status, rows) == (200, {"predictions": [{"joined": "a-a", "length": 1}, {"joined": "bc-bc", "length": 2}]}), rows
assert ask(":predict", {"signature_name": "other", "inputs": ["ab"]}) == (200, {"outputs": [{"b64": "QUI="}]})
for body, expected in [
    ({"signature_name": "none", "inputs": ["ab"]}, "signature `none` is unknown"),
    ({"instances": [1]}, "does not fit the datatype"),
    ({"instances": [["a"]]}, "has shape [1,1], expected [-1]"),
    ({"signature_name": ""}, "neither of"),
]:
    status, answer = ask(":predict", body)
    assert status == 400 and expected in answer["error"], answer
"#;
    succeed(python().args(["-c", script, &address]));
    assert_eq!(running.terminate(), Some(0));
}

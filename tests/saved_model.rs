//! A SavedModel becomes an image that answers as TensorFlow's Python does, and bad ones are refused by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use imgbuild_tests::{
    Running, ask_with, build_folder, fail_with, has, imgbuild, imgserve_path, json_file, model, python, root, shared_store,
    succeed, text, wait_for,
};

/// TensorFlow's Python, in an environment of its own.
pub(crate) fn tensorflow() -> Command {
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
pub(crate) fn made(kind: &str) -> PathBuf {
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

/// Builds in turn with the other tests: the first one fetches, rewrites and compresses TensorFlow for all.
fn build(folder: &Path, model: &Path, arguments: &[&str]) -> serde_json::Value {
    let turn = std::fs::File::create(build_folder().join("tensorflow.lock")).expect("a file");
    turn.lock().expect("it can be locked");
    let report = folder.join("size.json");
    let mut command = imgbuild();
    command.current_dir(folder).arg("build").arg(model).args(["--name", "m", "-o", "oci:image:1", "--report"]).arg(&report);
    succeed(command.args(arguments));
    json_file(&report)
}

/// Starts the built image in the embedded runner, and gives its address.
pub(crate) fn serve(folder: &Path, variables: &[&str]) -> (Running, String) {
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

/// Compares answers with TensorFlow's, on so many of the reference's inputs.
pub(crate) fn judge(address: &str, tolerance: &str, cases: &str, reference: &Path) -> serde_json::Value {
    let mut command = python();
    command.arg(root().join("tests/tools/judge_saved_model.py"));
    command.args(["--address", address, "--name", "m", "--atol", tolerance, "--cases", cases]);
    let output = succeed(command.arg(reference));
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    eprintln!("{outcome}");
    assert_eq!(outcome["cases"].to_string(), cases);
    outcome
}

/// Instruction sets that oneDNN is held to, as on older processors.
const OLDER: [&str; 2] = ["ONEDNN_MAX_CPU_ISA=AVX2", "ONEDNN_MAX_CPU_ISA=SSE41"];

/// The bytes of a file of an image, in the store.
pub(crate) fn in_store(report: &serde_json::Value, name: &str) -> PathBuf {
    let files = report["files"].as_array().expect("a list");
    let file = files.iter().find(|file| file["path"].as_str().is_some_and(|path| path.ends_with(name))).expect("it is there");
    let digest = file["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
    shared_store().join("blobs/sha256").join(digest)
}

/// Bytes that were cut off a library for a reason that has this word.
fn cut(report: &serde_json::Value, library: &str, word: &str) -> u64 {
    let cuts = report["omitted"].as_array().expect("a list").iter();
    let cuts = cuts.filter(|cut| cut["name"] == library && cut["reason"].as_str().is_some_and(|reason| reason.contains(word)));
    cuts.filter_map(|cut| cut["unpacked"].as_u64()).sum()
}

#[test]
fn the_image_of_a_saved_model_answers_as_tensorflows_python_does() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let model = model("basic-pitch-saved-model");
    let report = build(folder.path(), &model, &["--xla", "off"]);
    assert_eq!(report["xla"]["mode"], "off");
    assert_eq!((report["stack"].as_str(), report["model"]["format"].as_str()), (Some("tf-xla"), Some("saved_model")));
    let shared = &report["totals"]["without_model"];
    eprintln!("{shared}");
    assert!(shared["unpacked"].as_u64().expect("a number") <= 520_000_000, "{shared}");
    assert!(shared["compressed"].as_u64().expect("a number") <= 126_000_000, "{shared}");
    let library = "libtensorflow_cc.so.2";
    let (stripped, bound) = (cut(&report, library, "symbol tables"), cut(&report, library, "dynamic symbols"));
    assert!(stripped > 200_000_000 && bound > 100_000_000, "both cuts are accounted for: {stripped}, {bound}");
    read_by_readelf(&in_store(&report, library));

    let reference = reference(&model, "basic-pitch");
    let (mut running, address) = serve(folder.path(), &[]);
    judge(&address, "1e-4", "16", &reference);
    refuse_wrong_calls(&address);
    assert_eq!(running.terminate(), Some(0));
    for older in OLDER {
        let (mut running, address) = serve(folder.path(), &[older]);
        judge(&address, "1e-4", "4", &reference);
        refuse_wrong_calls(&address);
        assert_eq!(running.terminate(), Some(0));
    }
}

/// A bound library has no symbol table, few dynamic symbols, and packed relocations, and readelf finds nothing odd about it.
fn read_by_readelf(library: &Path) {
    if !has("readelf") {
        return;
    }
    let shown = succeed(Command::new("readelf").args(["-SdW"]).arg(library).stdin(Stdio::null()));
    assert!(shown.stderr.is_empty(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert!(shown.contains(".dynsym") && shown.contains(".eh_frame") && shown.contains("(RELR)"), "{shown}");
    assert!(!shown.contains(".symtab") && !shown.contains(" .strtab"), "{shown}");
}

/// A shape that TensorFlow itself would take without a word, and a signature that is not there.
fn refuse_wrong_calls(address: &str) {
    let lines = r#"
name = ask("/v1/models/m:predict", {"instances": [[[0.0]] * 7]})
assert name[0] == 400 and "has shape [1,7,1], expected [-1,43844,1]" in name[1]["error"], name
status, answer = ask("/v2/models/m/infer", {"inputs": [{"name": "input_2", "shape": [1, 7, 1], "datatype": "FP32", "data": [0.0] * 7}]})
assert status == 400 and "[1,7,1]" in answer["error"], answer
status, answer = ask("/v1/models/m:predict", {"signature_name": "none", "instances": [0]})
assert status == 400 and "signature `none` is unknown" in answer["error"], answer
"#;
    ask_with(address, lines);
}

#[test]
fn what_xla_compiles_is_compiled_while_the_image_is_built_and_used_from_its_layer() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let model = model("basic-pitch-saved-model");
    let report = build(folder.path(), &model, &["--xla", "auto"]);
    let clusters = clusters(&report, "auto");
    let reference = reference(&model, "basic-pitch");
    for variables in [&[LOUD[0], LOUD[1]][..], &OLDER[..1], &OLDER[1..]] {
        let (mut running, address) = serve(folder.path(), variables);
        if variables.contains(&LOUD[0]) {
            loads_from_layer(folder.path(), clusters);
        }
        judge(&address, "2e-3", "16", &reference);
        assert_eq!(running.terminate(), Some(0));
    }
    // A second build gives the same image: what was compiled for these very bytes on this processor is kept.
    let again = tempfile::tempdir_in(build_folder()).expect("a folder");
    assert_eq!(build(again.path(), &model, &["--xla", "auto"])["image"], report["image"]);
    // A model that asks for nothing cannot be made to.
    let error = fail_with(imgbuild().current_dir(&folder).arg("build").arg(&model).args(["--xla", "must", "--name", "m"]), 3);
    assert!(error.contains("does not ask to be compiled"), "{error}");
}

/// Makes TensorFlow tell which clusters it finds compiled.
const LOUD: [&str; 2] = ["TF_CPP_MIN_LOG_LEVEL=0", "TF_CPP_VMODULE=device_executable_persistor=2"];

/// How many clusters XLA compiled while the image was built; there is a layer of them.
fn clusters(report: &serde_json::Value, mode: &str) -> u64 {
    let xla = &report["xla"];
    let clusters = xla["clusters"].as_u64().unwrap_or_else(|| panic!("compiled ahead: {xla}"));
    assert!(clusters > 0 && xla["mode"] == mode, "{xla}");
    assert!(report["layers"].as_array().expect("a list").iter().any(|layer| layer["name"] == "compiled"));
    clusters
}

/// Every cluster that the server wanted at its start came from the image.
fn loads_from_layer(folder: &Path, clusters: u64) {
    let log = std::fs::read_to_string(folder.join("log")).expect("a log");
    assert_eq!(log.matches("Loading cached entry for").count() as u64, clusters, "every cluster comes from the image:\n{log}");
}

#[test]
fn a_model_that_asks_to_be_compiled_is_compiled_whatever_is_said() {
    let model = made("compiled");
    for choice in ["must", "off"] {
        let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
        let report = build(folder.path(), &model, &["--xla", choice]);
        let clusters = clusters(&report, "model");
        if choice == "must" {
            let (mut running, address) = serve(folder.path(), &LOUD);
            loads_from_layer(folder.path(), clusters);
            judge(&address, "2e-3", "16", &reference(&model, "compiled"));
            assert_eq!(running.terminate(), Some(0));
        }
    }
}

/// Without a word about XLA both ways are measured, and what the lock says afterwards is what later builds do, whatever they would measure.
#[test]
fn the_faster_way_is_measured_once_and_kept_by_the_lock() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let folder = folder.path();
    let model = copy(&model("basic-pitch-saved-model"), folder);
    let stack = ["--stack", "tf-xla"];
    let report = build(folder, &model, &stack);
    let xla = &report["xla"];
    eprintln!("{xla}");
    let time = |name: &str| xla["milliseconds"][name].as_f64().unwrap_or_else(|| panic!("both are timed: {xla}"));
    let ratio = time("ratio");
    let pays = if (ratio - 1.0).abs() <= 0.05 { time("start_with") < time("start_without") } else { ratio < 1.0 };
    let mode = |pays| if pays { "auto" } else { "off" };
    assert!(time("with") > 0.0 && time("without") > 0.0 && time("rounds") >= 3.0, "{xla}");
    assert_eq!((xla["mode"].as_str(), xla["chosen_by"].as_str()), (Some(mode(pays)), Some("measured")), "{xla}");
    let is_compiled =
        |report: &serde_json::Value| report["layers"].as_array().expect("a list").iter().any(|layer| layer["name"] == "compiled");
    assert_eq!(is_compiled(&report), pays, "{xla}");

    let path = folder.join("imgbuild.lock");
    let lock = std::fs::read_to_string(&path).expect("a lock");
    let pin = |pays: bool| format!("compile = {pays}\n");
    assert!(lock.contains("[xla]\n") && lock.contains(&pin(pays)), "{lock}");
    let again = build(folder, &model, &[&stack[..], &["--locked", "--offline"]].concat());
    assert_eq!((again["image"].clone(), again["xla"]["chosen_by"].as_str()), (report["image"].clone(), Some("lock")));
    // As a machine would have pinned it where the other way is faster.
    std::fs::write(&path, lock.replace(&pin(pays), &pin(!pays))).expect("writable");
    let other = build(folder, &model, &[&stack[..], &["--locked"]].concat());
    assert_eq!((other["xla"]["mode"].as_str(), is_compiled(&other)), (Some(mode(!pays)), !pays), "{}", other["xla"]);
    // A lock that was made without a measurement forbids one: the same everywhere then too.
    let pinless =
        lock[..lock.find("[xla]").expect("it is there")].to_owned() + &lock[lock.find("[[input]]").expect("it is there")..];
    std::fs::write(&path, pinless).expect("writable");
    let unmeasured = build(folder, &model, &[&stack[..], &["--locked"]].concat());
    let told = (unmeasured["xla"]["mode"].as_str(), unmeasured["xla"]["chosen_by"].as_str());
    assert_eq!(told, (Some("off"), Some("not-measured")));
}

#[test]
fn nothing_is_compiled_ahead_where_that_is_not_wanted_and_the_report_says_why() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let report = build(folder.path(), &model("basic-pitch-saved-model"), &["--no-warm"]);
    let xla = &report["xla"];
    assert_eq!((xla["mode"].as_str(), xla["left_out"].as_str()), (Some("auto"), Some("it was not asked for")), "{xla}");
    assert!(report["layers"].as_array().expect("a list").iter().all(|layer| layer["name"] != "compiled"));
    // A processor that lacks what the code was compiled for is told so, before anything is loaded.
    let cache = folder.path().join("xla");
    std::fs::create_dir(&cache).expect("a folder");
    std::fs::write(cache.join("cpu-flags"), "avx9000\n").expect("a file");
    let mut server = Command::new(imgserve_path());
    server.env("IMGSERVE_XLA_CACHE", &cache).env("IMGSERVE_BACKEND", "tensorflow").env("IMGSERVE_LIBRARY", "/none.so");
    let output = server.env("IMGSERVE_MODEL_PATH", "/none").arg("--check").output().expect("it starts");
    let log = text(&output.stderr) + &text(&output.stdout);
    assert!(!output.status.success() && log.contains("compiled for a processor with avx9000, which this one lacks"), "{log}");
}

/// One model that its package ships as a SavedModel and as ONNX: what the conversion moved, by the images that ship.
#[test]
fn the_conversion_to_onnx_is_held_against_the_saved_model() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let folder = folder.path();
    build(folder, &model("basic-pitch-saved-model"), &["--xla", "off"]);
    let mut onnx = imgbuild();
    onnx.current_dir(folder).arg("build").arg(imgbuild_tests::model_in(folder, "basic-pitch"));
    succeed(onnx.args(["--name", "m", "-o", "oci:onnx:1"]));
    let script = "import numpy, sys; numpy.savez(sys.argv[1], input_2=numpy.random.default_rng(7).normal(0, 0.1, (16, 43844, 1)).astype('f4'))";
    succeed(python().args(["-c", script]).arg(folder.join("inputs.npz")));
    let verify = |outputs: [&str; 3]| {
        let mut command = imgbuild();
        command.current_dir(folder).args(["verify", "oci:onnx:1", "--reference", "oci:image:1", "--data", "inputs.npz"]);
        command.args(["--rename", "input_2=serving_default_input_2:0", "--report", "drift.json"]);
        for (name, number) in ["contour", "note", "onset"].iter().zip(outputs) {
            command.args(["--rename", &format!("{name}=StatefulPartitionedCall:{number}")]);
        }
        command
    };
    succeed(&mut verify(["0", "1", "2"]));
    let drift = json_file(&folder.join("drift.json"));
    eprintln!("{}", drift["outputs"]);
    assert_eq!((drift["passed"].as_bool(), drift["data"]["samples"].as_u64()), (Some(true), Some(16)));
    // Two outputs of one shape under each other's name.
    let swapped = verify(["0", "2", "1"]).output().expect("imgbuild runs");
    assert_eq!(swapped.status.code(), Some(7), "{}", text(&swapped.stderr));
    assert!(text(&swapped.stdout).contains("outputs were swapped"), "{}", text(&swapped.stdout));
}

#[test]
fn an_unbound_image_is_larger_and_locked_as_such() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let sound = copy(&model("basic-pitch-saved-model"), folder.path());
    let report = build(folder.path(), &sound, &["--dry-run", "--no-warm", "--compression", "none", "--no-bind"]);
    let library = "libtensorflow_cc.so.2";
    assert_eq!(cut(&report, library, "dynamic symbols"), 0);
    assert!(cut(&report, library, "symbol tables") > 200_000_000);
    assert!(std::fs::metadata(in_store(&report, library)).expect("it is there").len() > 580_000_000);
    let turn = ["--no-warm", "--dry-run", "--compression", "none"];
    succeed(imgbuild().current_dir(&folder).args(["lock", "model"]));
    let error = fail_with(imgbuild().current_dir(&folder).args(["build", "model", "--locked", "--no-bind"]).args(turn), 4);
    assert!(error.contains("with binding, expected rewritten in format"), "{error}");
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
fn what_keras_stores_twice_is_stored_once() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let model = made("keras");
    let report = build(folder.path(), &model, &["--xla", "off"]);
    let optimization = &report["optimization"];
    assert_eq!(optimization["done"], "weights", "{optimization}");
    let bytes = |name: &str| optimization[name].as_u64().expect("a number");
    // Two kernels and two biases of four bytes a number.
    assert!(bytes("before") - bytes("after") >= 4 * (64 * 256 + 256 + 256 * 16 + 16) - 4096, "{optimization}");
    let (mut running, address) = serve(folder.path(), &[]);
    judge(&address, "1e-4", "16", &reference(&model, "keras"));
    assert_eq!(running.terminate(), Some(0));
}

/// A share of `make savedmodel-check`: the ResNet50 of keras.applications by both stacks, as TensorFlow's Python answers.
#[test]
fn a_resnet50_is_served_by_both_stacks() {
    let turn = std::fs::File::create(build_folder().join("tensorflow.lock")).expect("a file");
    turn.lock().expect("it can be locked");
    let mut command = Command::new(root().join("tests/tools/savedmodel-check.sh"));
    command
        .env("IMGBUILD", imgbuild().get_program())
        .env("IMGBUILD_SERVER", imgserve_path())
        .env("IMGBUILD_STORE", shared_store());
    command.env("MODELS", "resnet50").env("FORMS", "off aot").env("RUNNERS", "embedded").env("OLDER", "");
    let said = text(&succeed(&mut command).stdout);
    eprintln!("{said}");
    assert!(said.contains("resnet50, off, embedded: ") && said.contains("resnet50, aot, embedded: "), "{said}");
    assert!(said.ends_with("savedmodel-check: 2 starts answered as TensorFlow's Python does\n"), "{said}");
}

#[test]
fn byte_strings_and_signatures_go_through_tensorflow_servings_api() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    build(folder.path(), &made("strings"), &["--xla", "off"]);
    let (mut running, address) = serve(folder.path(), &[]);
    judge(&address, "0", "16", &reference(&made("strings"), "strings"));
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

//! A SavedModel is compiled ahead of time into an image without TensorFlow that answers as TensorFlow's Python does, and what cannot be
//! compiled is refused by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{
    ask_with, build_folder, fail_with, has, imgbuild, imgserve_path, json_file, python, root, shared_store, succeed, text,
};

use crate::saved_model::{in_store, judge, made, serve, tensorflow};

/// Builds in turn with the other tests: the first one fetches and unpacks the compiler for all.
fn build(folder: &Path, model: &Path, arguments: &[&str]) -> serde_json::Value {
    let report = folder.join("size.json");
    copy(model, folder);
    let mut command = imgbuild();
    command.current_dir(folder).args(["build", "model", "--name", "m", "-o", "oci:image:1", "--report"]).arg(&report);
    in_turn(folder, command.args(arguments), succeed);
    json_file(&report)
}

/// Copies a model beside which a test may have a lock of its own.
fn copy(model: &Path, folder: &Path) {
    succeed(Command::new("cp").arg("-r").arg(model).arg(folder.join("model")));
}

/// Runs in turn with the other tests, with the pins of the first of them: choosing them anew would fetch them anew.
fn in_turn<T>(folder: &Path, command: &mut Command, run: impl Fn(&mut Command) -> T) -> T {
    let turn = std::fs::File::create(build_folder().join("compiler.lock")).expect("a file");
    turn.lock().expect("it can be locked");
    let (kept, own) = (build_folder().join("compiler-pins.lock"), folder.join("imgbuild.lock"));
    if kept.exists() && !own.exists() {
        std::fs::copy(&kept, &own).expect("it can be copied");
    }
    let result = run(command);
    if std::fs::read_to_string(&own).is_ok_and(|lock| lock.contains("[[compiler]]")) {
        std::fs::copy(&own, &kept).expect("it can be copied");
    }
    result
}

/// Builds that must fail, and what they say.
fn refused(model: &Path, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    copy(model, folder.path());
    let mut command = imgbuild();
    command.current_dir(&folder).args(["build", "model", "--name", "m", "--stack", "tf-xla-aot"]).args(arguments);
    in_turn(folder.path(), &mut command, |command| fail_with(command, 3))
}

/// What TensorFlow's Python answers for batches of these sizes, in turn.
fn reference(model: &Path, name: &str, batches: &str) -> PathBuf {
    let path = build_folder().join(format!("{name}.rows.npz"));
    if !path.exists() {
        let scratch = tempfile::Builder::new().suffix(".npz").tempfile_in(build_folder()).expect("a file").into_temp_path();
        succeed(tensorflow().args(["--batches", batches]).args([model, &*scratch]));
        scratch.persist(&path).expect("the folder can be written");
    }
    path
}

fn layer<'a>(report: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let layers = report["layers"].as_array().expect("a list");
    &layers.iter().find(|layer| layer["name"] == name).unwrap_or_else(|| panic!("a layer {name}"))["digest"]
}

const STACK: [&str; 4] = ["--stack", "tf-xla-aot", "--batch", "1,4"];

#[test]
fn every_number_of_rows_is_answered_as_tensorflows_python_does() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let model = made("rows");
    let report = build(folder.path(), &model, &[&STACK[..], &["--sbom", "both", "--attestations", "written"]].concat());
    let digest = report["image"]["digest"].as_str().expect("a digest");
    succeed(python().arg(root().join("tests/tools/judge_attestations.py")).arg(folder.path().join("written")).arg(digest));
    assert_eq!((report["stack"].as_str(), report["compiled"]["rows"].to_string().as_str()), (Some("tf-xla-aot"), "[1,4]"));
    let image = report["totals"]["image"]["unpacked"].as_u64().expect("a number");
    assert!(image < 15_000_000, "{image}, with weights of 544 bytes");
    let files: Vec<&str> = report["files"].as_array().expect("a list").iter().filter_map(|file| file["path"].as_str()).collect();
    for absent in ["libstdc++", "python", "tensorflow_cc", "libtensorflow"] {
        assert!(files.iter().all(|file| !file.contains(absent)), "{absent}: {files:?}");
    }
    assert!(
        files.contains(&"/usr/share/doc/tensorflow/LICENSE")
            && files.contains(&"/usr/share/doc/tensorflow/THIRD_PARTY_NOTICES.txt")
    );
    let licence = report["packages"].as_array().expect("a list").iter().find(|package| package["name"] == "tensorflow-cpu");
    assert_eq!(licence.expect("what is linked in is named")["license"], "Apache-2.0 AND MPL-2.0");
    library_is_plain(&in_store(&report, "libmodel.so"));
    let why = succeed(imgbuild().current_dir(&folder).args(["why", "oci:image:1", "libmodel.so"]));
    assert!(
        text(&why.stdout).contains("imgserve opens /models/m/libmodel.so: the model, compiled ahead of time"),
        "{}",
        text(&why.stdout)
    );

    // From one row to more than two of the largest size.
    let reference = reference(&model, "rows", "1,2,3,4,5,6,7,8,9,10,11,12,13");
    let (mut running, address) = serve(folder.path(), &[]);
    judge(&address, "2e-6", "16", &reference);
    refuse_wrong_calls(&address);
    assert_eq!(running.terminate(), Some(0));
}

/// One symbol is exported, nothing but glibc is needed, and no path of this machine is in it.
fn library_is_plain(library: &Path) {
    let bytes = std::fs::read(library).expect("it is there");
    for path in [root(), shared_store()] {
        let path = path.display().to_string();
        assert!(!bytes.windows(path.len()).any(|window| window == path.as_bytes()), "it holds {path}");
    }
    if !has("readelf") {
        eprintln!("skipped: there is no readelf to look at {}", library.display());
        return;
    }
    let shown = text(&succeed(Command::new("readelf").args(["-dW", "--dyn-syms"]).arg(library)).stdout);
    let needed: Vec<&str> =
        shown.lines().filter(|line| line.contains("(NEEDED)")).filter_map(|line| line.split(['[', ']']).nth(1)).collect();
    assert!(needed.iter().all(|name| ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"].contains(name)), "{needed:?}");
    let exported: Vec<&str> = shown.lines().filter(|line| line.contains(" GLOBAL ") && !line.contains(" UND ")).collect();
    assert!(exported.len() == 1 && exported[0].ends_with(" imgbuild_model"), "{exported:?}");
}

fn refuse_wrong_calls(address: &str) {
    let lines = r#"
def tensor(name, shape, kind):
    return {"name": name, "shape": shape, "datatype": kind, "data": [0] * int(__import__("math").prod(shape))}
status, answer = ask("/v2/models/m/infer", {"inputs": [tensor("x", [1, 15], "FP32"), tensor("k", [1], "INT32")]})
assert status == 400 and "[1,15]" in answer["error"] and "[-1,16]" in answer["error"], answer
status, answer = ask("/v2/models/m/infer", {"inputs": [tensor("x", [3, 16], "FP32"), tensor("k", [2], "INT32")]})
assert status == 400 and ("has 3 rows, and `k` has 2" in answer["error"] or "has 2 rows, and" in answer["error"]), answer
status, answer = ask("/v2/models/m/infer", {"inputs": [tensor("x", [0, 16], "FP32"), tensor("k", [0], "INT32")]})
assert status == 200 and [output["shape"][0] for output in answer["outputs"]] == [0, 0, 0], answer
status, answer = ask("/v1/models/m:predict", {"signature_name": "none", "instances": [0]})
assert status == 400 and "signature `none` is unknown" in answer["error"], answer
"#;
    ask_with(address, lines);
}

/// What the image gives the server, in a folder of its own.
fn unpacked(report: &serde_json::Value, folder: &Path) {
    for name in ["libmodel.so", "weights"] {
        std::fs::copy(in_store(report, &format!("/models/m/{name}")), folder.join(name)).expect("it is there");
    }
}

/// Starts the server on a folder, through an emulator where one is given, and gives its exit status and what it said.
fn check(folder: &Path, emulator: &[&str]) -> (Option<i32>, String) {
    let server = imgserve_path();
    let mut command = match emulator {
        [] => Command::new(&server),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&server);
            command
        }
    };
    command.env("IMGSERVE_BACKEND", "compiled").env("IMGSERVE_MODEL_PATH", folder).arg("--check");
    let output = command.output().expect("it starts");
    (output.status.code(), text(&output.stderr) + &text(&output.stdout))
}

#[test]
fn an_older_processor_is_told_what_it_lacks_before_the_code_is_opened() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let report = build(folder.path(), &made("rows"), &STACK);
    unpacked(&report, folder.path());
    let place = folder.path().join("model.json");
    let image = folder.path().join("image.json");
    extract(folder.path(), "models/m/model.json", &image);
    let description = std::fs::read_to_string(&image).expect("a description");
    std::fs::write(&place, &description).expect("writable");
    let (status, log) = check(folder.path(), &[]);
    assert_eq!(status, Some(0), "{log}");
    // A library that must not be opened: it would be an error of another kind.
    std::fs::write(folder.path().join("libmodel.so"), "no library").expect("writable");
    std::fs::write(&place, description.replace("\"avx2\"", "\"avx9000\"")).expect("writable");
    let (status, log) = check(folder.path(), &[]);
    assert!(
        status == Some(4) && log.contains("compiled for x86-64-v3 processors, and this one lacks avx9000"),
        "{status:?}: {log}"
    );
    assert!(log.contains("--cpu x86-64-v2"), "{log}");
    std::fs::write(&place, &description).expect("writable");
    if has("qemu-x86_64") {
        let (status, log) = check(folder.path(), &["qemu-x86_64", "-cpu", "Nehalem"]);
        assert!(status == Some(4) && log.contains("lacks avx, avx2,"), "{status:?}: {log}");
    } else {
        eprintln!("skipped: there is no qemu-x86_64 to stand for an older processor");
    }
    // Weights of another model.
    std::fs::copy(in_store(&report, "/models/m/libmodel.so"), folder.path().join("libmodel.so")).expect("it is there");
    std::fs::write(folder.path().join("weights"), "short").expect("writable");
    let (status, log) = check(folder.path(), &[]);
    assert!(
        status == Some(4) && log.contains("it has 5 bytes, expected") && log.contains("not of one model"),
        "{status:?}: {log}"
    );
}

/// A file of the built image.
fn extract(folder: &Path, member: &str, to: &Path) {
    let script = r#"
import glob, json, subprocess, sys, tarfile, io
folder, member, to = sys.argv[1:]
for path in glob.glob(f"{folder}/image/blobs/sha256/*"):
    data = open(path, "rb").read()
    if data[:4] == b"\x28\xb5\x2f\xfd":
        data = subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, check=True).stdout
    elif data[:2] == b"\x1f\x8b":
        import gzip
        data = gzip.decompress(data)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            open(to, "wb").write(archive.extractfile(member).read())
            sys.exit(0)
    except (tarfile.TarError, KeyError):
        continue
sys.exit(f"no layer has {member}")
"#;
    succeed(python().args(["-c", script]).arg(folder).arg(member).arg(to));
}

#[test]
fn new_weights_change_the_layer_of_the_model_alone() {
    let folders = [(); 2].map(|()| tempfile::tempdir_in(build_folder()).expect("a folder"));
    let first = build(folders[0].path(), &made("rows"), &STACK);
    let second = build(folders[1].path(), &made("rows-2"), &STACK);
    for name in ["base", "server", "compiled"] {
        assert_eq!(layer(&first, name), layer(&second, name), "{name}");
    }
    assert_ne!(layer(&first, "model"), layer(&second, "model"));
}

/// A store that has the packages and no result gives the same image, in another folder and with one processor, also after a build that
/// was killed while it compiled.
#[test]
fn equal_inputs_give_equal_images() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let first = build(folder.path(), &made("rows"), &STACK);
    let other = tempfile::tempdir_in(build_folder()).expect("a folder");
    let store = other.path().join("store");
    std::fs::create_dir(&store).expect("a folder");
    for part in ["blobs", "stamps", "folders", "version"] {
        succeed(Command::new("cp").arg("-al").arg(shared_store().join(part)).arg(&store));
    }
    let moved = other.path().join("somewhere else");
    succeed(Command::new("cp").arg("-r").arg(made("rows")).arg(&moved));
    let report = other.path().join("size.json");
    let mut command = Command::new("taskset");
    let plain = imgbuild();
    command.args(["-c", "0"]).arg(plain.get_program()).current_dir(&other).arg("build").arg(&moved).args(STACK);
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.args(["--name", "m", "-o", "oci:image:1", "--offline", "--threads", "1", "--report"]).arg(&report);
    // The pins of the first build, by which nothing has to be fetched.
    std::fs::copy(folder.path().join("imgbuild.lock"), other.path().join("imgbuild.lock")).expect("a lock");
    command.env("IMGBUILD_STORE", &store);
    kill_while_compiling(&mut command, &store);
    assert!(!report.exists() && !other.path().join("image").exists());
    succeed(&mut command);
    assert_eq!(json_file(&report)["image"], first["image"]);
}

/// Starts a build and ends it by force once TensorFlow's compiler was given its task.
fn kill_while_compiling(command: &mut Command, store: &Path) {
    let mut build = command.spawn().expect("it starts");
    let is_compiling = || {
        let found = succeed(Command::new("find").arg(store).args(["-name", "request.json"]));
        !found.stdout.is_empty()
    };
    while !is_compiling() {
        assert_eq!(build.try_wait().expect("it can be asked"), None, "it ended before it compiled");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Into the middle of it, which takes seconds.
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(build.try_wait().expect("it can be asked"), None, "it ended before it could be killed");
    build.kill().expect("it can be killed");
    build.wait().expect("it was started here");
}

/// Another compiler gives other bytes: it is told, and refused where the lock must hold.
#[test]
fn another_compiler_than_the_locks_is_named() {
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let folder = folder.path();
    let report = build(folder, &made("rows"), &STACK);
    let linked_by = report["compiled"]["linked_by"].as_str().expect("a compiler");
    let path = folder.join("imgbuild.lock");
    let lock = std::fs::read_to_string(&path).expect("a lock");
    let line = format!("linked-by = \"{linked_by}\"");
    assert!(lock.contains(&line), "{lock}");
    let build = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(folder).args(["build", "model", "--name", "m", "-o", "oci:image:1"]).args(STACK).args(arguments);
        command
    };
    let image = std::fs::read(folder.join("image/index.json")).expect("an image");
    succeed(&mut build(&["--locked"]));
    assert_eq!(std::fs::read(folder.join("image/index.json")).expect("an image"), image);
    std::fs::write(&path, lock.replace(&line, "linked-by = \"g++ 99.0.1\"")).expect("writable");
    let error = fail_with(&mut build(&["--locked"]), 4);
    assert!(error.contains(&format!("the C++ compiler is `{linked_by}`, expected `g++ 99.0.1`")), "{error}");
    let warned = text(&succeed(&mut build(&[])).stderr);
    assert!(warned.contains("and the lock's was `g++ 99.0.1`"), "{warned}");
    assert_eq!(std::fs::read_to_string(&path).expect("a lock"), lock);
}

#[test]
fn what_cannot_be_compiled_is_refused_by_name() {
    for (error, expected) in [
        (refused(&made("strings"), &[]), "input `text` is a tensor of string, which XLA does not have"),
        (refused(&made("rows"), &[]), "the first dimension of input `k` of shape [?] is dynamic"),
        (refused(&made("fixed"), &["--batch", "2"]), "batches of 2: the first dimension of none of its inputs is dynamic"),
        (refused(&made("rows"), &["--batch", "0"]), "batch is `0`, expected numbers from 1 to 65536"),
        (refused(&made("rows"), &["--batch", "1", "--cpu", "pentium"]), "does not compile for `pentium`, expected `x86-64-v2`"),
        (refused(&made("custom"), &["--batch", "1"]), "operators that TensorFlow 2.21.0 does not have: `Mystery9`"),
        (refused(&made("uncompilable"), &[]), "XLA cannot compile its operators: `AsString`"),
        (refused(&made("mixed-rows"), &["--batch", "2"]), "output `y` of a row depends on the other rows of its batch"),
    ] {
        assert!(error.contains(expected), "{error}");
        eprintln!("{error}");
    }
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let onnx = imgbuild_tests::model_in(folder.path(), "magika");
    for (stack, expected) in
        [("onnx-cpu", "does not serve chosen sizes of batches"), ("tf-xla-aot", "does not serve ONNX models")]
    {
        let error =
            fail_with(imgbuild().current_dir(&folder).arg("build").arg(&onnx).args(["--stack", stack, "--batch", "1"]), 3);
        assert!(error.contains(expected), "{error}");
    }
    // Without the programs that it needs, it says which.
    let mut command = imgbuild();
    command
        .current_dir(&folder)
        .arg("build")
        .arg(made("fixed"))
        .args(["--name", "m", "--stack", "tf-xla-aot"])
        .env("PATH", "/nowhere");
    let error = fail_with(&mut command, 3);
    assert!(error.contains("needs Python 3, and there is none in PATH") && error.contains("--stack tf-xla"), "{error}");
}

#[test]
fn the_stack_is_chosen_by_what_can_be_compiled() {
    let stack = |model: &Path, arguments: &[&str]| {
        let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
        copy(model, folder.path());
        let recipe = ["model = \"model\"\n", &arguments.concat()].concat();
        std::fs::write(folder.path().join("imgbuild.toml"), recipe).expect("a recipe");
        in_turn(folder.path(), imgbuild().current_dir(&folder).arg("lock"), succeed);
        let lock = std::fs::read_to_string(folder.path().join("imgbuild.lock")).expect("a lock");
        lock.lines().find_map(|line| line.strip_prefix("stack = ")).expect("a stack").trim_matches('"').to_owned()
    };
    assert_eq!(stack(&made("fixed"), &[]), "tf-xla-aot");
    assert_eq!(stack(&made("rows"), &["[saved-model]\nbatch = [1]\n"]), "tf-xla-aot");
    assert_eq!(stack(&made("rows"), &[]), "tf-xla");
    // What XLA refuses is known when it was tried.
    let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
    let report = build(folder.path(), &made("uncompilable"), &["--no-warm", "--dry-run", "--compression", "none"]);
    assert_eq!(report["stack"], "tf-xla");
    assert!(report["not_compiled"].as_str().is_some_and(|reason| reason.contains("`AsString`")), "{}", report["not_compiled"]);
}

//! Engines of TensorRT for RTX, compiled for GPUs that are not there; the models that hold them are read by the `onnx` package and by
//! ONNX Runtime. No GPU takes part, so that none is loaded.

use std::path::Path;
use std::process::Command;

use imgbuild_tests::{build_folder, fail_with, has, imgbuild, json_file, python, registry, root, succeed};
use serde_json::{Value, json};

/// Writes `cnn.onnx` and, with its batch open, `open.onnx`; `custom.onnx` has an operator that nobody knows.
const MODELS: &str = "
import numpy, onnx, sys
from onnx import TensorProto, helper, numpy_helper
random = numpy.random.default_rng(0)
weights = [numpy_helper.from_array(random.standard_normal(shape).astype('float32'), name) for name, shape in (('w', (8, 3, 3, 3)), ('m', (8, 4)))]
nodes = [helper.make_node('Conv', ['x', 'w'], ['c'], pads=[1, 1, 1, 1]), helper.make_node('Relu', ['c'], ['r']),
  helper.make_node('GlobalAveragePool', ['r'], ['p']), helper.make_node('Flatten', ['p'], ['f']), helper.make_node('MatMul', ['f', 'm'], ['y'])]
def save(name, nodes, batch, more=()):
    value = lambda name, *shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
    graph = helper.make_graph(nodes, 'net', [value('x', 3, 32, 32)], [value('y', 4)], weights)
    sets = [helper.make_opsetid('', 17)] + [helper.make_opsetid(domain, 1) for domain in more]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=8), f'{sys.argv[1]}/{name}.onnx')
save('cnn', nodes, 1)
save('open', nodes, 'batch')
save('custom', [helper.make_node('Mystery', ['x'], ['y'], domain='com.acme', name='odd')], 1, ['com.acme'])
";

/// Prints what the `onnx` package reads of a wrapped engine, and what ONNX Runtime says of it on the CPU.
const JUDGE: &str = "
import hashlib, json, onnx, onnxruntime, sys
model, original = onnx.load(sys.argv[1]), onnx.load(sys.argv[2])
(node,) = model.graph.node
onnx.checker.check_model(original)
attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
engine = attributes.pop('ep_cache_context')
try:
    onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
    said = 'it runs'
except Exception as error:
    said = str(error)
print(json.dumps({'operator': f'{node.domain}:{node.op_type}', 'engine': 'sha256:' + hashlib.sha256(engine).hexdigest(), 'said': said,
  'same': list(model.graph.input) == list(original.graph.input) and list(model.graph.output) == list(original.graph.output),
  'names': [list(node.input), list(node.output)], 'attributes': {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}}))
";

fn compile(folder: &Path, arguments: &[&str]) -> Value {
    let done = succeed(imgbuild().current_dir(folder).arg("engine").args(arguments).arg("--json"));
    serde_json::from_slice(&done.stdout).expect("JSON")
}

#[test]
fn a_model_is_compiled_for_gpus_that_are_not_there() {
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = scratch.path();
    succeed(python().args(["-c", MODELS]).arg(folder));
    let made = compile(folder, &["cnn.onnx", "--gpu", "sm_89,sm_86"]);
    assert_eq!((&made["gpus"], &made["provider"]), (&json!(["sm_86", "sm_89"]), &json!("nv-tensorrt-rtx")));
    assert_eq!(made, json_file(&folder.join("cnn.engine.onnx.json")));
    let judge = |wrapped: &str, original: &str| -> Value {
        let output = succeed(python().current_dir(folder).args(["-c", JUDGE, wrapped, original]));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let judged = judge("cnn.engine.onnx", "cnn.onnx");
    assert_eq!((&judged["operator"], &judged["engine"]), (&json!("com.microsoft:EPContext"), &made["engine"]));
    assert_eq!((&judged["same"], &judged["names"]), (&json!(true), &json!([["x"], ["y"]])));
    let attributes = &judged["attributes"];
    assert_eq!((&attributes["embed_mode"], &attributes["source"]), (&json!(1), &json!("NvTensorRTRTXExecutionProvider")));
    assert_eq!((&attributes["hardware_architecture"], &attributes["onnx_model_filename"]), (&json!("86,89"), &json!("cnn.onnx")));
    // The runtime reads the model, and has nothing on the CPU that runs an engine.
    assert!(judged["said"].as_str().is_some_and(|said| said.contains("EPContext")), "{judged}");

    // Another GPU gives another engine, and so do limits of what is open.
    let other = compile(folder, &["cnn.onnx", "--gpu", "sm_120", "-o", "other.onnx"]);
    assert_ne!(other["engine"], made["engine"]);
    let error = fail_with(imgbuild().current_dir(folder).args(["engine", "open.onnx", "--gpu", "sm_86"]), 3);
    assert!(error.contains("`x` is [-1, 3, 32, 32]") && error.contains("--dynamic N"), "{error}");
    let open = compile(folder, &["open.onnx", "--gpu", "sm_86", "--dynamic", "16"]);
    assert_eq!(open["dynamic"], 16);
    assert_eq!(judge("open.engine.onnx", "open.onnx")["same"], true);
}

#[test]
fn what_cannot_be_compiled_is_refused_and_writes_nothing() {
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = scratch.path();
    succeed(python().args(["-c", MODELS]).arg(folder));
    std::fs::write(folder.join("text.onnx"), "no model").expect("a file");
    // Compilers of another version, and with another digest of a file.
    let compiler = std::fs::read_to_string(root().join("templates/engines/tensorrt-rtx.toml")).expect("it is there");
    std::fs::write(folder.join("old.toml"), compiler.replace("1.7.1.116", "0.0.0")).expect("a file");
    let digest = "6a4d2bf39a98b71238046b9a9dd22d0e6b146be90cd56ac09f1e068933e4e18d";
    assert!(compiler.contains(digest));
    let other: Vec<String> = compiler
        .lines()
        .map(|line| match line.split_once('"') {
            Some((before, rest)) if rest.len() > 64 && rest.as_bytes()[..64].iter().all(u8::is_ascii_hexdigit) => {
                format!("{before}\"{}{}", "0".repeat(64), &rest[64..])
            }
            _ => line.to_owned(),
        })
        .collect();
    std::fs::write(folder.join("other.toml"), other.join("\n")).expect("a file");
    for (arguments, code, expected) in [
        (&["cnn.onnx", "--gpu", "sm_75"][..], 3, "no engines for sm_75, only for sm_86"),
        (&["cnn.onnx", "--gpu", "86"], 2, "`86` is no GPU architecture"),
        (&["cnn.onnx"], 2, "--gpu"),
        (&["nowhere.onnx", "--gpu", "sm_86"], 3, "nowhere.onnx"),
        (&["text.onnx", "--gpu", "sm_86"], 3, "text.onnx"),
        (&["custom.onnx", "--gpu", "sm_86"], 3, "Mystery"),
        (&["cnn.onnx", "--gpu", "sm_86", "--compiler", "./old.toml"], 5, "tensorrt-rtx-cu13-libs==0.0.0"),
        (&["cnn.onnx", "--gpu", "sm_86", "--compiler", "./other.toml"], 5, "not the pinned one"),
        (&["cnn.onnx", "--gpu", "sm_86", "--compiler", "tensorrt"], 3, "tensorrt-rtx"),
        (&["--image", "oci:nowhere"], 9, "nowhere"),
        (&["cnn.onnx", "--gpu", "sm_86", "--image", "oci:x"], 2, "--image"),
        (&["cnn.onnx", "--gpu", "sm_86", "-o", "/nowhere/out.onnx"], 9, "/nowhere/out.onnx"),
    ] {
        let error = fail_with(imgbuild().current_dir(folder).arg("engine").args(arguments), code);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let mut left: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
    left.sort();
    assert_eq!(left, ["cnn.onnx", "custom.onnx", "old.toml", "open.onnx", "other.toml", "text.onnx"]);
    // Python is what runs the compiler.
    let error =
        fail_with(imgbuild().current_dir(folder).env("PATH", "/nowhere").args(["engine", "cnn.onnx", "--gpu", "sm_86"]), 1);
    assert!(error.contains("`python3` is not installed"), "{error}");
}

#[test]
fn an_image_of_engines_is_for_their_gpus_and_the_version_that_compiled_them() {
    let scratch = tempfile::tempdir_in(build_folder()).expect("a folder");
    let folder = scratch.path();
    succeed(python().args(["-c", MODELS]).arg(folder));
    compile(folder, &["cnn.onnx", "--gpu", "sm_86"]);
    let build = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(folder).args(["build", "cnn.engine.onnx", "--compression", "none"]).args(arguments);
        command
    };
    for (arguments, expected) in [
        (&["--stack", "onnx-cpu"][..], "stack `onnx-cpu` does not serve"),
        (&["--stack", "onnx-cuda"], "engines of `nv-tensorrt-rtx`, and runs models with `cuda`"),
        (
            &["--stack", "onnx-tensorrt-rtx", "--gpu", "sm_89"],
            "runtime.gpu is `sm_89`, expected GPUs that `cnn.engine.onnx` has engines for: sm_86",
        ),
        (
            &["--stack", "onnx-tensorrt-rtx", "--package", "tensorrt-rtx-cu13-libs=1.6.0"],
            "engines that tensorrt-rtx-cu13-libs 1.7.1.116 compiled with tensorrt-rtx-cu13-libs 1.6.0",
        ),
    ] {
        let error = fail_with(&mut build(arguments), 3);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    // An engine in a file of its own goes with the model. No engine of more than 1 GiB is compiled here: the record names another file.
    let record = folder.join("cnn.engine.onnx.json");
    let mut told = json_file(&record);
    told["engine_file"] = json!("cnn.engine");
    std::fs::write(&record, told.to_string()).expect("a file");
    std::fs::write(folder.join("cnn.engine"), "an engine's bytes").expect("a file");
    succeed(
        build(&["--stack", "onnx-tensorrt-rtx", "-o", "oci:out:1", "--report", "size.json"])
            .stderr(std::process::Stdio::inherit()),
    );
    let report = json_file(&folder.join("size.json"));
    assert_eq!(report["gpu"]["architectures"], "sm_86");
    let files = report["files"].as_array().expect("files");
    assert!(files.iter().any(|file| file["path"] == "/models/cnn.engine/cnn.engine"), "{files:?}");
    // Names that lead elsewhere are not followed.
    told["engine_file"] = json!("../cnn.onnx");
    std::fs::write(&record, told.to_string()).expect("a file");
    let error = fail_with(&mut build(&["--stack", "onnx-tensorrt-rtx"]), 3);
    assert!(error.contains("`../cnn.onnx`, expected names of files beside the model"), "{error}");

    // An image compiles engines where Docker starts it on a GPU that it runs on; anywhere else that is said before anything starts.
    let engine = |image: &str| {
        let mut command = imgbuild();
        command.current_dir(folder).args(["engine", "--image", image]);
        command
    };
    let error = fail_with(&mut engine("oci:out:1"), 3);
    assert!(error.contains("nowhere that Docker starts images from") && error.contains("imgbuild push oci:out:1"), "{error}");
    if !has("docker-registry") || Command::new("nvidia-smi").arg("-L").output().is_ok() {
        return;
    }
    let (_registry, address) = registry(folder);
    let place = format!("docker://{address}/acme/cnn:1");
    succeed(imgbuild().current_dir(folder).args(["push", "oci:out:1", &place]));
    let error = fail_with(&mut engine(&place), 11);
    assert!(
        error.contains("does not run here") && error.contains("driver: none") && error.contains("gpu: none, expected sm_86"),
        "{error}"
    );
}

//! Engines of TensorRT for RTX, compiled for GPUs that are not there; the models that hold them are read by the `onnx` package and by
//! ONNX Runtime. No GPU takes part, so that none is loaded.

use std::path::Path;

use imgbuild_tests::{fail_with, imgbuild, json_file, python, succeed};
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
    for (arguments, code, expected) in [
        (&["cnn.onnx", "--gpu", "sm_75"][..], 3, "no engines for sm_75, only for sm_86"),
        (&["cnn.onnx", "--gpu", "86"], 2, "`86` is no GPU architecture"),
        (&["cnn.onnx"], 2, "--gpu"),
        (&["nowhere.onnx", "--gpu", "sm_86"], 3, "nowhere.onnx"),
        (&["text.onnx", "--gpu", "sm_86"], 3, "text.onnx"),
        (&["custom.onnx", "--gpu", "sm_86"], 3, "Mystery"),
        (&["cnn.onnx", "--gpu", "sm_86", "--packages", "0.0.0"], 5, "tensorrt-rtx-cu13-libs==0.0.0"),
        (&["cnn.onnx", "--gpu", "sm_86", "-o", "/nowhere/out.onnx"], 9, "/nowhere/out.onnx"),
    ] {
        let error = fail_with(imgbuild().current_dir(folder).arg("engine").args(arguments), code);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let mut left: Vec<_> = std::fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").file_name()).collect();
    left.sort();
    assert_eq!(left, ["cnn.onnx", "custom.onnx", "open.onnx", "text.onnx"]);
    // Python is what runs the compiler.
    let error =
        fail_with(imgbuild().current_dir(folder).env("PATH", "/nowhere").args(["engine", "cnn.onnx", "--gpu", "sm_86"]), 1);
    assert!(error.contains("`python3` is not installed"), "{error}");
}

//! A library with an operator of the user's own: in the closure, under the proof, and served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use imgbuild_tests::{fail_with, has, imgbuild, json_file, lock_in, python, root, serve, succeed};

const MODEL: &str = "
import onnx
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ['n'])
node = helper.make_node('Scale', ['x'], ['y'], domain='com.example')
graph = helper.make_graph([node], 'g', [value('x')], [value('y')])
opsets = [helper.make_opsetid('', 17), helper.make_opsetid('com.example', 1)]
onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), 'scale.onnx')
";

const RECIPE: &str = r#"
model = "scale.onnx"
[runtime]
custom-operators = ["libscale.so"]
custom-domains = ["com.example"]
"#;

fn compile(folder: &Path, options: &[&str]) {
    let source = root().join("tests/tools/custom_operator.c");
    let mut command = Command::new("gcc");
    command.current_dir(folder).args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", "libscale.so"]);
    succeed(command.arg(source).args(options));
}

#[test]
fn a_custom_operator_is_packaged_proven_and_served() {
    if !has("gcc") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    succeed(python().current_dir(folder).args(["-c", MODEL]));
    lock_in(folder);
    std::fs::write(folder.join("imgbuild.toml"), "model = \"scale.onnx\"\n").expect("a recipe");
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 3);
    assert!(error.contains("com.example"), "{error}");

    std::fs::write(folder.join("imgbuild.toml"), RECIPE).expect("a recipe");
    // A symbol that nobody has would be found missing by the first request that needs it: the build finds it.
    compile(folder, &["-DMISSING"]);
    let error = fail_with(imgbuild().current_dir(folder).arg("build"), 6);
    assert!(error.contains("`nobody_has_this`") && error.contains("libscale.so"), "{error}");
    assert!(!folder.join("scale.oci").exists());

    // With a library that only this one needs: the closure brings it along.
    compile(folder, &["-Wl,--no-as-needed", "-l:libm.so.6", "-Wl,--as-needed"]);
    succeed(imgbuild().current_dir(folder).args(["build", "--report", "size.json"]));
    let report = json_file(&folder.join("size.json"));
    let library = report["files"]
        .as_array()
        .expect("files")
        .iter()
        .find(|file| file["path"].as_str().is_some_and(|path| path.ends_with("/libscale.so")));
    assert_eq!(
        library.expect("the library")["reason"],
        "/usr/bin/imgserve opens /usr/lib/x86_64-linux-gnu/libscale.so: custom operators of the recipe"
    );
    let (mut running, address) = serve(folder, "oci:scale.oci");
    let body = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[3],"data":[1.0,-2.5,4.0]}]}"#;
    let answer = post(&address, "/v2/models/scale/infer", body);
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([3.0, -7.5, 12.0]), "{answer}");
    assert_eq!(running.terminate(), Some(0));
}

fn post(address: &str, path: &str, body: &str) -> serde_json::Value {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    let length = body.len();
    write!(stream, "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .expect("the server reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

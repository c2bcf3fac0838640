//! Providers of the server: which nodes they took, and what is said where they take none. No GPU takes part: NVIDIA's
//! libraries are stand-ins that say that there is no device.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{imgserve_path, model, python, root, succeed, text};
use serde_json::{Value, json};

const CUDA: &str = "libonnxruntime_providers_cuda.so";
const TENSORRT: &str = "libonnxruntime_providers_tensorrt.so";

fn script(name: &str) -> Command {
    Command::new(root().join("tests/tools").join(name))
}

fn path_of(command: &mut Command) -> PathBuf {
    PathBuf::from(text(&succeed(command).stdout).trim())
}

/// The lines of `imgserve --check`, and its exit status.
fn check(folder: &Path, options: Value, libraries: &Path) -> (Vec<Value>, i32) {
    let file = folder.join("config.json");
    std::fs::write(&file, options.to_string()).expect("the folder can be written");
    let mut command = Command::new(imgserve_path());
    command.arg("--check").arg("--config").arg(&file).env("LD_LIBRARY_PATH", libraries);
    let output = command.output().expect("the server starts");
    let stderr = text(&output.stderr);
    let lines = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (lines, output.status.code().unwrap_or_else(|| panic!("it was killed: {stderr}")))
}

/// The line that says why the server did not start.
fn refusal(folder: &Path, options: Value, libraries: &Path) -> Value {
    let (lines, code) = check(folder, options, libraries);
    let last = lines.last().expect("a line").clone();
    assert_eq!((last["imgserve"].as_str(), code), (Some("error"), 3), "{last}");
    last
}

#[test]
fn nodes_are_counted_by_provider() {
    let folder = tempfile::tempdir().expect("a folder");
    let library = path_of(&mut script("fetch-onnxruntime.sh"));
    let model = model("basic-pitch");
    let options = |library: &Path| json!({"library": library, "model_path": model, "graph_optimization_level": "disable"});
    let (lines, code) = check(folder.path(), options(&library), Path::new(""));
    let session = lines.iter().find(|line| line["phase"] == "session").expect("the phase");
    // Without optimisations the runtime runs the very nodes of the file, as the `onnx` package counts them.
    let count = "import onnx, sys; print(len(onnx.load(sys.argv[1]).graph.node))";
    let expected: u64 = text(&succeed(python().args(["-c", count]).arg(&model)).stdout).trim().parse().expect("a number");
    assert_eq!((&session["nodes"], &session["provider"]), (&json!({"CPUExecutionProvider": expected}), &json!("cpu")));
    assert_eq!(code, 0);

    // A runtime that cannot say it serves all the same.
    let older = path_of(script("fetch-onnxruntime.sh").arg("1.20.1"));
    let (lines, code) = check(folder.path(), options(&older), Path::new(""));
    let session = lines.iter().find(|line| line["phase"] == "session").expect("the phase");
    assert_eq!((&session["nodes"], code), (&Value::Null, 0));

    // A runtime without the provider, and one without plug-ins.
    let with = |library: &Path, provider: &str| json!({"library": library, "model_path": model, "provider": provider});
    let error = refusal(folder.path(), with(&library, "cuda"), Path::new(""));
    assert_eq!((&error["fault"], &error["provider"]), (&json!("absent"), &json!("cuda")), "{error}");
    let error = refusal(folder.path(), with(&older, "nv-tensorrt-rtx"), Path::new(""));
    assert_eq!(error["found"], "1.20.1");
    assert!(error["expected"].as_str().is_some_and(|text| text.starts_with("1.22 or newer")), "{error}");
}

#[test]
fn a_provider_that_does_not_start_says_what_it_lacks() {
    let cuda = path_of(&mut script("fetch-cuda.sh"));
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = scratch.path();
    let stubs = folder.join("stubs");
    succeed(script("cuda_stubs.sh").arg(&stubs).args([cuda.join(CUDA), cuda.join(TENSORRT)]));
    let library = cuda.join("libonnxruntime.so.1");
    let refusal = |provider: &str, libraries: &Path| {
        refusal(folder, json!({"library": library, "model_path": model("basic-pitch"), "provider": provider}), libraries)
    };
    let without = |name: &str| {
        let others = folder.join(format!("without-{name}"));
        std::fs::create_dir(&others).expect("a folder");
        for file in std::fs::read_dir(&stubs).expect("the stand-ins").map(|file| file.expect("a file")) {
            let called = file.file_name().into_string().expect("a name");
            if called != name && called.contains(".so.") && !called.ends_with(".c") && !called.ends_with(".map") {
                std::fs::copy(file.path(), others.join(called)).expect("a copy");
            }
        }
        others
    };

    for provider in ["cuda", "tensorrt"] {
        let error = refusal(provider, &stubs);
        assert_eq!((&error["fault"], &error["provider"]), (&json!("no_device"), &json!(provider)), "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("CUDA failure 100")), "{error}");
        assert!(error["hint"].as_str().is_some_and(|text| text.contains("--gpus all")), "{error}");
    }

    // A library of the image, and one of the driver: the advice is another.
    let error = refusal("cuda", &without("libcublasLt.so.13"));
    assert_eq!(error["missing_library"], "libcublasLt.so.13");
    assert!(error["hint"].as_str().is_some_and(|text| text.contains("into the image")), "{error}");
    let error = refusal("cuda", &without("libcuda.so.1"));
    assert_eq!(error["missing_library"], "libcuda.so.1");
    assert!(error["hint"].as_str().is_some_and(|text| text.contains("no image's")), "{error}");

    // TensorRT of another major version.
    let wrong = without("libnvinfer.so.10");
    std::fs::copy(stubs.join("libnvinfer.so.10"), wrong.join("libnvinfer.so.11")).expect("a copy");
    let error = refusal("tensorrt", &wrong);
    assert_eq!((&error["missing_library"], &error["other_versions"]), (&json!("libnvinfer.so.10"), &json!(["libnvinfer.so.11"])));
    assert!(error["hint"].as_str().is_some_and(|text| text.contains("libnvinfer.so.11")), "{error}");

    // A function that the library wants and the driver does not have.
    let older = folder.join("older");
    std::fs::rename(folder.join("without-libcuda.so.1"), &older).expect("the folder is there");
    std::fs::write(folder.join("empty.c"), "int unused;\n").expect("a file");
    let compile = |source: &Path, output: &Path| {
        let mut gcc = Command::new("gcc");
        succeed(gcc.args(["-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o"]).arg(output).arg(source));
    };
    compile(&folder.join("empty.c"), &older.join("libcuda.so.1"));
    assert_eq!(refusal("cuda", &older)["missing_symbol"], "cuTensorMapEncodeTiled");

    // What the driver says of the GPU stands in the error.
    let source = std::fs::read_to_string(stubs.join("libcuda.so.1.c")).expect("the stand-in");
    let more = "int cuInit(unsigned flags) { return 0; }
        int cuDriverGetVersion(int *version) { *version = 12020; return 0; }
        int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 7 : 5; return 0; }\n";
    std::fs::write(folder.join("talking.c"), source + more).expect("a file");
    let talking = older;
    compile(&folder.join("talking.c"), &talking.join("libcuda.so.1"));
    let error = refusal("cuda", &talking);
    let found = error["found"].as_str().expect("what was found");
    assert!(found.starts_with("a GPU of sm_75") && found.ends_with("which serves CUDA 12.2"), "{error}");
}

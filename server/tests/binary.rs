//! The binary itself, with the real ONNX Runtime, started as an image starts it.
//!
//! The library comes from `tests/tools/fetch-onnxruntime.sh`, the model is written here byte by byte. The judgement by
//! independent clients is `judge.py` beside this file.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The runtime's library, fetched once.
fn library() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools/fetch-onnxruntime.sh");
    let output = Command::new(&script).stderr(Stdio::inherit()).output().expect("the script can be run");
    assert!(output.status.success(), "{} failed", script.display());
    String::from_utf8(output.stdout).expect("a path").trim_end().into()
}

/// What a script of `tests/tools/` prints.
fn printed(script: &str, arguments: &[&Path]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/tools").join(script);
    let output = Command::new(&script).args(arguments).stderr(Stdio::inherit()).output().expect("the script can be run");
    assert!(output.status.success(), "{} failed", script.display());
    String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
}

/// A protobuf field of bytes, text or a message.
fn block(field: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("short enough for one byte");
    [&[field << 3 | 2, length], content].concat()
}

/// A protobuf field of a small number.
fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// A model of one operator on FP32 of [n, 2].
fn model(operator: &str) -> Vec<u8> {
    let dimension = |content: Vec<u8>| block(1, &content);
    let shape = [dimension(block(2, b"n")), dimension(number(1, 2))].concat();
    let tensor = block(1, &[number(1, 1), block(2, &shape)].concat());
    let value = |name: &[u8]| [block(1, name), block(2, &tensor)].concat();
    let node = [block(1, b"x"), block(2, b"y"), block(4, operator.as_bytes())].concat();
    let graph = [block(1, &node), block(2, b"g"), block(11, &value(b"x")), block(12, &value(b"y"))].concat();
    [number(1, 8), block(8, &number(2, 17)), block(7, &graph)].concat()
}

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("imgserve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("the folder can be written to");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Starts the binary and gives it with the lines of its standard error.
fn start(arguments: &[&str], variables: &[(&str, &Path)]) -> (Child, impl Iterator<Item = Value> + use<>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_imgserve"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .env("IMGSERVE_ADDRESS", "127.0.0.1")
        .env("IMGSERVE_PORT", "0")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let lines = lines.map(|line| serde_json::from_str(&line.expect("UTF-8")).expect("each line is one JSON object"));
    (child, lines)
}

/// The exit status and the error line of a start that fails.
fn failure(arguments: &[&str], variables: &[(&str, &Path)]) -> (Option<i32>, Value) {
    let (mut child, mut lines) = start(arguments, variables);
    let error = lines.find(|line| line["imgserve"] == "error").expect("an error line");
    (child.wait().expect("it ends").code(), error)
}

fn ask(address: &str, head: &str, body: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let head = format!("{head}\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answered");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    (String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end + 4..].to_vec())
}

/// Whether a part of a process's heap may take huge pages.
fn heap_takes_huge_pages(process: u32) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps")).expect("the process runs");
    let mut in_heap = false;
    maps.lines().any(|line| {
        let key = line.split(' ').next().unwrap_or_default();
        if !key.ends_with(':') {
            in_heap = line.ends_with("[heap]");
        }
        in_heap && key == "VmFlags:" && line.split(' ').any(|flag| flag == "hg")
    })
}

#[test]
fn a_model_is_served_and_the_server_stops() {
    let folder = Folder::new("serve");
    let model = folder.write("double.onnx", &model("Abs"));
    let variables = [("IMGSERVE_LIBRARY", library()), ("IMGSERVE_MODEL_PATH", model)];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_path()));
    let (mut child, mut lines) = start(&["serve"], &variables);
    let ready = lines.find(|line| line["phase"] == "ready").expect("it becomes ready");
    let address = ready["address"].as_str().expect("the address");

    let (head, body) = ask(address, "GET /v2/models/double HTTP/1.1", b"");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let metadata: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(metadata["inputs"][0]["shape"], serde_json::json!([-1, 2]));

    let request = br#"{"id":"7","inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[-1,2],[-3.5,0]]}]}"#;
    let (head, body) = ask(address, "POST /v2/models/double/infer HTTP/1.1", request);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(answer["outputs"][0]["data"], serde_json::json!([1.0, 2.0, 3.5, 0.0]));
    assert_eq!(answer["id"], "7");

    if Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        assert!(heap_takes_huge_pages(child.id()));
    } else {
        eprintln!("the heap is not looked at: this kernel has no transparent huge pages");
    }

    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is here");
    assert!(kill.success());
    assert!(lines.any(|line| line["message"] == "stopped"));
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_check_says_what_keeps_it_from_starting() {
    let folder = Folder::new("check");
    let (good, bad) = (folder.write("good.onnx", &model("Abs")), folder.write("bad.onnx", &model("Mystery")));
    let library = library();
    let check =
        |model: &Path, library: &Path| failure(&["--check"], &[("IMGSERVE_MODEL_PATH", model), ("IMGSERVE_LIBRARY", library)]);
    let (status, error) = check(&bad, &library);
    assert_eq!((status, &error["operator"]), (Some(4), &Value::from("Mystery")), "{error}");
    let (status, error) = check(&good, Path::new("libnowhere.so.7"));
    assert_eq!((status, &error["missing_library"]), (Some(3), &Value::from("libnowhere.so.7")), "{error}");
    let (status, error) = check(&folder.0.join("none.onnx"), &library);
    assert_eq!((status, &error["stage"]), (Some(4), &Value::from("session")), "{error}");

    let (mut child, lines) = start(&["--check"], &[("IMGSERVE_MODEL_PATH", &good), ("IMGSERVE_LIBRARY", &library)]);
    let phases: Vec<_> = lines.map(|line| line["phase"].as_str().expect("only phases").to_owned()).collect();
    assert_eq!(phases, ["exec", "config", "dlopen", "session", "warm_up", "ready"]);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_gpu_that_was_asked_for_and_is_missing_ends_the_start() {
    let folder = Folder::new("cuda");
    let good = folder.write("good.onnx", &model("Abs"));
    let cuda = PathBuf::from(printed("fetch-cuda.sh", &[]));
    // Libraries that stand in for NVIDIA's: they link, and know no device.
    let stubs = folder.0.join("stubs");
    printed("cuda_stubs.sh", &[&stubs, &cuda.join("libonnxruntime_providers_cuda.so")]);
    let library = cuda.join("libonnxruntime.so.1");
    let start = |options: &str| {
        let config = folder.write("config.json", options.as_bytes());
        let variables = [
            ("IMGSERVE_CONFIG", config.as_path()),
            ("IMGSERVE_MODEL_PATH", &good),
            ("IMGSERVE_LIBRARY", &library),
            ("LD_LIBRARY_PATH", &stubs),
            ("LD_BIND_NOW", Path::new("1")),
            ("ORT_DISABLE_TELEMETRY", Path::new("1")),
        ];
        failure(&["--check"], &variables)
    };
    let cuda_provider = r#"{"provider":"cuda","provider_options":{"device_id":"0","enable_cudnn":"0"}}"#;
    let (status, error) = start(cuda_provider);
    assert_eq!((status, &error["provider"]), (Some(3), &Value::from("cuda")), "{error}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.ends_with("CUDA failure 100: no CUDA-capable device is detected"), "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("--gpus all")), "{error}");

    let (status, error) = start(r#"{"provider":"cuda","provider_options":{"no_such_option":"1"}}"#);
    assert_eq!((status, &error["option"]), (Some(2), &Value::from("`provider_options`")), "{error}");
    let (status, error) = start(r#"{"provider":"rocm"}"#);
    assert!(status == Some(2) && error["message"].as_str().is_some_and(|text| text.contains("`cpu`, `cuda`")), "{error}");

    let (status, error) = start(r#"{"provider":"tensorrt","backend":"tensorflow"}"#);
    assert!(status == Some(2) && error["message"].as_str().is_some_and(|text| text.contains("expected `cpu`")), "{error}");

    std::fs::remove_file(stubs.join("libcublasLt.so.13")).expect("it was there");
    let (status, error) = start(cuda_provider);
    assert_eq!((status, &error["stage"]), (Some(3), &Value::from("dlopen")), "{error}");
    assert_eq!(error["missing_library"], "libcublasLt.so.13", "{error}");
    let provider = cuda.join("libonnxruntime_providers_cuda.so").display().to_string();
    assert_eq!(error["library"], provider, "{error}");
    assert_eq!(error["other_versions"], Value::Null, "{error}");
}

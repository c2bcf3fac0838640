//! Digests of whole images that must not change unless the format of layers does.

use std::collections::BTreeMap;

use imgbuild_tests::elf::{Machine, library, program};
use imgbuild_tests::{imgbuild, json_file, root, succeed, tiny};

const RECIPE: &str = r#"
model = "tiny.onnx"
base = "scratch"
platform = "linux/amd64"
[runtime]
path = "runtime"
[server]
binary = "server"
options = { threads = 2 }
[image]
labels = { "org.opencontainers.image.source" = "https://example.com/tiny" }
env = { TINY = "1" }
[[files]]
from = "labels.txt"
to = "/models/labels.txt"
"#;

/// Rewritten only where IMGBUILD_GOLDEN is set to `write`.
#[test]
fn a_golden_image_keeps_its_digest() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).expect("the folder can be written");
    std::fs::create_dir(folder.path().join("runtime")).expect("a folder");
    write("runtime/libonnxruntime.so.1", &library(Machine::X86_64, "libonnxruntime.so.1", &[]));
    write("server", &program(Machine::X86_64));
    write("tiny.onnx", &tiny::identity());
    write("labels.txt", b"zero\none\n");
    write("imgbuild.toml", RECIPE.as_bytes());
    let mut found = BTreeMap::new();
    for codec in ["gzip", "zstd", "none"] {
        let mut command = imgbuild();
        command.env("IMGBUILD_STORE", folder.path().join("store")).env_remove("IMGBUILD_SERVER").current_dir(&folder);
        succeed(command.args(["build", "--offline", "--compression", codec, "--report", "size.json"]));
        let report = json_file(&folder.path().join("size.json"));
        found.insert(codec, report["image"].clone());
    }
    let path = root().join("tests/golden/image.json");
    if std::env::var_os("IMGBUILD_GOLDEN").is_some_and(|value| value == "write") {
        let text = serde_json::to_string_pretty(&found).expect("plain data") + "\n";
        std::fs::write(&path, text).expect("the repository is writable");
    }
    assert_eq!(
        serde_json::json!(found),
        json_file(&path),
        "bytes of images changed: if that is meant, run `make golden` and say why"
    );
}

//! Device code of a real library: pruned, and judged by NVIDIA's `cuobjdump`, by `readelf`, by the loader, and by ONNX Runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{build_folder, fail_with, has, imgbuild, model, python, root, succeed, text};
use sha2::{Digest, Sha256};

const PROVIDER: &str = "libonnxruntime_providers_cuda.so";
const SMALL: &str = "libonnxruntime_providers_shared.so";

/// The folder with ONNX Runtime for GPUs.
fn cuda() -> PathBuf {
    PathBuf::from(text(&succeed(&mut Command::new(root().join("tests/tools/fetch-cuda.sh"))).stdout).trim())
}

fn prune(library: &Path, output: &Path, gpus: &str) -> serde_json::Value {
    let done = succeed(imgbuild().args(["fatbin", "prune", "--json", "--gpu", gpus]).arg(library).arg("-o").arg(output));
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// The digests of the cubins of a library for an architecture, with how often each occurs, as `cuobjdump` extracts them.
fn cubins(folder: &Path, library: &Path, architecture: &str) -> BTreeMap<Vec<u8>, usize> {
    let scratch = tempfile::tempdir().expect("a folder");
    succeed(Command::new(folder.join("cuobjdump")).current_dir(&scratch).args(["--extract-elf", architecture]).arg(library));
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(&scratch).expect("a folder") {
        let bytes = std::fs::read(file.expect("a file").path()).expect("a cubin");
        *found.entry(Sha256::digest(&bytes).to_vec()).or_default() += 1;
    }
    found
}

/// How far ONNX Runtime comes with the CUDA provider of a folder, and what became of the device code.
fn load(folder: &Path, stubs: &Path, code: i32) -> String {
    let mut command = Command::new(stubs.join("cuda_provider"));
    command.arg(folder.join("libonnxruntime.so.1")).arg(model("basic-pitch"));
    command.env("LD_LIBRARY_PATH", stubs).env("LD_BIND_NOW", "1").env("ORT_DISABLE_TELEMETRY", "1");
    let output = command.output().expect("the program starts");
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn onnxruntimes_provider_for_one_gpu_is_a_quarter_and_loads() {
    let cuda = cuda();
    let original = cuda.join(PROVIDER);
    let folder = tempfile::tempdir().expect("a folder");
    let pruned = folder.path().join(PROVIDER);
    let report = prune(&original, &pruned, "sm_75");
    let size = std::fs::metadata(&pruned).expect("the result").len();
    assert_eq!(report["bytes_before"], 284_014_752);
    assert!(size < 76_000_000 && report["bytes_after"] == size, "{report}");
    assert_eq!((&report["containers"], &report["containers_without_code"]), (&609.into(), &392.into()));
    assert_eq!(report["left_whole"], serde_json::json!([]));

    // NVIDIA's tool finds the same 217 cubins for the GPU in both, and beside them one that shows that there are no others.
    let (before, after) = (cubins(&cuda, &original, "sm_75"), cubins(&cuda, &pruned, "sm_75"));
    assert_eq!(before.values().sum::<usize>(), 217);
    assert_eq!(before, after);
    let listed = succeed(Command::new(cuda.join("cuobjdump")).arg("--list-elf").arg(&pruned));
    assert_eq!(text(&listed.stdout).lines().count(), 218);
    let ours = succeed(imgbuild().args(["fatbin", "list"]).arg(&pruned));
    assert!(text(&ours.stdout).contains("sm_75           217 entries"), "{}", text(&ours.stdout));

    let headers = succeed(Command::new("readelf").args(["-lSdW"]).arg(&pruned));
    assert!(!text(&headers.stdout).contains("Warning") && text(&headers.stderr).is_empty(), "{}", text(&headers.stderr));

    // Loaded by ONNX Runtime, every wrapper that the library registers leads to an intact container, and the exception that the
    // missing GPU causes is caught: the unwinder finds its tables.
    let stubs = folder.path().join("stubs");
    succeed(Command::new(root().join("tests/tools/cuda_stubs.sh")).arg(&stubs).arg(&original));
    let source = root().join("tests/tools/cuda_provider.c");
    succeed(Command::new("gcc").args(["-O1", "-o"]).arg(stubs.join("cuda_provider")).arg(source).arg("-ldl"));
    for name in ["libonnxruntime.so.1", SMALL] {
        std::fs::copy(cuda.join(name), folder.path().join(name)).expect("a copy");
    }
    for (folder, distinct) in [(cuda.as_path(), 609), (folder.path(), 218)] {
        let said = load(folder, &stubs, 0);
        assert!(said.contains("CUDA failure 100") && !said.contains("Failed to load"), "{said}");
        let expected = format!("device code: 609 registered, {distinct} distinct, 0 broken, 12995 kernels");
        assert!(said.contains(&expected), "{said}");
    }
    // What a defect looks like.
    std::fs::remove_file(stubs.join("libcublasLt.so.13")).expect("it was there");
    assert!(load(folder.path(), &stubs, 1).contains("Failed to load"));
}

#[test]
fn several_gpus_at_once_and_gpus_without_code() {
    let original = cuda().join(PROVIDER);
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("out.so");
    let report = prune(&original, &output, "sm_80,sm_90");
    let kept: Vec<&str> =
        report["kept"].as_array().expect("a list").iter().filter_map(|share| share["architecture"].as_str()).collect();
    assert_eq!(kept, ["sm_80", "sm_90a"], "{report}");
    let kept = std::fs::read(&output).expect("the result");
    // A refusal leaves what was there.
    for (gpu, code, expected) in [
        ("sm_70", 3, "the library has no device code that runs on sm_70, only sm_75, sm_80, sm_86, sm_89, sm_90a, sm_120a"),
        ("sm_100", 3, "no device code that runs on sm_100"),
        ("sm_80,sm_87", 3, "no device code that runs on sm_87"),
        ("sm_90a", 2, "`sm_90a` is no GPU architecture"),
    ] {
        let error = fail_with(imgbuild().args(["fatbin", "prune", "--gpu", gpu]).arg(&original).arg("-o").arg(&output), code);
        assert!(error.contains(expected), "{error}");
    }
    assert!(std::fs::read(&output).expect("the result") == kept);
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 1);
}

#[test]
fn files_without_device_code_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let bytes = std::fs::read(cuda().join(SMALL)).expect("a library");
    let mut foreign = bytes.clone();
    foreign[18] = 0x15;
    for (name, content, expected) in [
        ("plain.so", &bytes[..], "has no section `.nv_fatbin`"),
        ("cut.so", &bytes[..bytes.len() / 2], "it was cut short"),
        ("foreign.so", &foreign, "machine is machine 21, expected x86_64 or aarch64"),
        ("text.so", b"INPUT(libcublas.so.13)", "expected the ELF magic"),
        ("empty.so", b"", "the file is empty"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        for arguments in [&["fatbin", "list"][..], &["fatbin", "prune", "--gpu", "sm_75", "-o", "out.so"]] {
            let error = fail_with(imgbuild().current_dir(&folder).args(arguments).arg(&path), 3);
            assert!(error.contains(name) && error.contains(expected), "{name}: {error}");
        }
    }
    let error = fail_with(imgbuild().args(["fatbin", "list"]).arg(folder.path()), 3);
    assert!(error.contains("no regular file"), "{error}");
    let error =
        fail_with(imgbuild().args(["fatbin", "prune", "--gpu", "sm_75", "-o", "/nowhere/out.so"]).arg(cuda().join(PROVIDER)), 9);
    assert!(error.contains("/nowhere/out.so"), "{error}");
    assert!(!folder.path().join("out.so").exists());
}

#[test]
fn memory_does_not_grow_with_the_library() {
    if !has("prlimit") {
        return;
    }
    // The program itself takes 8 MB; the library has 284.
    let folder = tempfile::tempdir().expect("a folder");
    let mut limited = Command::new("prlimit");
    limited.arg("--data=32000000").arg(imgbuild().get_program()).args(["fatbin", "prune", "--gpu", "sm_75,sm_90"]);
    succeed(limited.arg(cuda().join(PROVIDER)).arg("-o").arg(folder.path().join("out.so")));
}

#[test]
fn the_comparison_for_gpus_runs_on_the_cpu_too() {
    let scratch = tempfile::tempdir_in(build_folder()).expect("a folder");
    let mut compare = python();
    compare
        .arg(root().join("tests/gpu/compare.py"))
        .args(["--provider", "CPUExecutionProvider", "--scratch"])
        .arg(scratch.path());
    let shown = succeed(compare.arg("--right").arg(cuda().join(PROVIDER)).arg(model("magika")));
    let rows = text(&shown.stdout).lines().filter(|line| line.starts_with("| magika | ") && line.ends_with(" 0 |")).count();
    assert_eq!(rows, 3, "{}", text(&shown.stdout));
}

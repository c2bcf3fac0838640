//! `imgbuild doctor` on this very machine, and on hosts that are made up: a folder with what the kernel and the driver would show, and
//! a management library that the test builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{fail_with, has, imgbuild, lock_in, model_in, succeed, text};
use serde_json::Value;

/// An image of a real model; the labels are those of an image for a GPU.
fn image(folder: &Path, name: &str, labels: &str) -> String {
    let recipe = format!("model = \"magika.onnx\"\noutputs = [\"oci:{name}.oci\"]\n[image.labels]\n{labels}\n");
    std::fs::write(folder.join("imgbuild.toml"), recipe).expect("a recipe");
    succeed(imgbuild().current_dir(folder).arg("build"));
    format!("oci:{name}.oci")
}

fn diagnose(folder: &Path, image: &str, root: Option<&Path>) -> (Value, i32) {
    let mut command = imgbuild();
    command.current_dir(folder).args(["doctor", image, "--json"]);
    if let Some(root) = root {
        command.arg("--host-root").arg(root);
    }
    let output = command.output().expect("it starts");
    let diagnosis = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (diagnosis, output.status.code().expect("it ends by itself"))
}

fn verdict<'a>(diagnosis: &'a Value, subject: &str) -> &'a str {
    let findings = diagnosis["findings"].as_array().expect("findings");
    let finding =
        findings.iter().find(|finding| finding["subject"] == subject).unwrap_or_else(|| panic!("no {subject}: {diagnosis}"));
    finding["verdict"].as_str().expect("a word")
}

/// A host with a driver and a GPU, below a folder.
pub(crate) fn host(folder: &Path, driver: &str, capability: (u32, u32)) -> PathBuf {
    let root = folder.join(format!("host-{driver}-{}{}", capability.0, capability.1));
    let write = |path: &str, content: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("it lies below the root")).expect("a folder");
        std::fs::write(path, content).expect("a file");
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").expect("this machine's");
    write("proc/cpuinfo", &cpu);
    write("proc/driver/nvidia/version", &format!("NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Release Build\n"));
    write("proc/driver/nvidia/gpus/0000:00:1e.0/information", "Model: \t\t Tesla T4\nIRQ: 10\n");
    for node in ["nvidia0", "nvidiactl", "nvidia-uvm"] {
        write(&format!("dev/{node}"), "");
    }
    write("usr/bin/nvidia-ctk", "");
    write("etc/docker/daemon.json", r#"{"runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}"#);
    write("etc/cdi/nvidia.yaml", "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n");
    for library in ["libcuda.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4"] {
        write(&format!("usr/lib/x86_64-linux-gnu/{library}"), "");
    }
    let source = format!(
        "#include <string.h>
        int nvmlInit_v2(void) {{ return 0; }}
        int nvmlSystemGetDriverVersion(char *text, unsigned size) {{ strncpy(text, \"{driver}\", size); return 0; }}
        int nvmlSystemGetCudaDriverVersion_v2(int *version) {{ *version = 13000; return 0; }}
        int nvmlDeviceGetCount_v2(unsigned *count) {{ *count = 1; return 0; }}
        int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {{ *device = 0; return 0; }}
        int nvmlDeviceGetName(void *device, char *text, unsigned size) {{ strncpy(text, \"Made-up GPU\", size); return 0; }}
        int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {{ *major = {}; *minor = {}; return 0; }}\n",
        capability.0, capability.1
    );
    std::fs::write(root.join("nvml.c"), source).expect("a file");
    let library = root.join("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1");
    succeed(Command::new("gcc").args(["-shared", "-fPIC", "-w", "-o"]).arg(&library).arg(root.join("nvml.c")));
    root
}

const LABELS: &str = "\"io.imgbuild.gpu.provider\" = \"cuda\"\n\"io.imgbuild.gpu.sm\" = \"sm_75,sm_86\"\n\"io.imgbuild.gpu.driver\" = \"580\"\n\"io.imgbuild.gpu.cuda\" = \"13.0\"";

#[test]
fn hosts_are_told_from_each_other() {
    if !has("gcc") {
        return;
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = scratch.path();
    model_in(folder, "magika");
    lock_in(folder);
    let plain = image(folder, "plain", "");
    let gpu = image(folder, "gpu", LABELS);

    // This machine, whatever it has: an image for the CPU runs on it.
    let (diagnosis, code) = diagnose(folder, &plain, None);
    assert_eq!((code, &diagnosis["runs"]), (0, &Value::Bool(true)), "{diagnosis}");
    assert_eq!(verdict(&diagnosis, "architecture"), "fits");
    // Whether one for a GPU does is what the driver's own tool says; where there is no driver there is no tool.
    let (diagnosis, code) = diagnose(folder, &gpu, None);
    let has_gpu = Command::new("nvidia-smi").arg("-L").output().is_ok_and(|output| text(&output.stdout).contains("GPU 0"));
    assert_eq!(verdict(&diagnosis, "driver") == "unfit", !has_gpu, "{diagnosis}");
    assert!(has_gpu || (code == 11 && diagnosis["runs"] == false), "{diagnosis}");

    // Hosts that are made up.
    let good = host(folder, "580.65.06", (7, 5));
    let (diagnosis, code) = diagnose(folder, &gpu, Some(&good));
    assert_eq!(code, 0, "{diagnosis}");
    assert_eq!(diagnosis["host"]["gpus"][0]["sm"], "sm_75");
    assert_eq!(diagnosis["host"]["toolkit"]["cdi"], serde_json::json!(["/etc/cdi/nvidia.yaml"]));
    for subject in ["driver", "gpu", "device nodes", "driver's libraries", "container toolkit"] {
        assert_eq!(verdict(&diagnosis, subject), "fits", "{diagnosis}");
    }
    let (diagnosis, code) = diagnose(folder, &gpu, Some(&host(folder, "550.54.15", (7, 5))));
    assert_eq!((verdict(&diagnosis, "driver"), verdict(&diagnosis, "gpu"), code), ("unfit", "fits", 11));
    let (diagnosis, code) = diagnose(folder, &gpu, Some(&host(folder, "580.65.06", (9, 0))));
    assert_eq!((verdict(&diagnosis, "driver"), verdict(&diagnosis, "gpu"), code), ("fits", "unfit", 11));

    // Without the management library the kernel's module is read, which knows no architectures.
    std::fs::remove_file(good.join("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1")).expect("it was there");
    let (diagnosis, code) = diagnose(folder, &gpu, Some(&good));
    assert_eq!((verdict(&diagnosis, "driver"), verdict(&diagnosis, "gpu"), code), ("fits", "unknown", 0), "{diagnosis}");
    assert_eq!(diagnosis["host"]["gpus"][0]["name"], "Tesla T4");
    // One that is no library is said to be none.
    std::fs::write(good.join("usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"), "text").expect("a file");
    let (diagnosis, _) = diagnose(folder, &gpu, Some(&good));
    assert!(diagnosis["host"]["nvml"].as_str().is_some_and(|reason| reason.contains("libnvidia-ml.so.1")), "{diagnosis}");
    std::fs::remove_dir_all(good.join("dev")).expect("it was there");
    assert_eq!(verdict(&diagnose(folder, &gpu, Some(&good)).0, "device nodes"), "unfit");

    // The text says what to do.
    let output = imgbuild().current_dir(folder).args(["doctor", &gpu, "--host-root"]).arg(folder).output().expect("it starts");
    let said = text(&output.stdout);
    assert!(
        said.contains("no    driver") && said.contains("install NVIDIA's driver") && said.contains("will not run here"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(11));
}

#[test]
fn what_is_no_image_is_refused() {
    let scratch = tempfile::tempdir().expect("a folder");
    let folder = scratch.path();
    model_in(folder, "magika");
    lock_in(folder);
    let error = fail_with(imgbuild().current_dir(folder).args(["doctor", "oci:nowhere"]), 9);
    assert!(error.contains("nowhere"), "{error}");
    let wrong = image(folder, "wrong", "\"io.imgbuild.gpu.provider\" = \"cuda\"\n\"io.imgbuild.gpu.sm\" = \"seventy-five\"");
    let error = fail_with(imgbuild().current_dir(folder).args(["doctor", &wrong]), 3);
    assert!(error.contains("io.imgbuild.gpu.sm") && error.contains("seventy-five"), "{error}");
}

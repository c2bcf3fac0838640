//! Stack `tf-xla-gpu`: which libraries a model gets, by stand-ins for the packages; and a server that must not serve without its GPU,
//! over the real TensorFlow for CPUs. What it makes of the real packages is shown by `make gpu-check`.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{
    build_folder, fail_with, imgbuild, imgserve_path, json_file, lock_in, model_in, python, root, succeed, text,
};
use serde_json::{Value, json};

use crate::onnx_cuda::LIBRARIES;
use crate::saved_model::{made, tensorflow};

const PACKAGES: [&str; 10] = [
    "tensorflow",
    "nvidia-cublas-cu12",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cudnn-cu12",
    "nvidia-cufft-cu12",
    "nvidia-cusolver-cu12",
    "nvidia-cusparse-cu12",
    "nvidia-nvjitlink-cu12",
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-nvcc-cu12",
];
const OPERATORS: [&str; 6] = ["MatMul", "FFT", "TridiagonalSolve", "SparseMatrixMatMul", "Conv2D", "XlaCallModule"];
/// What TensorFlow opens before it adds a GPU.
const GATE: [&str; 7] = [
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcufft.so.11",
    "libcusolver.so.11",
    "libcusparse.so.12",
    "libcudnn.so.9",
];

/// A folder with models of one operator each, a lock, and a recipe that takes every package from stand-ins.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
        let tool = |name: &str| root().join("tests/tools").join(name);
        succeed(Command::new(tool("tensorflow_standins.sh")).arg(folder.path().join("standins")));
        succeed(python().arg(tool("saved_model_of.py")).arg(folder.path()).args(OPERATORS));
        lock_in(folder.path());
        let bench = Self(folder);
        bench.recipe(&[]);
        bench
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn standin(&self, name: &str) -> PathBuf {
        self.path().join("standins").join(name)
    }

    /// Writes the recipe, with other sources than the stand-ins for some packages.
    fn recipe(&self, others: &[(&str, &str)]) {
        let source =
            |name: &str| others.iter().find(|(other, _)| *other == name).map_or("path = \"standins\"", |(_, source)| source);
        let tables: String = PACKAGES.iter().map(|name| format!("[runtime.packages.{name}]\n{}\n", source(name))).collect();
        let text = format!("model = \"MatMul\"\nstack = \"tf-xla-gpu\"\ncompression = \"none\"\n{tables}");
        std::fs::write(self.path().join("imgbuild.toml"), text).expect("a recipe");
    }

    fn command(&self, verb: &str, model: &str) -> Command {
        let mut command = imgbuild();
        command.current_dir(self.path()).args([verb, model, "-f", "imgbuild.toml"]);
        command
    }

    /// Builds a model and unpacks the image; gives the report, the image's root and what was said.
    fn build(&self, model: &str, arguments: &[&str]) -> (Value, PathBuf, String) {
        let output = self.path().join(format!("{model}{}.oci", arguments.concat()));
        let mut command = self.command("build", model);
        command.args(["--report", "size.json", "-o", &format!("oci:{}", output.display())]).args(arguments);
        let said = text(&succeed(&mut command).stderr);
        let blob =
            |digest: &Value| output.join("blobs/sha256").join(digest.as_str().expect("a digest").trim_start_matches("sha256:"));
        let manifest = json_file(&blob(&json_file(&output.join("index.json"))["manifests"][0]["digest"]));
        let image = output.with_extension("root");
        std::fs::create_dir(&image).expect("a folder");
        for layer in manifest["layers"].as_array().expect("layers") {
            succeed(Command::new("tar").arg("-xf").arg(blob(&layer["digest"])).arg("-C").arg(&image));
        }
        (json_file(&self.path().join("size.json")), image, said)
    }
}

/// Whether an image has a library, as it came or as an empty one of its name.
fn state(image: &Path, bench: &Bench, library: &str) -> &'static str {
    match std::fs::read(image.join(LIBRARIES).join(library)) {
        Err(_) => "out",
        Ok(found) if found == std::fs::read(bench.standin(library)).expect("the package's") => "real",
        Ok(_) => "empty",
    }
}

#[test]
fn each_model_gets_what_its_operators_call_and_empty_libraries_for_the_rest_of_the_gate() {
    let bench = Bench::new();
    let parts = [
        "fft.so.11",
        "solver.so.11",
        "sparse.so.12",
        "dnn_ops.so.9",
        "dnn_cnn.so.9",
        "dnn_adv.so.9",
        "dnn_engines_precompiled.so.9",
    ];
    for (model, expected) in [
        ("MatMul", ["empty", "empty", "empty", "real", "out", "out", "out"]),
        ("FFT", ["real", "empty", "empty", "real", "out", "out", "out"]),
        ("TridiagonalSolve", ["empty", "real", "real", "real", "out", "out", "out"]),
        ("SparseMatrixMatMul", ["empty", "empty", "real", "real", "out", "out", "out"]),
        ("Conv2D", ["empty", "empty", "empty", "real", "real", "out", "real"]),
        ("XlaCallModule", ["real"; 7]),
    ] {
        let (report, image, _) = bench.build(model, &[]);
        let found = parts.map(|part| state(&image, &bench, &format!("libcu{part}")));
        assert_eq!(found, expected, "{model}");
        // What TensorFlow gives up without is always there, and the server knows its names.
        for library in GATE {
            assert_ne!(state(&image, &bench, library), "out", "{model}: {library}");
        }
        let server = json_file(&image.join("etc/imgserve/config.json"));
        assert_eq!((&server["provider"], &server["provider_libraries"]), (&"cuda".into(), &json!(GATE)), "{model}");
        if model == "MatMul" {
            judge(&report, &image, &bench);
        }
    }
    // Asked for by name, or left alone, the real ones stay.
    let kept = ["--keep", "libcufft.so.11", "--keep", "libcudnn_adv.so.9", "--keep", "ptxas"];
    let (_, image, _) = bench.build("MatMul", &kept);
    assert_eq!(["libcufft.so.11", "libcudnn_adv.so.9"].map(|name| state(&image, &bench, name)), ["real"; 2]);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&image.join("usr/share/cuda/bin/ptxas").metadata().expect("kept").permissions());
    assert_eq!(mode & 0o777, 0o755);
    let (_, image, _) = bench.build("MatMul", &["--minimize", "closure"]);
    assert_eq!(parts.map(|part| state(&image, &bench, &format!("libcu{part}"))), ["real"; 7]);
    let why = text(&succeed(imgbuild().current_dir(bench.path()).args(["why", "oci:MatMul.oci", "libcusparse.so.12"])).stdout);
    assert!(why.contains("from imgbuild") && why.contains("only sparse matrices and cuSOLVER call cuSPARSE"), "{why}");
}

/// Looks at an image of a model that calls little, with other programs than this one.
fn judge(report: &Value, image: &Path, bench: &Bench) {
    // Empty libraries are what they should be to readelf, and the loader takes them with all symbols bound.
    for name in ["libcufft.so.11", "libcusolver.so.11", "libcusparse.so.12"] {
        let library = image.join(LIBRARIES).join(name);
        assert!(library.metadata().expect("it is there").len() < 1000);
        let dynamic = text(&succeed(Command::new("readelf").args(["-dW"]).arg(&library)).stdout);
        assert!(dynamic.contains(&format!("Library soname: [{name}]")) && !dynamic.contains("NEEDED"), "{dynamic}");
        let headers = succeed(Command::new("readelf").args(["-lhW"]).arg(&library));
        assert!(headers.stderr.is_empty() && text(&headers.stdout).contains("DYN"), "{}", text(&headers.stderr));
        let load =
            "import ctypes, os, sys\nlibrary = ctypes.CDLL(sys.argv[1], os.RTLD_NOW)\nassert not hasattr(library, 'cufftPlan1d')";
        succeed(python().args(["-c", load]).arg(&library));
        let omitted = report["omitted"].as_array().expect("omissions").iter().find(|omission| omission["name"] == name);
        let omitted = omitted.unwrap_or_else(|| panic!("{name} is not left out"));
        assert!(omitted["reason"].as_str().is_some_and(|reason| reason.contains("the model")), "{omitted}");
        assert_eq!(omitted["unpacked"].as_u64(), Some(bench.standin(name).metadata().expect("it is there").len()));
    }
    for file in [
        "usr/share/cuda/nvvm/libdevice/libdevice.10.bc",
        "usr/share/doc/nvidia-cuda-nvcc-cu12/License.txt",
        "usr/share/doc/tensorflow/LICENSE",
    ] {
        assert!(image.join(file).is_file(), "{file}");
    }
    assert!(!image.join("usr/share/cuda/bin/ptxas").exists());
    let files = report["files"].as_array().expect("files").iter().filter(|file| {
        file["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with("an empty library in the place of one that is opened and not called"))
    });
    assert_eq!(files.count(), 3);
    assert_eq!(report["gpu"]["on_cpu"], json!([]));
    assert!(
        report["xla"]["left_out"].as_str().is_some_and(|reason| reason.contains("for the GPU that the image finds")),
        "{}",
        report["xla"]
    );
}

#[test]
fn what_does_not_fit_tensorflow_on_a_gpu_is_refused_by_name() {
    let bench = Bench::new();
    for (arguments, expected) in [
        (&["--gpu", "sm_60"][..], "no device code that runs on sm_60, only sm_70, sm_80"),
        (&["--gpu", "sm_60"], "`libtensorflow_cc.so.2` of"),
        (&["--keep", "libcublasXt.so.12"], "libcublasXt.so.12"),
    ] {
        let error = fail_with(bench.command("build", "MatMul").args(arguments), 3);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    let elsewhere = tempfile::tempdir_in(build_folder()).expect("a folder");
    model_in(elsewhere.path(), "magika");
    let onnx = elsewhere.path().join("magika.onnx");
    let matmul = bench.path().join("MatMul");
    for (model, stack, gpu, expected) in [
        (&matmul, "tf-xla", &["--gpu", "sm_75"][..], "such as `tf-xla-gpu`; this one runs on the CPU"),
        (&onnx, "tf-xla-gpu", &[], "stack `tf-xla-gpu` does not serve ONNX models"),
    ] {
        let mut command = imgbuild();
        command.current_dir(&elsewhere).arg("build").arg(model).args(["--stack", stack]).args(gpu);
        let error = fail_with(&mut command, 3);
        assert!(error.contains(expected), "{error}");
    }
    for (package, version, instead) in [
        ("tensorflow", "2.19.1", "tensorflow 2.21.0"),
        ("nvidia-cublas-cu12", "11.11.3.6", "nvidia-cublas-cu12 12.9.1.4"),
        ("nvidia-cudnn-cu12", "8.9.7.29", "nvidia-cudnn-cu12 9.3.0.75"),
        ("nvidia-cufft-cu12", "12.0.0.15", "nvidia-cufft-cu12 11.4.1.4"),
        ("nvidia-cusparse-cu12", "12.0.0.76", "nvidia-cusparse-cu12 12.5.10.65"),
    ] {
        bench.recipe(&[(package, &format!("version = \"{version}\""))]);
        let error = fail_with(&mut bench.command("lock", "MatMul"), 3);
        assert!(error.contains(&format!("{package} {version}")) && error.contains(instead), "{error}");
    }
    // Without a number, the soname tells; a file that is missing or cut short is named.
    for (name, bytes, expected) in [
        ("libcufft.so.12", None, "has `libcufft.so.12`, expected `libcufft.so.11`"),
        ("unrelated", None, "libcufft.so.11"),
        ("libcufft.so.11", Some(100), "libcufft.so.11"),
    ] {
        let folder = bench.path().join("other");
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).expect("a folder");
        let whole = std::fs::read(bench.standin("libcufft.so.11")).expect("the stand-in");
        std::fs::write(folder.join(name), &whole[..bytes.unwrap_or(whole.len())]).expect("a file");
        bench.recipe(&[("nvidia-cufft-cu12", "path = \"other\"")]);
        let output = bench.command("build", "FFT").output().expect("it starts");
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{name}: {error}");
    }
}

/// Compiles a driver's library; gives its folder.
fn driver(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let place = folder.join(name);
    std::fs::create_dir(&place).expect("a folder");
    let source = root().join("tests/tools/cuda_driver.c");
    for (soname, more) in [("libcuda.so.1", arguments), ("libnvidia-ml.so.1", &["-DMANAGEMENT"])] {
        let mut command = Command::new("gcc");
        command.args(["-shared", "-fPIC", "-w", "-O1"]).args(more).arg("-o").arg(place.join(soname)).arg(&source);
        succeed(command.arg(format!("-Wl,-soname,{soname}")));
    }
    place
}

/// The server says what is missing for a GPU, in the order in which it is needed, and serves nothing before that.
#[test]
fn without_its_gpu_the_server_does_not_start_and_says_what_is_missing() {
    let bench = Bench::new();
    let model = made("keras");
    // The environment that made the model has TensorFlow's own libraries, for CPUs.
    let found = "import os, sys, importlib.util as util; print(os.path.dirname(util.find_spec('tensorflow').origin))";
    let program = PathBuf::from(tensorflow().get_program());
    let libraries = PathBuf::from(text(&succeed(Command::new(program).args(["-c", found])).stdout).trim());
    let config = bench.path().join("config.json");
    let start = |driver: Option<&Path>, standins: &Path, options: Value| -> Value {
        let mut all = json!({
            "backend": "tensorflow", "library": libraries.join("libtensorflow_cc.so.2"), "model_path": model, "provider": "cuda",
            "provider_libraries": GATE,
        });
        let known = all.as_object_mut().expect("an object");
        known.extend(options.as_object().expect("an object").clone());
        std::fs::write(&config, all.to_string()).expect("a file");
        let folders = driver.into_iter().chain([standins]).map(|folder| folder.display().to_string()).collect::<Vec<_>>();
        let mut command = Command::new(imgserve_path());
        command.args(["--check", "--config"]).arg(&config).env("LD_LIBRARY_PATH", folders.join(":"));
        let output = command.output().expect("it starts");
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{said}");
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|_| panic!("no JSON: {said}"))
    };
    let none = json!({});
    let standins = bench.path().join("standins");
    // The loader would take these instead of the real ones.
    for own in ["libtensorflow_cc.so.2", "libtensorflow_framework.so.2"] {
        std::fs::remove_file(standins.join(own)).expect("it was there");
    }
    let works = driver(bench.path(), "works", &[]);

    let error = start(None, &standins, none.clone());
    assert_eq!((&error["exit"], &error["missing_library"]), (&json!(3), &json!("libcuda.so.1")), "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("--gpus all")), "{error}");
    let alone = bench.path().join("alone");
    std::fs::create_dir(&alone).expect("a folder");
    std::fs::copy(works.join("libcuda.so.1"), alone.join("libcuda.so.1")).expect("a copy");
    let error = start(Some(&alone), &standins, none.clone());
    assert_eq!(error["missing_library"], "libnvidia-ml.so.1", "{error}");

    for (name, arguments, fault, message) in [
        ("no-device", "-DINIT=100", "no_device", "CUDA failure 100 (CUDA_ERROR_NO_DEVICE)"),
        ("old", "-DINIT=803", "driver", "CUDA failure 803"),
        ("none", "-DGPUS=0", "no_device", "the driver lists no GPU"),
    ] {
        let error = start(Some(&driver(bench.path(), name, &[arguments])), &standins, none.clone());
        assert_eq!((&error["exit"], &error["provider"], &error["fault"]), (&json!(3), &json!("cuda"), &json!(fault)), "{error}");
        assert!(error["message"].as_str().is_some_and(|said| said.contains(message)), "{error}");
    }

    // With a GPU, every library that TensorFlow would open is looked for, and for its own needs.
    for missing in ["libcusparse.so.12", "libnvJitLink.so.12"] {
        std::fs::rename(standins.join(missing), bench.path().join(missing)).expect("it was there");
        let error = start(Some(&works), &standins, none.clone());
        std::fs::rename(bench.path().join(missing), standins.join(missing)).expect("it was there");
        assert_eq!(error["missing_library"], missing, "{error}");
    }
    // All is there, and TensorFlow, which is built for CPUs here, has no GPU all the same.
    let error = start(Some(&works), &standins, none);
    assert_eq!((&error["exit"], &error["stage"]), (&json!(3), &json!("session")), "{error}");
    assert!(error["message"].as_str().is_some_and(|said| said.contains("TensorFlow lists no GPU, only CPU")), "{error}");
    assert!(error["found"].as_str().is_some_and(|found| found.contains("sm_75") && found.contains("CUDA 12.9")), "{error}");

    let error = start(Some(&works), &standins, json!({"provider_options": {"device_id": "0"}}));
    assert!(
        error["message"].as_str().is_some_and(|said| said.contains("`device_id` = `0`") && said.contains("allow_growth")),
        "{error}"
    );
    let error = start(Some(&works), &standins, json!({"provider": "tensorrt"}));
    assert!(error["message"].as_str().is_some_and(|said| said.contains("`cpu` or `cuda`")), "{error}");
}

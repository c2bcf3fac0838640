//! Stack `onnx-cuda`: ONNX Runtime's real CUDA provider; NVIDIA's libraries are stand-ins but for the CUDA runtime. What it takes
//! from the real ones is shown by `make gpu-check`.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{build_folder, fail_with, imgbuild, json_file, lock_in, model_in, python, root, succeed, text};
use serde_json::Value;

pub(crate) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROVIDER: &str = "libonnxruntime_providers_cuda.so";
const NVIDIA: [&str; 7] = [
    "nvidia-cublas",
    "nvidia-cuda-runtime",
    "nvidia-curand",
    "nvidia-cudnn-cu13",
    "nvidia-cufft",
    "nvidia-cuda-nvrtc",
    "nvidia-nvjitlink",
];

/// A folder with models, a lock, and a recipe that takes NVIDIA's packages from stand-ins.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
    runtime: PathBuf,
    stack: &'static str,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of("onnx-cuda", &[PROVIDER])
    }

    /// For a stack; the stand-ins are for some of ONNX Runtime's providers.
    pub(crate) fn of(stack: &'static str, providers: &[&str]) -> Self {
        let runtime = PathBuf::from(text(&succeed(&mut Command::new(root().join("tests/tools/fetch-cuda.sh"))).stdout).trim());
        let folder = tempfile::tempdir_in(build_folder()).expect("a folder");
        let tool = |name: &str| root().join("tests/tools").join(name);
        let providers = providers.iter().map(|name| runtime.join(name));
        succeed(Command::new(tool("cuda_standins.sh")).arg(folder.path().join("nvidia")).args(providers));
        succeed(python().arg(tool("gpu_models.py")).arg(folder.path()));
        lock_in(folder.path());
        let bench = Self { folder, runtime, stack };
        bench.recipe("", &[]);
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the recipe: lines of `[runtime]`, and other packages than the stand-ins by name.
    pub(crate) fn recipe<'a>(&self, runtime: &str, others: &[(&'a str, &'a str)]) {
        let standin = |name: &&'static str| (*name, "path = \"nvidia\"".to_owned());
        let own: [(&str, String); 1] = [("onnxruntime-gpu", format!("path = {:?}", self.runtime))];
        let packages =
            own.into_iter().chain(NVIDIA.iter().map(standin)).filter(|(name, _)| others.iter().all(|(other, _)| other != name));
        let others = others.iter().map(|(name, source)| (*name, (*source).to_owned()));
        let tables: String =
            packages.chain(others).map(|(name, source)| format!("[runtime.packages.{name}]\n{source}\n")).collect();
        let text = format!(
            "model = \"transformer.onnx\"\nstack = \"{}\"\ncompression = \"none\"\n[runtime]\n{runtime}\n{tables}",
            self.stack
        );
        std::fs::write(self.path().join("imgbuild.toml"), text).expect("a recipe");
    }

    /// Builds a model of the folder, with the recipe's other settings; gives the report.
    pub(crate) fn build(&self, model: &str, arguments: &[&str]) -> Built {
        let output = self.path().join(format!("{model}{}.oci", arguments.concat()));
        let mut command = self.command("build", model);
        let done = succeed(command.args(["--report", "size.json", "-o", &format!("oci:{}", output.display())]).args(arguments));
        Built { report: json_file(&self.path().join("size.json")), output, said: text(&done.stderr) }
    }

    pub(crate) fn command(&self, verb: &str, model: &str) -> Command {
        let mut command = imgbuild();
        command.current_dir(self.path()).args([verb, &format!("{model}.onnx"), "-f", "imgbuild.toml"]);
        command
    }
}

pub(crate) struct Built {
    pub(crate) report: Value,
    output: PathBuf,
    said: String,
}

impl Built {
    /// Names of the libraries that are NVIDIA's or ONNX Runtime's.
    pub(crate) fn libraries(&self) -> Vec<String> {
        let ours = ["libcu", "libnv", "libonnx"];
        let names = self.report["files"].as_array().expect("files").iter().filter_map(|file| file["path"].as_str());
        let names = names.filter_map(|path| path.strip_prefix("/usr/lib/x86_64-linux-gnu/"));
        names.filter(|name| ours.iter().any(|start| name.starts_with(start))).map(str::to_owned).collect()
    }

    pub(crate) fn omitted(&self, name: &str) -> (&str, u64) {
        let omitted = self.report["omitted"].as_array().expect("omissions").iter().find(|omission| omission["name"] == name);
        let omitted = omitted.unwrap_or_else(|| panic!("{name} is not left out"));
        (omitted["reason"].as_str().expect("a reason"), omitted["unpacked"].as_u64().expect("bytes"))
    }

    pub(crate) fn blob(&self, digest: &Value) -> PathBuf {
        self.output.join("blobs/sha256").join(digest.as_str().expect("a digest").trim_start_matches("sha256:"))
    }

    pub(crate) fn manifest(&self) -> Value {
        json_file(&self.blob(&json_file(&self.output.join("index.json"))["manifests"][0]["digest"]))
    }

    /// Unpacks the layers over one another, as a container engine does.
    pub(crate) fn unpack(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        for layer in self.manifest()["layers"].as_array().expect("layers") {
            succeed(Command::new("tar").arg("-xf").arg(self.blob(&layer["digest"])).arg("-C").arg(folder));
        }
    }
}

/// Loads ONNX Runtime and its provider from an unpacked image, by the image's own loader, over a driver that has no GPU.
pub(crate) fn load(image: &Path, bench: &Bench, model: &str, provider: &[&str]) -> String {
    let program = bench.path().join("cuda_provider");
    if !program.exists() {
        succeed(
            Command::new("gcc").args(["-O1", "-o"]).arg(&program).arg(root().join("tests/tools/cuda_provider.c")).arg("-ldl"),
        );
    }
    let libraries = image.join(LIBRARIES);
    let driver = bench.path().join("nvidia/driver");
    let mut command = Command::new(image.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(format!("{}:{}", libraries.display(), driver.display())).arg(program);
    command.arg(libraries.join("libonnxruntime.so.1")).arg(bench.path().join(format!("{model}.onnx"))).args(provider);
    let output = command.env("LD_BIND_NOW", "1").env("ORT_DISABLE_TELEMETRY", "1").output().expect("the loader starts");
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// What a library needs, as `readelf` prints it.
fn needed(library: &Path) -> String {
    text(&succeed(Command::new("readelf").args(["-dW"]).arg(library)).stdout)
}

#[test]
fn a_transformer_gets_neither_cudnn_nor_what_is_needed_in_vain_and_loads() {
    let bench = Bench::new();
    let closure = bench.build("transformer", &["--minimize", "closure"]);
    let whole = closure.libraries();
    for name in ["libcurand.so.10", "libcudnn.so.9", "libcudnn_engines_tensor_ir.so.9", "libcufft.so.12", "libnvrtc.so.13"] {
        assert!(whole.contains(&name.to_owned()), "{name}: {whole:?}");
    }
    let small = bench.build("transformer", &[]);
    let expected = [
        "libcublas.so.13",
        "libcublasLt.so.13",
        "libcudart.so.13",
        "libonnxruntime.so.1",
        PROVIDER,
        "libonnxruntime_providers_shared.so",
    ];
    assert_eq!(small.libraries(), expected);
    assert!(small.omitted("libcurand.so.10").0.contains("imports nothing of it"));
    assert!(small.omitted("libcudnn_graph.so.9").0.contains("operators that this model does not have"));
    assert!(small.omitted("libcufft.so.12").0.contains("Rfft"));
    let bytes = std::fs::metadata(bench.path().join("nvidia/libcurand.so.10")).expect("the stand-in").len();
    assert_eq!(small.omitted("libcurand.so.10").1, bytes);
    assert!(!small.report["links"]["dead"].to_string().contains("libcurand"), "{}", small.report["links"]);

    let pruned = bench.build("transformer", &["--gpu", "sm_75"]);
    assert_eq!(pruned.libraries(), expected);
    let of_provider = |built: &Built| {
        let files = built.report["files"].as_array().expect("files");
        files.iter().find(|file| file["path"].as_str().is_some_and(|path| path.ends_with(PROVIDER))).expect("it")["unpacked"]
            .as_u64()
    };
    assert!(of_provider(&small).is_some_and(|bytes| bytes >= 284_014_752));
    assert!(of_provider(&pruned).is_some_and(|bytes| bytes < 76_000_000));
    let (reason, saved) = pruned.omitted(PROVIDER);
    assert!(reason.contains("sm_80, sm_86") && reason.contains("sm_75") && saved > 200_000_000, "{reason}");
    assert_eq!(pruned.report["gpu"]["architectures"], "sm_75");

    // The image says what it needs of a host.
    let config = json_file(&pruned.blob(&pruned.manifest()["config"]["digest"]));
    let labels = &config["config"]["Labels"];
    for (name, value) in [("sm", "sm_75"), ("driver", "580"), ("cuda", "13.0"), ("provider", "cuda")] {
        assert_eq!(labels[format!("io.imgbuild.gpu.{name}")], value, "{labels}");
    }
    let environment = config["config"]["Env"].to_string();
    for variable in ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "NVIDIA_REQUIRE_CUDA=cuda>=13.0"]
    {
        assert!(environment.contains(variable), "{environment}");
    }

    // Loaded for real, all three sets link, and only the GPU is missing.
    for (name, built, has_curand) in [("closure", &closure, true), ("small", &small, false), ("pruned", &pruned, false)] {
        let image = bench.path().join(name);
        built.unpack(&image);
        assert_eq!(needed(&image.join(LIBRARIES).join(PROVIDER)).contains("libcurand"), has_curand, "{name}");
        let said = load(&image, &bench, "transformer", &[]);
        assert!(said.contains("CUDA failure") && !said.contains("Failed to load"), "{name}: {said}");
        let distinct = if name == "pruned" { 218 } else { 609 };
        assert!(said.contains(&format!("609 registered, {distinct} distinct, 0 broken")), "{name}: {said}");
        if name == "small" {
            let server: Value = json_file(&image.join("etc/imgserve/config.json"));
            assert_eq!((&server["provider"], &server["provider_options"]["enable_cudnn"]), (&"cuda".into(), &"0".into()));
            let disabled = server["session_config"]["optimization.disable_specified_optimizers"].to_string();
            let only = server["gpu_operators"].as_array().expect("operators");
            assert!(
                ["Conv", "Attention", "Rfft"].iter().all(|name| only.contains(&Value::from(*name)) == (*name != "Rfft")),
                "{only:?}"
            );
            assert!(disabled.contains("AttentionFusion") && disabled.contains("BiasSoftmaxFusion"), "{server}");
            assert!(image.join("usr/share/doc/nvidia-cublas/License.txt").is_file());
            // What a defect looks like.
            std::fs::remove_file(image.join(LIBRARIES).join("libcublasLt.so.13")).expect("it was there");
            assert!(load(&image, &bench, "transformer", &[]).contains("Failed to load library"));
        }
    }
    let why = succeed(imgbuild().arg("why").arg(format!("oci:{}", small.output.display())).arg("libcudnn_graph.so.9"));
    assert!(text(&why.stdout).contains("operators that this model does not have"), "{}", text(&why.stdout));
}

#[test]
fn each_model_gets_the_parts_of_cudnn_and_the_others_that_it_can_reach() {
    let bench = Bench::new();
    // The CUDA runtime is NVIDIA's own here.
    let real = [("nvidia-cuda-runtime", "version = \"13.5.37\"")];
    bench.recipe("", &real);
    let cnn = bench.build("cnn", &[]).libraries();
    let has = |libraries: &[String], name: &str| libraries.iter().any(|library| library == name);
    for (part, is_in) in [
        ("", true),
        ("_graph", true),
        ("_ops", true),
        ("_cnn", true),
        ("_heuristic", true),
        ("_engines_precompiled", true),
        ("_adv", false),
        ("_ext", false),
        ("_engines_runtime_compiled", false),
        ("_engines_tensor_ir", false),
    ] {
        assert_eq!(has(&cnn, &format!("libcudnn{part}.so.9")), is_in, "{part}: {cnn:?}");
    }
    let kept = bench.build("cnn", &["--keep", "libcudnn_adv.so.9", "--keep", "libcurand.so.10"]);
    assert!(has(&kept.libraries(), "libcudnn_adv.so.9") && has(&kept.libraries(), "libcurand.so.10"));
    let image = bench.path().join("kept");
    kept.unpack(&image);
    assert!(needed(&image.join(LIBRARIES).join(PROVIDER)).contains("libcurand"));
    let server = json_file(&image.join("etc/imgserve/config.json"));
    assert!(server["provider_options"].is_null() && server["gpu_operators"].is_null(), "{server}");
    let said = load(&image, &bench, "cnn", &[]);
    assert!(said.contains("CUDA failure") && !said.contains("Failed to load"), "{said}");

    let recurrent = bench.build("recurrent", &[]).libraries();
    assert!(has(&recurrent, "libcudnn_adv.so.9") && !has(&recurrent, "libcudnn_cnn.so.9"), "{recurrent:?}");
    let fft = bench.build("fft", &[]).libraries();
    let expected = ["libcufft.so.12", "libnvJitLink.so.13", "libnvrtc.so.13", "libnvrtc-builtins.so.13.5"];
    assert!(expected.iter().all(|name| has(&fft, name)) && !has(&fft, "libcudnn.so.9"), "{fft:?}");

    let mixed = bench.build("mixed", &[]);
    assert!(mixed.said.contains("no kernel for 2 nodes") && mixed.said.contains("ai.onnx:Unique (2)"), "{}", mixed.said);
    assert_eq!(mixed.report["gpu"]["on_cpu"], serde_json::json!([{"operator": "ai.onnx:Unique", "nodes": 2}]));
}

#[test]
fn gpus_that_make_no_sense_are_refused() {
    let bench = Bench::new();
    for (arguments, code, expected) in [
        (&["--gpu", "sm_70"][..], 3, "`libonnxruntime_providers_cuda.so` of"),
        (&["--gpu", "sm_70"], 3, "no device code that runs on sm_70, only sm_75, sm_80, sm_86, sm_89, sm_90a, sm_120a"),
        (&["--gpu", "sm_75,sm_100"], 3, "no device code that runs on sm_100"),
        (&["--gpu", "ampere"], 2, "`ampere` is no GPU architecture"),
        (&["--prune-vendor"], 3, "runtime.prune-vendor is `true`, expected GPUs to prune for"),
        (&["--stack", "onnx-cpu"], 3, "runtime.packages.nvidia-cublas"),
    ] {
        let error = fail_with(bench.command("build", "transformer").args(arguments), code);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
    assert!(!bench.path().join("transformer.oci").exists());
    bench.recipe("gpu = [\"75\"]", &[]);
    let error = fail_with(&mut bench.command("build", "transformer"), 3);
    assert!(error.contains("runtime.gpu is `75`, expected `sm_`"), "{error}");
    model_in(bench.path(), "magika");
    let error = fail_with(imgbuild().current_dir(bench.path()).args(["build", "magika.onnx", "--gpu", "sm_75"]), 3);
    assert!(error.contains("stack `onnx-cpu` does not serve sm_75 (`--gpu`)") && error.contains("onnx-cuda"), "{error}");
    bench.recipe("gpu = [\"sm_75\"]\nprune-vendor = true", &[]);
    let built = bench.build("transformer", &[]);
    assert!(built.said.contains("licences") && built.said.contains("--prune-vendor"), "{}", built.said);
}

#[test]
fn versions_that_do_not_go_together_are_refused_with_the_one_to_use() {
    let bench = Bench::new();
    for (package, version, instead) in [
        ("onnxruntime-gpu", "1.26.0", "onnxruntime-gpu 1.31.1"),
        ("onnxruntime-gpu", "1.29.0", "leave it out for the tested one"),
        ("nvidia-cublas", "12.9.1.4", "nvidia-cublas 13.10.0.20"),
        ("nvidia-cuda-runtime", "12.9.79", "nvidia-cuda-runtime 13.5.37"),
        ("nvidia-cudnn-cu13", "8.9.7.29", "nvidia-cudnn-cu13 9.28.1.4"),
        ("nvidia-cudnn-cu13", "9.13.0.50", "nvidia-cudnn-cu13 9.28.1.4"),
        ("nvidia-cufft", "11.4.1.4", "nvidia-cufft 12.5.0.14"),
    ] {
        bench.recipe("", &[(package, &format!("version = \"{version}\""))]);
        let error = fail_with(&mut bench.command("lock", "transformer"), 3);
        assert!(error.contains(&format!("{package} {version}")) && error.contains(instead), "{error}");
    }
    // What is typed comes before the recipe.
    let mut typed = bench.command("lock", "transformer");
    let error = fail_with(typed.args(["--package", "nvidia-cublas=12.9.1.4"]), 3);
    assert!(error.contains("nvidia-cublas 12.9.1.4") && error.contains("nvidia-cublas 13.10.0.20"), "{error}");
    let error = fail_with(bench.command("lock", "transformer").args(["--package", "nvidia-cublas"]), 2);
    assert!(error.contains("expected NAME=VERSION"), "{error}");
    // Without a number, the soname tells.
    let other = bench.path().join("cuda12");
    std::fs::create_dir(&other).expect("a folder");
    for name in ["libcublas.so.12", "libcublasLt.so.12"] {
        std::fs::copy(bench.path().join("nvidia/libcublas.so.13"), other.join(name)).expect("a copy");
    }
    bench.recipe("", &[("nvidia-cublas", "path = \"cuda12\"")]);
    let error = fail_with(&mut bench.command("lock", "transformer"), 3);
    assert!(error.contains("has `libcublas.so.12`, expected `libcublas.so.13`") && error.contains("13.10.0.20"), "{error}");
    bench.recipe("", &[("nvidia-cublass", "version = \"13\"")]);
    let error = fail_with(&mut bench.command("lock", "transformer"), 3);
    assert!(error.contains("no such package") && error.contains("nvidia-cublas, "), "{error}");
    bench.recipe("", &[("nvidia-cublas", "version = \"13\"\npath = \"x\"")]);
    let error = fail_with(&mut bench.command("lock", "transformer"), 3);
    assert!(error.contains("runtime.packages.nvidia-cublas is `both`"), "{error}");
}

#[test]
fn libraries_that_are_cut_short_or_for_another_machine_are_named() {
    let bench = Bench::new();
    let folder = bench.path().join("damaged");
    std::fs::create_dir(&folder).expect("a folder");
    let names = ["libcublas.so.13", "libcublasLt.so.13"];
    for name in names {
        std::fs::copy(bench.path().join("nvidia").join(name), folder.join(name)).expect("a copy");
    }
    bench.recipe("", &[("nvidia-cublas", "path = \"damaged\"")]);
    let whole = std::fs::read(folder.join("libcublasLt.so.13")).expect("the stand-in");
    let mut foreign = whole.clone();
    foreign[18] = 0xb7;
    for (content, code, expected) in [
        (&whole[..whole.len() / 2], 3, "failed to read the library `libcublasLt.so.13` of `nvidia-cublas`"),
        (&foreign, 6, "libcublasLt.so.13"),
    ] {
        std::fs::write(folder.join("libcublasLt.so.13"), content).expect("a file");
        let error = fail_with(&mut bench.command("build", "transformer"), code);
        assert!(error.contains(expected), "{error}");
    }
    assert!(fail_with(&mut bench.command("build", "transformer"), 6).contains("aarch64"));
    std::fs::remove_file(folder.join("libcublasLt.so.13")).expect("it was there");
    let error = fail_with(&mut bench.command("build", "transformer"), 3);
    assert!(error.contains("`nvidia-cublas` has no") || error.contains("libcublasLt.so.13"), "{error}");
}

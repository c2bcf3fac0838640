//! Stack `onnx-tensorrt`: ONNX Runtime's real TensorRT provider; TensorRT, which no registry has, and NVIDIA's other libraries are
//! stand-ins that export what the provider imports.

use std::path::Path;

use imgbuild_tests::{fail_with, json_file};

use crate::onnx_cuda::{Bench, LIBRARIES, load};

const PROVIDERS: [&str; 2] = ["libonnxruntime_providers_cuda.so", "libonnxruntime_providers_tensorrt.so"];
const PACKAGE: &str = "tensorrt-cu13-libs";
const SOURCE: (&str, &str) = (PACKAGE, "path = \"nvidia/tensorrt\"");

#[test]
fn tensorrt_comes_from_a_folder_and_loads_and_builds_engines_unless_the_model_has_one() {
    let bench = Bench::of("onnx-tensorrt", &PROVIDERS);
    let error = fail_with(&mut bench.command("lock", "transformer"), 3);
    assert!(error.contains("no registry has the files of `tensorrt-cu13-libs`"), "{error}");
    assert!(error.contains("[runtime.packages.tensorrt-cu13-libs]"), "{error}");

    bench.recipe("", &[SOURCE]);
    let built = bench.build("transformer", &["--gpu", "sm_75"]);
    let libraries = built.libraries();
    for name in ["libnvinfer.so.10", "libnvonnxparser.so.10", "libcudnn.so.9", "libcudnn_graph.so.9", PROVIDERS[0], PROVIDERS[1]]
    {
        assert!(libraries.iter().any(|library| library == name), "{name}: {libraries:?}");
    }
    let builder = |library: &String| library.starts_with("libnvinfer_builder_resource");
    assert!(libraries.iter().any(builder), "{libraries:?}");
    let other = |library: &String| library.starts_with("libcurand") || library.starts_with("libcudnn_engines");
    assert!(!libraries.iter().any(other), "{libraries:?}");
    let image = bench.path().join("image");
    built.unpack(&image);
    assert_eq!(json_file(&image.join("etc/imgserve/config.json"))["provider"], "tensorrt");
    assert!(image.join("usr/share/doc/tensorrt/LICENSE.txt").is_file());
    let labels = json_file(&built.blob(&built.manifest()["config"]["digest"]))["config"]["Labels"].clone();
    assert_eq!(labels["io.imgbuild.gpu.provider"], "tensorrt");
    let said = load(&image, &bench, "transformer", &["tensorrt"]);
    assert!(said.contains("CUDA failure") && !said.contains("Failed to load"), "{said}");
    std::fs::remove_file(image.join(LIBRARIES).join("libnvonnxparser.so.10")).expect("it was there");
    assert!(load(&image, &bench, "transformer", &["tensorrt"]).contains("Failed to load library"));

    let engine = bench.build("engine", &[]);
    assert!(!engine.libraries().iter().any(builder), "{:?}", engine.libraries());
    assert!(engine.omitted("libnvinfer_builder_resource.so.10.16.1").0.contains("built before"));
}

#[test]
fn another_tensorrt_a_missing_part_and_damaged_files_are_named() {
    let bench = Bench::of("onnx-tensorrt", &PROVIDERS);
    let folder = bench.path().join("other");
    let own = bench.path().join("nvidia/tensorrt");
    let fill = |names: &[(&str, &str)]| {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).expect("a folder");
        for (name, target) in names {
            std::fs::copy(own.join(name), folder.join(target)).expect("a copy");
        }
    };
    bench.recipe("", &[(PACKAGE, "path = \"other\"")]);
    fill(&[("libnvinfer.so.10", "libnvinfer.so.11"), ("libnvonnxparser.so.10", "libnvonnxparser.so.11")]);
    let error = fail_with(&mut bench.command("lock", "transformer"), 3);
    assert!(error.contains("has `libnvinfer.so.11`, expected `libnvinfer.so.10`") && error.contains("10.16.1.11"), "{error}");
    fill(&[("libnvonnxparser.so.10", "libnvonnxparser.so.10")]);
    let error = fail_with(&mut bench.command("build", "transformer"), 3);
    assert!(error.contains("`other` holds no file") && error.contains("libnvinfer.so.10"), "{error}");

    fill(&[("libnvinfer.so.10", "libnvinfer.so.10"), ("libnvonnxparser.so.10", "libnvonnxparser.so.10")]);
    let library: &Path = &folder.join("libnvinfer.so.10");
    let whole = std::fs::read(library).expect("the stand-in");
    std::fs::write(library, &whole[..whole.len() / 2]).expect("a file");
    let error = fail_with(&mut bench.command("build", "transformer"), 3);
    assert!(error.contains("failed to read the library `libnvinfer.so.10` of `tensorrt-cu13-libs`"), "{error}");
    let mut foreign = whole;
    foreign[18] = 0xb7;
    std::fs::write(library, &foreign).expect("a file");
    let error = fail_with(&mut bench.command("build", "transformer"), 6);
    assert!(error.contains("libnvinfer.so.10") && error.contains("aarch64"), "{error}");

    bench.recipe("", &[(PACKAGE, "version = \"11.4.0\"")]);
    let error = fail_with(&mut bench.command("lock", "transformer"), 3);
    assert!(
        error.contains("tensorrt-cu13-libs 11.4.0 does not go with the rest") && error.contains("libnvinfer.so.10"),
        "{error}"
    );
}

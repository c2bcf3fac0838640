//! Images for another processor than this machine's: assembled and proven, not run.

use std::process::Command;

use imgbuild_tests::elf::{Machine, program};
use imgbuild_tests::{fail_with, has, imgbuild, json_file, model_in, succeed, text};

#[test]
fn an_image_for_arm64_is_assembled_and_proven_on_amd64() {
    if !has("skopeo") || !has("umoci") || !has("readelf") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    model_in(folder, "magika");
    let build = || {
        let mut command = imgbuild();
        command.current_dir(folder).args(["build", "magika.onnx", "--platform", "linux/arm64", "--compression", "gzip"]);
        command
    };
    let error = fail_with(&mut build(), 3);
    assert!(error.contains("x86_64") && error.contains("expected linux/arm64") && error.contains("--server"), "{error}");

    std::fs::write(folder.join("server"), program(Machine::Aarch64)).expect("a file");
    succeed(build().args(["--server", "server", "--report", "size.json", "-o", "oci:out:1"]));
    let lock = std::fs::read_to_string(folder.join("imgbuild.lock")).expect("a lock");
    let files: Vec<&str> = lock.lines().filter(|line| line.starts_with("file = ")).collect();
    assert!(
        files.iter().all(|file| file.contains("aarch64.whl") || file.contains("_arm64.deb") || file.contains("_all.deb")),
        "{files:?}"
    );
    let report = json_file(&folder.join("size.json"));
    assert_eq!(report["image"]["platform"], "linux/arm64");
    assert!(report["links"]["symbols"].as_u64().is_some_and(|symbols| symbols > 500), "{}", report["links"]);

    let config = succeed(Command::new("skopeo").current_dir(folder).args(["inspect", "--config", "--raw", "oci:out:1"]));
    assert!(text(&config.stdout).contains("\"architecture\":\"arm64\""));
    succeed(Command::new("umoci").current_dir(folder).args(["unpack", "--rootless", "--image", "out:1", "bundle"]));
    let rootfs = folder.join("bundle/rootfs");
    let libraries = rootfs.join("usr/lib/aarch64-linux-gnu");
    assert!(rootfs.join("usr/lib/ld-linux-aarch64.so.1").exists(), "where programs look for the loader");
    for name in ["libonnxruntime.so.1", "libc.so.6", "libstdc++.so.6"] {
        let header = succeed(Command::new("readelf").arg("-h").arg(libraries.join(name)));
        assert!(text(&header.stdout).contains("AArch64"), "{name}");
    }
}

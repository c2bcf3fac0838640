//! Images for another processor than this machine's: assembled and proven, not run.

use std::process::Command;

use imgbuild_tests::elf::{Machine, dynamic_program, library, program};
use imgbuild_tests::{fail_with, has, imgbuild, json_file, model_in, registry, succeed, text, tiny};
use serde_json::Value;

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

    let server = dynamic_program(Machine::Aarch64, "/lib/ld-linux-aarch64.so.1", &["libc.so.6"]);
    std::fs::write(folder.join("server"), server).expect("a file");
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
    assert!(rootfs.join("lib/ld-linux-aarch64.so.1").exists(), "where programs look for the loader");
    for name in ["libonnxruntime.so.1", "libc.so.6", "libstdc++.so.6"] {
        let header = succeed(Command::new("readelf").arg("-h").arg(libraries.join(name)));
        assert!(text(&header.stdout).contains("AArch64"), "{name}");
    }
}

const RECIPE: &str = r#"
model = "tiny.onnx"
base = "scratch"
[runtime]
path = "runtime-{arch}"
[server]
binary = "server-{arch}"
"#;

#[test]
fn several_platforms_give_one_index_wherever_one_can_lie() {
    if !has("skopeo") || !has("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("the folder can be written");
    for (name, machine) in [("amd64", Machine::X86_64), ("arm64", Machine::Aarch64)] {
        std::fs::create_dir(folder.join(format!("runtime-{name}"))).expect("a folder");
        write(&format!("runtime-{name}/libonnxruntime.so.1"), &library(machine, "libonnxruntime.so.1", &[]));
        write(&format!("server-{name}"), &program(machine));
    }
    write("tiny.onnx", &tiny::identity());
    write("imgbuild.toml", RECIPE.as_bytes());
    let (_registry, address) = registry(folder);
    let reference = format!("{address}/acme/tiny:1");
    let build = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.env_remove("IMGBUILD_SERVER").current_dir(folder);
        command.args(["build", "--offline", "--platform", "linux/amd64,linux/arm64", "--report", "size.json"]).args(arguments);
        command
    };
    let places = ["-o", "oci:out:1", "-o", "oci-archive:out.tar:1", "-o", "docker-archive:docker.tar:tiny:1"];
    succeed(build(&["-t", &reference, "--push", "--compression", "gzip"]).args(places));
    let digests = ["amd64", "arm64"].map(|name| {
        let report = json_file(&folder.join(format!("size-{name}.json")));
        assert_eq!(report["image"]["platform"], format!("linux/{name}"));
        assert!(folder.join(format!("imgbuild-{name}.lock")).exists());
        report["image"]["digest"].as_str().expect("a digest").to_owned()
    });
    let skopeo = |arguments: &[&str]| succeed(Command::new("skopeo").current_dir(folder).args(arguments)).stdout;
    let remote = format!("docker://{reference}");
    let mut raw = Vec::new();
    for place in ["oci:out:1", "oci-archive:out.tar:1", &remote] {
        let bytes = skopeo(&["inspect", "--raw", "--tls-verify=false", place]);
        let index: Value = serde_json::from_slice(&bytes).expect("JSON");
        let entries = index["manifests"].as_array().expect("an index");
        assert_eq!(
            entries.iter().map(|entry| entry["digest"].as_str()).collect::<Vec<_>>(),
            digests.each_ref().map(|digest| Some(digest.as_str())),
            "{place}"
        );
        assert_eq!(entries[1]["platform"], serde_json::json!({ "architecture": "arm64", "os": "linux" }));
        raw.push(bytes);
    }
    assert!(raw.iter().all(|bytes| *bytes == raw[0]), "the same index everywhere");
    // skopeo finds every blob of both images.
    skopeo(&["copy", "-q", "--all", "--src-tls-verify=false", &remote, "dir:copied"]);
    let config = skopeo(&["inspect", "--override-arch", "arm64", "--config", "--raw", "--tls-verify=false", &remote]);
    assert!(text(&config).contains("\"architecture\":\"arm64\""));
    skopeo(&["copy", "-q", "docker-archive:docker.tar", "dir:one"]);
    // Both locks are up to date, and the same again.
    succeed(build(&["--locked", "--compression", "gzip", "-o", "oci:again:1"]).env("TZ", "Asia/Tokyo"));
    assert_eq!(skopeo(&["inspect", "--raw", "oci:again:1"]), raw[0]);
}

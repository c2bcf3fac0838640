//! A real model becomes an image that other people's tools accept and that answers as ONNX Runtime does.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use imgbuild_tests::{
    Running, fail_with, free_port, has, imgbuild, json_file, model_in, python, registry, root, succeed, text, wait_for,
};

fn build(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let model = model_in(folder, "magika");
    let report = folder.join("size.json");
    succeed(imgbuild().current_dir(folder).args(["build"]).arg(&model).arg("--report").arg(&report).args(arguments));
    json_file(&report)
}

#[test]
fn the_image_is_small_has_no_shell_and_does_not_run_as_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = build(folder.path(), &[]);
    let shared = &report["totals"]["without_model"];
    assert!(shared["compressed"].as_u64().expect("a number") <= 16_000_000, "{shared}");
    assert!(shared["unpacked"].as_u64().expect("a number") <= 45_000_000, "{shared}");
    let paths: Vec<&str> = report["files"].as_array().expect("a list").iter().filter_map(|file| file["path"].as_str()).collect();
    for name in ["sh", "bash", "dash", "busybox", "python3"] {
        assert!(!paths.iter().any(|path| path.rsplit('/').next() == Some(name)), "{name} is in the image");
    }
    assert!(!paths.iter().any(|path| Path::new(path).extension().is_some_and(|extension| extension == "py")));
    let inspected = succeed(imgbuild().current_dir(&folder).args(["inspect", "oci:magika.oci", "--verify", "--json"]));
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.stdout).expect("JSON");
    assert_eq!(inspected["config"]["User"], "65532:65532");
    assert_eq!(inspected["digest"], report["image"]["digest"]);
}

#[test]
fn the_image_specification_s_schemas_accept_index_manifest_and_config() {
    let folder = tempfile::tempdir().expect("a folder");
    build(folder.path(), &["-o", "oci:zstd", "--compression", "zstd"]);
    build(folder.path(), &["-o", "oci:gzip", "--compression", "gzip"]);
    let schemas = text(&succeed(&mut Command::new(root().join("tests/tools/image-spec.sh"))).stdout);
    let judge = root().join("tests/tools/judge_image_spec.py");
    succeed(python().current_dir(&folder).arg(judge).arg(schemas.trim()).args(["zstd", "gzip"]));
}

#[test]
fn the_highest_level_is_smaller_still() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = build(folder.path(), &["--compression", "zstd:19"]);
    let compressed = report["totals"]["without_model"]["compressed"].as_u64().expect("a number");
    assert!(compressed <= 14_000_000, "{compressed}");
}

#[test]
fn skopeo_and_umoci_read_what_is_written() {
    if !has("skopeo") || !has("umoci") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let report = build(
        folder.path(),
        &[
            "--compression",
            "gzip",
            "-o",
            "oci:layout:1",
            "-o",
            "oci-archive:image.tar",
            "-o",
            "docker-archive:docker.tar:magika:1",
        ],
    );
    let digest = report["image"]["digest"].as_str().expect("a digest");
    for place in ["oci:layout:1", "oci-archive:image.tar"] {
        let seen = succeed(Command::new("skopeo").current_dir(&folder).args(["inspect", "--format", "{{.Digest}}", place]));
        assert_eq!(text(&seen.stdout).trim(), digest, "{place}");
    }
    succeed(Command::new("skopeo").current_dir(&folder).args(["copy", "docker-archive:docker.tar", "dir:copied"]));
    succeed(Command::new("umoci").current_dir(&folder).args(["unpack", "--rootless", "--image", "layout:1", "bundle"]));
    let rootfs = folder.path().join("bundle/rootfs");
    assert!(rootfs.join("usr/bin/imgserve").is_file());
    let passwd = std::fs::read_to_string(rootfs.join("etc/passwd")).expect("the user data base");
    assert!(passwd.contains("nonroot:x:65532:65532"));
    // What the report says of every file is what umoci unpacked.
    for file in report["files"].as_array().expect("a list") {
        let path = file["path"].as_str().expect("a path").trim_start_matches('/');
        let bytes = std::fs::read(rootfs.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(bytes.len() as u64, file["unpacked"].as_u64().expect("a number"), "{path}");
    }
}

#[test]
fn a_push_arrives_in_a_registry_with_the_same_digest_and_comes_back() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (_registry, address) = registry(folder.path());
    let reference = format!("{address}/acme/magika:1");
    let report = build(folder.path(), &["-t", &reference, "--push"]);
    let digest = report["image"]["digest"].as_str().expect("a digest");
    let source = format!("docker://{reference}");
    let seen = succeed(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &source]));
    assert_eq!(text(&seen.stdout).trim(), digest);
    let why = succeed(imgbuild().args(["why", &source, "libstdc++.so.6"]));
    assert!(text(&why.stdout).contains("libonnxruntime.so.1 needs libstdc++.so.6"), "{}", text(&why.stdout));
    succeed(imgbuild().current_dir(&folder).args(["push", &source, "oci:back:1"]));
    let back = succeed(Command::new("skopeo").current_dir(&folder).args(["inspect", "--format", "{{.Digest}}", "oci:back:1"]));
    assert_eq!(text(&back.stdout).trim(), digest);
    // A registry that is not there is named, with the exit code for destinations.
    drop(_registry);
    let error = fail_with(imgbuild().current_dir(&folder).args(["push", "oci:back:1", &source]).env("IMGBUILD_RETRIES", "1"), 8);
    assert!(error.contains(&address), "{error}");
}

/// Asks a served model through Triton's client, with its defaults, and compares with ONNX Runtime's own Python interface.
fn judge(address: &str, model: &Path) {
    succeed(python().arg(root().join("tests/tools/judge_model.py")).args(["--address", address, "--name", "magika"]).arg(model));
}

#[test]
fn the_embedded_runner_serves_the_image_and_tritonclient_agrees_with_onnxruntime() {
    let folder = tempfile::tempdir().expect("a folder");
    build(folder.path(), &[]);
    let output = folder.path().join("address");
    let file = std::fs::File::create(&output).expect("a file");
    let mut running = Running::start(
        imgbuild()
            .current_dir(&folder)
            .args(["run", "oci:magika.oci", "--runner", "embedded"])
            .stdout(file)
            .stderr(Stdio::null()),
    );
    let address = wait_for(Duration::from_secs(60), || std::fs::read_to_string(&output).ok().filter(|text| text.ends_with('\n')));
    let address = address.expect("an address within a minute");
    judge(address.trim().trim_start_matches("http://"), &folder.path().join("magika.onnx"));
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn docker_loads_and_pulls_the_image_and_serves_it() {
    if !has("dockerd") || !has("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("dockerd");
    let script = root().join("tests/tools/dockerd.sh");
    let started = Command::new(&script).arg("start").arg(&state).output().expect("the script runs");
    if started.status.code() == Some(77) {
        eprintln!("skipped: {}", text(&started.stderr));
        return;
    }
    let host = text(&started.stdout).trim().to_owned();
    assert!(started.status.success(), "{}", text(&started.stderr));
    let stop = || succeed(Command::new(&script).arg("stop").arg(&state));
    let outcome = std::panic::catch_unwind(|| serve_in_docker(folder.path(), &host));
    stop();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// With a root that cannot be written, no capabilities, and nothing else allowed, as clusters start images.
fn serve_read_only(docker: &dyn Fn() -> Command, image: &str, model: &Path) {
    let port = free_port();
    let hardened = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host"];
    let started =
        succeed(docker().args(["run", "--detach"]).args(hardened).args(["--env", &format!("IMGSERVE_PORT={port}"), image]));
    let container = text(&started.stdout).trim().to_owned();
    let address = format!("127.0.0.1:{port}");
    let ready = wait_for(Duration::from_secs(60), || {
        let url = format!("http://{address}/v2/health/ready");
        let asked = Command::new("curl").args(["--silent", "--fail", &url]).status().expect("curl starts");
        asked.success().then_some(())
    });
    assert!(ready.is_some(), "{}", text(&succeed(docker().args(["logs", &container])).stderr));
    judge(&address, model);
    succeed(docker().args(["rm", "--force", &container]));
}

fn serve_in_docker(folder: &Path, host: &str) {
    let (_registry, address) = registry(folder);
    let reference = format!("{address}/acme/magika:1");
    let model = model_in(folder, "magika");
    // Docker before 23.0 reads no zstd layers, so what such an engine pulls is built with gzip.
    succeed(
        imgbuild()
            .current_dir(folder)
            .env("DOCKER_HOST", host)
            .args(["build", "--compression", "gzip", "-t", &reference, "--push", "-o", "docker-daemon:magika:1"])
            .arg(&model),
    );
    let docker = || {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", host);
        command
    };
    succeed(docker().args(["pull", &reference]));
    serve_read_only(&docker, &reference, &model);
    for image in ["magika:1", reference.as_str()] {
        let mut running = imgbuild();
        let output = folder.join("address");
        let file = std::fs::File::create(&output).expect("a file");
        running.current_dir(folder).env("DOCKER_HOST", host).stdout(file).stderr(Stdio::null());
        let mut running = Running::start(running.args(["run", &format!("docker-daemon:{image}"), "--runner", "docker"]));
        let answer =
            wait_for(Duration::from_secs(60), || std::fs::read_to_string(&output).ok().filter(|text| text.ends_with('\n')));
        let answer = answer.unwrap_or_else(|| panic!("{image} gives no address"));
        judge(answer.trim().trim_start_matches("http://"), &model);
        assert_eq!(running.terminate(), Some(0), "{image}");
    }
}

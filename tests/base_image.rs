//! Images as bases: made with Python's own tar, judged by skopeo and umoci, served by the embedded runner.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::{
    fail_with, has, imgbuild, json_file, lock_in, model_in, python, registry, root, serve, shared_store, succeed, text,
};
use serde_json::Value;

/// A folder with a model and a lock of Debian's packages, out of which bases are made.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    model_in(folder.path(), "magika");
    lock_in(folder.path());
    std::fs::copy(folder.path().join("imgbuild.lock"), folder.path().join("debian.lock")).expect("a lock");
    folder
}

/// Makes a base in the layout `bases` and gives its digest.
fn base(folder: &Path, tag: &str, options: &[&str]) -> String {
    let mut command = python();
    command.current_dir(folder).arg(root().join("tests/tools/make_base.py"));
    command.args(["bases", "debian.lock"]).arg(shared_store()).args(["--tag", tag]).args(options);
    text(&succeed(&mut command).stdout).trim().to_owned()
}

fn build(folder: &Path, base: &str, arguments: &[&str]) -> Value {
    let mut command = imgbuild();
    command.current_dir(folder).args(["build", "magika.onnx", "--base", base, "--report", "size.json"]).args(arguments);
    if !arguments.contains(&"--compression") {
        command.args(["--compression", "zstd"]);
    }
    succeed(&mut command);
    json_file(&folder.join("size.json"))
}

fn refused(folder: &Path, base: &str, arguments: &[&str], code: u8) -> String {
    fail_with(imgbuild().current_dir(folder).args(["build", "magika.onnx", "--base", base]).args(arguments), code)
}

fn skopeo(folder: &Path, arguments: &[&str]) -> Value {
    let output = succeed(Command::new("skopeo").current_dir(folder).arg("inspect").args(arguments));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

/// The served image answers as ONNX Runtime does.
fn judge(folder: &Path, image: &str) {
    let (mut running, address) = serve(folder, image);
    let mut command = python();
    command.arg(root().join("tests/tools/judge_model.py")).args(["--address", &address, "--name", "magika"]);
    succeed(command.arg(folder.join("magika.onnx")));
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn the_layers_of_a_base_stay_and_its_libraries_are_not_shipped_again() {
    if !has("skopeo") || !has("umoci") {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    let layers = ["--layer", "etc/gone=x,etc/motd=hello,opt/all/a=1", "--layer=-etc/gone,-opt/all/*", "--history"];
    let config = ["--user", "1001:0", "--env", "LANG=C.UTF-8", "--env", "PATH=/opt/bin:/usr/bin", "--folder", "/work"];
    let digest = base(folder, "a", &[&layers[..], &config].concat());
    let report = build(folder, "oci:bases:a", &["-o", "oci:out:1", "--compression", "gzip"]);

    let below = skopeo(folder, &["--raw", "oci:bases:a"]);
    let above = skopeo(folder, &["--raw", "oci:out:1"]);
    assert_eq!(above["layers"].as_array().expect("layers")[..3], below["layers"].as_array().expect("layers")[..]);
    assert_eq!(above["annotations"]["org.opencontainers.image.base.digest"], digest);
    let below = skopeo(folder, &["--config", "--raw", "oci:bases:a"]);
    let above = skopeo(folder, &["--config", "--raw", "oci:out:1"]);
    assert_eq!(
        above["rootfs"]["diff_ids"].as_array().expect("a list")[..3],
        below["rootfs"]["diff_ids"].as_array().expect("a list")[..]
    );
    assert_eq!(above["history"].as_array().expect("a list")[..4], below["history"].as_array().expect("a list")[..]);
    let config = &above["config"];
    assert_eq!((&config["User"], &config["WorkingDir"]), (&"1001:1001".into(), &"/work".into()));
    let environment = texts(&config["Env"]);
    assert!(["LANG=C.UTF-8", "PATH=/opt/bin:/usr/bin", "ORT_DISABLE_TELEMETRY=1"].iter().all(|pair| environment.contains(pair)));

    // What the report says of the base's layers is what its tars hold, and nothing of the base is in the other layers.
    let layers = report["layers"].as_array().expect("layers");
    assert!(layers[..3].iter().all(|layer| layer["name"] == "base-image"));
    assert_eq!(layers[1]["unpacked"], 7);
    assert_eq!(layers[1]["files"], 3);
    let shipped = |name: &str| {
        report["files"].as_array().expect("files").iter().any(|file| file["path"].as_str().expect("a path").contains(name))
    };
    assert!(shipped("libonnxruntime.so.1") && !shipped("libstdc++") && !shipped("libc.so"), "{}", report["files"]);

    succeed(Command::new("umoci").current_dir(folder).args(["unpack", "--rootless", "--image", "out:1", "bundle"]));
    let rootfs = folder.join("bundle/rootfs");
    assert_eq!(std::fs::read_to_string(rootfs.join("etc/motd")).expect("a file of the base"), "hello");
    assert!(!rootfs.join("etc/gone").exists() && !rootfs.join("opt/all/a").exists());
    assert!(rootfs.join("lib/x86_64-linux-gnu").is_dir() && !rootfs.join("lib").is_symlink());
    let passwd = std::fs::read_to_string(rootfs.join("etc/passwd")).expect("the base had none");
    assert!(passwd.contains("nonroot:x:1001:1001"), "{passwd}");
    let why = succeed(imgbuild().current_dir(folder).args(["why", "oci:out:1", "libstdc++"]));
    assert!(text(&why.stdout).contains("from the base oci:bases:a"), "{}", text(&why.stdout));
    judge(folder, "oci:out:1");
}

#[test]
fn libraries_are_found_where_the_bases_own_loader_finds_them() {
    let folder = folder();
    let folder = folder.path();
    base(folder, "merged", &["--merged"]);
    base(folder, "folder", &["--library-folder", "another-linux-gn"]);
    for tag in ["merged", "folder"] {
        let report = build(folder, &format!("oci:bases:{tag}"), &["-o", &format!("oci:out:{tag}")]);
        assert!(!report["files"].to_string().contains("libc.so"));
        judge(folder, &format!("oci:out:{tag}"));
    }
    let own = succeed(Command::new("id").arg("-u"));
    if text(&own.stdout).trim() != "0" {
        eprintln!("skipped: `ldconfig -r` needs root");
        return;
    }
    base(folder, "cached", &["--cached"]);
    build(folder, "oci:bases:cached", &["-o", "oci:out:cached"]);
    let why = succeed(imgbuild().current_dir(folder).args(["why", "oci:out:cached", "libstdc++"]));
    assert!(text(&why.stdout).contains("/opt/cpp/libstdc++.so.6"), "{}", text(&why.stdout));
    judge(folder, "oci:out:cached");
}

fn stored(digest: &str) -> PathBuf {
    PathBuf::from("store/blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

#[test]
fn a_base_in_a_registry_is_pinned_read_once_and_mounted() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let folder = folder();
    let folder = folder.path();
    let (registry, address) = registry(folder);
    let copy = |tag: &str| {
        let (source, target) = (format!("oci:bases:{tag}"), format!("docker://{address}/base:12"));
        succeed(Command::new("skopeo").current_dir(folder).args([
            "copy",
            "-q",
            "--dest-tls-verify=false",
            "--format",
            "v2s2",
            &source,
            &target,
        ]));
    };
    base(folder, "one", &[]);
    copy("one");
    let named = format!("docker://{address}/base:12");
    let store = folder.join("store");
    let run = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(folder).env("IMGBUILD_STORE", &store).args([
            "-v",
            "build",
            "magika.onnx",
            "--compression",
            "zstd",
            "--base",
            &named,
        ]);
        command.args(["--report", "size.json"]).args(arguments);
        command
    };
    // Docker's media types become OCI's; digests of layers stay.
    succeed(&mut run(&["-t", &format!("{address}/first:1"), "--push"]));
    let report = json_file(&folder.join("size.json"));
    let layer = report["layers"][0]["digest"].as_str().expect("a digest").to_owned();
    let raw = skopeo(folder, &["--tls-verify=false", "--raw", &format!("docker://{address}/first:1")]);
    assert_eq!(raw["layers"][0]["digest"], layer);
    assert_eq!(raw["layers"][0]["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(raw["annotations"]["org.opencontainers.image.base.name"], format!("{address}/base:12"));

    // What the layer holds is known by now: it is neither read nor sent again, the registry mounts it.
    let blob = folder.join(stored(&layer));
    std::fs::remove_file(&blob).expect("the layer was read once");
    let output = succeed(&mut run(&["-t", &format!("{address}/second:1"), "--push", "--locked"]));
    assert!(!blob.exists(), "the layer was fetched again");
    let told = text(&output.stdout);
    let sent = told.lines().find_map(|line| line.split_once(" bytes sent")?.0.rsplit('(').next()?.parse::<u64>().ok());
    let of = |key: &str| report["totals"]["image"][key].as_u64().expect("a number");
    let own = of("compressed") - report["layers"][0]["compressed"].as_u64().expect("a number");
    // Config and manifest besides.
    let limit = own + 100_000;
    assert!(sent.is_some_and(|sent| sent < limit), "{sent:?} bytes of {limit}: {told}");
    succeed(imgbuild().args(["inspect", "--verify", &format!("docker://{address}/second:1")]));

    // A moved tag: `--locked` refuses it, a build keeps to the pin, `lock --update` takes the new one.
    let pinned = report["image"]["digest"].clone();
    base(folder, "two", &["--layer", "etc/motd=two"]);
    copy("two");
    let error = fail_with(&mut run(&["--locked"]), 4);
    assert!(error.contains("base:12` is now sha256:") && error.contains("the lock pins sha256:"), "{error}");
    succeed(&mut run(&[]));
    assert_eq!(json_file(&folder.join("size.json"))["image"]["digest"], pinned);
    drop(registry);
    succeed(&mut run(&["--offline", "--locked"]));
    assert_eq!(json_file(&folder.join("size.json"))["image"]["digest"], pinned);
    let mut update = imgbuild();
    update.current_dir(folder).env("IMGBUILD_STORE", &store).args(["lock", "magika.onnx", "--base", &named, "--update"]);
    let error = fail_with(update.env("IMGBUILD_RETRIES", "1").arg("--offline"), 5);
    assert!(error.contains("offline"), "{error}");
}

#[test]
fn a_base_by_digest_in_a_data_file_is_one_too() {
    let folder = folder();
    let folder = folder.path();
    let digest = base(folder, "a", &["--user", "0:0", "--merged"]);
    let data = format!(
        "format = 1\nname = \"ours\"\nsummary = \"our own base\"\noci = \"oci:bases@{digest}\"\n[user]\nname = \"app\"\nuid = 1234\ngid = 1234\n"
    );
    std::fs::write(folder.join("ours.toml"), data).expect("a file");
    build(folder, "ours.toml", &["-o", "oci:out:1"]);
    let lock = std::fs::read_to_string(folder.join("imgbuild.lock")).expect("a lock");
    assert!(lock.contains("[base-image]") && lock.contains(&digest), "{lock}");
    let shown = succeed(imgbuild().current_dir(folder).args(["inspect", "oci:out:1", "--json"]));
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["config"]["User"], "1234:1234", "a base that runs as root does not make the image do so");
}

#[test]
fn bases_that_do_not_fit_are_refused_for_what_they_are() {
    let folder = folder();
    let folder = folder.path();
    let digest = base(folder, "good", &["--user", "someone"]);
    let error = refused(folder, "oci:bases:good", &[], 3);
    assert!(error.contains("`someone`") && error.contains("/etc/passwd"), "{error}");

    base(folder, "arm", &["--architecture", "arm64"]);
    let error = refused(folder, "oci:bases:arm", &["--platform", "linux/amd64"], 3);
    assert!(error.contains("linux/arm64") && error.contains("linux/amd64"), "{error}");

    base(folder, "old", &["--rename-version", "GLIBC_2.34", "GLIBC_1.34"]);
    let error = refused(folder, "oci:bases:old", &[], 6);
    assert!(error.contains("GLIBC_2.34") && error.contains("libc.so.6") && error.contains("imgserve"), "{error}");

    base(folder, "c", &["--layer=-usr/lib/x86_64-linux-gnu/libstdc++.so.6"]);
    let error = refused(folder, "oci:bases:c", &[], 6);
    assert!(error.contains("`oci:bases:c` lacks libstdc++:") && error.contains("libonnxruntime.so.1"), "{error}");
    base(folder, "nothing", &["--layer=-usr,-lib,-lib64"]);
    let error = refused(folder, "oci:bases:nothing", &[], 6);
    assert!(error.contains("lacks glibc, libgcc, libstdc++:"), "{error}");
    base(folder, "odd", &["--merged", "--layer=-usr/bin,usr/bin=a file"]);
    let error = refused(folder, "oci:bases:odd", &[], 3);
    assert!(error.contains("/usr/bin"), "{error}");

    let none = format!("oci:bases@sha256:{}", "0".repeat(64));
    let error = refused(folder, &none, &[], 3);
    assert!(error.contains(&"0".repeat(64)), "{error}");
    let error = refused(folder, "docker-daemon:debian:12", &[], 3);
    assert!(error.contains("`docker-daemon:debian:12` cannot be the base"), "{error}");
    let error = refused(folder, "oci:nowhere:1", &[], 3);
    assert!(error.contains("nowhere"), "{error}");

    // A layer with other bytes than its digest says, and a manifest of the first schema.
    let base = skopeo_free(folder, &digest);
    let layer = base["layers"][0]["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
    let path = folder.join("bases/blobs/sha256").join(layer);
    let mut bytes = std::fs::read(&path).expect("a layer");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("a layer");
    let mut command = imgbuild();
    command.env("IMGBUILD_STORE", folder.join("store")).current_dir(folder);
    let error = fail_with(command.args(["build", "magika.onnx", "--base", &format!("oci:bases@{digest}")]), 3);
    assert!(error.contains("is damaged"), "{error}");
    let index = std::fs::read_to_string(folder.join("bases/index.json")).expect("an index");
    std::fs::write(folder.join("bases/index.json"), index.replace("\"schemaVersion\": 2", "\"schemaVersion\": 1"))
        .expect("an index");
    let error = refused(folder, "oci:bases:good", &[], 3);
    assert!(error.contains("schemaVersion"), "{error}");
    assert!(!folder.join("magika.oci").exists());
    let lock = std::fs::read(folder.join("imgbuild.lock")).expect("the lock");
    assert!(lock == std::fs::read(folder.join("debian.lock")).expect("the lock"), "a build that fails leaves the lock as it was");
}

/// A manifest out of the layout's own files.
fn skopeo_free(folder: &Path, digest: &str) -> Value {
    json_file(&folder.join("bases/blobs/sha256").join(digest.trim_start_matches("sha256:")))
}

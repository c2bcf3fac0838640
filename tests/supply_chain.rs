//! What a build says of its image, attached in registries and layouts; indexes copied whole; builds on published layers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use imgbuild_tests::wire::Wire;
use imgbuild_tests::{fail_with, has, imgbuild, json_file, model_in, python, registry, root, succeed, text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn json_of(command: &mut Command) -> Value {
    serde_json::from_slice(&succeed(command).stdout).expect("JSON")
}

/// What skopeo reads, byte for byte.
fn raw(image: &str) -> Vec<u8> {
    succeed(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--raw", image])).stdout
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn judge(folder: &Path, digest: &str) {
    succeed(python().arg(root().join("tests/tools/judge_attestations.py")).arg(folder).arg(digest));
}

fn kinds(referrers: &Value) -> BTreeSet<&str> {
    referrers["referrers"].as_array().expect("a list").iter().filter_map(|entry| entry["type"].as_str()).collect()
}

#[test]
fn documents_are_valid_attached_read_back_and_copied() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let (_registry, address) = registry(here);
    let model = model_in(here, "magika");
    let (reference, copy) = (format!("docker://{address}/acme/magika:1"), format!("docker://{address}/prod/magika:1"));
    let name = reference.trim_start_matches("docker://");
    let build = ["build", "-t", name, "--push", "-o", "oci:magika.oci:1", "--sbom", "both", "--attestations", "written"];
    succeed(imgbuild().current_dir(here).args(build).arg(&model));
    let digest = format!("sha256:{}", hex(&raw(&reference)));
    judge(&here.join("written"), &digest);

    // Read back, they are what was written; by digest, another tool sees what they belong to.
    let listed = json_of(imgbuild().current_dir(here).args(["referrers", &reference, "--json", "--output", "fetched"]));
    assert_eq!(listed["subject"], digest.as_str());
    assert_eq!(kinds(&listed).len(), 4, "{listed}");
    for file in ["sbom.cdx.json", "sbom.spdx.json", "provenance.json", "size.json"] {
        let read = |folder: &str| fs::read(here.join(folder).join(file)).expect("a document");
        assert!(read("written") == read("fetched"), "{file}");
    }
    let fallback = format!("docker://{address}/acme/magika:{}", digest.replace(':', "-"));
    let index: Value = serde_json::from_slice(&raw(&fallback)).expect("the list");
    for entry in index["manifests"].as_array().expect("a list") {
        let digest_of = entry["digest"].as_str().expect("a digest");
        let manifest: Value =
            serde_json::from_slice(&raw(&format!("docker://{address}/acme/magika@{digest_of}"))).expect("a manifest");
        assert_eq!(manifest["subject"]["digest"], digest.as_str());
        assert_eq!(manifest["artifactType"], entry["artifactType"]);
    }

    // A file of one's own, and what cosign keeps beside an image, are copied with it.
    fs::write(here.join("scan.json"), b"{\"ok\":true}\n").expect("the folder can be written");
    let kind = "application/vnd.example.scan+json";
    succeed(imgbuild().current_dir(here).args(["attach", &reference, "scan.json", "--type", kind]));
    let signature = format!("{}.sig", digest.replace(':', "-"));
    let signed = |repository: &str| format!("docker://{address}/{repository}/magika:{signature}");
    succeed(Command::new("skopeo").args([
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &reference,
        &signed("acme"),
    ]));
    let copied = json_of(imgbuild().args(["push", &reference, &copy, "--referrers", "--tag", "stable", "--json"]));
    assert_eq!(copied["digest"], digest.as_str());
    assert_eq!(hex(&raw(&signed("prod"))), hex(&raw(&signed("acme"))));
    assert_eq!(hex(&raw(&format!("docker://{address}/prod/magika:stable"))), digest.trim_start_matches("sha256:"));
    let there = json_of(imgbuild().args(["referrers", &copy, "--json"]));
    assert_eq!(kinds(&there).len(), 5, "{there}");

    // Into a layout and out of it again; the image stays the one that is found without a name.
    succeed(imgbuild().current_dir(here).args(["push", &copy, "oci:away", "--referrers"]));
    assert_eq!(kinds(&json_of(imgbuild().current_dir(here).args(["referrers", "oci:away", "--json"]))).len(), 5);
    succeed(imgbuild().current_dir(here).args(["attach", "oci:away", "scan.json", "--type", "text/plain"]));
    let only = ["referrers", "oci:away", "--type", "text/plain", "--json", "--output", "plain"];
    assert_eq!(kinds(&json_of(imgbuild().current_dir(here).args(only))), BTreeSet::from(["text/plain"]));
    assert_eq!(fs::read(here.join("plain/scan.json")).expect("the file"), b"{\"ok\":true}\n");
    assert_eq!(
        json_of(imgbuild().current_dir(here).args(["inspect", "oci:away", "--verify", "--json"]))["digest"],
        digest.as_str()
    );
    let inspect = ["inspect", "--format", "{{.Digest}}", "oci:magika.oci:1"];
    assert_eq!(text(&succeed(Command::new("skopeo").current_dir(here).args(inspect)).stdout).trim(), digest);

    let error = fail_with(imgbuild().current_dir(here).args(["attach", "docker-archive:x.tar", "scan.json", "--type", "a/b"]), 3);
    assert!(error.contains("x.tar"), "{error}");
    fail_with(imgbuild().current_dir(here).args(["attach", &reference, "scan.json", "--type", "nonsense"]), 2);
    fail_with(imgbuild().args(["referrers", &format!("docker://{address}/acme/none:1")]), 8);
}

/// Writes a blob into a layout and gives its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let hex = hex(bytes);
    fs::write(layout.join("blobs/sha256").join(&hex), bytes).expect("the layout can be written");
    json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
}

/// Makes an index of a layout's image and of the same one for arm64, under the tag `all`.
fn make_index(layout: &Path) {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let read = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:").to_owned();
        json_file(&layout.join("blobs/sha256").join(digest))
    };
    let mut index = json_file(&layout.join("index.json"));
    let first = index["manifests"][0].clone();
    let mut manifest = read(&first);
    let mut config = read(&manifest["config"]);
    config["architecture"] = "arm64".into();
    manifest["config"] = blob(layout, "application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config).expect("JSON"));
    let mut second = blob(layout, MANIFEST, &serde_json::to_vec(&manifest).expect("JSON"));
    let mut entry = json!({ "mediaType": MANIFEST, "digest": first["digest"], "size": first["size"] });
    entry["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    second["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    let kind = "application/vnd.oci.image.index.v1+json";
    let all = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": [entry, second] });
    let mut named = blob(layout, kind, &serde_json::to_vec(&all).expect("JSON"));
    named["annotations"] = json!({ "org.opencontainers.image.ref.name": "all" });
    index["manifests"] = json!([named]);
    fs::write(layout.join("index.json"), serde_json::to_vec(&index).expect("JSON")).expect("the layout can be written");
}

#[test]
fn an_index_is_copied_whole_or_for_one_platform_with_the_digests_that_skopeo_gives() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    let (_registry, address) = registry(here);
    let model = model_in(here, "magika");
    succeed(imgbuild().current_dir(here).args(["build", "--platform", "linux/amd64", "-o", "oci:layout:all"]).arg(&model));
    make_index(&here.join("layout"));
    let at = |name: &str| format!("docker://{address}/{name}");
    let push = |from: &str, to: &str, options: &[&str]| {
        json_of(imgbuild().current_dir(here).args(["push", from, to, "--json"]).args(options))
    };
    let whole = push("oci:layout:all", &at("ours/all:1"), &["--all", "--tag", "2"]);
    let skopeo = ["copy", "--all", "--preserve-digests", "--dest-tls-verify=false", "oci:layout:all", &at("theirs/all:1")];
    succeed(Command::new("skopeo").current_dir(here).args(skopeo));
    let theirs = hex(&raw(&at("theirs/all:1")));
    assert_eq!(whole["digest"], format!("sha256:{theirs}"));
    for tag in ["1", "2"] {
        assert_eq!(hex(&raw(&at(&format!("ours/all:{tag}")))), theirs);
    }
    // Between repositories everything is mounted; only manifests travel.
    let copied = push(&at("ours/all:1"), &at("again/all:1"), &["--all"]);
    assert_eq!(copied["pushed"]["bytes_sent"], copied["pushed"]["manifest_bytes"], "{copied}");
    assert_eq!(hex(&raw(&at("again/all:1"))), theirs);
    // Out of the registry again, both with all platforms and with one.
    push(&at("ours/all:1"), "oci:back:all", &["--all"]);
    assert_eq!(hex(&succeed(Command::new("skopeo").current_dir(here).args(["inspect", "--raw", "oci:back:all"])).stdout), theirs);
    let one = push(&at("ours/all:1"), &at("ours/one:1"), &["--platform", "linux/arm64"]);
    let manifest = raw(&at("ours/one:1"));
    assert_eq!(one["digest"], format!("sha256:{}", hex(&manifest)));
    let listed: Value = serde_json::from_slice(&raw(&at("ours/all:1"))).expect("the index");
    assert_eq!(listed["manifests"][1]["digest"], one["digest"]);
    // Annotations make another index, of the same images.
    let noted = push(&at("ours/all:1"), &at("ours/noted:1"), &["--all", "--annotation", "team=ml=ops"]);
    let index: Value = serde_json::from_slice(&raw(&at("ours/noted:1"))).expect("the index");
    assert_eq!(index["annotations"]["team"], "ml=ops");
    assert_eq!(index["manifests"], listed["manifests"]);
    assert_ne!(noted["digest"], whole["digest"]);
    fail_with(imgbuild().current_dir(here).args(["push", "oci:layout:all", "oci:x", "--tag", "2"]), 2);
}

#[test]
fn a_build_on_published_layers_fetches_no_layer_and_sends_the_model_alone() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (_registry, address) = registry(folder.path());
    let within = |name: &str| {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("a new folder");
        path
    };
    let (publisher, ordinary, thin, found) = (within("publisher"), within("ordinary"), within("thin"), within("found"));
    let runtime = format!("{address}/acme/imgbuild-runtime");
    succeed(imgbuild().current_dir(&publisher).args(["publish-runtime", "onnx-cpu", &runtime]));
    // What a build with everything at hand makes.
    let model = model_in(&ordinary, "magika");
    succeed(imgbuild().current_dir(&ordinary).args(["build", "--report", "size.json", "--attestations", "written"]).arg(model));
    let report = json_file(&ordinary.join("size.json"));
    let digest = report["image"]["digest"].as_str().expect("a digest");

    // A machine with nothing: no store, no server, no pip and no apt-get; only a lock in the second case.
    let empty = |folder: &Path, wire: &Wire, repository: &str, options: &[&str]| {
        let model = model_in(folder, "magika");
        let reference = format!("{}/acme/{repository}:1", wire.address);
        let mut command = imgbuild();
        command.current_dir(folder).env("IMGBUILD_STORE", folder.join("store")).env("IMGBUILD_SERVER", "/nonexistent");
        command.env("PATH", "/nonexistent").args(["build", "-t", &reference, "--push", "--report", "size.json"]);
        (text(&succeed(command.args(options).arg(model)).stdout), format!("docker://{address}/acme/{repository}:1"))
    };
    let wire = Wire::start(&address);
    let from = format!("{}/acme/imgbuild-runtime", wire.address);
    let options = ["--runtime-from", &from, "--no-attest"];
    let (said, image) = empty(&thin, &wire, "magika", &options);
    let manifest = raw(&image);
    assert_eq!(format!("sha256:{}", hex(&manifest)), digest);
    for file in ["size.json", "imgbuild.lock"] {
        let read = |folder: &Path| fs::read(folder.join(file)).expect("a file");
        assert!(read(&thin) == read(&ordinary), "{file}");
    }
    let parsed: Value = serde_json::from_slice(&manifest).expect("a manifest");
    let layers = parsed["layers"].as_array().expect("a list");
    let size = |descriptor: &Value| descriptor["size"].as_u64().expect("a size");
    let model_layer = layers.last().expect("a layer");
    // The manifest goes by its digest first and by its tag then.
    let expected = size(model_layer) + size(&parsed["config"]) + 2 * manifest.len() as u64;
    assert!(said.contains(&format!("{expected} bytes sent")), "{expected}: {said}");
    eprintln!("sent {} bytes, of which {expected} are payload; received {} bytes", wire.sent(), wire.received());
    assert!((expected..expected + 32_000).contains(&wire.sent()), "{} of {expected}", wire.sent());
    assert!(wire.received() < 1_000_000, "{}", wire.received());
    let fetched = wire.requests("GET");
    for layer in layers {
        let digest = layer["digest"].as_str().expect("a digest");
        assert!(!fetched.iter().any(|request| request.contains(digest)), "{fetched:?}");
    }

    // With the lock alone it is found beside the image, and the documents are those of the ordinary build.
    fs::copy(ordinary.join("imgbuild.lock"), found.join("imgbuild.lock")).expect("a lock");
    let (_, image) = empty(&found, &Wire::start(&address), "other", &["--locked", "--attestations", "written"]);
    assert_eq!(format!("sha256:{}", hex(&raw(&image))), digest);
    for file in ["sbom.cdx.json", "provenance.json", "size.json"] {
        let read = |folder: &Path| fs::read(folder.join("written").join(file)).expect("a document");
        assert!(read(&found) == read(&ordinary), "{file}");
    }

    // What does not fit is refused and says why.
    let refused = |options: &[&str]| {
        let model = thin.join("magika.onnx");
        fail_with(imgbuild().current_dir(&thin).args(["build"]).args(options).arg(model), 3)
    };
    let error = refused(&["--runtime-from", &runtime, "--compression", "gzip"]);
    assert!(error.contains("compression auto, expected gzip"), "{error}");
    let error = refused(&["--runtime-from", image.trim_start_matches("docker://")]);
    assert!(error.contains("is no published runtime"), "{error}");
}

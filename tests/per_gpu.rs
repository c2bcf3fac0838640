//! `imgbuild build --per-gpu`: an index with an image for all GPUs and one for each, and how the one for a host's GPU is found.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use imgbuild_tests::{fail_with, has, imgbuild, json_file, registry, succeed, text};
use serde_json::Value;

use crate::doctor::host;
use crate::onnx_cuda::Bench;

const SM: &str = "io.imgbuild.gpu.sm";

fn skopeo(arguments: &[&str]) -> Vec<u8> {
    succeed(Command::new("skopeo").args(arguments)).stdout
}

fn inspect(place: &str) -> Value {
    serde_json::from_slice(&skopeo(&["inspect", "--raw", "--tls-verify=false", place])).expect("JSON")
}

fn entries(index: &Value) -> Vec<(&str, &str)> {
    let entries = index["manifests"].as_array().expect("an index").iter();
    entries.map(|entry| (entry["annotations"][SM].as_str().expect("GPUs"), entry["digest"].as_str().expect("a digest"))).collect()
}

/// Layers of a report by their names.
fn layers(report: &Value) -> BTreeMap<String, String> {
    let word = |value: &Value| value.as_str().expect("text").to_owned();
    report["layers"].as_array().expect("layers").iter().map(|layer| (word(&layer["name"]), word(&layer["digest"]))).collect()
}

#[test]
fn an_index_has_an_image_for_each_gpu_that_shares_all_but_the_runtime() {
    if !has("skopeo") || !has("umoci") || !has("docker-registry") {
        return;
    }
    let bench = Bench::new();
    let folder = bench.path();
    let (_registry, address) = registry(folder);
    let reference = format!("{address}/acme/bert");
    let build = |arguments: &[&str]| {
        let mut command = bench.command("build", "transformer");
        command.args(["--gpu", "sm_75,sm_86", "--per-gpu"]).args(arguments);
        command
    };
    let places = ["-o", "oci:out:1", "-o", "oci:out:1-{gpu}", "--report", "size.json", "--attestations", "said"];
    let tags = ["-t", &format!("{reference}:1"), "-t", &format!("{reference}:1-{{gpu}}"), "--push"];
    let done = succeed(build(&places).args(tags));
    let said = text(&done.stdout);
    assert!(said.contains("3 images, 6 layers") && said.contains("in every image: base, model, server"), "{said}");

    // One lock for all, with which the same command gives the same.
    let lock = std::fs::read_to_string(folder.join("imgbuild.lock")).expect("a lock");
    assert!(lock.contains("gpus = [\"sm_75\", \"sm_86\"]") && !folder.join("imgbuild-sm_75.lock").exists(), "{lock}");
    let reports = ["", "-sm_75", "-sm_86"].map(|suffix| json_file(&folder.join(format!("size{suffix}.json"))));
    for (report, gpus) in reports.iter().zip(["sm_75,sm_86", "sm_75", "sm_86"]) {
        assert_eq!(report["gpu"]["architectures"], gpus);
        let own = if gpus.contains(',') { "said".to_owned() } else { format!("said/{gpus}") };
        assert!(folder.join(own).join("sbom.cdx.json").is_file(), "{gpus}");
    }
    let all = reports.each_ref().map(layers);
    for shared in ["base", "server", "model"] {
        assert!(all.iter().all(|layers| layers[shared] == all[0][shared]), "{shared}");
    }
    assert!(all[0]["runtime"] != all[1]["runtime"] && all[1]["runtime"] != all[2]["runtime"]);

    // The index in layout and registry is one, the image for all of them comes first, as it does when it is built alone.
    let index = inspect(&format!("docker://{reference}:1"));
    assert_eq!(index, inspect(&format!("oci:{}:1", folder.join("out").display())));
    let entries = entries(&index);
    let digests = reports.each_ref().map(|report| report["image"]["digest"].as_str().expect("a digest"));
    assert_eq!(entries, [("sm_75,sm_86", digests[0]), ("sm_75", digests[1]), ("sm_86", digests[2])]);
    let alone = bench.build("transformer", &["--gpu", "sm_75,sm_86"]);
    assert_eq!(alone.report["image"]["digest"], digests[0]);
    for entry in index["manifests"].as_array().expect("an index") {
        assert_eq!(entry["platform"], serde_json::json!({ "architecture": "amd64", "os": "linux" }));
    }
    // Each image has a tag of its own, and what an engine takes of the index is the first.
    for (gpu, digest) in [("sm_75", digests[1]), ("sm_86", digests[2])] {
        let manifest =
            skopeo(&["inspect", "--format", "{{.Digest}}", "--tls-verify=false", &format!("docker://{reference}:1-{gpu}")]);
        assert_eq!(text(&manifest).trim(), digest);
        let layout = format!("{}:1-{gpu}", folder.join("out").display());
        succeed(Command::new("umoci").args(["stat", "--json", "--image", &layout]));
    }
    let taken = folder.join("taken").display().to_string();
    skopeo(&["copy", "-q", "--src-tls-verify=false", &format!("docker://{reference}:1"), &format!("dir:{taken}")]);
    assert_eq!(text(&skopeo(&["manifest-digest", &format!("{taken}/manifest.json")])).trim(), digests[0]);
    // All blobs are there, in the registry each once: six layers, three configs and manifests, the index, and what is attached.
    let copied = folder.join("copied").display().to_string();
    skopeo(&["copy", "-q", "--all", "--src-tls-verify=false", &format!("docker://{reference}:1"), &format!("dir:{copied}")]);
    let large = |path: &Path| {
        let found = succeed(Command::new("find").arg(path).args(["-type", "f", "-size", "+64k"]));
        text(&found.stdout).lines().count()
    };
    assert_eq!(large(&folder.join("out/blobs")), large(Path::new(&copied)));
    assert_eq!(large(&folder.join("registry")), large(Path::new(&copied)));

    chosen_by_gpu(folder, &reference, &digests);
    let again = succeed(build(&["--locked", "--offline", "-o", "oci:again:1"]).env("TZ", "Asia/Tokyo"));
    assert!(text(&again.stdout).contains("3 images"));
    assert_eq!(inspect(&format!("oci:{}:1", folder.join("again").display())), index);
}

/// Of an index in a registry and in a layout the image for a GPU is taken, by hand and by `doctor`.
fn chosen_by_gpu(folder: &Path, reference: &str, digests: &[&str; 3]) {
    let remote = format!("docker://{reference}:1");
    let command = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(folder).args(arguments);
        command
    };
    let json = |arguments: &[&str]| -> Value {
        let output = command(arguments).arg("--json").output().expect("it starts");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
    };
    for place in [remote.as_str(), "oci:out:1"] {
        for (arguments, digest, gpus) in [
            (&[][..], digests[0], "sm_75,sm_86"),
            (&["--gpu", "sm_75"], digests[1], "sm_75"),
            (&["--gpu", "sm_86"], digests[2], "sm_86"),
            // Code for sm_86 runs on later GPUs of its major version.
            (&["--gpu", "sm_89"], digests[2], "sm_86"),
        ] {
            let inspected = json(&[&["inspect", place], arguments].concat());
            assert_eq!((&inspected["digest"], &inspected["gpus"]), (&digest.into(), &gpus.into()), "{place} {arguments:?}");
        }
        let error = fail_with(&mut command(&["inspect", place, "--gpu", "sm_90"]), 3);
        assert!(error.contains("sm_90") && error.contains("only for sm_75,sm_86 and for sm_75 and for sm_86"), "{error}");
    }
    succeed(&mut command(&["push", &remote, "oci:one:1", "--gpu", "sm_86"]));
    assert_eq!(json_file(&folder.join("one/index.json"))["manifests"][0]["digest"], digests[2]);
    succeed(&mut command(&["push", &remote, "oci:all:1", "--all"]));
    assert_eq!(json_file(&folder.join("all/index.json"))["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json");

    for (capability, chosen) in [((7, 5), digests[1]), ((8, 9), digests[2]), ((9, 0), digests[0])] {
        let root = host(folder, "580.65.06", capability);
        let root = root.to_str().expect("text");
        let diagnosis = json(&["doctor", &remote, "--host-root", root]);
        let index = &diagnosis["index"];
        assert_eq!((&index["chosen"], &index["first"]), (&chosen.into(), &digests[0].into()), "{diagnosis}");
        assert_eq!(diagnosis["runs"], capability != (9, 0), "{diagnosis}");
        let fits: Vec<&Value> = index["images"].as_array().expect("images").iter().map(|image| &image["fits"]).collect();
        let (major, _) = capability;
        assert_eq!(fits, [&Value::from(major < 9), &Value::from(major == 7), &Value::from(major == 8)], "{diagnosis}");
        let output = command(&["doctor", &remote, "--host-root", root]).output().expect("it starts");
        let said = text(&output.stdout);
        assert!(said.contains(&format!("{} for sm_75,sm_86", digests[0])), "{said}");
        assert_eq!(said.contains(&format!("by its digest: {reference}@{chosen}")), major < 9, "{said}");
    }
    // An image that was asked for is looked at, whether it fits or not.
    let root = host(folder, "580.65.06", (7, 5));
    let asked = json(&["doctor", "oci:out:1", "--gpu", "sm_86", "--host-root", root.to_str().expect("text")]);
    assert_eq!((&asked["index"]["chosen"], &asked["runs"]), (&digests[2].into(), &Value::Bool(false)), "{asked}");
}

#[test]
fn images_for_single_gpus_are_refused_where_there_is_nothing_to_tell_apart() {
    let bench = Bench::new();
    let reference = "localhost:1/acme/bert:1-{gpu}";
    for (arguments, expected) in [
        (&["--per-gpu"][..], "no GPU is named, expected two or more"),
        (&["--per-gpu", "--gpu", "sm_75,sm_75"], "sm_75 alone is named, expected two or more"),
        (&["--gpu", "sm_75,sm_86", "-t", reference], "expected no `{gpu}` unless there is an image for each GPU (`--per-gpu`)"),
        (&["--gpu", "sm_75", "-o", "oci:out:{gpu}"], "outputs is `oci:out:{gpu}`"),
        (&["--gpu", "sm_75,sm_86", "--per-gpu", "-t", reference, "--push"], "without `{gpu}`"),
        (&["--gpu", "sm_75,sm_86", "--per-gpu", "--runtime-from", "localhost:1/acme/runtime"], "expected none with `--per-gpu`"),
    ] {
        let error = fail_with(bench.command("build", "transformer").args(arguments), 3);
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

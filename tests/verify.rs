//! The promotion gate: an image that answers otherwise is told from one that does not, and each kind of difference in its own words.

use std::path::{Path, PathBuf};
use std::process::Command;

use imgbuild_tests::browser::{Browsed, browse};
use imgbuild_tests::{fail_with, has, imgbuild, imgbuild_path, json_file, model, python, registry, root, succeed, text, tiny};

fn tool(name: &str) -> PathBuf {
    root().join("tests/tools").join(name)
}

/// Builds an image of a model and gives its transport.
fn image(folder: &Path, model: &Path, name: &str) -> String {
    let place = format!("oci:{}", folder.join(format!("{name}.oci")).display());
    succeed(imgbuild().current_dir(folder).arg("build").arg(model).args(["--name", "m", "-o", &place]));
    place
}

fn verify(folder: &Path, image: &str, data: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = imgbuild();
    command.current_dir(folder).args(["verify", image, "--data", data]).args(arguments);
    command
}

#[test]
fn metrics_are_those_of_numpy_and_scipy() {
    let program = imgbuild_path().with_file_name("examples").join("metrics");
    assert!(program.exists(), "{} is missing: run `make test`, which builds it", program.display());
    let judged = succeed(python().arg(tool("metrics_judge.py")).arg(&program).args(["--cases", "500"]));
    assert!(text(&judged.stdout).starts_with("500 pairs"), "{}", text(&judged.stdout));
}

#[test]
fn variants_of_a_real_model_fall_on_the_right_side_each_in_its_own_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let original = model("basic-pitch");
    succeed(python().arg(tool("model_variants.py")).arg(&original).arg(folder.join("variants")));
    let reference = image(folder, &original, "reference");
    succeed(imgbuild().current_dir(folder).args(["record", &reference, "--data", "variants/inputs.npz", "-o", "expected"]));
    assert_eq!(std::fs::read_dir(folder.join("expected")).expect("a folder").count(), 16);
    // Recorded samples are ONNX's own form: its package reads them.
    let script = "import onnx, sys; t = onnx.load_tensor(sys.argv[1]); print(onnx.numpy_helper.to_array(t).shape)";
    let shape = succeed(python().args(["-c", script]).arg(folder.join("expected/test_data_set_3/input_0.pb")));
    assert_eq!(text(&shape.stdout).trim(), "(1, 43844, 1)");
    succeed(&mut verify(folder, &reference, "expected", &["--report", "same.json"]));
    let same = json_file(&folder.join("same.json"));
    assert_eq!((same["passed"].as_bool(), same["data"]["samples"].as_u64()), (Some(true), Some(16)));

    let variant = |name: &str| image(folder, &folder.join("variants").join(name).join("model.onnx"), name);
    succeed(&mut verify(folder, &variant("weight-0.0005"), "expected", &[]));
    let cases = [
        ("weight-0.005", "relative-rmse"),
        ("swapped", "outputs were swapped"),
        ("reversed", "another order"),
        ("preprocessing", "every sample"),
        ("nan", "NaN that should be numbers"),
    ];
    for (name, words) in cases {
        let output = verify(folder, &variant(name), "expected", &[]).output().expect("imgbuild runs");
        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(7), "{name}: {shown}");
        assert!(shown.contains(words), "{name}: {shown}");
    }

    variant("weight-0.05");
    page(folder);
    // Against a second image instead of recorded outputs, and as Markdown.
    let arguments = ["--reference", &reference, "--format", "markdown"];
    let output = verify(folder, "oci:weight-0.05.oci", "variants/inputs.npz", &arguments).output().expect("imgbuild runs");
    assert_eq!(output.status.code(), Some(7));
    assert!(text(&output.stdout).starts_with("### ❌ `m` does not answer as it should"), "{}", text(&output.stdout));
    // A policy that allows more lets it pass.
    std::fs::write(folder.join("policy.toml"), "format = 1\n[fp32]\nrelative-rmse = 0.5\n").expect("a file");
    let policy = ["--reference", &reference, "--policy", "policy.toml"];
    succeed(&mut verify(folder, "oci:weight-0.05.oci", "variants/inputs.npz", &policy));

    bad_input(folder, &reference);
}

/// The page of an image that is off, with a test set whose name would be markup.
fn page(folder: &Path) {
    let hostile = "<img src=http:..127.0.0.1:9 onerror=alert(1)>";
    std::os::unix::fs::symlink(folder.join("expected"), folder.join(hostile)).expect("a link");
    let shown = ["--format", "html", "-o", "page.html", "--report", "page.json"];
    let code = verify(folder, "oci:weight-0.05.oci", hostile, &shown).status().expect("imgbuild runs").code();
    assert_eq!(code, Some(7));
    let page = std::fs::read_to_string(folder.join("page.html")).expect("a page");
    assert!(!page.contains("<img") && page.matches("<script>").count() == 1, "the test set's name became markup");
    assert!(page.contains("verdict over\">Failed") && page.contains("relative-rmse") && page.contains("every sample"));
    let report = json_file(&folder.join("page.json"));
    for output in report["outputs"].as_array().expect("outputs") {
        let name = output["name"].as_str().expect("a name");
        // Every element stands in one bar of the histogram, and pairs lie where the report says.
        let areas = areas(&page, &format!("Errors of {name}, elements by power of ten"));
        let counts = areas.iter().map(|(_, text)| {
            let count = text.rsplit_once(" elements").and_then(|(before, _)| before.rsplit(' ').next()?.parse::<u64>().ok());
            count.expect("a count")
        });
        assert_eq!(Some(counts.sum::<u64>()), output["metrics"]["elements"].as_u64());
        let decades = output["metrics"]["error_decades"].as_array().expect("decades").len();
        assert!(areas.len() <= decades + 3, "{areas:?}");
        let points = self::areas(&page, &format!("{name}, actual over expected"));
        assert!(points.len() > 100, "{} points", points.len());
        let mut by_expected: Vec<(f64, i64)> = points
            .iter()
            .map(|(x, text)| (text.rsplit(' ').next().and_then(|end| end.parse().ok()).expect("a number"), *x))
            .collect();
        by_expected.sort_by(|a, b| a.0.total_cmp(&b.0));
        // A point further to the right stands for a larger value, but for the pixel's own width.
        assert!(by_expected.windows(2).all(|pair| pair[0].1 <= pair[1].1 + 1), "{name}");
    }
    if has("chromium") {
        let Browsed { dom, log, requests } = browse(folder, &page);
        assert!(dom.contains("data-overflow=\"0\""), "the page scrolls sideways at 360 px");
        assert!(dom.contains("data-tip=\"equal: ") || dom.contains("data-tip=\"error "), "nothing is shown under the pointer");
        assert!(!log.contains("CONSOLE"), "{log}");
        assert!(!requests.contains("127.0.0.1:9"), "a request leaves the page");
    }
}

/// Where the areas of a plot begin, and what each means.
fn areas(page: &str, label: &str) -> Vec<(i64, String)> {
    let (_, behind) = page.split_once(&format!("aria-label=\"{label};")).unwrap_or_else(|| panic!("no plot `{label}`"));
    let (_, areas) = behind.split_once("data-areas=\"").expect("areas");
    let (areas, _) = areas.split_once('"').expect("an end");
    let areas: Vec<(i64, i64, i64, i64, String)> = serde_json::from_str(&areas.replace("&quot;", "\"")).expect("JSON");
    areas.into_iter().map(|(x, _, _, _, text)| (x, text)).collect()
}

const VERIFICATION: &str = "application/vnd.imgbuild.verification.v1+json";

/// An image that gives back what it gets, and test sets for it: `right` and `wrong`.
fn identity_in(folder: &Path) {
    std::fs::write(folder.join("m.onnx"), tiny::identity()).expect("a file");
    succeed(imgbuild().current_dir(folder).args(["build", "m.onnx", "-o", "oci:m.oci:1"]));
    for (name, expected) in [("right.json", 1.5), ("wrong.json", 2.5)] {
        let tensor =
            |name: &str, value: f64| serde_json::json!({"name": name, "shape": [1], "datatype": "FP32", "data": [value]});
        let request = serde_json::json!({"inputs": [tensor("x", 1.5)], "outputs": [tensor("y", expected)]});
        std::fs::write(folder.join(name), request.to_string()).expect("a file");
    }
    std::fs::write(folder.join("lax.toml"), "format = 1\n[fp32]\nmax-absolute = 5.0\n").expect("a file");
}

#[test]
fn only_a_verification_of_the_very_image_policy_and_data_opens_the_gate() {
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let here = folder.path();
    identity_in(here);
    let (_registry, address) = registry(here);
    let (staging, production) = (format!("docker://{address}/staging/m:1"), format!("docker://{address}/prod/m:1"));
    let run = |words: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(here).args(words);
        command
    };
    let gate = |source: &str, more: &[&str]| run(&[&["push", source, &production, "--require", "verified"], more].concat());
    let refused = |source: &str, more: &[&str], words: &str| {
        let error = fail_with(&mut gate(source, more), 7);
        assert!(error.contains(words), "{error}");
        error
    };
    succeed(&mut run(&["push", "oci:m.oci:1", &staging]));
    let error = refused(&staging, &[], VERIFICATION);
    assert!(error.contains(&format!("imgbuild verify {staging} --data TEST-SET --attach")), "{error}");

    // Failing ones are attached too, and do not count; nor does one by a policy that allows more.
    for (data, policy, code) in [("wrong.json", None, 7), ("wrong.json", Some("lax.toml"), 0)] {
        let policy: Vec<&str> = policy.iter().flat_map(|policy| ["--policy", policy]).collect();
        let mut verified = verify(here, &staging, data, &[&["--attach"], policy.as_slice()].concat());
        assert_eq!(verified.output().expect("imgbuild runs").status.code(), Some(code));
    }
    let error = refused(&staging, &[], "has failed");
    assert!(error.contains("is of another policy"), "{error}");
    succeed(&mut gate(&staging, &["--policy", "lax.toml", "--data", "wrong.json"]));
    refused(&staging, &["--policy", "lax.toml", "--data", "right.json"], "is of another test set");
    succeed(&mut verify(here, &staging, "right.json", &["--attach", "--report", "right.report"]));
    succeed(&mut gate(&staging, &["--data", "right.json", "--referrers"]));

    // Another tool finds the report beside both images, byte for byte.
    let report = std::fs::read(here.join("right.report")).expect("a report");
    let digest = succeed(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &staging]));
    let digest = text(&digest.stdout).trim().to_owned();
    for place in ["staging", "prod"] {
        let found = attached(&format!("{address}/{place}/m"), &digest);
        assert!(found.contains(&report), "{place}: {} reports", found.len());
        assert_eq!(found.len(), 3);
    }

    // In a layout the same. A report that was edited, or is of another image, does not count, whoever attached it.
    refused("oci:m.oci:1", &[], "no verification that passed");
    let attach = |report: &str| succeed(&mut run(&["attach", "oci:m.oci:1", report, "--type", VERIFICATION]));
    succeed(&mut verify(here, "oci:m.oci:1", "wrong.json", &["--policy", "lax.toml", "--report", "lax.report"]));
    let mut edited = json_file(&here.join("lax.report"));
    edited["policy"] = json_file(&here.join("right.report"))["policy"].clone();
    edited["policy_digest"] = json_file(&here.join("right.report"))["policy_digest"].clone();
    std::fs::write(here.join("edited.report"), edited.to_string()).expect("a file");
    attach("edited.report");
    refused("oci:m.oci:1", &[], "do not follow from its metrics and policy");
    let mut foreign = json_file(&here.join("right.report"));
    foreign["image"] = format!("sha256:{}", "0".repeat(64)).into();
    std::fs::write(here.join("foreign.report"), foreign.to_string()).expect("a file");
    attach("foreign.report");
    refused("oci:m.oci:1", &[], "is of another image");
    // Of an archive, which keeps nothing beside its images, a report that is named counts.
    succeed(&mut run(&["push", "oci:m.oci:1", "docker-archive:m.tar"]));
    let error = refused("docker-archive:m.tar", &[], "keeps nothing that is attached");
    assert!(error.contains("--verification"), "{error}");
    refused("oci:m.oci:1", &["--verification", "foreign.report"], "is of another image");
    succeed(&mut gate("oci:m.oci:1", &["--verification", "right.report"]));
    succeed(&mut verify(here, "oci:m.oci:1", "right.json", &["--attach"]));
    succeed(&mut gate("oci:m.oci:1", &["--data", "right.json"]));
    // An archive of the layout has what is attached in the layout.
    succeed(Command::new("tar").current_dir(here).args(["-cf", "layout.tar", "-C", "m.oci", "."]));
    succeed(&mut gate("oci-archive:layout.tar:1", &[]));

    fail_with(&mut gate("oci:m.oci:1", &["--annotation", "a=b"]), 2);
    fail_with(&mut run(&["push", "oci:m.oci:1", &production, "--policy", "lax.toml"]), 2);
    let error = fail_with(&mut verify(here, "docker-archive:m.tar", "right.json", &["--attach"]), 3);
    assert!(error.contains("keeps nothing that is attached"), "{error}");
}

/// The files of a kind that are attached to a digest, as curl reads them from the list that stands in for the API.
fn attached(repository: &str, digest: &str) -> Vec<Vec<u8>> {
    let (host, name) = repository.split_once('/').expect("a registry");
    let get = |path: &str| {
        let accept = "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        succeed(Command::new("curl").args(["-sfL", "-H", accept, &format!("http://{host}/v2/{name}/{path}")])).stdout
    };
    let json = |path: &str| -> serde_json::Value { serde_json::from_slice(&get(path)).expect("JSON") };
    let index = json(&format!("manifests/{}", digest.replace(':', "-")));
    let entries = index["manifests"].as_array().expect("entries").iter().filter(|entry| entry["artifactType"] == VERIFICATION);
    entries
        .map(|entry| {
            let manifest = json(&format!("manifests/{}", entry["digest"].as_str().expect("a digest")));
            assert_eq!(manifest["subject"]["digest"], digest);
            get(&format!("blobs/{}", manifest["layers"][0]["digest"].as_str().expect("a digest")))
        })
        .collect()
}

fn bad_input(folder: &Path, reference: &str) {
    let says = |command: &mut std::process::Command, code: u8, words: &str| {
        let error = fail_with(command, code);
        assert!(error.contains(words), "{error}");
    };
    let cut = folder.join("expected/test_data_set_2/output_1.pb");
    let whole = std::fs::read(&cut).expect("a file");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("a file");
    says(&mut verify(folder, reference, "expected", &[]), 3, "output_1.pb");
    std::fs::write(&cut, &whole).expect("a file");
    let archive = std::fs::read(folder.join("variants/inputs.npz")).expect("a file");
    std::fs::write(folder.join("cut.npz"), &archive[..archive.len() / 2]).expect("a file");
    says(&mut verify(folder, reference, "cut.npz", &[]), 3, "no NumPy archive, or was cut short");
    says(&mut verify(folder, reference, "variants/inputs.npz", &[]), 3, "no expected outputs");
    says(&mut verify(folder, reference, "nowhere", &[]), 3, "nowhere");
    says(&mut verify(folder, reference, "variants", &["--rename", "x"]), 2, "NAME=NAME");
    std::fs::write(folder.join("bad.toml"), "format = 1\n[fp32]\nmax-relative = 0.1\n").expect("a file");
    says(&mut verify(folder, reference, "expected", &["--policy", "bad.toml"]), 3, "only limit");
    std::fs::write(folder.join("wrong.json"), r#"{"inputs": [{"name": "nothing", "shape": [1], "datatype": "FP32", "data": [1]}], "outputs": [{"name": "StatefulPartitionedCall:0", "shape": [1], "datatype": "FP32", "data": [1]}]}"#).expect("a file");
    says(&mut verify(folder, reference, "wrong.json", &[]), 3, "refused `wrong.json` with status 400");
    says(
        imgbuild().current_dir(folder).args(["record", reference, "--data", "variants/inputs.npz", "-o", "expected"]),
        3,
        "already there",
    );
}

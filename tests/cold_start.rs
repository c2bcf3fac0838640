//! `imgbuild coldstart` on the real magika image: every phase measured, parts and whole in agreement, predictions held against a link.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use imgbuild::report::cold_start::{ColdStartReport, PageCache, Phase, Source};
use imgbuild_tests::{fail_with, has, imgbuild, model_in, registry, root, succeed, text};

/// Builds the image in a folder and gives its digest.
fn build(folder: &Path, arguments: &[&str]) -> String {
    let model = model_in(folder, "magika");
    let built = succeed(imgbuild().current_dir(folder).arg("build").arg(&model).arg("--json").args(arguments));
    let report: serde_json::Value = serde_json::from_slice(&built.stdout).expect("JSON");
    report["image"]["digest"].as_str().expect("a digest").to_owned()
}

fn coldstart(folder: &Path, image: &str, arguments: &[&str]) -> Command {
    let mut command = imgbuild();
    command.current_dir(folder).args(["coldstart", image, "--clients", "1,2", "--requests", "40", "--report", "cold.json"]);
    command.args(arguments);
    command
}

fn load(folder: &Path) -> ColdStartReport {
    ColdStartReport::load(&folder.join("cold.json")).expect("a report that holds together")
}

/// What every report must hold, however the image was started.
fn check(report: &ColdStartReport, digest: &str, runs: usize, outside_ms: f64) {
    assert_eq!(report.image.digest.to_string(), digest);
    assert_eq!((report.model.as_str(), report.stack.as_deref()), ("magika", Some("onnx-cpu")));
    let mut counted = 0.0;
    for column in &report.columns {
        assert_eq!(column.start_to_first_answer.samples.len(), runs);
        let starts = || column.phases.iter().filter(|phase| phase.phase >= Phase::Create);
        assert_eq!(starts().count(), 8, "every phase of a start: {column:?}");
        for run in 0..runs {
            let parts: f64 = starts().map(|phase| phase.times.samples[run]).sum();
            let whole = column.start_to_first_answer.samples[run];
            assert!((parts - whole).abs() < 0.02, "run {run}: the parts are {parts} ms, the whole is {whole} ms");
        }
        counted += column.start_to_first_answer.samples.iter().sum::<f64>();
        let of = |phase| column.phases.iter().find(|found| found.phase == phase).expect("it is there").times.smallest();
        // What cannot take no time at all.
        for phase in [Phase::Exec, Phase::Dlopen, Phase::Session, Phase::WarmUp, Phase::FirstInference] {
            assert!(of(phase) > 0.0, "{phase} of {:?}", column.cache);
        }
    }
    let pulls = report.columns[0].phases.iter().filter(|phase| phase.phase < Phase::Create);
    counted += pulls.flat_map(|phase| &phase.times.samples).sum::<f64>();
    assert!(counted < outside_ms, "{counted} ms were counted within {outside_ms} ms");
    assert_eq!(report.steady.iter().map(|row| (row.clients, row.requests)).collect::<Vec<_>>(), [(1, 40), (2, 40)]);
    for row in &report.steady {
        assert!(0.0 < row.p50_ms && row.p50_ms <= row.p95_ms && row.p95_ms <= row.p99_ms && row.per_second > 0.0, "{row:?}");
    }
    // The library and the model alone are more.
    assert!(report.peak_memory.is_some_and(|peak| peak.bytes > 10_000_000), "{:?}", report.peak_memory);
    assert!(report.machine.cores > 0 && report.machine.memory > 0 && report.machine.kernel.starts_with("Linux "));
}

/// A cold start has read a part of the library and not all of it; a file that nobody reads was not touched.
fn check_touched(report: &ColdStartReport) {
    let cold = report.columns.iter().find(|column| column.cache == PageCache::Cold).expect("files of one's own can be dropped");
    assert!(cold.how.contains("posix_fadvise"), "{}", cold.how);
    let library = report.touched.iter().find(|file| file.path.ends_with("libonnxruntime.so.1")).expect("it was read");
    assert!(library.touched > 1_000_000 && library.touched < library.size, "{library:?}");
    assert!(report.touched.iter().all(|file| !file.path.contains("ThirdPartyNotices")), "nobody reads the notices");
}

#[test]
fn a_local_image_is_pulled_started_and_asked_over_a_link_that_was_predicted() {
    let folder = tempfile::tempdir().expect("a folder");
    let digest = build(folder.path(), &[]);
    let begun = Instant::now();
    let arguments = ["--runs", "2", "--runner", "embedded", "--link", "80Mbit/s,20ms"];
    let shown = succeed(&mut coldstart(folder.path(), "oci:magika.oci", &arguments));
    let outside = begun.elapsed().as_secs_f64() * 1e3;
    let report = load(folder.path());
    check(&report, &digest, 2, outside);
    check_touched(&report);
    assert_eq!((report.source, report.runner.as_str()), (Source::Local, "embedded"));
    let table = text(&shown.stdout);
    for part in ["over 80Mbit/s,20ms", "predicted, not measured", "first_inference", "libonnxruntime.so.1", "peak memory"] {
        assert!(table.contains(part), "{part} is missing in\n{table}");
    }
    // 17.7 MB at 10 MB/s: what was measured, and what was computed from a pull without the link.
    let predicted = report.predictions.first().expect("the link itself is predicted").clone();
    assert_eq!(Some(predicted.link), report.link);
    let measured = report.columns[0].phases.iter().find(|phase| phase.phase == Phase::Download).expect("it is there");
    let ratio = predicted.download_ms / measured.times.smallest();
    assert!((0.75..=1.25).contains(&ratio), "predicted {} ms, measured {:?}", predicted.download_ms, measured.times);
    assert_eq!(report.predictions.len(), 4);
    assert!(report.predictions.windows(2).skip(1).all(|pair| pair[0].total_ms > pair[1].total_ms), "{:?}", report.predictions);
}

#[test]
fn two_images_are_measured_in_turn_and_compared_by_their_session() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let head = build(folder, &[]);
    let base = build(folder, &["--optimize", "off", "-o", "oci:base.oci"]);
    assert_ne!(head, base);
    let arguments =
        ["--runs", "1", "--runner", "embedded", "--against", "oci:base.oci", "--against-report", "base.json", "--json"];
    let shown = succeed(&mut coldstart(folder, "oci:magika.oci", &arguments));
    let both: Vec<ColdStartReport> = serde_json::from_slice(&shown.stdout).expect("both reports");
    assert_eq!(both[0], load(folder));
    let read = |name: &str| ColdStartReport::load(&folder.join(name)).expect("a report");
    assert_eq!(both[1], read("base.json"));
    assert_eq!([&both[0], &both[1]].map(|report| report.image.digest.to_string()), [head, base]);
    assert!(both[0].session.is_some() && both[0].session == both[1].session);
    assert!(both.iter().flat_map(|report| &report.columns).all(|column| column.start_to_first_answer.samples.len() == 1));
    let compare = |head: &str| {
        let compared = succeed(imgbuild().current_dir(folder).args(["compare", "base.json", head]));
        text(&compared.stdout)
    };
    assert!(!compare("cold.json").contains("two sessions"));
    // Another session of the same image is another one.
    succeed(&mut coldstart(folder, "oci:magika.oci", &["--runs", "1", "--runner", "embedded"]));
    assert_ne!(read("cold.json").session, both[0].session);
    assert!(compare("cold.json").contains("two sessions"));
    let error = fail_with(imgbuild().current_dir(folder).args(["coldstart", "oci:magika.oci", "--against", "oci:none"]), 9);
    assert!(error.contains("none"), "{error}");
}

#[test]
fn an_ordinary_user_measures_as_root_does() {
    if !has("setpriv") || std::fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).ok() != Some(0) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let digest = build(folder.path(), &[]);
    // Everything that the user needs lies where the user may read.
    let program = folder.path().join("imgbuild");
    std::fs::copy(imgbuild_tests::imgbuild_path(), &program).expect("the program can be copied");
    succeed(Command::new("chown").args(["-R", "65534:65534"]).arg(folder.path()));
    let begun = Instant::now();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["coldstart", "oci:magika.oci", "--runs", "1", "--clients", "1,2", "--requests", "40", "--report", "cold.json"])
        .current_dir(folder.path())
        .env("IMGBUILD_STORE", folder.path().join("store"))
        .output()
        .expect("setpriv runs");
    let said = text(&output.stderr);
    if said.contains("namespace") {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let report = load(folder.path());
    check(&report, &digest, 1, begun.elapsed().as_secs_f64() * 1e3);
    // Files in memory cannot be dropped, and a temporary folder may be there.
    if report.columns.iter().any(|column| column.cache == PageCache::Cold) {
        check_touched(&report);
    }
}

#[test]
fn an_image_is_pulled_from_a_registry_and_only_if_it_is_that_image() {
    if !has("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (_registry, address) = registry(folder.path());
    let reference = format!("{address}/acme/magika:1");
    let digest = build(folder.path(), &["-t", &reference, "--push", "-o", "oci:magika.oci"]);
    let begun = Instant::now();
    let from = format!("{address}/acme/magika");
    let shown = succeed(&mut coldstart(folder.path(), "oci:magika.oci", &["--runs", "1", "--from", &from, "--json"]));
    let report = load(folder.path());
    check(&report, &digest, 1, begun.elapsed().as_secs_f64() * 1e3);
    assert_eq!(report.source, Source::Registry);
    assert_eq!(text(&shown.stdout), report.to_json());
    let elsewhere = format!("{address}/acme/other");
    let error = fail_with(&mut coldstart(folder.path(), "oci:magika.oci", &["--runs", "1", "--from", &elsewhere]), 8);
    assert!(error.contains(&format!("acme/other@{digest}")), "{error}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    build(folder.path(), &[]);
    let image = "oci:magika.oci";
    for (arguments, code, expected) in [
        (&["--data", "nowhere"][..], 3, "failed to read `nowhere`"),
        (&["--data", "."], 3, "holds no file for the input `bytes`"),
        (&["--link", "fast"], 2, "1Gbit/s,5ms"),
        (&["--runs", "0"], 2, "--runs"),
        (&["--seconds=-1"], 2, "negative"),
    ] {
        let mut command = imgbuild();
        let error = fail_with(command.current_dir(&folder).args(["coldstart", image]).args(arguments), code);
        assert!(error.contains(expected), "{error}");
        assert!(!folder.path().join("cold.json").exists());
    }
}

#[test]
fn docker_pulls_and_starts_what_is_served_from_a_layout() {
    if !has("dockerd") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("dockerd");
    let script = root().join("tests/tools/dockerd.sh");
    let started = Command::new(&script).arg("start").arg(&state).stderr(Stdio::piped()).output().expect("the script runs");
    if started.status.code() == Some(77) {
        eprintln!("skipped: {}", text(&started.stderr));
        return;
    }
    let host = text(&started.stdout).trim().to_owned();
    let outcome = std::panic::catch_unwind(|| {
        // Docker before 23.0 reads no zstd layers.
        let digest = build(folder.path(), &["--compression", "gzip"]);
        let begun = Instant::now();
        let mut command = coldstart(folder.path(), "oci:magika.oci", &["--runs", "1", "--runner", "docker"]);
        succeed(command.env("DOCKER_HOST", &host));
        let report = load(folder.path());
        check(&report, &digest, 1, begun.elapsed().as_secs_f64() * 1e3);
        assert!(report.runner.starts_with("Docker "), "{}", report.runner);
        assert!(report.columns[0].phases.iter().any(|phase| phase.phase == Phase::Download));
        let images = succeed(Command::new("docker").env("DOCKER_HOST", &host).args(["images", "-q"]));
        assert_eq!(text(&images.stdout), "", "what was pulled for the measurement is gone");
    });
    succeed(Command::new(&script).arg("stop").arg(&state));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

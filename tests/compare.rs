//! Reports and images held against one another: gates, noise, damaged reports, and the page in a real browser.

use std::path::Path;
use std::process::Command;

use imgbuild::report::cold_start::{
    ColdStartReport, Column, Machine, PageCache, Phase, PhaseTimes, SCHEMA, Source, Spread, VERSION,
};
use imgbuild::report::{ImageIdentity, SizeReport};
use imgbuild_tests::browser::{Browsed, browse};
use imgbuild_tests::{fail_with, has, imgbuild, json_file, model_in, registry, root, succeed, text};

/// A generator with a seed, so that every run sees the same noise.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).expect("32 bits")) / f64::from(u32::MAX)
    }

    /// Times around a median; one in ten takes up to five times as long.
    fn samples(&mut self, median: f64, count: usize) -> Spread {
        let mut sample = || {
            let usual = median * (0.92 + 0.08 * (self.uniform() + self.uniform()));
            if self.uniform() < 0.1 { usual * (1.0 + 4.0 * self.uniform()) } else { usual }
        };
        Spread::of((0..count).map(|_| sample()).collect()).expect("samples")
    }
}

/// A cold-start report whose phase `session` has a median of so many milliseconds.
fn cold_start(noise: &mut Noise, size: &SizeReport, session: f64) -> ColdStartReport {
    let median = |phase| match phase {
        Phase::Session => session,
        Phase::Download | Phase::Unpack => 90.0,
        Phase::Dlopen => 2.0,
        _ => 12.0,
    };
    let mut column = |cache, factor: f64| Column {
        cache,
        how: "written by a test".to_owned(),
        phases: Phase::ALL
            .into_iter()
            .map(|phase| PhaseTimes { phase, times: noise.samples(factor * median(phase), 10) })
            .collect(),
        start_to_first_answer: noise.samples(factor * (session + 70.0), 10),
        contention: None,
    };
    ColdStartReport {
        schema: SCHEMA.to_owned(),
        version: VERSION,
        imgbuild: "0.1.0".to_owned(),
        image: ImageIdentity { digest: size.image.digest, config: size.image.config, platform: size.image.platform.clone() },
        model: size.model.name.clone(),
        stack: Some(size.stack.clone()),
        source: Source::Registry,
        runner: "embedded".to_owned(),
        link: None,
        machine: Machine {
            cpu: "a processor".to_owned(),
            architecture: "x86_64".to_owned(),
            cores: 2,
            memory: 8 << 30,
            kernel: "Linux 6.1".to_owned(),
            disk: "ext4".to_owned(),
        },
        session: Some("0123456789abcdef".to_owned()),
        columns: vec![column(PageCache::Cold, 1.5), column(PageCache::Warm, 1.0)],
        steady: Vec::new(),
        peak_memory: None,
        touched: Vec::new(),
        predictions: Vec::new(),
    }
}

/// Builds a real image beside its model and gives its report.
fn build(folder: &Path, name: &str, arguments: &[&str]) -> SizeReport {
    let model = folder.join("magika.onnx");
    if !model.exists() {
        model_in(folder, "magika");
    }
    let report = format!("{name}.json");
    let place = format!("oci:{name}:1");
    let mut command = imgbuild();
    succeed(command.current_dir(folder).args(["build", "magika.onnx", "-o", &place, "--report", &report]).args(arguments));
    SizeReport::load(&folder.join(report)).expect("a report")
}

/// Builds an image whose ONNX Runtime has so many bytes behind its end, as `NAME.json` and the layout `NAME-image`.
fn build_with_padding(folder: &Path, name: &str, padding: usize) {
    let recipe = folder.join(name);
    std::fs::create_dir_all(recipe.join("runtime")).expect("a folder");
    let library = succeed(&mut Command::new(root().join("tests/tools/fetch-onnxruntime.sh")));
    let mut bytes = std::fs::read(text(&library.stdout).trim()).expect("the library");
    let mut noise = Noise(1);
    bytes.extend((0..padding / 8).flat_map(|_| noise.uniform().to_le_bytes()));
    std::fs::write(recipe.join("runtime/libonnxruntime.so.1"), bytes).expect("written");
    for name in ["LICENSE", "ThirdPartyNotices.txt"] {
        std::fs::write(recipe.join("runtime").join(name), "a licence\n").expect("written");
    }
    std::fs::write(recipe.join("imgbuild.toml"), "model = \"magika.onnx\"\n[runtime]\npath = \"runtime\"\n").expect("written");
    model_in(&recipe, "magika");
    let (place, report) = (format!("oci:../{name}-image:1"), format!("../{name}.json"));
    succeed(imgbuild().current_dir(&recipe).args(["build", "-o", &place, "--report", &report]));
}

#[test]
fn a_library_that_grows_fails_the_gate_and_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    build_with_padding(path, "base", 0);
    build_with_padding(path, "head", 3_000_000);
    let compare = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(path).arg("compare").args(arguments);
        command
    };
    // Equal images are within every limit.
    let same = text(&succeed(&mut compare(&["base.json", "base.json", "--max-growth", "0%"])).stdout);
    assert!(same.contains("±0") && same.contains("within budget"), "{same}");
    let error = fail_with(&mut compare(&["base.json", "head.json", "--max-growth", "5%"]), 7);
    assert!(error.contains("image, compressed") && error.contains("libonnxruntime.so.1 +3.0 MB"), "{error}");
    // The same of the images themselves, where the sizes of libraries are those of the label.
    std::fs::write(
        path.join("budgets.toml"),
        "[libraries]\n\"libc.so\" = \"9MB\"\n[growth.libraries]\n\"libonnxruntime.so\" = \"2%\"\n",
    )
    .expect("written");
    for head in ["head.json", "oci:head-image:1", "head-image"] {
        let error = fail_with(&mut compare(&["oci:base-image:1", head, "--budget", "budgets.toml"]), 7);
        assert!(error.contains("library libonnxruntime.so.1, unpacked") && !error.contains("libc.so"), "{error}");
    }
    std::fs::write(path.join("budgets.toml"), "[librareis]\n").expect("written");
    let error = fail_with(&mut compare(&["base.json", "head.json", "--budget", "budgets.toml"]), 3);
    assert!(error.contains("did you mean `libraries`?"), "{error}");
    // A limit on what nobody measured would always hold.
    let error = fail_with(&mut compare(&["base.json", "head.json", "--max-cold-start", "2s"]), 3);
    assert!(error.contains("how fast it starts"), "{error}");
    fail_with(&mut compare(&["base.json"]), 2);
    let whole = text(&succeed(&mut compare(&["base.json", "--baseline", "package", "--format", "json"])).stdout);
    let whole: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    let report = json_file(&path.join("base.json"));
    let level = |name: &str| report["levels"].as_array().expect("levels").iter().find(|level| level["minimize"] == name).cloned();
    let saved = level("package").expect("a level")["unpacked"].as_u64().expect("a size")
        - level("model").expect("a level")["unpacked"].as_u64().expect("a size");
    let total = &whole["comparisons"][0]["size"]["total"];
    let unpacked = |side: &str| total[side]["unpacked"].as_u64().expect("a size");
    assert_eq!(unpacked("base") - unpacked("head"), saved);
}

#[test]
fn noise_never_fails_the_gate_and_a_slower_phase_does() {
    let folder = tempfile::tempdir().expect("a folder");
    let size = build(folder.path(), "base", &[]);
    let mut noise = Noise(3);
    let mut names = Vec::new();
    for index in 0..20 {
        let name = format!("{index}.json");
        std::fs::write(folder.path().join(&name), cold_start(&mut noise, &size, 200.0).to_json()).expect("written");
        names.push(name);
    }
    let compare = |arguments: &[&str]| {
        let mut command = imgbuild();
        command.current_dir(&folder).arg("compare").args(arguments);
        command
    };
    // Every report against every other one: 190 comparisons of 24 times each.
    for first in 0..names.len() - 1 {
        let mut command = compare(&["--max-growth", "5%", "--max-cold-start", "2s"]);
        succeed(command.args(&names[first..]));
    }
    let mut slow = cold_start(&mut noise, &size, 260.0);
    std::fs::write(folder.path().join("slow.json"), slow.to_json()).expect("written");
    for name in &names {
        let error = fail_with(&mut compare(&[name, "slow.json", "--max-growth", "5%"]), 7);
        assert!(error.contains("phase session"), "{error}");
        assert!(!error.contains("phase dlopen"), "{error}");
    }
    // The same slower report from another session: the machine may have been slower, which is said.
    let elsewhere = ColdStartReport { session: Some("fedcba9876543210".to_owned()), ..slow.clone() };
    std::fs::write(folder.path().join("elsewhere.json"), elsewhere.to_json()).expect("written");
    let shown = text(&succeed(&mut compare(&["0.json", "elsewhere.json", "--max-growth", "5%"])).stdout);
    assert!(shown.contains("two sessions") && shown.contains("--against"), "{shown}");
    // Size and cold start of one image, as a pair and as a folder.
    let pair = text(&succeed(&mut compare(&["base.json+0.json", "base.json+slow.json"])).stdout);
    assert!(pair.contains("image, compressed") && pair.contains("slower"), "{pair}");
    // Unlike machines are compared, and not held against limits by accident.
    slow.machine.cpu = "another processor".to_owned();
    std::fs::write(folder.path().join("slow.json"), slow.to_json()).expect("written");
    let shown = text(&succeed(&mut compare(&["0.json", "slow.json"])).stdout);
    assert!(shown.contains("note: the processor"), "{shown}");
    let error = fail_with(&mut compare(&["0.json", "slow.json", "--max-growth", "5%"]), 3);
    assert!(error.contains("another processor") && error.contains("--allow-different"), "{error}");
    fail_with(&mut compare(&["0.json", "slow.json", "--max-growth", "5%", "--allow-different"]), 7);
}

#[test]
fn damaged_and_foreign_reports_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    build(path, "base", &[]);
    let good = std::fs::read_to_string(path.join("base.json")).expect("a report");
    let whole: serde_json::Value = serde_json::from_str(&good).expect("JSON");
    let refused = |name: &str, content: &str| {
        let file = path.join("damaged.json");
        std::fs::write(&file, content).expect("written");
        let error = fail_with(imgbuild().current_dir(path).args(["compare", "base.json", "damaged.json"]), 3);
        assert!(error.contains("damaged.json"), "{name}: {error}");
        error
    };
    for share in [0, 1, 2, 3] {
        refused("cut", &good[..good.len() * share / 4]);
    }
    for pointer in [
        "/totals/image/compressed",
        "/totals/without_model/unpacked",
        "/files/0/unpacked",
        "/layers/1/files",
        "/layers/2/compressed",
    ] {
        for value in [serde_json::json!(1), serde_json::json!(-1), serde_json::json!(u64::MAX), serde_json::json!(1.5)] {
            let mut edited = whole.clone();
            *edited.pointer_mut(pointer).expect(pointer) = value;
            refused(pointer, &edited.to_string());
        }
    }
    for (pointer, value) in [
        ("/version", serde_json::json!(0)),
        ("/version", serde_json::json!(2)),
        ("/schema", serde_json::json!("imgbuild.other")),
        ("/image/digest", serde_json::json!("sha256:12")),
        ("/layers/0/name", serde_json::json!("runtime")),
        ("/packages/0/installed", serde_json::json!(1)),
    ] {
        let mut edited = whole.clone();
        *edited.pointer_mut(pointer).expect(pointer) = value;
        refused(pointer, &edited.to_string());
    }
    let mut foreign = whole.clone();
    foreign["image"]["platform"] = "linux/arm64".into();
    let error = refused("platform", &foreign.to_string());
    assert!(error.contains("the platform") && error.contains("--allow-different"), "{error}");
    succeed(imgbuild().current_dir(path).args(["compare", "base.json", "damaged.json", "--allow-different"]));
    assert!(refused("list", "[]").contains("schema"));
}

#[test]
fn a_history_is_ordered_by_name_and_read_from_a_registry() {
    if !has("docker-registry") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    build(path, "v1.9", &[]);
    build(path, "v1.10", &["--minimize", "package"]);
    let history = |source: &str| -> Vec<(String, u64)> {
        let shown = succeed(imgbuild().current_dir(path).args(["history", source, "--format", "json"]));
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        let points = shown["points"].as_array().expect("points").iter();
        points
            .map(|point| {
                (point["name"].as_str().expect("a name").to_owned(), point["total"]["compressed"].as_u64().expect("a size"))
            })
            .collect()
    };
    let reports = history(".");
    assert_eq!(reports.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["v1.9.json", "v1.10.json"]);
    assert!(reports[0].1 < reports[1].1);
    let shown = text(&succeed(imgbuild().current_dir(path).args(["history", "."])).stdout);
    assert!(shown.contains("▁█"), "{shown}");
    let (_registry, address) = registry(path);
    for version in ["v1.9", "v1.10"] {
        let to = format!("docker://{address}/acme/magika:{version}");
        succeed(imgbuild().current_dir(path).args(["push", &format!("oci:{version}:1"), &to]));
    }
    let tags = history(&format!("docker://{address}/acme/magika"));
    assert_eq!(tags, [("v1.9".to_owned(), reports[0].1), ("v1.10".to_owned(), reports[1].1)]);
}

#[test]
fn the_page_works_in_a_browser_and_escapes_what_it_shows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let hostile = "<script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>\"'`|@all\u{1b}[31m";
    let size = build(path, "base", &["--name", "magika"]);
    let mut report = size.clone();
    report.model.name = hostile.to_owned();
    report.files[0].path = format!("/{hostile}");
    report.files.sort_by(|a, b| a.path.cmp(&b.path));
    report.save(&path.join("hostile.json")).expect("written");
    let mut noise = Noise(5);
    for name in ["a", "b"] {
        let mut cold = cold_start(&mut noise, &size, 200.0);
        cold.model = hostile.to_owned();
        std::fs::write(path.join(format!("cold-{name}.json")), cold.to_json()).expect("written");
    }
    let compare = |format: &str| {
        let arguments = ["compare", "hostile.json+cold-a.json", "hostile.json+cold-b.json", "--format", format];
        text(&succeed(imgbuild().current_dir(path).args(arguments)).stdout)
    };
    for format in ["text", "markdown"] {
        let shown = compare(format);
        assert!(!shown.contains('\u{1b}') && (format == "text" || !shown.contains("<img")), "{shown}");
    }
    let page = compare("html");
    assert!(!page.contains("<img") && page.matches("<script>").count() == 1, "a report's text became markup");
    // The names of the drawings' format and of the content policy are no addresses; the hostile one is text, with its slashes escaped.
    let known = ["http://www.w3.org/2000/svg\"", "http-equiv=", "http:&#x2f;&#x2f;127.0.0.1:9"];
    for (at, _) in page.match_indices("http") {
        assert!(known.iter().any(|known| page[at..].starts_with(known)), "{}", page[at..].chars().take(40).collect::<String>());
    }
    if !has("chromium") {
        return;
    }
    let Browsed { dom, log, requests } = browse(path, &page);
    assert!(
        dom.contains("data-overflow=\"0\""),
        "the page scrolls sideways at 360 px: {}",
        dom.chars().skip(dom.find("<body").unwrap_or(0)).take(200).collect::<String>()
    );
    assert!(dom.contains("data-tip=\"hostile.json") || dom.contains("data-tip=\"/"), "nothing is shown under the pointer");
    assert!(!log.contains("CONSOLE"), "{log}");
    assert!(!requests.contains("127.0.0.1:9"), "a request leaves the page");
}

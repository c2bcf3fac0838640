//! The data that ships, and data that is wrong.

use std::fs;

use super::*;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::source::debian::Release;
use crate::source::package::{EntryKind, Package};
use crate::source::{Environment, Reach, Request, Sources, WheelTags};
use crate::store::Store;

const STACK: &str = include_str!("../../../templates/onnx-cpu.toml");
const BASE: &str = include_str!("../../../base-images/debian-12.toml");

#[test]
fn everything_that_is_built_in_parses_under_its_own_name() {
    let data = Data::built_in();
    for name in data.templates() {
        let found = data.template(&name).expect(&name).value;
        assert_eq!(found.name, name);
        data.base_image(&found.base).expect("its base is there");
        assert_eq!(toml::from_str::<StackTemplate>(&toml::to_string(&found).expect("plain data")).expect("as written"), found);
    }
    for name in data.base_images() {
        let found = data.base_image(&name).expect(&name).value;
        assert_eq!(found.name, name);
        assert_eq!(toml::from_str::<BaseImage>(&toml::to_string(&found).expect("plain data")).expect("as written"), found);
    }
    assert!(data.templates().contains(&"onnx-cpu".to_owned()));
    assert_eq!(data.base_images(), ["debian-12", "scratch"]);
}

#[test]
fn the_default_stack_asks_for_one_wheel_and_refuses_the_broken_version() {
    let stack = Data::built_in().template("onnx-cpu").expect("built in").value;
    let tags = WheelTags { python: "3.12".into(), glibc: "2.28".into() };
    let wheel = |version: &str| Request::Wheel { name: "onnxruntime".into(), version: Some(version.into()), tags: tags.clone() };
    assert_eq!(stack.requests(|_| None).expect("allowed"), [wheel("1.32.0")]);
    assert_eq!(stack.requests(|_| Some(PackageChoice::Version("1.31.1".into()))).expect("allowed"), [wheel("1.31.1")]);
    let error = stack.requests(|_| Some(PackageChoice::Version("1.29.0".into()))).expect_err("refused");
    assert!(error.to_string().starts_with("onnxruntime 1.29.0 is refused: it crashes in images that have no shell"), "{error}");
    assert_eq!(stack.environment["ORT_DISABLE_TELEMETRY"], "1");
    assert_eq!(stack.library_folder.at(Platform::LinuxArm64).to_string(), "/usr/lib/aarch64-linux-gnu");
}

#[test]
fn the_default_base_places_files_of_debian_where_its_links_lead() {
    let base = Data::built_in().base_image("debian-12").expect("built in").value;
    assert!(matches!(base.contents(), Contents::Packages(packages) if packages.len() == 6));
    let place = |path, platform| base.place(path, platform).expect("valid").to_string();
    let (amd64, arm64) = (Platform::LinuxAmd64, Platform::LinuxArm64);
    assert_eq!(place("lib/x86_64-linux-gnu/libc.so.6", amd64), "/usr/lib/x86_64-linux-gnu/libc.so.6");
    assert_eq!(place("lib64/ld-linux-x86-64.so.2", amd64), "/usr/lib64/ld-linux-x86-64.so.2");
    assert_eq!(place("lib/ld-linux-aarch64.so.1", arm64), "/usr/lib/ld-linux-aarch64.so.1");
    assert_eq!(place("libx/a", amd64), "/libx/a");
    assert_eq!((base.links(amd64).count(), base.links(arm64).count()), (2, 1));
    assert!(base.place("lib/../etc", amd64).is_err());

    let libc = base.packages.iter().find(|package| package.name == "libc6").expect("it has one");
    assert_eq!(libc.rule("usr/share/doc/libc6/copyright"), Some(FileSource::Always));
    for path in ["lib/x86_64-linux-gnu/libc.so.6", "lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"] {
        assert_eq!(libc.rule(path), Some(FileSource::Reached), "{path}");
    }
    assert_eq!(libc.rule("usr/share/doc/libc6/changelog.gz"), None);
    assert!(!libc.is_always_used());

    let passwd = &base.files[0];
    assert_eq!(passwd.path.to_string(), "/etc/passwd");
    let expected = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n";
    assert_eq!(String::from_utf8(passwd.bytes(&base.user)).expect("text"), expected);
    assert_eq!(base.directories[0].mode, 0o1777);

    let release = |version: &str| Release { id: "debian".into(), version: version.into() };
    base.check_release(&release("12")).expect("the right one");
    let error = base.check_release(&release("13")).expect_err("another one");
    assert_eq!(error.to_string(), "the packages are from debian 13, and the base image `debian-12` is made for debian 12");
    assert!(error.hint().is_some());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let stack = |from: &str, to: &str| StackTemplate::parse(&STACK.replacen(from, to, 1), "x.toml").expect_err(to).to_string();
    let base = |from: &str, to: &str| BaseImage::parse(&BASE.replacen(from, to, 1), "x.toml").expect_err(to).to_string();
    assert!(stack("format = 1", "format = 4").contains("has format 4"));
    assert!(stack("entry = [\"libonnxruntime.so.1\"]", "entry = []").contains("`entry` names no library"));
    assert!(stack("version = \"1.32.0\"", "version = \"1.29.0\"").contains("is refused"));
    assert!(stack("optional = true", "optinal = true").contains("unknown key `optinal`"));
    assert!(stack("when = \"always\"", "when = { operator-absent = [] }").contains("unknown value `operator-absent`"));
    assert!(stack("/usr/lib/{multiarch}", "/usr/lib/{arch}").contains("only `{multiarch}`"));
    assert!(stack("/usr/lib/{multiarch}", "usr/lib").contains("it does not begin with `/`"));
    assert!(stack("**/libonnxruntime.so.*", "/**").contains("is no pattern for paths"));
    assert!(stack("linux/arm64", "linux/riscv").contains("`linux/riscv` is no platform"));
    assert!(base("uid = 65532", "uid = 0").contains("`user` is root"));
    assert!(base("mode = \"1777\"", "mode = \"1888\"").contains("`1888` is no mode"));
    assert!(base("format = 1", "format = 1\noci = \"oci:x@sha256:00\"").contains("both `oci` and packages"));
    assert!(base("package = \"base-files\"", "package = \"base-file\"").contains("`base-file`, which is not in it"));
    let scratch = include_str!("../../../base-images/scratch.toml");
    let oci = |name: &str| BaseImage::parse(&scratch.replacen("format = 1", &format!("format = 1\noci = {name:?}"), 1), "x.toml");
    assert!(oci("docker://x:1").expect_err("no digest").to_string().contains("expected a name that ends in `@sha256:…`"));
    assert_eq!(oci("oci:x@sha256:00").expect("a digest").contents(), Contents::Oci("oci:x@sha256:00"));
}

#[test]
fn omissions_can_depend_on_operators() {
    let text = STACK.replacen("when = \"always\"", "when = { operators-absent = [\"Conv\"] }", 1);
    let stack = StackTemplate::parse(&text, "x.toml").expect("valid");
    assert_eq!(stack.omit[0].when, When::OperatorsAbsent(vec!["Conv".into()]));
}

#[test]
fn a_folder_takes_precedence_file_by_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir_all(folder.path().join("templates/operators")).expect("space");
    fs::write(folder.path().join("templates/own.toml"), STACK.replace("name = \"onnx-cpu\"", "name = \"own\"")).expect("space");
    fs::write(folder.path().join("templates/operators/own.json"), "{}").expect("space");
    let data = Data::in_folder(folder.path());
    let own = data.template("own").expect("in the folder");
    assert_eq!(own.found_in, folder.path().join("templates/own.toml").display().to_string());
    assert_eq!(data.operators("own.json").expect("in the folder").value, b"{}");
    let built_in = data.template("onnx-cpu").expect("built in");
    assert_eq!(built_in.digest, crate::digest::Digest::of(STACK.as_bytes()));
    assert_eq!(built_in.found_in, "templates/onnx-cpu.toml (built in)");
    assert!(data.templates().contains(&"own".to_owned()));
    // By path.
    let path = folder.path().join("templates/own.toml");
    assert_eq!(Data::built_in().template(path.to_str().expect("UTF-8")).expect("a file").value, own.value);

    let error = data.template("onnx-cup").expect_err("a slip");
    assert_eq!(
        (error.to_string(), error.hint()),
        ("there is no stack `onnx-cup`".into(), Some("did you mean `onnx-cpu`?".into()))
    );
    assert!(matches!(data.operators("../own.toml"), Err(TemplateError::Unknown { .. })));
    assert!(matches!(data.template("./nothing.toml"), Err(TemplateError::Io { .. })));
    fs::write(&path, b"\xff").expect("space");
    assert!(data.template("own").expect_err("not UTF-8").to_string().ends_with("it is not UTF-8"));
}

#[test]
fn every_pattern_matches_something_in_the_real_packages() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = Store::open(&folder.path().join("store")).expect("a new store");
    let sources = Sources::new(&Environment::of_process(), folder.path());
    let (data, silent) = (Data::built_in(), Progress::silent());
    let stack = data.template("onnx-cpu").expect("built in").value;
    let base = data.base_image(&stack.base).expect("built in").value;
    for platform in [Platform::LinuxAmd64, Platform::LinuxArm64] {
        let mut requests = stack.requests(|_| None).expect("allowed");
        requests.extend(base.requests(platform));
        let pins = sources.lock(&requests, platform, &store, &silent).expect("offered");
        let blobs = sources.obtain(&pins.iter().collect::<Vec<_>>(), &store, Reach::Offline, &silent).expect("locked");
        let packages: Vec<Package> =
            pins.iter().zip(&blobs).map(|(pin, blob)| Package::open(pin, blob, &store).expect("good")).collect();

        let (runtime, bottom) = packages.split_at(stack.packages.len());
        for (rule, package) in stack.packages.iter().zip(runtime) {
            for library in &rule.libraries {
                assert_eq!(package.files_of(&library.take).expect("it matches").len(), 1, "{library:?}");
            }
            for copy in &rule.copy {
                assert_eq!(package.files_of(&copy.take).expect("it matches").len(), 1, "{copy:?}");
            }
            for omission in &stack.omit {
                assert!(package.entries().iter().any(|entry| entry.path.ends_with(omission.library.as_str())), "{omission:?}");
            }
        }
        let mut reached = Vec::new();
        for (rule, package) in base.packages.iter().zip(bottom) {
            for pattern in &rule.always {
                assert!(package.matching(pattern).count() > 0, "{} has no `{pattern}`", rule.name);
            }
            let files = package.entries().iter().filter(|entry| rule.rule(&entry.path) == Some(FileSource::Reached));
            reached
                .extend(files.filter(|entry| entry.kind != EntryKind::Directory).map(|entry| base.place(&entry.path, platform)));
        }
        let library = |name: &str| reached.iter().flatten().any(|path| path.file_name() == name);
        for name in ["libc.so.6", "libm.so.6", "libpthread.so.0", "libgcc_s.so.1", "libstdc++.so.6", "libz.so.1"] {
            assert!(library(name), "{name}");
        }
        let loader =
            if platform == Platform::LinuxAmd64 { "/usr/lib64/ld-linux-x86-64.so.2" } else { "/usr/lib/ld-linux-aarch64.so.1" };
        assert!(reached.iter().flatten().any(|path| path.to_string() == loader), "{loader}");

        let rule = base.release.as_ref().expect("it has one");
        let holder = bottom.iter().find(|package| package.pin().name == rule.package).expect("it is a package of the base");
        base.check_release(&Release::of(holder, &store).expect("it says")).expect("this machine's archive is the base's");
    }
}

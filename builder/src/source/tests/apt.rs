//! `apt-get`, on the system's archive and on one in a folder.

use std::fs;
use std::path::PathBuf;

use super::*;

fn package(name: &str) -> Request {
    Request::Debian { name: name.into(), version: None }
}

#[test]
fn packages_read_as_dpkg_deb_reads_them() {
    let bench = Bench::new();
    let requests = ["libgcc-s1", "zlib1g", "base-files"].map(package);
    let pins = bench.sources().lock(&requests, Platform::LinuxAmd64, &bench.store, &Progress::silent()).expect("offered");
    for (pin, request) in pins.iter().zip(&requests) {
        assert_eq!(pin.name, request.name());
        let package = bench.package(pin);
        let blob = bench.obtain(pin, Reach::Offline).expect("locked");
        let file = blob.path.to_str().expect("UTF-8");
        assert_eq!(sha256sum(&blob.path), pin.sha256.hex());
        assert_eq!(judge("dpkg-deb", &["-f", file, "Version"]).trim(), pin.version);
        assert_eq!(judge("dpkg-deb", &["-f", file]).trim(), package.control().expect("it has one").trim());
        let rows = judge("dpkg-deb", &["-c", file]);
        let (mut expected, mut links) = (BTreeSet::new(), BTreeSet::new());
        for row in rows.lines() {
            let words: Vec<&str> = row.split_whitespace().collect();
            let path = words[5].trim_start_matches("./").to_owned();
            match row.as_bytes()[0] {
                b'-' => drop(expected.insert((path, words[2].parse::<u64>().expect("a size")))),
                b'l' => drop(links.insert((path, words[7].to_owned()))),
                _ => {}
            }
        }
        assert_eq!(files(&package), expected);
        let found = package.entries().iter().filter_map(|entry| match &entry.kind {
            package::EntryKind::Symlink { target } => Some((entry.path.clone(), target.clone())),
            _ => None,
        });
        assert_eq!(found.collect::<BTreeSet<_>>(), links);
        // Every file that is taken out is the one that `dpkg-deb` takes out.
        let unpacked = bench.path().join(&pin.name);
        judge("dpkg-deb", &["-x", file, unpacked.to_str().expect("UTF-8")]);
        let paths: Vec<&str> = expected.iter().map(|(path, _)| &**path).collect();
        for (path, blob) in paths.iter().zip(package.extract(&paths, &bench.store).expect("good")) {
            assert_eq!(sha256sum(&unpacked.join(path)), blob.digest.hex(), "{path}");
        }
    }
    assert!(pins[1].version.starts_with("1:"), "an epoch: {}", pins[1].version);
    let release = debian::Release::of(&bench.package(&pins[2]), &bench.store).expect("it has one");
    assert_eq!(release.id, "debian");

    let offline = Bench::new();
    assert!(matches!(offline.obtain(&pins[0], Reach::Offline), Err(SourceError::Offline { .. })));
    let blob = offline.obtain(&pins[0], Reach::Online).expect("offered");
    damage(&blob.path);
    assert_eq!(offline.obtain(&pins[0], Reach::Online).expect("offered").digest, pins[0].sha256);
    let wrong = Pin { sha256: pins[1].sha256, ..pins[0].clone() };
    let error = offline.obtain(&wrong, Reach::Online).expect_err("another digest");
    assert!(matches!(error, SourceError::Digest { actual, .. } if actual == pins[0].sha256), "{error}");
}

#[test]
fn another_architecture_needs_no_change_to_the_system() {
    let bench = Bench::new();
    let before = judge("dpkg", &["--print-foreign-architectures"]);
    let lists = |()| fs::read_dir("/var/lib/apt/lists").map(|entries| entries.count()).unwrap_or_default();
    let count = lists(());
    let other = match Platform::host() {
        Platform::LinuxAmd64 => Platform::LinuxArm64,
        Platform::LinuxArm64 => Platform::LinuxAmd64,
    };
    let pin = bench.lock(package("libgcc-s1"), other).expect("offered");
    let blob = bench.obtain(&pin, Reach::Offline).expect("locked");
    let file = blob.path.to_str().expect("UTF-8");
    assert_eq!(judge("dpkg-deb", &["-f", file, "Architecture"]).trim(), other.architecture());
    assert_eq!((judge("dpkg", &["--print-foreign-architectures"]), lists(())), (before, count));
    // From the lists that are there now, and without any.
    damage(&blob.path);
    assert_eq!(bench.obtain(&pin, Reach::Online).expect("offered").digest, pin.sha256);
    assert_eq!(Bench::new().obtain(&pin, Reach::Online).expect("offered").digest, pin.sha256);
}

#[test]
fn what_is_not_offered_is_named() {
    let bench = Bench::new();
    let request = Request::Debian { name: "libgcc-s1".into(), version: Some("1-1".into()) };
    let error = bench.lock(request, Platform::LinuxAmd64).expect_err("no such version");
    assert_eq!(error.to_string(), "`apt-get` found no `libgcc-s1` 1-1");
    assert!(error.hint().expect("one").contains("apt-get update"));
    let error = bench.lock(package("no-such-package-here"), Platform::LinuxAmd64).expect_err("no such package");
    assert!(error.to_string().starts_with("`apt-get` found no `no-such-package-here"), "{error}");
}

#[test]
fn without_apt_the_error_says_where_there_is_one() {
    let mut bench = Bench::new();
    bench.environment.search = bench.path().into();
    let error = bench.lock(package("libc6"), Platform::LinuxAmd64).expect_err("no apt-get");
    assert_eq!(error.to_string(), "there is no `apt-get` on this machine, which fetches the Debian packages of the base");
    assert!(error.hint().expect("one").contains("Debian"));
}

/// A system whose `apt` has an archive in a folder, or none, and no lists yet.
fn with_archive(folder: Option<&Path>) -> Bench {
    let bench = Bench::new();
    let list = bench.path().join("sources.list");
    let line = folder.map(|folder| format!("deb [trusted=yes] file:{} ./\n", folder.display()));
    fs::write(&list, line.unwrap_or_default()).expect("space");
    let lists = bench.path().join("lists");
    fs::create_dir_all(lists.join("partial")).expect("space");
    let configuration = bench.path().join("apt.conf");
    let text = format!(
        "Dir::Etc::SourceList \"{}\";\nDir::Etc::SourceParts \"/dev/null\";\nDir::State::lists \"{}\";\n",
        list.display(),
        lists.display()
    );
    fs::write(&configuration, text).expect("space");
    bench.with("APT_CONFIG", configuration)
}

/// Puts a version of a package into an archive, instead of what was there.
fn publish(folder: &Path, version: &str) -> PathBuf {
    let _ = fs::remove_dir_all(folder);
    let root = folder.join("root");
    fs::create_dir_all(root.join("DEBIAN")).expect("space");
    let control = format!("Package: own\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@x.test>\nDescription: x\n");
    fs::write(root.join("DEBIAN/control"), control).expect("space");
    let file = folder.join(format!("own_{version}_amd64.deb"));
    judge("dpkg-deb", &["--root-owner-group", "-b", root.to_str().expect("UTF-8"), file.to_str().expect("UTF-8")]);
    let size = fs::metadata(&file).expect("built").len();
    let packages = format!(
        "Package: own\nVersion: {version}\nArchitecture: amd64\nFilename: ./own_{version}_amd64.deb\nSize: {size}\nSHA256: {}\nDescription: x\n",
        sha256sum(&file)
    );
    fs::write(folder.join("Packages"), packages).expect("space");
    file
}

#[test]
fn a_version_that_left_the_archive_is_named_with_what_to_do() {
    let archive = tempfile::tempdir().expect("a temporary folder");
    publish(archive.path(), "1.0");
    let bench = with_archive(Some(archive.path()));
    let first = bench.lock(package("own"), Platform::LinuxAmd64).expect("offered, although no lists were there");
    assert_eq!(first.version, "1.0");
    publish(archive.path(), "2.0");
    assert_eq!(bench.obtain(&first, Reach::Online).expect("it is in the store").digest, first.sha256);
    let second = bench.lock(package("own"), Platform::LinuxAmd64).expect("offered, although our lists are old");
    assert_eq!(second.version, "2.0");
    let error = with_archive(Some(archive.path())).obtain(&first, Reach::Online).expect_err("gone");
    assert_eq!(error.to_string(), "`apt-get` found no `own` 1.0");
    assert!(error.hint().expect("one").contains("imgbuild lock --update"));
    // Replaced by another file of the same version: the archive's own lists agree with it, the lock does not.
    let forged = Pin { version: "2.0".into(), file: second.file.clone(), ..first.clone() };
    let error = with_archive(Some(archive.path())).obtain(&forged, Reach::Online).expect_err("another file");
    assert!(matches!(error, SourceError::Digest { actual, .. } if actual == second.sha256), "{error}");
}

#[test]
fn without_lists_and_archives_the_error_says_to_update() {
    let error = with_archive(None).lock(package("own"), Platform::LinuxAmd64).expect_err("no archive");
    assert!(matches!(&error, SourceError::NoLists { architecture, .. } if architecture == "amd64"), "{error}");
    assert!(error.hint().expect("one").contains("apt-get update"));
}

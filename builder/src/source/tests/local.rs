//! Files, archives made by other programs, and directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn local(path: &str) -> Request {
    Request::Local { name: "own".into(), version: None, path: path.into() }
}

/// A release as a vendor would pack it.
fn release(folder: &Path, mode: u32) {
    fs::create_dir_all(folder.join("lib")).expect("space");
    fs::write(folder.join("lib/libown.so.1.2"), b"\x7fELF library").expect("space");
    fs::set_permissions(folder.join("lib/libown.so.1.2"), fs::Permissions::from_mode(mode)).expect("it is ours");
    fs::write(folder.join("LICENSE"), b"none").expect("space");
    symlink("libown.so.1.2", folder.join("lib/libown.so")).expect("space");
}

#[test]
fn archives_of_other_programs_and_directories_have_the_same_files() {
    let bench = Bench::new();
    release(&bench.path().join("own-1.2"), 0o755);
    let folder = bench.path().to_str().expect("UTF-8");
    for (option, file) in [("--gzip", "own.tgz"), ("--xz", "own.tar.xz"), ("--zstd", "own.tar.zst"), ("-v", "own.tar")] {
        judge("tar", &["-C", folder, option, "-cf", &format!("{folder}/{file}"), "own-1.2"]);
    }
    judge("sh", &["-c", "cd \"$1\" && zip -qry own.zip own-1.2", "sh", folder]);
    for path in ["own.tgz", "own.tar.xz", "own.tar.zst", "own.tar", "own.zip", "own-1.2"] {
        let pin = bench.lock(local(path), Platform::LinuxAmd64).expect(path);
        assert_eq!(pin.path.as_deref(), Some(path));
        assert_eq!(pin.kind, if path == "own-1.2" { SourceKind::Directory } else { SourceKind::File });
        assert_eq!(toml::from_str::<Pin>(&toml::to_string(&pin).expect("plain data")).expect("as written"), pin);
        let package = bench.package(&pin);
        let found = package.files_of(&["**/libown.so.*".parse().expect("valid")]).expect(path);
        assert_eq!((found.len(), found[0].mode), (1, 0o755), "{path}");
        let link = found[0].path.replace(".so.1.2", ".so");
        let blobs = package.extract(&[&link], &bench.store).expect(path);
        assert_eq!(fs::read(&blobs[0].path).expect("in the store"), b"\x7fELF library", "{path}");
    }
}

#[test]
fn a_directory_has_one_digest_whatever_the_umask_and_the_clock() {
    let digests = [0o700, 0o755, 0o777].map(|mode| {
        let bench = Bench::new();
        release(&bench.path().join("own"), mode);
        bench.lock(local("own"), Platform::LinuxAmd64).expect("readable").sha256
    });
    assert_eq!(BTreeSet::from(digests).len(), 1);
    let bench = Bench::new();
    release(&bench.path().join("own"), 0o644);
    assert_ne!(bench.lock(local("own"), Platform::LinuxAmd64).expect("readable").sha256, digests[0], "whether it may run counts");
}

#[test]
fn what_changed_after_locking_is_refused_and_what_is_gone_comes_from_the_store() {
    let bench = Bench::new();
    release(&bench.path().join("own"), 0o755);
    fs::write(bench.path().join("libcustom.so"), b"custom").expect("space");
    for path in ["own", "libcustom.so"] {
        let pin = bench.lock(local(path), Platform::LinuxAmd64).expect(path);
        let real = bench.path().join(path);
        let inner = if path == "own" { real.join("lib/libown.so.1.2") } else { real.clone() };
        let content = fs::read(&inner).expect("there");
        fs::write(&inner, b"\x7fELF laXrary").expect("space");
        let error = bench.obtain(&pin, Reach::Online).expect_err("it changed");
        assert!(matches!(error, SourceError::Digest { expected, .. } if expected == pin.sha256), "{error}");
        assert!(error.hint().expect("one").contains("imgbuild lock --update"));
        fs::write(&inner, content).expect("space");
        bench.obtain(&pin, Reach::Online).expect("it is as it was");

        fs::rename(&real, bench.path().join("away")).expect("it is there");
        let blob = bench.obtain(&pin, Reach::Offline).expect("it is in the store");
        assert_eq!((blob.digest, blob.size), (pin.sha256, pin.size));
        let package = bench.package(&pin);
        let file = package.files_of(&["**/lib*.so*".parse().expect("valid")]).expect("there")[0].path.clone();
        let library = package.extract(&[&file], &bench.store).expect("in the store").remove(0);
        damage(&library.path);
        let error = bench.obtain(&pin, Reach::Online).expect_err("the store's copy is damaged");
        assert!(matches!(error, SourceError::Gone { .. }), "{error}");
        fs::rename(bench.path().join("away"), &real).expect("it is there");
        bench.obtain(&pin, Reach::Offline).expect("it is back");
    }
}

#[test]
fn paths_that_cannot_serve_are_refused() {
    let bench = Bench::new();
    let error = bench.lock(local("nothing"), Platform::LinuxAmd64).expect_err("not there");
    assert!(error.to_string().ends_with("/nothing` cannot serve as a source: it does not exist"), "{error}");
    let error = bench.lock(local("/dev/null"), Platform::LinuxAmd64).expect_err("a device");
    assert!(error.to_string().ends_with("it is neither a file nor a directory"), "{error}");
    for target in ["/etc/passwd", "../outside", "lib/../../outside"] {
        let folder = bench.path().join("own");
        let _ = fs::remove_dir_all(&folder);
        release(&folder, 0o755);
        symlink(target, folder.join("evil")).expect("space");
        let error = bench.lock(local("own"), Platform::LinuxAmd64).expect_err(target);
        assert!(error.to_string().contains("`evil`, a link that leads out of the directory"), "{error}");
    }
    let unknown = Request::Debian { name: "x".into(), version: None };
    let error = Local::new(bench.path()).lock(&[unknown], Platform::LinuxAmd64, &bench.store, &Progress::silent());
    assert!(matches!(error, Err(SourceError::Kind { .. })));
}

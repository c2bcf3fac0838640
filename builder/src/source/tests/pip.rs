//! `pip`, on a large wheel, a small one, and indexes on the loopback.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use super::*;
use crate::digest::Digest;

fn wheel(name: &str, version: &str, python: &str) -> Request {
    let tags = WheelTags { python: python.into(), glibc: "2.28".into() };
    Request::Wheel { name: name.into(), version: Some(version.into()), tags }
}

/// A wheel of 66 kB.
fn small() -> Request {
    wheel("packaging", "24.2", "3.12")
}

fn flipped(digest: &Digest) -> Digest {
    Digest::of(digest.hex().as_bytes())
}

#[test]
fn the_runtimes_wheel_reads_as_unzip_reads_it_whatever_python_it_is_for() {
    let bench = Bench::new();
    let mut libraries = BTreeSet::new();
    for (python, tag) in [("3.12", "cp312"), ("3.11", "cp311")] {
        let pin = bench.lock(wheel("onnxruntime", "1.32.0", python), Platform::LinuxAmd64).expect("offered");
        assert_eq!(pin.file, format!("onnxruntime-1.32.0-{tag}-{tag}-manylinux_2_28_x86_64.whl"));
        let package = bench.package(&pin);
        let blob = bench.obtain(&pin, Reach::Offline).expect("locked");
        assert_eq!(sha256sum(&blob.path), pin.sha256.hex());

        let archive = blob.path.to_str().expect("UTF-8");
        let listed = judge("unzip", &["-l", archive]);
        let rows = listed.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (size, date, _, path) = (words.next()?.parse().ok()?, words.next()?, words.next()?, words.next()?);
            (date.contains('-') && !path.ends_with('/')).then(|| (path.to_owned(), size))
        });
        assert_eq!(files(&package), rows.collect::<BTreeSet<(String, u64)>>());
        assert_eq!(package.licence(), Some("MIT License"));

        let library = package.files_of(&["**/libonnxruntime.so.*".parse().expect("valid")]).expect("there")[0].path.clone();
        let blobs = package.extract(&[&library, "onnxruntime/ThirdPartyNotices.txt"], &bench.store).expect("good");
        let unzipped = bench.path().join("unzipped");
        std::fs::write(&unzipped, Command::new("unzip").args(["-p", archive, &library]).output().expect("runs").stdout)
            .expect("space");
        assert_eq!(sha256sum(&unzipped), blobs[0].digest.hex());
        assert_eq!(blobs[0].size, 34_824_680);
        libraries.insert(blobs[0].digest);
    }
    assert_eq!(libraries.len(), 1, "one library in the wheels for every Python");
}

#[test]
fn wheels_for_another_architecture_are_locked_here() {
    let bench = Bench::new();
    let pin = bench.lock(wheel("onnxruntime", "1.32.0", "3.12"), Platform::LinuxArm64).expect("offered");
    assert!(pin.file.ends_with("_aarch64.whl"), "{}", pin.file);
    let other = Bench::new();
    assert_eq!(other.obtain(&pin, Reach::Online).expect("offered").digest, pin.sha256);
}

#[test]
fn a_damaged_or_missing_wheel_is_fetched_again_and_offline_is_an_error() {
    let bench = Bench::new();
    let pin = bench.lock(small(), Platform::LinuxAmd64).expect("offered");
    let blob = bench.obtain(&pin, Reach::Offline).expect("locked");
    damage(&blob.path);
    let error = bench.obtain(&pin, Reach::Offline).expect_err("damaged");
    assert_eq!(
        error.to_string(),
        "`packaging-24.2-py3-none-any.whl` (packaging 24.2) is not in the store, and the build is offline"
    );
    assert!(error.hint().expect("one").contains("without `--offline`"));
    let again = bench.obtain(&pin, Reach::Online).expect("offered");
    assert_eq!((sha256sum(&again.path), again), (pin.sha256.hex(), blob));
    // The lock's file names decide, not the host's Python.
    assert!(bench.package(&pin).entry("packaging/version.py").is_some());
}

#[test]
fn a_wheel_with_another_digest_or_size_is_refused() {
    let bench = Bench::new();
    let pin = bench.lock(small(), Platform::LinuxAmd64).expect("offered");
    let wrong = Pin { sha256: flipped(&pin.sha256), ..pin.clone() };
    let error = bench.obtain(&wrong, Reach::Online).expect_err("another digest");
    let expected = format!("digest of `{}` is {}, expected {}", pin.file, pin.sha256, wrong.sha256);
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().expect("one").contains("imgbuild lock --update"));
    assert!(bench.store.find(&wrong.sha256).expect("readable").is_none());
    let wrong = Pin { size: pin.size + 1, ..pin.clone() };
    let error = bench.obtain(&wrong, Reach::Online).expect_err("another size");
    assert!(matches!(error, SourceError::Size { actual, expected, .. } if actual + 1 == expected), "{error}");
}

#[test]
fn versions_and_packages_that_are_not_offered_are_named() {
    let bench = Bench::new();
    let error = bench.lock(wheel("packaging", "24.999", "3.12"), Platform::LinuxAmd64).expect_err("no such version");
    assert!(matches!(&error, SourceError::NotOffered { available: Some(list), .. } if list.contains(", 2")), "{error}");
    assert!(error.to_string().starts_with("`pip` found no `packaging==24.999`, but these fit: …, "), "{error}");
    for bad in ["--index-url=x", "a b", "a;b", "a\nb", "-r"] {
        let error = bench.lock(wheel(bad, "1", "3.12"), Platform::LinuxAmd64).expect_err("an option");
        assert!(matches!(error, SourceError::Name(_)), "{bad}: {error}");
    }
}

#[test]
fn without_pip_the_error_says_what_to_install() {
    let mut bench = Bench::new();
    let programs = bench.path().join("bin");
    std::fs::create_dir(&programs).expect("space");
    bench.environment.pip = None;
    let refused = |bench: &Bench| {
        let error = bench.lock(small(), Platform::LinuxAmd64).expect_err("no pip");
        assert_eq!(error.to_string(), "there is no `pip` on this machine, which fetches wheels");
        assert!(error.hint().expect("one").contains("python3-pip"));
    };
    bench.environment.search = programs.clone().into();
    refused(&bench);
    // A Python without pip.
    let python = programs.join("python3");
    std::fs::write(&python, "#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n").expect("space");
    judge("chmod", &["755", python.to_str().expect("UTF-8")]);
    refused(&bench);
    // One that is named but not there.
    bench.environment = Environment { pip: Some("/nowhere/pip".into()), ..Environment::of_process() };
    refused(&bench);
}

#[test]
fn pip_can_be_named_as_a_command() {
    let mut bench = Bench::new();
    bench.environment.pip = Some("python3 -m pip".into());
    assert_eq!(bench.lock(small(), Platform::LinuxAmd64).expect("offered").version, "24.2");
}

/// Answers requests for an index that has one wheel, for those who give the right password.
fn index(wheel: Option<PathBuf>) -> u16 {
    // `user:geheim`
    const RIGHT: &str = "Basic dXNlcjpnZWhlaW0=";
    fn answer(stream: TcpStream, wheel: Option<&PathBuf>) -> std::io::Result<()> {
        let mut reader = BufReader::new(&stream);
        let (mut first, mut allowed) = (String::new(), false);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? < 3 {
                break;
            }
            allowed |= line.to_ascii_lowercase().starts_with("authorization:") && line.contains(RIGHT);
        }
        let (status, body) = match (allowed, wheel) {
            (true, Some(wheel)) if first.contains(".whl") => ("200 OK", std::fs::read(wheel)?),
            (true, Some(wheel)) => {
                let name = wheel.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                ("200 OK", format!("<!DOCTYPE html><html><body><a href=\"/files/{name}\">{name}</a></body></html>").into_bytes())
            }
            _ => ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", Vec::new()),
        };
        let kind = if first.contains(".whl") { "application/octet-stream" } else { "text/html" };
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        (&stream).write_all(head.as_bytes())?;
        (&stream).write_all(&body)
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, wheel.as_ref());
        }
    });
    port
}

fn with_index(user: &str, port: u16) -> Bench {
    Bench::new()
        .with("PIP_INDEX_URL", format!("http://{user}@127.0.0.1:{port}/simple"))
        .with("PIP_FIND_LINKS", "")
        .with("PIP_RETRIES", "0")
        .with("PIP_NO_CACHE_DIR", "1")
        .with("NO_PROXY", "127.0.0.1")
        .with("no_proxy", "127.0.0.1")
}

#[test]
fn credentials_of_a_configured_index_work_and_do_not_show_in_errors() {
    let source = Bench::new();
    let pin = source.lock(small(), Platform::LinuxAmd64).expect("offered");
    let blob = source.obtain(&pin, Reach::Offline).expect("locked");
    let named = source.path().join(&pin.file);
    std::fs::copy(&blob.path, &named).expect("space");
    let port = index(Some(named.clone()));

    let bench = with_index("user:geheim", port);
    assert_eq!(bench.lock(small(), Platform::LinuxAmd64).expect("offered"), pin, "nothing of the index is in the pin");
    let bench = with_index("user:geheim", port);
    assert_eq!(bench.obtain(&pin, Reach::Online).expect("offered").digest, pin.sha256);

    let error = with_index("user:verkehrt", port).lock(small(), Platform::LinuxAmd64).expect_err("the wrong password");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("verkehrt"), "{text}");
    assert!(text.contains("127.0.0.1") && text.contains("401"), "the index and its answer are named: {text}");

    // A mirror that delivers something else under the same name.
    damage(&named);
    let error = with_index("user:geheim", port).obtain(&pin, Reach::Online).expect_err("other bytes");
    assert!(
        matches!(&error, SourceError::Digest { actual, expected, .. } if *expected == pin.sha256 && actual.hex() == sha256sum(&named)),
        "{error}"
    );
}

#[test]
fn an_index_that_refuses_or_is_not_there_is_no_missing_version() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
    for (port, answer) in [(closed, "Connection refused"), (index(None), "401 Client Error")] {
        let error = with_index("user:geheim", port).lock(small(), Platform::LinuxAmd64).expect_err(answer);
        let SourceError::Tool { output, .. } = &error else { panic!("{error:?}") };
        assert!(output.contains(answer) && !format!("{error:?}").contains("geheim") && output.lines().count() <= 30, "{output}");
        assert!(error.hint().expect("one").contains("credentials"));
    }
}

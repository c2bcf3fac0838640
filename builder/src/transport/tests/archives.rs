//! Archives: what is written is deterministic, what is read may be compressed, old or large.

use std::collections::BTreeMap;
use std::fs;
use std::io::Seek;

use super::tarfile::{TarMap, TarWriter};
use super::*;

#[test]
fn archives_come_back_with_their_digest() {
    let fixture = Fixture::new();
    for (prefix, rest) in [("oci-archive", "a.tar:1"), ("docker-archive", "b.tar:acme/x:1"), ("docker-archive", "c.tar")] {
        let to = fixture.at(prefix, rest);
        let placed = fixture.put(&to);
        let image = open_image(&to);
        assert_eq!(placed.descriptor.digest, Digest::of(&image.manifest));
        assert_eq!(image.config, fixture.image.config, "{to}");
        // Docker gets a plain layer for the one of zstd; all else is the same.
        let same = |at: usize| image.parsed.layers[at] == fixture.image.parsed.layers[at];
        assert_eq!([same(0), same(1), same(2)], [true, true, prefix == "oci-archive"], "{to}");
        assert_eq!(image.manifest == fixture.image.manifest, prefix == "oci-archive", "{to}");
        validate(&image, &Progress::silent()).expect("sound");
    }
    let guess = |name: &str| Transport::guess_for_reading(&fixture.path(name).display().to_string()).expect("a file");
    assert_eq!(guess("a.tar"), fixture.at("oci-archive", "a.tar"));
    assert_eq!(open_image(&guess("b.tar")).config, fixture.image.config);
    for (place, wanted) in [("oci-archive", "a.tar:2"), ("docker-archive", "b.tar:acme/x:2")] {
        let error = open(&fixture.at(place, wanted)).expect_err("no such name");
        assert!(matches!(error, TransportError::NotFound { .. }), "{error}");
    }
}

#[test]
fn equal_images_are_equal_archives_wherever_they_come_from() {
    let fixture = Fixture::new();
    fixture.put(&fixture.at("oci", "out:1"));
    let from_layout = open_image(&fixture.at("oci", "out:1"));
    for (prefix, name) in [("oci-archive", "1"), ("docker-archive", "x:1")] {
        fixture.put(&fixture.at(prefix, &format!("a.tar:{name}")));
        let first = fs::read(fixture.path("a.tar")).expect("archive");
        put(&fixture.at(prefix, &format!("a.tar:{name}")), &from_layout.clone().into(), None).expect("put");
        assert!(first == fs::read(fixture.path("a.tar")).expect("archive"), "{prefix} differs");
        let from_archive = open_image(&fixture.at(prefix, "a.tar"));
        put(&fixture.at(prefix, &format!("b.tar:{name}")), &from_archive.into(), None).expect("put");
        assert!(first == fs::read(fixture.path("b.tar")).expect("archive"), "{prefix} differs after a round trip");
    }
}

#[test]
fn a_pipe_gets_the_same_bytes() {
    let fixture = Fixture::new();
    fixture.put(&fixture.at("oci-archive", "a.tar:1"));
    let pipe = fixture.path("pipe");
    run("mkfifo", &[pipe.to_str().expect("text")]);
    let read = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).expect("pipe")
    });
    fixture.put(&fixture.at("oci-archive", "pipe:1"));
    assert!(read.join().expect("read") == fs::read(fixture.path("a.tar")).expect("archive"));
    assert!(!fs::metadata(pipe).expect("still there").is_file());
}

#[test]
fn a_link_to_an_archive_is_followed() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("real")).expect("folder");
    fs::write(fixture.path("real/a.tar"), "old").expect("file");
    std::os::unix::fs::symlink("real/a.tar", fixture.path("a.tar")).expect("link");
    fixture.put(&fixture.at("oci-archive", "a.tar"));
    assert!(fs::symlink_metadata(fixture.path("a.tar")).expect("link").is_symlink());
    assert_eq!(open_image(&fixture.at("oci-archive", "real/a.tar")).manifest, fixture.image.manifest);
}

#[test]
fn compressed_archives_are_read_from_a_copy_that_goes_away() {
    let fixture = Fixture::new();
    fixture.put(&fixture.at("oci-archive", "a.tar:1"));
    let plain = fs::read(fixture.path("a.tar")).expect("archive");
    let scratch = fixture.path("scratch");
    fs::create_dir(&scratch).expect("folder");
    for kind in [Kind::Gzip, Kind::Zstd] {
        let packed = compress(kind, &plain);
        fs::write(fixture.path("packed"), &packed).expect("file");
        let request = Open { platform: None, scratch: Some(scratch.clone()), progress: &Progress::silent() };
        let content = fixture.at("oci-archive", "packed:1").open(&request).expect("open");
        fs::remove_file(fixture.path("packed")).expect("removed");
        validate(content.image(None).expect("one"), &Progress::silent()).expect("sound");
        assert_eq!(fs::read_dir(&scratch).expect("folder").count(), 1);
        drop(content);
        assert_eq!(fs::read_dir(&scratch).expect("folder").count(), 0);
        fs::write(fixture.path("packed"), &packed[..packed.len() - 20]).expect("file");
        let error = fixture.at("oci-archive", "packed:1").open(&request).expect_err("cut off");
        assert!(matches!(error, TransportError::Archive { problem: ArchiveProblem::Stream { .. }, .. }), "{error}");
        assert_eq!(fs::read_dir(&scratch).expect("folder").count(), 0);
    }
    for (head, name) in [(&b"\xfd7zXZ\0\0\0"[..], "xz"), (b"BZh91AY", "bzip2")] {
        fs::write(fixture.path("packed"), head).expect("file");
        let error = open(&fixture.at("oci-archive", "packed")).expect_err(name);
        assert!(error.to_string().contains(&format!("compressed with {name}")), "{error}");
    }
}

/// An archive as `docker save` wrote it before 25.0: a folder a layer, equal layers as links to the first.
fn old_docker_archive(path: &Path, layers: &[Vec<u8>], compressed: Option<Kind>) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| serde_json::json!({"created": "2024-01-02T03:04:05.678Z"})).collect::<Vec<_>>(),
    });
    let config = serde_json::to_vec(&config).expect("plain data");
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut archive = tar::Builder::new(Vec::new());
    let file = |archive: &mut tar::Builder<_>, name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content).expect("memory");
    };
    file(&mut archive, &config_name, &config);
    let mut names = Vec::new();
    let mut first: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (at, layer) in layers.iter().enumerate() {
        let name = format!("{at:064}/layer.tar");
        file(&mut archive, &format!("{at:064}/VERSION"), b"1.0");
        match first.get(layer.as_slice()) {
            Some(same) => {
                let mut header = tar::Header::new_ustar();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                archive.append_link(&mut header, &name, format!("../{same:064}/layer.tar")).expect("memory");
            }
            None => file(&mut archive, &name, &compressed.map_or_else(|| layer.clone(), |kind| compress(kind, layer))),
        }
        first.entry(layer).or_insert(at);
        names.push(name);
    }
    let manifest = serde_json::json!([
        {"Config": config_name, "RepoTags": ["acme/x:1", "localhost:5000/x:2"], "Layers": names},
        {"Config": config_name, "RepoTags": null, "Layers": []},
    ]);
    file(&mut archive, "manifest.json", &serde_json::to_vec(&manifest).expect("plain data"));
    fs::write(path, archive.into_inner().expect("memory")).expect("file");
    config
}

#[test]
fn old_docker_archives_become_images() {
    let fixture = Fixture::new();
    let layers = [tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")]), tar_of(&[("a", b"1")])];
    for kind in [None, Some(Kind::Gzip), Some(Kind::Zstd)] {
        let config = old_docker_archive(&fixture.path("old.tar"), &layers, kind);
        for name in ["acme/x:1", "localhost:5000/x:2"] {
            let image = open_image(&fixture.at("docker-archive", &format!("old.tar:{name}")));
            assert_eq!(image.config, config);
            let validated = validate(&image, &Progress::silent()).expect("sound");
            assert_eq!(validated.unpacked, layers.iter().map(|layer| layer.len() as u64).collect::<Vec<_>>());
            assert_eq!(image.parsed.layers[0], image.parsed.layers[2]);
        }
        let error = open(&fixture.at("docker-archive", "old.tar")).expect_err("two images");
        assert!(matches!(error, TransportError::Ambiguous { .. }), "{error}");
        assert_eq!(
            Transport::guess_for_reading(&fixture.path("old.tar").display().to_string()),
            Ok(fixture.at("docker-archive", "old.tar"))
        );
    }
}

#[test]
fn layers_of_old_archives_are_checked_against_the_config() {
    let fixture = Fixture::new();
    let layers = [tar_of(&[("a", b"1")])];
    for (kind, at) in [(None, 600), (Some(Kind::Zstd), 0)] {
        old_docker_archive(&fixture.path("old.tar"), &layers, kind);
        let mut archive = fs::read(fixture.path("old.tar")).expect("archive");
        // Changes a byte of the layer, or claims the digest of another layer.
        if at > 0 {
            let start = archive.windows(layers[0].len()).position(|window| window == layers[0]).expect("there");
            archive[start + at] ^= 1;
        } else {
            let digest = Digest::of(&layers[0]).to_string();
            let start = archive.windows(digest.len()).position(|window| window == digest.as_bytes()).expect("there");
            archive[start + 10] = if archive[start + 10] == b'0' { b'1' } else { b'0' };
        }
        fs::write(fixture.path("old.tar"), archive).expect("file");
        let outcome = open(&fixture.at("docker-archive", "old.tar:acme/x:1"));
        match outcome {
            Ok(content) => {
                let error = validate(content.image(None).expect("one"), &Progress::silent()).expect_err("changed");
                assert!(matches!(error, ImageError::Layer { number: 1, .. }), "{error}");
            }
            Err(error) => assert!(matches!(error, TransportError::Digest { .. }), "{error}"),
        }
    }
}

#[test]
fn files_of_eight_gigabytes_and_more_have_headers_that_others_read() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("large.tar");
    let size = 9 << 30;
    let mut tar = TarWriter::new(fs::File::create(&path).expect("file"));
    tar.file("small", b"abc").expect("written");
    // A hole takes no room.
    tar.begin_file("large", size).expect("written").seek(std::io::SeekFrom::Current(9 << 30)).expect("a file");
    tar.end_file(size).expect("written");
    tar.file("last", b"last").expect("written");
    tar.finish().expect("written");
    let map = TarMap::scan(&path).expect("sound");
    assert_eq!(map.find("large").expect("sound").expect("there").size, size);
    let last = map.find("last").expect("sound").expect("there");
    assert_eq!(tarfile::read_part(&path, last).expect("read"), b"last");
    if judge("tar") {
        let listed = run("tar", &["--list", "--verbose", "--file", path.to_str().expect("text")]);
        assert!(listed.contains(&size.to_string()) && listed.contains("last"), "{listed}");
    }
}

#[test]
fn memory_does_not_grow_with_a_layer() {
    // Tests share a process, and memory is the process's: this one starts itself again alone.
    if std::env::var_os("IMGBUILD_TEST_ALONE").is_none() {
        let name = "transport::tests::archives::memory_does_not_grow_with_a_layer";
        let output = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", name, "--nocapture"])
            .env("IMGBUILD_TEST_ALONE", "1")
            .output()
            .expect("it starts");
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
        return;
    }
    fn peak_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
    let fixture = Fixture::new();
    let size = 300_u64 << 20;
    let blob = fixture.store.add(io_zeros(size), None).expect("store");
    let layer = Descriptor::new(media_type::LAYER, blob.digest, blob.size);
    let mut image = fixture.image.clone();
    let mut config: ImageConfig = serde_json::from_slice(&image.config).expect("valid");
    config.rootfs.diff_ids = vec![blob.digest];
    config.history.truncate(1);
    image.config = serde_json::to_vec(&config).expect("plain data");
    image.parsed.config = Descriptor::of(media_type::CONFIG, &image.config);
    image.parsed.layers = vec![layer];
    image.manifest = serde_json::to_vec(&image.parsed).expect("plain data");
    let mut blobs = LocalBlobs::default();
    blobs.add_file(blob.digest, blob.path);
    image.blobs = Arc::new(blobs);
    let before = peak_kib();
    for (prefix, rest) in [("oci", "out"), ("oci-archive", "out.tar"), ("docker-archive", "out2.tar")] {
        let to = fixture.at(prefix, rest);
        put(&to, &image.clone().into(), None).expect("put");
        validate(&open_image(&to), &Progress::silent()).expect("sound");
        fs::remove_file(fixture.path(rest)).or_else(|_| fs::remove_dir_all(fixture.path(rest))).expect("removed");
    }
    let grown = peak_kib() - before;
    assert!(grown < 30 << 10, "{grown} KiB more for a layer of {size} bytes");
}

fn io_zeros(size: u64) -> impl std::io::Read {
    std::io::Read::take(std::io::repeat(0), size)
}

//! Damaged and malicious input: typed errors, never a panic.

use std::fs;

use proptest::prelude::*;

use super::*;

/// A layout whose `index.json` names one document of some bytes and type.
fn layout_with(folder: &Path, media_type: &str, document: &[u8]) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("folder");
    fs::write(folder.join("oci-layout"), crate::transport::layout::MARKER).expect("file");
    fs::write(blobs.join(Digest::of(document).hex()), document).expect("file");
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": media_type, "digest": Digest::of(document), "size": document.len()}],
    });
    fs::write(folder.join("index.json"), index.to_string()).expect("file");
}

fn error_of(folder: &Path) -> TransportError {
    open(&transport(&format!("oci:{}", folder.display()))).expect_err("damaged")
}

#[test]
fn each_damage_of_a_layout_is_named() {
    let fixture = Fixture::new();
    let layer = fixture.image.parsed.layers[0].clone();
    let file = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let manifest = file(&Digest::of(&fixture.image.manifest));
    let config = file(&Digest::of(&fixture.image.config));
    let big = vec![b' '; (4 << 20) + 1];
    let cases: Vec<(&str, Option<&[u8]>, String)> = vec![
        ("oci-layout", None, "`oci-layout` is missing in `".to_owned()),
        ("index.json", None, "`index.json` is missing in `".to_owned()),
        ("index.json", Some(b"{"), "failed to parse `index.json`".to_owned()),
        ("index.json", Some(b"[]"), "failed to parse `index.json`".to_owned()),
        ("index.json", Some(br#"{"manifests":[]}"#), "`schemaVersion` of `index.json` in `".to_owned()),
        ("index.json", Some(br#"{"schemaVersion":1,"manifests":[]}"#), "is `1`, expected 2".to_owned()),
        ("index.json", Some(br#"{"schemaVersion":2,"manifests":[]}"#), "has no image `any`, it has none".to_owned()),
        ("index.json", Some(&big), "has 4194305 bytes, expected at most 4194304".to_owned()),
        ("index.json", Some(&fixture.image.manifest), "`mediaType` of `index.json`".to_owned()),
        (&manifest, None, format!("`{manifest}` is missing")),
        (&manifest, Some(b"{}"), format!("`{manifest}` in `")),
        (&config, None, format!("`{config}` is missing")),
        (&config, Some(b"short"), "has 5 bytes, expected".to_owned()),
    ];
    for (name, content, expected) in cases {
        let folder = fixture.path("out");
        let _ = fs::remove_dir_all(&folder);
        fixture.put(&fixture.at("oci", "out:1"));
        let path = folder.join(name);
        fs::remove_file(&path).expect("there");
        if let Some(content) = content {
            fs::write(&path, content).expect("file");
        }
        let error = error_of(&folder);
        assert!(error.to_string().contains(&expected), "{name}: {error}, not {expected}");
    }
    let folder = fixture.path("out");
    fixture.put(&fixture.at("oci", "out:1"));
    let path = folder.join(file(&layer.digest));
    let content = fs::read(&path).expect("layer");
    fs::remove_file(&path).expect("removed");
    fs::write(&path, &content[1..]).expect("file");
    let error = error_of(&folder);
    let expected = format!("has {} bytes, expected {}", content.len() - 1, content.len());
    assert!(error.to_string().contains(&expected) && error.hint().is_some(), "{error}");
    // A wrong byte is found when the layer is read.
    let mut wrong = content;
    wrong[5] ^= 1;
    fs::write(&path, wrong).expect("file");
    let image = open_image(&fixture.at("oci", "out:1"));
    let error = validate(&image, &Progress::silent()).expect_err("a wrong byte");
    assert!(matches!(&error, ImageError::Layer { number: 1, source, .. } if source.to_string().contains("digest is")), "{error}");
}

#[test]
fn documents_that_are_something_else_are_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let folder = folder.path();
    let both =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[],"layers":[],"config":{}}"#;
    let unnamed = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
    let schema1 = br#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#;
    let cases: [(&str, &[u8], &str); 6] = [
        (media_type::MANIFEST, both, "`manifests` of"),
        (media_type::INDEX, unnamed, "`layers` of"),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", schema1, "`schemaVersion` of"),
        (
            "application/x-tar",
            br#"{"schemaVersion":2}"#,
            "is `application/x-tar`, expected the type of an image manifest or index",
        ),
        (media_type::INDEX, &both[..], "as its descriptor says"),
        (media_type::MANIFEST, br#"{"schemaVersion":2}"#, "failed to parse"),
    ];
    for (media_type, document, expected) in cases {
        layout_with(folder, media_type, document);
        let error = error_of(folder);
        assert!(error.to_string().contains(expected), "{error}, not {expected}");
    }
}

#[test]
fn indexes_in_indexes_end() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let folder = folder.path();
    let index = |inner: &[u8], times: usize| {
        let entry = serde_json::json!({"mediaType": media_type::INDEX, "digest": Digest::of(inner), "size": inner.len()});
        serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": vec![entry; times]})).expect("plain data")
    };
    // Deep, and wide at each of few levels.
    for (depth, times) in [(40, 1), (7, 20)] {
        let mut document = br#"{"schemaVersion":2,"manifests":[]}"#.to_vec();
        for _ in 0..depth {
            layout_with(folder, media_type::INDEX, &document);
            document = index(&document, times);
        }
        layout_with(folder, media_type::INDEX, &document);
        let error = error_of(folder);
        assert!(matches!(error, TransportError::Nesting { .. }), "{error}");
        let absent = transport(&format!("oci:{}@{}", folder.display(), Digest::of(b"absent")));
        open(&absent).expect_err("not there");
    }
    // An index that claims to hold itself: its digest cannot be that of its bytes.
    let digest = Digest::of(b"itself");
    let entry = serde_json::json!({"mediaType": media_type::INDEX, "digest": digest, "size": 200});
    let mut document = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    document.push_str(&" ".repeat(200 - document.len()));
    fs::write(folder.join("index.json"), &document).expect("file");
    fs::write(folder.join("blobs/sha256").join(digest.hex()), &document).expect("file");
    let error = error_of(folder);
    assert!(matches!(error, TransportError::Digest { .. }), "{error}");
}

/// Writes an archive of one entry whose name the `tar` crate would refuse to write.
fn archive_with_name(path: &Path, name: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_size(1);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.push(b'x');
    bytes.resize(4 * 512, 0);
    fs::write(path, bytes).expect("file");
}

#[test]
fn damaged_archives_are_named_with_the_place() {
    let fixture = Fixture::new();
    let path = fixture.path("x.tar");
    for name in [&b"../x"[..], b"/etc/passwd", b"a/../../x", b"a/../b", b"\xff\xfe"] {
        archive_with_name(&path, name);
        let error = open(&fixture.at("oci-archive", "x.tar")).expect_err("unsafe");
        assert!(matches!(error, TransportError::UnsafeName { .. }), "{error}");
    }
    archive_with_name(&path, b"./a");
    let error = open(&fixture.at("oci-archive", "x.tar")).expect_err("no layout");
    assert!(matches!(&error, TransportError::Missing { file, .. } if file == "oci-layout"), "{error}");
    let error = open(&fixture.at("docker-archive", "x.tar")).expect_err("no manifest");
    assert!(matches!(&error, TransportError::Missing { file, .. } if file == "manifest.json"), "{error}");

    fixture.put(&fixture.at("oci-archive", "x.tar"));
    let whole = fs::read(&path).expect("archive");
    // At the edge of an entry it is an archive without that entry, and inside one it is cut off.
    for length in [0, 100, 512, 600, 2000, whole.len() / 2, whole.len() - 1500] {
        fs::write(&path, &whole[..length]).expect("file");
        let error = open(&fixture.at("oci-archive", "x.tar")).expect_err("cut off");
        let cut = matches!(error, TransportError::Archive { problem: ArchiveProblem::Truncated { .. }, .. });
        assert!(cut || matches!(error, TransportError::Missing { .. }), "{length}: {error}");
    }
    fs::write(&path, b"no archive at all ".repeat(100)).expect("file");
    let error = open(&fixture.at("oci-archive", "x.tar")).expect_err("no archive");
    assert!(matches!(error, TransportError::Archive { offset: 0, problem: ArchiveProblem::Checksum { .. }, .. }), "{error}");
    let mut twice = whole[..1024].to_vec();
    twice.extend(&whole);
    fs::write(&path, twice).expect("file");
    let error = open(&fixture.at("oci-archive", "x.tar")).expect_err("two markers");
    assert!(matches!(error, TransportError::Archive { problem: ArchiveProblem::Twice { .. }, .. }), "{error}");
}

#[test]
fn a_docker_archive_cannot_name_files_outside() {
    let fixture = Fixture::new();
    let path = fixture.path("x.tar");
    let config = serde_json::json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(b"")]}}).to_string();
    for (layer, config_name) in
        [("../../etc/passwd", "config"), ("/etc/passwd", "config"), ("link", "config"), ("a", "/etc/hostname")]
    {
        let manifest = serde_json::json!([{"Config": config_name, "RepoTags": [], "Layers": [layer]}]).to_string();
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in [("config", &config), ("manifest.json", &manifest)] {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, content.as_bytes()).expect("memory");
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, "link", "../../../etc/passwd").expect("memory");
        fs::write(&path, archive.into_inner().expect("memory")).expect("file");
        let error = open(&fixture.at("docker-archive", "x.tar")).expect_err(layer);
        let linked = matches!(error, TransportError::Archive { problem: ArchiveProblem::Link { .. }, .. });
        assert!(linked || matches!(error, TransportError::Missing { .. }), "{layer}: {error}");
    }
    let manifest = serde_json::json!([{"Config": "config", "Layers": []}]).to_string();
    fs::write(&path, tar_of(&[("config", config.as_bytes()), ("manifest.json", manifest.as_bytes())])).expect("file");
    let error = open(&fixture.at("docker-archive", "x.tar")).expect_err("no layers");
    assert!(error.to_string().contains("is `0 rows`, expected 1 as the config's `diff_ids`"), "{error}");
}

#[test]
fn validation_finds_what_does_not_hold_together() {
    let fixture = Fixture::new();
    let change = |change: &dyn Fn(&mut ImageConfig)| {
        let mut image = fixture.image.clone();
        let mut config: ImageConfig = serde_json::from_slice(&image.config).expect("valid");
        change(&mut config);
        image.config = serde_json::to_vec(&config).expect("plain data");
        image.parsed.config = Descriptor::of(media_type::CONFIG, &image.config);
        image.manifest = serde_json::to_vec(&image.parsed).expect("plain data");
        validate(&image, &Progress::silent()).expect_err("changed").to_string()
    };
    let text = |text: &str| Some(vec![text.to_owned()]);
    let cases: Vec<(String, &str)> = vec![
        (change(&|config| config.architecture.clear()), "`architecture` in the config is ``"),
        (change(&|config| config.os = "linux/amd64".to_owned()), "`os` in the config is `linux/amd64`"),
        (change(&|config| config.rootfs.kind = "disk".to_owned()), "`rootfs.type` in the config is `disk`, expected `layers`"),
        (change(&|config| config.rootfs.diff_ids.truncate(2)), "has 2 `diff_ids`, expected 3"),
        (change(&|config| config.history.truncate(1)), "has 1 rows of history that made a layer, expected 3"),
        (change(&|config| config.history[0].empty_layer = Some(true)), "has 2 rows of history that made a layer"),
        (change(&|config| config.rootfs.diff_ids.swap(0, 1)), "layer 1, sha256:"),
        (change(&|config| config.created = Some("yesterday".to_owned())), "`created` in the config is `yesterday`"),
        (change(&|config| config.created = Some("1970-13-01T00:00:00Z".to_owned())), "`created` in"),
        (change(&|config| config.created = Some("1970-01-01T00:00:00.Z".to_owned())), "`created` in"),
        (change(&|config| config.config.env = text("PATH")), "`config.Env` in the config is `PATH`"),
        (change(&|config| config.config.working_dir = Some("x".to_owned())), "`config.WorkingDir`"),
        (
            change(&|config| _ = config.config.exposed_ports.insert("http".to_owned(), Default::default())),
            "`config.ExposedPorts`",
        ),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found}, not {expected}");
    }
    // A layer that says it is gzip and is not; a type of Docker's among OCI's; a manifest that says something else.
    let mut image = fixture.image.clone();
    image.parsed.layers[0].media_type = media_type::LAYER_GZIP.to_owned();
    let error = validate(&image, &Progress::silent()).expect_err("other bytes");
    assert!(matches!(error, ImageError::Manifest { .. }), "{error}");
    image.manifest = serde_json::to_vec(&image.parsed).expect("plain data");
    let error = validate(&image, &Progress::silent()).expect_err("no gzip");
    assert!(matches!(error, ImageError::Layer { number: 1, .. }), "{error}");
    image.parsed.layers[0].media_type = media_type::DOCKER_LAYER_GZIP.to_owned();
    image.manifest = serde_json::to_vec(&image.parsed).expect("plain data");
    let error = validate(&image, &Progress::silent()).expect_err("mixed");
    assert!(error.to_string().starts_with("the media type of layer 1 is `application/vnd.docker"), "{error}");
    image.config.push(b' ');
    let error = validate(&image, &Progress::silent()).expect_err("other config");
    assert!(matches!(error, ImageError::Config { .. }), "{error}");
    for time in ["1970-01-01T00:00:00Z", "2024-02-03T04:05:06.789012345+01:00", "0001-01-01T00:00:00Z"] {
        let mut config: ImageConfig = serde_json::from_slice(&fixture.image.config).expect("valid");
        config.created = Some(time.to_owned());
        let mut image = fixture.image.clone();
        image.config = serde_json::to_vec(&config).expect("plain data");
        image.parsed.config = Descriptor::of(media_type::CONFIG, &image.config);
        image.manifest = serde_json::to_vec(&image.parsed).expect("plain data");
        validate(&image, &Progress::silent()).expect(time);
    }
}

/// Opens an archive in both formats and reads everything; only a panic is wrong, or an image that claims to be another.
fn exercise(path: &Path, original: Option<&Image>) {
    for prefix in ["oci-archive", "docker-archive"] {
        let Ok(content) = open(&transport(&format!("{prefix}:{}", path.display()))) else { continue };
        for image in content.images() {
            if validate(image, &Progress::silent()).is_ok()
                && let Some(original) = original
                && Digest::of(&image.manifest) == Digest::of(&original.manifest)
            {
                assert_eq!(image.config, original.config);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_no_image(bytes in proptest::collection::vec(any::<u8>(), 0..3000), head in 0..5_usize) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let heads: [&[u8]; 5] = [b"", b"\x1f\x8b\x08\0", b"\x28\xb5\x2f\xfd", b"index.json\0\0\0", b"oci-layout"];
        let path = folder.path().join("x.tar");
        fs::write(&path, [heads[head], &bytes].concat()).expect("file");
        exercise(&path, None);
        let marker = folder.path().join("layout");
        layout_with(&marker, media_type::MANIFEST, &bytes);
        error_of(&marker);
        fs::write(marker.join("index.json"), &bytes).expect("file");
        error_of(&marker);
    }

    #[test]
    fn changed_archives_are_found_out(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        docker in any::<bool>(),
        fix in any::<bool>(),
    ) {
        let fixture = Fixture::new();
        let to = fixture.at(if docker { "docker-archive" } else { "oci-archive" }, "x.tar");
        fixture.put(&to);
        let path = fixture.path("x.tar");
        let mut bytes = fs::read(&path).expect("archive");
        for (at, value) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *value;
            // With its checksum mended, a damaged header is read.
            if fix {
                let start = at / 512 * 512;
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
                header.set_cksum();
                bytes[start + 148..start + 156].copy_from_slice(&header.as_bytes()[148..156]);
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        fs::write(&path, bytes).expect("file");
        exercise(&path, Some(&fixture.image));
    }

    #[test]
    fn any_json_in_the_documents_is_read_or_refused(
        key in "(schemaVersion|mediaType|manifests|layers|config|digest|size|platform|annotations)",
        value in "(null|-1|2|[0-9]{1,25}|\"\"|\"sha256:[0-9a-f]{64}\"|\\[\\]|\\{\\}|\\[null\\]|1e400)",
        in_index in any::<bool>(),
    ) {
        let fixture = Fixture::new();
        fixture.put(&fixture.at("oci", "out"));
        let folder = fixture.path("out");
        let manifest = String::from_utf8(fixture.image.manifest.clone()).expect("text");
        let index = fs::read_to_string(folder.join("index.json")).expect("index");
        let changed = |text: &str| {
            let start = text.find(&format!("\"{key}\":"))? + key.len() + 3;
            let end = start + text[start..].find([',', '}'])?;
            Some(format!("{}{value}{}", &text[..start], &text[end..]))
        };
        if in_index {
            if let Some(changed) = changed(&index) {
                fs::write(folder.join("index.json"), changed).expect("file");
                let _ = open(&fixture.at("oci", "out"));
                let _ = put(&fixture.at("oci", "out"), &fixture.image.clone().into(), None);
            }
        } else if let Some(changed) = changed(&manifest) {
            layout_with(&folder, media_type::MANIFEST, changed.as_bytes());
            let _ = open(&fixture.at("oci", "out"));
        }
    }
}

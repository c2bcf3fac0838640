//! OCI layout folders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

fn blob_file(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

fn tags(folder: &Path) -> Vec<String> {
    let index: crate::image::Index = serde_json::from_slice(&fs::read(folder.join("index.json")).expect("index")).expect("valid");
    index.manifests.iter().map(|entry| entry.annotations.get(read::REF_NAME).cloned().unwrap_or_default()).collect()
}

#[test]
fn an_image_comes_back_by_tag_by_digest_and_alone() {
    let fixture = Fixture::new();
    let placed = fixture.put(&fixture.at("oci", "out:1"));
    assert_eq!(placed.descriptor.digest, Digest::of(&fixture.image.manifest));
    let folder = fixture.path("out");
    for text in ["".to_owned(), ":1".to_owned(), format!("@{}", placed.descriptor.digest)] {
        let image = open_image(&transport(&format!("oci:{}{text}", folder.display())));
        assert_eq!((image.manifest.as_slice(), image.config.as_slice()), (&*fixture.image.manifest, &*fixture.image.config));
        let validated = validate(&image, &Progress::silent()).expect("sound");
        assert_eq!(validated.unpacked.len(), 3);
    }
    assert_eq!(Transport::guess_for_reading(folder.to_str().expect("text")), Ok(fixture.at("oci", "out")));
    let error = open(&fixture.at("oci", "out:2")).expect_err("no such tag");
    assert!(error.to_string().contains("has no image `2`, it has `1`"), "{error}");
}

#[test]
fn blobs_are_the_stores_own_files_and_its_stamps_stay_valid() {
    let fixture = Fixture::new();
    let stamps = || -> BTreeMap<_, _> {
        let folder = fs::read_dir(fixture.store.root().join("stamps/sha256")).expect("stamps");
        folder
            .map(|entry| entry.expect("entry"))
            .map(|entry| (entry.file_name(), entry.metadata().expect("stamp").ino()))
            .collect()
    };
    let placed = fixture.put(&fixture.at("oci", "out:1"));
    assert!(placed.written > 0);
    let written = stamps();
    for layer in &fixture.image.parsed.layers {
        let stored = fixture.store.find(&layer.digest).expect("store").expect("there");
        let copy = blob_file(&fixture.path("out"), &layer.digest);
        assert_eq!(fs::metadata(&stored.path).expect("stored").ino(), fs::metadata(&copy).expect("copy").ino());
    }
    // A stamp that no longer fits is written anew.
    assert_eq!(stamps(), written, "the store hashed a blob again after it was linked");
    assert_eq!(fixture.put(&fixture.at("oci", "out:1")).written, 0);
    assert_eq!(fixture.put(&fixture.at("oci", "out:2")).written, 0);
    assert_eq!(tags(&fixture.path("out")), ["1", "2"]);
}

#[test]
fn without_the_store_blobs_are_copies() {
    let fixture = Fixture::new();
    put(&fixture.at("oci", "out:1"), &fixture.image.clone().into(), None).expect("put");
    for layer in &fixture.image.parsed.layers {
        let copy = fs::read(blob_file(&fixture.path("out"), &layer.digest)).expect("copy");
        assert_eq!(Digest::of(&copy), layer.digest);
        let stored = fixture.store.find(&layer.digest).expect("store").expect("there");
        assert_eq!(fs::metadata(stored.path).expect("stored").nlink(), 1);
    }
}

#[test]
fn a_tag_is_replaced_and_the_others_stay_as_they_are() {
    let fixture = Fixture::new();
    let other = make_image(&fixture.store, &[(Kind::Gzip, tar_of(&[("x", b"y")]))], "amd64", ContainerConfig::default());
    fixture.put(&fixture.at("oci", "out:a"));
    fixture.put(&fixture.at("oci", "out:b"));
    // What another tool wrote into an entry is not lost.
    let index = fixture.path("out/index.json");
    let text = fs::read_to_string(&index).expect("index").replacen(
        "\"mediaType\":\"application/vnd.oci.image.manifest",
        "\"urls\":[\"x:y\"],$0",
        1,
    );
    let text = text.replacen("$0", "\"mediaType\":\"application/vnd.oci.image.manifest", 1);
    fs::write(&index, &text).expect("index");
    put(&fixture.at("oci", "out:b"), &other.clone().into(), None).expect("put");
    assert_eq!(tags(&fixture.path("out")), ["a", "b"]);
    assert!(fs::read_to_string(&index).expect("index").contains("\"urls\":[\"x:y\"]"));
    assert_eq!(open_image(&fixture.at("oci", "out:a")).manifest, fixture.image.manifest);
    assert_eq!(open_image(&fixture.at("oci", "out:b")).manifest, other.manifest);
    let error = open(&fixture.at("oci", "out")).expect_err("two images");
    assert!(matches!(&error, TransportError::Ambiguous { available, .. } if available == &["a", "b"]), "{error}");
    // Without a tag there is one image, and it is the last one.
    for image in [&fixture.image, &other] {
        put(&fixture.at("oci", "untagged"), &image.clone().into(), None).expect("put");
        assert_eq!(open_image(&fixture.at("oci", "untagged")).manifest, image.manifest);
    }
}

#[test]
fn the_full_name_is_kept_beside_the_tag() {
    let fixture = Fixture::new();
    let name = "localhost:5000/acme/magika:1".parse().expect("valid");
    let request = Put { name: Some(&name), platform: None, store: None, progress: &Progress::silent() };
    fixture.at("oci", "out").put(&fixture.image.clone().into(), &request).expect("put");
    let index = fs::read_to_string(fixture.path("out/index.json")).expect("index");
    assert!(index.contains(r#""io.containerd.image.name":"localhost:5000/acme/magika:1""#), "{index}");
    for selector in ["out", "out:1", "out:localhost:5000/acme/magika:1"] {
        open_image(&fixture.at("oci", selector));
    }
}

#[test]
fn damaged_blobs_in_the_layout_are_replaced() {
    let fixture = Fixture::new();
    fixture.put(&fixture.at("oci", "out:1"));
    for (at, damage) in [(0, &b"short"[..]), (1, &[0; 4096][..]), (2, &b""[..])] {
        let layer = &fixture.image.parsed.layers[at];
        let path = blob_file(&fixture.path("out"), &layer.digest);
        let mut content = damage.to_vec();
        if at == 1 {
            content.resize(usize::try_from(layer.size).expect("small"), 0);
        }
        fs::remove_file(&path).expect("removed");
        fs::write(&path, content).expect("damaged");
    }
    let manifest = blob_file(&fixture.path("out"), &Digest::of(&fixture.image.manifest));
    fs::write(&manifest, "{}").expect("damaged");
    open(&fixture.at("oci", "out:1")).expect_err("damaged");
    fixture.put(&fixture.at("oci", "out:1"));
    validate(&open_image(&fixture.at("oci", "out:1")), &Progress::silent()).expect("sound again");
}

#[test]
fn what_is_no_layout_is_left_alone() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("photos")).expect("folder");
    fs::write(fixture.path("photos/cat"), "meow").expect("file");
    fs::create_dir(fixture.path("empty")).expect("folder");
    let content = fixture.image.clone().into();
    for place in ["photos", "photos/cat"] {
        let error = put(&fixture.at("oci", place), &content, None).expect_err(place);
        assert!(matches!(error, TransportError::Occupied { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(fixture.path("photos")).expect("folder").count(), 1);
    fixture.put(&fixture.at("oci", "empty"));
    fixture.put(&fixture.at("oci", "new/below/new:1"));
    let error = put(&transport(&format!("oci:x@{}", Digest::of(b""))), &content, None).expect_err("a digest");
    assert!(matches!(error, TransportError::WriteByDigest { .. }), "{error}");
    fs::write(fixture.path("empty/oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).expect("file");
    let error = put(&fixture.at("oci", "empty"), &content, None).expect_err("a newer layout");
    assert!(matches!(&error, TransportError::LayoutVersion { found, .. } if found == "2.0.0"), "{error}");
}

#[test]
fn a_damaged_source_gives_no_image_and_leaves_no_trace() {
    let fixture = Fixture::new();
    let layer = fixture.image.parsed.layers[1].clone();
    let path = fixture.path("damaged");
    fs::write(&path, vec![7; usize::try_from(layer.size).expect("small")]).expect("file");
    let mut blobs = LocalBlobs::default();
    for layer in &fixture.image.parsed.layers {
        blobs.add_file(layer.digest, fixture.store.find(&layer.digest).expect("store").expect("there").path);
    }
    blobs.add_file(layer.digest, path);
    let image = Content::Image(Image { blobs: Arc::new(blobs), ..fixture.image.clone() });
    for place in ["oci", "oci-archive", "docker-archive"] {
        let to = fixture.at(place, &format!("out-{place}"));
        let error = put(&to, &image, None).expect_err("damaged");
        assert!(matches!(error, TransportError::Blob { digest, .. } if digest == layer.digest), "{error}");
        open(&to).expect_err("nothing there");
    }
    let left: Vec<_> = walkdir::WalkDir::new(fixture.folder.path())
        .into_iter()
        .map(|entry| entry.expect("entry").path().display().to_string())
        .filter(|path| path.contains(copy::TEMPORARY) || path.contains("out-oci-archive") || path.contains("out-docker-archive"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    // The same layout is completed by a sound image.
    fixture.put(&fixture.at("oci", "out-oci"));
    validate(&open_image(&fixture.at("oci", "out-oci")), &Progress::silent()).expect("sound");
}

#[test]
fn a_config_of_another_image_is_not_written() {
    let fixture = Fixture::new();
    let image = Content::Image(Image { config: b"{}".to_vec(), ..fixture.image.clone() });
    for place in ["oci", "oci-archive", "docker-archive"] {
        let error = put(&fixture.at(place, place), &image, None).expect_err("another config");
        assert!(matches!(error, TransportError::Config { .. } | TransportError::Json { .. }), "{error}");
        open(&fixture.at(place, place)).expect_err("nothing there");
    }
}

/// What the killed process does: writes the store's image under one tag after another.
fn write_until_killed(folder: &str) -> ! {
    let store = Store::open(&Path::new(folder).join("store")).expect("store");
    let image = open_image(&transport(&format!("oci:{folder}/source")));
    for at in 0.. {
        let to = transport(&format!("oci:{folder}/out:{}", at % 50));
        // Every other blob is copied, so that there is something to interrupt.
        put(&to, &image.clone().into(), (at % 2 == 0).then_some(&store)).expect("put");
        let _ = fs::remove_file(blob_file(&Path::new(folder).join("out"), &image.parsed.layers[0].digest));
    }
    unreachable!("it is killed before the numbers end")
}

#[test]
fn a_killed_writer_leaves_a_sound_layout() {
    const FOLDER: &str = "IMGBUILD_TEST_KILLED";
    if let Ok(folder) = std::env::var(FOLDER) {
        write_until_killed(&folder);
    }
    let mut noise = 1_u32;
    let mut random = || {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        noise >> 16
    };
    let content: Vec<u8> = (0..8 << 20).map(|_| random().to_le_bytes()[0]).collect();
    let layers = [(Kind::Gzip, tar_of(&[("noise", &content)])), (Kind::Zstd, tar_of(&[("x", b"y")]))];
    let fixture = Fixture::with(&layers, "amd64", ContainerConfig::default());
    put(&fixture.at("oci", "source"), &fixture.image.clone().into(), None).expect("put");
    let name = "transport::tests::layout::a_killed_writer_leaves_a_sound_layout";
    // A busy machine needs longer to get as far as writing.
    let mut longest = 200;
    for _ in 0..20 {
        let mut child = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", name])
            .env(FOLDER, fixture.folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(std::time::Duration::from_millis(u64::from(20 + random() % longest)));
        child.kill().expect("killed");
        child.wait().expect("ended");
        let out = fixture.path("out");
        // Whatever is named is whole, except for the blob that the child itself takes away.
        let named = if out.join("index.json").exists() { tags(&out) } else { Vec::new() };
        longest = if named.len() > 2 { longest } else { (longest * 2).min(5000) };
        fixture.put(&fixture.at("oci", "out:parent"));
        for tag in named.iter().map(String::as_str).chain(["parent"]) {
            validate(&open_image(&fixture.at("oci", &format!("out:{tag}"))), &Progress::silent()).expect("sound");
        }
    }
    assert!(tags(&fixture.path("out")).len() > 2, "the children were killed before they wrote anything");
}

#[test]
fn writers_at_once_lose_nothing() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for at in 0..8 {
            let fixture = &fixture;
            scope.spawn(move || {
                let store = (at % 2 == 0).then_some(&fixture.store);
                put(&fixture.at("oci", &format!("out:{at}")), &fixture.image.clone().into(), store).expect("put");
            });
        }
    });
    let mut found = tags(&fixture.path("out"));
    found.sort();
    assert_eq!(found, (0..8).map(|at| at.to_string()).collect::<Vec<_>>());
    validate(&open_image(&fixture.at("oci", "out:5")), &Progress::silent()).expect("sound");
}

#[test]
fn dockers_types_become_ocis() {
    let fixture = Fixture::new();
    let layers = [(Kind::Gzip, tar_of(&[("x", b"y")])), (Kind::Gzip, tar_of(&[("z", b"y")]))];
    let mut image = make_image(&fixture.store, &layers, "amd64", ContainerConfig::default());
    image.parsed.media_type = Some(media_type::DOCKER_MANIFEST.to_owned());
    image.parsed.config.media_type = media_type::DOCKER_CONFIG.to_owned();
    for layer in &mut image.parsed.layers {
        layer.media_type = media_type::DOCKER_LAYER_GZIP.to_owned();
    }
    image.manifest = serde_json::to_vec(&image.parsed).expect("plain data");
    validate(&image, &Progress::silent()).expect("sound before");
    let content = Content::Image(image.clone());
    let index = match make_index(&[image.clone()]) {
        Content::Index(mut index) => {
            index.parsed.media_type = Some(media_type::DOCKER_INDEX.to_owned());
            index.bytes = serde_json::to_vec(&index.parsed).expect("plain data");
            Content::Index(index)
        }
        Content::Image(_) => unreachable!("an index was made"),
    };
    for (name, content) in [("image", content), ("index", index)] {
        let placed = put(&fixture.at("oci", name), &content, None).expect("put");
        assert_ne!(placed.descriptor.digest, content.descriptor().digest);
        let found = open(&fixture.at("oci", name)).expect("open");
        let found = found.image(None).expect("one image");
        assert!(!String::from_utf8_lossy(&found.manifest).contains("docker"));
        validate(found, &Progress::silent()).expect("sound after");
    }
    image.parsed.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned();
    let error = put(&fixture.at("oci", "foreign"), &image.into(), None).expect_err("foreign");
    assert!(matches!(error, TransportError::NoEquivalent { .. }), "{error}");
}

#[test]
fn an_index_is_kept_whole_and_a_platform_chosen_from_it() {
    let fixture = Fixture::new();
    let arm = make_image(&fixture.store, &[(Kind::Zstd, tar_of(&[("arm", b"64")]))], "arm64", ContainerConfig::default());
    let index = make_index(&[fixture.image.clone(), arm.clone()]);
    for place in ["oci", "oci-archive"] {
        let to = fixture.at(place, &format!("{place}:multi"));
        put(&to, &index, Some(&fixture.store)).expect("put");
        let found = open(&to).expect("open");
        assert_eq!(found.descriptor(), index.descriptor());
        assert_eq!(found.platforms(), ["linux/amd64", "linux/arm64"]);
        validate_content(&found, &Progress::silent()).expect("sound");
        let request = Open { platform: Some(Platform::LinuxArm64), scratch: None, progress: &Progress::silent() };
        let chosen = to.open(&request).expect("open");
        assert_eq!(chosen.image(None).expect("one").manifest, arm.manifest);
        let by_digest = transport(&format!("{place}:{}@{}", fixture.path(place).display(), Digest::of(&arm.manifest)));
        assert_eq!(open_image(&by_digest).manifest, arm.manifest);
    }
    // A copy of one platform alone is still good for that one.
    fs::remove_file(blob_file(&fixture.path("oci"), &fixture.image.parsed.layers[0].digest)).expect("removed");
    let request = Open { platform: Some(Platform::LinuxArm64), scratch: None, progress: &Progress::silent() };
    fixture.at("oci", "oci").open(&request).expect("arm64 is whole");
    open(&fixture.at("oci", "oci")).expect_err("amd64 is not");
    // A place for one image asks which.
    let to = fixture.at("docker-archive", "one.tar:x:1");
    let error = put(&to, &index, None).expect_err("two platforms");
    assert!(error.to_string().contains("index for `linux/amd64`, `linux/arm64`"), "{error}");
    to.put(&index, &Put { name: None, platform: Some(Platform::LinuxArm64), store: None, progress: &Progress::silent() })
        .expect("chosen");
    assert_eq!(open_image(&to).config, arm.config);
    let only_amd = fixture.at("oci", "amd:1");
    fixture.put(&only_amd);
    let error = only_amd.open(&request).expect_err("amd64");
    assert!(error.to_string().contains("is for `linux/amd64`, not for `linux/arm64`"), "{error}");
}

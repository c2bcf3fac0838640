//! What independent tools say: `skopeo`, `umoci`, `tar`, `ocipkg`, `oci-spec`, and the JSON schemas of the OCI image specification.

use std::fs;
use std::path::Path;

use ocipkg::image::Image as _;

use super::*;

const PLACES: [(&str, &str); 4] =
    [("oci", "layout:1"), ("oci-archive", "oci.tar:1"), ("docker-archive", "docker.tar:acme/x:1"), ("oci", "untagged")];

/// Copies with `skopeo`.
fn skopeo_copy(from: &str, to: &str) {
    run("skopeo", &["copy", "--insecure-policy", from, to]);
}

fn is_sound(image: &Image, like: &Image) {
    validate(image, &Progress::silent()).expect("sound");
    assert_eq!(image.config, like.config);
}

#[test]
fn skopeo_reads_what_is_written_with_every_compression() {
    if !judge("skopeo") {
        return;
    }
    let fixture = Fixture::new();
    let digest = Digest::of(&fixture.image.manifest).to_string();
    for (prefix, rest) in PLACES {
        let to = fixture.at(prefix, rest);
        fixture.put(&to);
        let shown: serde_json::Value = serde_json::from_str(&run("skopeo", &["inspect", &to.to_string()])).expect("JSON");
        assert_eq!(shown["Architecture"], "amd64", "{to}");
        assert_eq!(shown["Layers"].as_array().map(Vec::len), Some(3), "{to}");
        // The manifest of a Docker archive is one that skopeo makes itself.
        if prefix != "docker-archive" {
            assert_eq!(shown["Digest"], digest.as_str(), "{to}");
        }
        let raw = run("skopeo", &["inspect", "--config", "--raw", &to.to_string()]);
        assert_eq!(raw.as_bytes(), fixture.image.config, "{to}");
        // Reads and checks every layer.
        let copied = fixture.path(&format!("copied-{prefix}-{}", rest.len()));
        skopeo_copy(&to.to_string(), &format!("dir:{}", copied.display()));
        let back = fixture.at("oci", &format!("back-{prefix}-{}:1", rest.len()));
        skopeo_copy(&to.to_string(), &back.to_string());
        is_sound(&open_image(&back), &fixture.image);
    }
}

#[test]
fn what_skopeo_writes_is_read() {
    if !judge("skopeo") {
        return;
    }
    // It compresses plain layers when it copies them, so that a manifest stays the same only without one, and it puts no zstd into a
    // Docker archive.
    let layer = |kind, name| (kind, tar_of(&[(name, b"content".as_slice())]));
    for other in [Kind::Plain, Kind::Zstd] {
        let layers = [layer(Kind::Gzip, "a"), layer(other, "b")];
        let fixture = Fixture::with(&layers, "amd64", ContainerConfig::default());
        copies_of_skopeo(&fixture, other);
    }
}

fn copies_of_skopeo(fixture: &Fixture, kind: Kind) {
    let from = fixture.at("oci", "from:1");
    fixture.put(&from);
    let has_plain = kind == Kind::Plain;
    for (prefix, rest) in PLACES.into_iter().filter(|(prefix, _)| has_plain || *prefix != "docker-archive") {
        let to = fixture.at(prefix, rest);
        skopeo_copy(&from.to_string(), &to.to_string());
        let image = open_image(&to);
        is_sound(&image, &fixture.image);
        if prefix != "docker-archive" && !has_plain {
            assert_eq!(image.manifest, fixture.image.manifest, "{to}");
        }
        // A tag of ours goes into a layout of skopeo's, and skopeo still finds both.
        if prefix == "oci" {
            let folder = to.path().expect("a folder").display().to_string();
            fixture.put(&transport(&format!("oci:{folder}:ours")));
            run("skopeo", &["inspect", &format!("oci:{folder}:ours")]);
            if rest.contains(':') {
                run("skopeo", &["inspect", &to.to_string()]);
            }
        }
    }
}

#[test]
fn umoci_lists_and_unpacks_layouts() {
    if !judge("umoci") {
        return;
    }
    // This version of umoci knows no zstd.
    let layers = [(Kind::Plain, tar_of(&[("bin/a", b"first")])), (Kind::Gzip, tar_of(&[("bin/b", b"second")]))];
    let fixture = Fixture::with(&layers, "amd64", ContainerConfig::default());
    fixture.put(&fixture.at("oci", "layout:one"));
    fixture.put(&fixture.at("oci", "layout:two"));
    let folder = fixture.path("layout").display().to_string();
    assert_eq!(run("umoci", &["ls", "--layout", &folder]).split_whitespace().collect::<Vec<_>>(), ["one", "two"]);
    let bundle = fixture.path("bundle").display().to_string();
    run("umoci", &["unpack", "--rootless", "--image", &format!("{folder}:one"), &bundle]);
    for (name, content) in [("a", "first"), ("b", "second")] {
        assert_eq!(fs::read_to_string(format!("{bundle}/rootfs/bin/{name}")).expect("unpacked"), content);
    }
    // Its rubbish collection finds nothing to remove, and what it writes is read.
    run("umoci", &["gc", "--layout", &folder]);
    run("umoci", &["config", "--image", &format!("{folder}:one"), "--tag", "three", "--config.label", "a=b"]);
    is_sound(&open_image(&transport(&format!("oci:{folder}:two"))), &fixture.image);
    let changed = open_image(&transport(&format!("oci:{folder}:three")));
    let validated = validate(&changed, &Progress::silent()).expect("sound");
    assert_eq!(validated.config.config.labels.expect("labels")["a"], "b");
}

#[test]
fn ocipkg_reads_layouts_and_archives() {
    let fixture = Fixture::new();
    fixture.put(&fixture.at("oci", "layout:1"));
    fixture.put(&fixture.at("oci-archive", "oci.tar:1"));
    let check = |manifest: ocipkg::oci_spec::image::ImageManifest, blob: &mut dyn FnMut(&str) -> Vec<u8>| {
        assert_eq!(manifest.layers().len(), 3);
        for (found, expected) in manifest.layers().iter().zip(&fixture.image.parsed.layers) {
            assert_eq!(found.digest().to_string(), expected.digest.to_string());
            assert_eq!(Digest::of(&blob(&expected.digest.to_string())), expected.digest);
        }
    };
    let digest = |text: &str| text.parse::<ocipkg::Digest>().expect("valid");
    let mut layout = ocipkg::image::OciDir::new(&fixture.path("layout")).expect("a layout");
    check(layout.get_manifest().expect("manifest"), &mut |text| layout.get_blob(&digest(text)).expect("blob"));
    let mut archive = ocipkg::image::OciArchive::new(&fixture.path("oci.tar")).expect("an archive");
    check(archive.get_manifest().expect("manifest"), &mut |text| archive.get_blob(&digest(text)).expect("blob"));
}

#[test]
fn oci_spec_reads_every_document() {
    let fixture = Fixture::new();
    fixture.put(&fixture.at("oci", "layout:1"));
    let file = |name: &str| fixture.path("layout").join(name);
    let index = oci_spec::image::ImageIndex::from_file(file("index.json")).expect("index");
    oci_spec::image::OciLayout::from_file(file("oci-layout")).expect("marker");
    let entry = &index.manifests()[0];
    assert_eq!(entry.platform().as_ref().expect("platform").architecture(), &oci_spec::image::Arch::Amd64);
    let manifest = oci_spec::image::ImageManifest::from_reader(&fixture.image.manifest[..]).expect("manifest");
    assert_eq!(manifest.config().digest().to_string(), fixture.image.parsed.config.digest.to_string());
    let config = oci_spec::image::ImageConfiguration::from_reader(&fixture.image.config[..]).expect("config");
    assert_eq!(config.rootfs().diff_ids().len(), 3);
}

/// Validates a document in Python against a schema file beside which the schemas lie that it refers to by name.
const VALIDATE: &str = r#"
import json, pathlib, sys
from jsonschema import Draft4Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4
folder = pathlib.Path(sys.argv[1])
load = lambda name: json.loads((folder / name).read_text())
registry = Registry(retrieve=lambda uri: Resource.from_contents(load(uri.rsplit("/", 1)[-1]), DRAFT4))
for schema, document in zip(sys.argv[2::2], sys.argv[3::2]):
    validator = Draft4Validator(load(schema), registry=registry)
    for error in validator.iter_errors(json.load(open(document))):
        print(schema, list(error.absolute_path), error.message)
"#;

/// A folder for what judges need, made once and kept below the build folder.
fn kept(name: &str, make: impl FnOnce(&Path) -> Result<(), String>) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/judges");
    fs::create_dir_all(&root).expect("folder");
    let lock = fs::File::create(root.join(format!("{name}.lock"))).expect("file");
    lock.lock().expect("a lock");
    let folder = root.join(name);
    if !folder.join("complete").exists() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("folder");
        make(&folder).unwrap_or_else(|printed| panic!("failed to prepare {name}: {printed}"));
        fs::write(folder.join("complete"), "").expect("file");
    }
    folder
}

#[test]
fn the_specifications_schemas_accept_every_document() {
    if !(judge("apt-get") && judge("dpkg-deb") && judge("python3")) {
        return;
    }
    let schemas = kept("image-spec", |folder| {
        run_in(folder, "apt-get", &["download", "golang-github-opencontainers-image-spec-dev"])?;
        let package = fs::read_dir(folder)
            .expect("folder")
            .find_map(|entry| Some(entry.expect("entry").path()).filter(|path| path.extension().is_some_and(|end| end == "deb")));
        let package = package.ok_or("nothing was downloaded")?;
        run_in(folder, "dpkg-deb", &["--extract", package.to_str().expect("text"), "."]).map(|_| ())
    });
    let schemas = schemas.join("usr/share/gocode/src/github.com/opencontainers/image-spec/schema");
    let python = kept("python", |folder| {
        run_in(folder, "python3", &["-m", "venv", "."])?;
        run_in(folder, "bin/pip", &["install", "--quiet", "jsonschema>=4.18"]).map(|_| ())
    });
    let fixture = Fixture::new();
    let config = ContainerConfig {
        user: Some("65532:65532".to_owned()),
        exposed_ports: [("8080/tcp".to_owned(), Default::default())].into(),
        env: Some(vec!["A=b".to_owned()]),
        entrypoint: Some(vec!["/bin/x".to_owned()]),
        working_dir: Some("/".to_owned()),
        labels: Some([("a".to_owned(), "b".to_owned())].into()),
        stop_signal: Some("SIGTERM".to_owned()),
        ..ContainerConfig::default()
    };
    let full = make_image(&fixture.store, &[(Kind::Zstd, tar_of(&[("x", b"y")]))], "arm64", config);
    let index = make_index(&[fixture.image.clone(), full.clone()]);
    let name = "localhost:5000/acme/x:1".parse().expect("valid");
    let request = Put { name: Some(&name), platform: None, store: None, progress: &Progress::silent() };
    fixture.at("oci", "layout").put(&index, &request).expect("put");
    fixture.at("oci", "layout:2").put(&full.clone().into(), &request).expect("put");
    let layout = fixture.path("layout");
    let blob = |bytes: &[u8]| layout.join(files::blob_name(&Digest::of(bytes)));
    let documents = [
        ("image-layout-schema.json", layout.join("oci-layout")),
        ("image-index-schema.json", layout.join("index.json")),
        (
            "image-index-schema.json",
            blob(match &index {
                Content::Index(index) => &index.bytes,
                Content::Image(image) => &image.manifest,
            }),
        ),
        ("image-manifest-schema.json", blob(&full.manifest)),
        ("image-manifest-schema.json", blob(&fixture.image.manifest)),
        ("config-schema.json", blob(&full.config)),
        ("config-schema.json", blob(&fixture.image.config)),
    ];
    let script = fixture.path("validate.py");
    fs::write(&script, VALIDATE).expect("file");
    let mut arguments = vec![script.display().to_string(), schemas.display().to_string()];
    arguments.extend(documents.iter().flat_map(|(schema, path)| [(*schema).to_owned(), path.display().to_string()]));
    let complaints = |arguments: &[String]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        run(python.join("bin/python").to_str().expect("text"), &arguments)
    };
    assert_eq!(complaints(&arguments), "");
    // The judge is awake.
    fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[{"mediaType":"x","size":1,"digest":"y"}]}"#)
        .expect("file");
    let found = complaints(&arguments);
    assert!(found.contains("mediaType") && found.contains("digest"), "{found}");
}

//! Images made for the tests, and the tests of all places together.

mod archives;
mod damaged;
mod docker;
mod judges;
mod layout;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::*;
use crate::digest::Digest;
use crate::image::{ContainerConfig, History, Image, ImageConfig, LocalBlobs, Manifest, RootFs, media_type};

/// How a layer of a test image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip,
    Zstd,
}

const ALL_KINDS: [Kind; 3] = [Kind::Plain, Kind::Gzip, Kind::Zstd];

/// A store with an image in it, in a folder that goes away.
struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
    image: Image,
}

impl Fixture {
    /// An image of three layers that are compressed in three ways.
    fn new() -> Self {
        let layers: Vec<_> = ALL_KINDS
            .iter()
            .enumerate()
            .map(|(at, kind)| (*kind, tar_of(&[(&format!("layer-{at}/file.txt"), format!("content of {at}\n").as_bytes())])))
            .collect();
        Self::with(&layers, "amd64", ContainerConfig::default())
    }

    fn with(layers: &[(Kind, Vec<u8>)], architecture: &str, config: ContainerConfig) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let store = Store::open(&folder.path().join("store")).expect("store");
        let image = make_image(&store, layers, architecture, config);
        Self { folder, store, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A transport of the form `PREFIX:FOLDER/REST`.
    fn at(&self, prefix: &str, rest: &str) -> Transport {
        format!("{prefix}:{}/{rest}", self.folder.path().display()).parse().expect("valid")
    }

    fn put(&self, to: &Transport) -> Placed {
        put(to, &self.image.clone().into(), Some(&self.store)).expect("put")
    }
}

fn put(to: &Transport, content: &Content, store: Option<&Store>) -> Result<Placed, TransportError> {
    to.put(content, &Put { name: None, platform: None, store, progress: &Progress::silent() })
}

fn open(from: &Transport) -> Result<Content, TransportError> {
    from.open(&Open { platform: None, scratch: None, progress: &Progress::silent() })
}

fn open_image(from: &Transport) -> Image {
    match open(from) {
        Ok(Content::Image(image)) => image,
        other => panic!("{from}: {other:?}"),
    }
}

fn transport(text: &str) -> Transport {
    text.parse().expect("valid")
}

/// A tar of files, by the `tar` crate.
fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(0);
        builder.append_data(&mut header, name, *content).expect("memory");
    }
    builder.into_inner().expect("memory")
}

/// Compresses in two members or frames, where there are bytes enough for two.
fn compress(kind: Kind, content: &[u8]) -> Vec<u8> {
    let halves = content.split_at(content.len() / 2);
    match kind {
        Kind::Plain => content.to_vec(),
        Kind::Gzip => [halves.0, halves.1]
            .iter()
            .flat_map(|half| {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(half).expect("memory");
                encoder.finish().expect("memory")
            })
            .collect(),
        Kind::Zstd => [halves.0, halves.1].iter().flat_map(|half| zstd::encode_all(*half, 3).expect("memory")).collect(),
    }
}

fn make_image(store: &Store, layers: &[(Kind, Vec<u8>)], architecture: &str, config: ContainerConfig) -> Image {
    let mut blobs = LocalBlobs::default();
    let mut descriptors = Vec::new();
    for (kind, content) in layers {
        let blob = store.add(&compress(*kind, content)[..], None).expect("store");
        let media_type = match kind {
            Kind::Plain => media_type::LAYER,
            Kind::Gzip => media_type::LAYER_GZIP,
            Kind::Zstd => media_type::LAYER_ZSTD,
        };
        descriptors.push(Descriptor::new(media_type, blob.digest, blob.size));
        blobs.add_file(blob.digest, blob.path);
    }
    let row = |_| History { created_by: Some("a test".to_owned()), ..History::default() };
    let config = ImageConfig {
        created: Some("1970-01-01T00:00:00Z".to_owned()),
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        config,
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: layers.iter().map(|(_, content)| Digest::of(content)).collect() },
        history: layers.iter().map(row).collect(),
        other: Default::default(),
    };
    let config = serde_json::to_vec(&config).expect("plain data");
    let parsed = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(media_type::CONFIG, &config),
        layers: descriptors,
        subject: None,
        annotations: Default::default(),
    };
    let manifest = serde_json::to_vec(&parsed).expect("plain data");
    Image { manifest, parsed, config, blobs: Arc::new(blobs) }
}

/// An index of images, one an architecture.
fn make_index(images: &[Image]) -> Content {
    let manifests = images.iter().map(|image| Descriptor { platform: platform_of(image), ..describe(image) }).collect();
    let parsed = crate::image::Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.to_owned()),
        manifests,
        annotations: Default::default(),
    };
    let bytes = serde_json::to_vec(&parsed).expect("plain data");
    Content::Index(ImageIndex { bytes, parsed, children: images.iter().cloned().map(Content::Image).collect() })
}

/// Asks whether a program that judges is there. Without it the test fails, unless IMGBUILD_WITHOUT_JUDGES is set.
fn judge(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|folder| folder.join(program).is_file());
    assert!(
        found || std::env::var_os("IMGBUILD_WITHOUT_JUDGES").is_some(),
        "`{program}` judges this test: install it, or set IMGBUILD_WITHOUT_JUDGES=1 to go without"
    );
    found
}

/// Runs a program to its end and gives what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    run_in(Path::new("/"), program, arguments).unwrap_or_else(|printed| panic!("{program} {arguments:?} failed:\n{printed}"))
}

fn run_in(folder: &Path, program: &str, arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new(program).args(arguments).current_dir(folder).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(format!("{printed}{}", String::from_utf8_lossy(&output.stderr)))
}

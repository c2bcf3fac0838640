//! Images to push, and a client that waits for nothing.

use std::fs;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imgbuild::digest::Digest;
use imgbuild::image::{ContainerConfig, Descriptor, Image, ImageConfig, LocalBlobs, Manifest, RootFs, media_type};
use imgbuild::progress::{Event, Progress};
use imgbuild::reference::Reference;
use imgbuild::registry::{Client, Credential, CredentialSources, Retries, Secret, Settings};
use tempfile::TempDir;

/// Numbers that are the same for the same seed.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// An image whose layers hold random bytes; its files go away when dropped.
pub struct Made {
    pub image: Image,
    pub digest: Digest,
    pub folder: TempDir,
}

/// Makes an image with a layer of about each of the sizes.
pub fn image(seed: u64, sizes: &[usize]) -> Made {
    let mut random = Random(seed);
    let folder = TempDir::new().expect("a folder");
    let (mut layers, mut diff_ids, mut blobs) = (Vec::new(), Vec::new(), LocalBlobs::default());
    for (number, size) in sizes.iter().enumerate() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        let content = random.bytes(*size);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("layer{number}"), &content[..]).expect("memory");
        let tar = tar.into_inner().expect("memory");
        diff_ids.push(Digest::of(&tar));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).expect("memory");
        let gzip = gzip.finish().expect("memory");
        let layer = Descriptor::of(media_type::LAYER_GZIP, &gzip);
        let path = folder.path().join(layer.digest.hex());
        fs::write(&path, gzip).expect("a file");
        blobs.add_file(layer.digest, path);
        layers.push(layer);
    }
    finish(layers, diff_ids, blobs, folder)
}

/// Makes an image of one uncompressed layer of zeros that takes no room on the disk.
pub fn sparse_image(size: u64) -> Made {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("layer");
    let file = fs::File::create(&path).expect("a file");
    file.set_len(size).expect("a length");
    let (digest, _) = Digest::of_reader(fs::File::open(&path).expect("there")).expect("read");
    let mut blobs = LocalBlobs::default();
    blobs.add_file(digest, path);
    finish(vec![Descriptor::new(media_type::LAYER, digest, size)], vec![digest], blobs, folder)
}

fn finish(layers: Vec<Descriptor>, diff_ids: Vec<Digest>, blobs: LocalBlobs, folder: TempDir) -> Made {
    let config = ImageConfig {
        created: None,
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        config: ContainerConfig::default(),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids },
        history: Vec::new(),
        other: Default::default(),
    };
    let config = serde_json::to_vec(&config).expect("JSON");
    let parsed = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(media_type::CONFIG, &config),
        layers,
        subject: None,
        annotations: Default::default(),
    };
    let manifest = serde_json::to_vec(&parsed).expect("JSON");
    let digest = Digest::of(&manifest);
    Made { image: Image { manifest, parsed, config, blobs: Arc::new(blobs) }, digest, folder }
}

/// Settings that wait for nothing.
pub fn hasty() -> Settings {
    Settings { retries: Retries { sleep: Arc::new(|_| {}), ..Retries::default() }, ..Settings::default() }
}

pub fn with_password(mut settings: Settings, host: &str, user: &str, password: &str) -> Settings {
    let credential = Credential::Password { user: user.to_owned(), password: Secret::new(password) };
    settings.credentials = CredentialSources::only(host, credential);
    settings
}

/// All events as text, and how long was waited.
#[derive(Clone, Default)]
pub struct Heard(pub Arc<Mutex<Vec<String>>>);

impl Heard {
    pub fn progress(&self) -> Progress {
        let sink = Arc::clone(&self.0);
        Progress::new(move |event| {
            if !matches!(event, Event::Advanced { .. }) {
                sink.lock().expect("no panic").push(format!("{event:?}"));
            }
        })
    }

    pub fn text(&self) -> String {
        self.0.lock().expect("no panic").join("\n")
    }
}

pub fn client(settings: Settings) -> Client {
    Client::new(settings, &Progress::silent())
}

pub fn reference(text: impl AsRef<str>) -> Reference {
    text.as_ref().parse().expect("a reference")
}

/// Notes the waits instead of waiting.
pub fn noting_waits(settings: &mut Settings) -> Arc<Mutex<Vec<Duration>>> {
    let waits = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&waits);
    settings.retries.sleep = Arc::new(move |wait| sink.lock().expect("no panic").push(wait));
    waits
}

/// The digest of a file.
pub fn digest_of(path: &std::path::Path) -> Digest {
    Digest::of_reader(fs::File::open(path).expect("there")).expect("read").0
}

/// An error with all its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}

/// Reads a blob of an opened image completely.
pub fn read_all(image: &Image, descriptor: &Descriptor) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    imgbuild::image::open_verified(&*image.blobs, descriptor)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! Reading an image in full and checking that all of it holds together: [`validate()`].

use std::io::{self, Read};

use super::content::Content;
use crate::digest::Digest;
use crate::image::{Descriptor, Image, ImageConfig, media_type, open_verified};
use crate::progress::Progress;

/// What a sound image consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// What the config says.
    pub config: ImageConfig,
    /// Bytes of each layer's uncompressed tar, lowest first.
    pub unpacked: Vec<u64>,
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The bytes of the manifest say something else than what was parsed of them.
    #[error("the manifest {digest} does not say what was read from it")]
    Manifest {
        /// Digest of its bytes.
        digest: Digest,
    },
    /// The config has another digest or size than the manifest says.
    #[error("the config has {found_size} bytes and the digest {found}, expected {expected_size} and {expected}")]
    Config {
        /// Digest of its bytes.
        found: Digest,
        /// Number of its bytes.
        found_size: u64,
        /// The manifest's digest.
        expected: Digest,
        /// The manifest's size.
        expected_size: u64,
    },
    /// The config is no JSON, or lacks a field.
    #[error("failed to parse the config")]
    ConfigJson(#[source] serde_json::Error),
    /// A field of the config has a value that makes no sense.
    #[error("`{field}` in the config is `{found}`, expected {expected}")]
    Field {
        /// Which one.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// As many digests of uncompressed layers as layers are needed.
    #[error("the config has {diff_ids} `diff_ids`, expected {layers}, one a layer")]
    DiffIds {
        /// Rows in the config.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
    /// As many rows of history that made a layer as layers are needed.
    #[error("the config has {rows} rows of history that made a layer, expected {layers}, one a layer")]
    History {
        /// Rows that are not marked as empty.
        rows: usize,
        /// Layers in the manifest.
        layers: usize,
    },
    /// A media type that is not known, or one of Docker's among OCI's.
    #[error("the media type of {what} is `{found}`, expected {expected}")]
    MediaType {
        /// Of what.
        what: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A layer cannot be read, or its bytes are not those that its descriptor says.
    #[error("failed to read layer {number}, {digest}")]
    Layer {
        /// Which one, from 1, lowest first.
        number: usize,
        /// Its digest.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
    /// A layer's uncompressed tar is another than the config says.
    #[error("layer {number}, {digest}, unpacks to {found}, expected {expected} as the config's `diff_ids` say")]
    DiffId {
        /// Which one, from 1, lowest first.
        number: usize,
        /// Its digest.
        digest: Digest,
        /// Digest of its uncompressed tar.
        found: Digest,
        /// The config's.
        expected: Digest,
    },
}

impl ImageError {
    /// What the user could do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Layer { .. } | Self::Config { .. } | Self::Manifest { .. } => {
                Some("the image is damaged or was copied in part: copy or build it again".to_owned())
            }
            _ => Some("the tool that wrote the image made a mistake: build it again".to_owned()),
        }
    }
}

/// Reads every blob of an image and checks digests, sizes, uncompressed digests, the history's length and what the config says.
/// Memory does not grow with a layer.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(image: &Image, progress: &Progress) -> Result<Validated, ImageError> {
    let own = serde_json::from_slice::<crate::image::Manifest>(&image.manifest);
    if own.ok().as_ref() != Some(&image.parsed) {
        return Err(ImageError::Manifest { digest: Digest::of(&image.manifest) });
    }
    let expected = &image.parsed.config;
    let (found, found_size) = (Digest::of(&image.config), image.config.len() as u64);
    if (found, found_size) != (expected.digest, expected.size) {
        return Err(ImageError::Config { found, found_size, expected: expected.digest, expected_size: expected.size });
    }
    check_media_types(image)?;
    let config: ImageConfig = serde_json::from_slice(&image.config).map_err(ImageError::ConfigJson)?;
    check_config(&config, image.parsed.layers.len())?;
    let total = image.parsed.layers.iter().map(|layer| layer.size).sum();
    let task = progress.task("validate the image", Some(total));
    let mut unpacked = Vec::with_capacity(image.parsed.layers.len());
    for (at, (layer, diff_id)) in image.parsed.layers.iter().zip(&config.rootfs.diff_ids).enumerate() {
        let number = at + 1;
        let failed = |source| ImageError::Layer { number, digest: layer.digest, source };
        let (found, size) = unpacked_digest(image, layer).map_err(failed)?;
        if found != *diff_id {
            return Err(ImageError::DiffId { number, digest: layer.digest, found, expected: *diff_id });
        }
        unpacked.push(size);
        task.advance(layer.size);
    }
    Ok(Validated { config, unpacked })
}

/// Validates every image of an index that is one; attestations and other artifacts are passed over.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate_content(content: &Content, progress: &Progress) -> Result<(), ImageError> {
    let is_image = |image: &&Image| {
        matches!(image.parsed.config.media_type.as_str(), media_type::CONFIG | media_type::DOCKER_CONFIG)
            && super::platform_of(image).is_none_or(|platform| platform.os != "unknown")
    };
    content.images().into_iter().filter(is_image).try_for_each(|image| validate(image, progress).map(|_| ()))
}

/// Reads a layer to its end and hashes its uncompressed tar.
fn unpacked_digest(image: &Image, layer: &Descriptor) -> io::Result<(Digest, u64)> {
    let mut reader = open_verified(&*image.blobs, layer)?;
    // The decoder is chosen by what the manifest promises: a reader that trusts it must succeed.
    let unpacked = if layer.media_type.ends_with("gzip") {
        Digest::of_reader(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 18, &mut reader)))?
    } else if layer.media_type.ends_with("zstd") {
        Digest::of_reader(zstd::stream::read::Decoder::new(&mut reader)?)?
    } else {
        Digest::of_reader(&mut reader)?
    };
    // A decoder may stop before the end; the digest is known there alone.
    let mut rest = [0; 4096];
    while reader.read(&mut rest)? > 0 {}
    Ok(unpacked)
}

fn check_media_types(image: &Image) -> Result<(), ImageError> {
    let manifest = &image.parsed;
    let docker = manifest.media_type.as_deref() == Some(media_type::DOCKER_MANIFEST);
    let error = |what: String, found: &str, expected| Err(ImageError::MediaType { what, found: found.to_owned(), expected });
    let (config, layers): (_, &[&str]) = if docker {
        (media_type::DOCKER_CONFIG, &["application/vnd.docker.image.rootfs.diff.tar", media_type::DOCKER_LAYER_GZIP])
    } else {
        (media_type::CONFIG, &[media_type::LAYER, media_type::LAYER_GZIP, media_type::LAYER_ZSTD])
    };
    match manifest.media_type.as_deref() {
        None | Some(media_type::MANIFEST | media_type::DOCKER_MANIFEST) => {}
        Some(found) => return error("the manifest".to_owned(), found, "that of an image manifest"),
    }
    if manifest.config.media_type != config {
        return error("the config".to_owned(), &manifest.config.media_type, "that of an image config of the manifest's kind");
    }
    for (at, layer) in manifest.layers.iter().enumerate() {
        if !layers.contains(&layer.media_type.as_str()) {
            let expected = "a layer of the manifest's kind: plain, gzip or zstd";
            return error(format!("layer {}", at + 1), &layer.media_type, expected);
        }
    }
    Ok(())
}

fn check_config(config: &ImageConfig, layers: usize) -> Result<(), ImageError> {
    let field = |field, found: &str, expected| Err(ImageError::Field { field, found: found.to_owned(), expected });
    for (name, value) in [("architecture", &config.architecture), ("os", &config.os)] {
        if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '/') {
            return field(name, value, "a name such as `amd64` or `linux`");
        }
    }
    if config.rootfs.kind != "layers" {
        return field("rootfs.type", &config.rootfs.kind, "`layers`");
    }
    if config.rootfs.diff_ids.len() != layers {
        return Err(ImageError::DiffIds { diff_ids: config.rootfs.diff_ids.len(), layers });
    }
    let rows = config.history.iter().filter(|row| row.empty_layer != Some(true)).count();
    if !config.history.is_empty() && rows != layers {
        return Err(ImageError::History { rows, layers });
    }
    let times = config.created.iter().chain(config.history.iter().filter_map(|row| row.created.as_ref()));
    for time in times {
        if !is_rfc3339(time) {
            return field("created", time, "a time such as `1970-01-01T00:00:00Z`");
        }
    }
    for variable in config.config.env.iter().flatten() {
        if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return field("config.Env", variable, "`NAME=value`");
        }
    }
    if let Some(folder) = config.config.working_dir.as_ref().filter(|folder| !folder.is_empty() && !folder.starts_with('/')) {
        return field("config.WorkingDir", folder, "an absolute path");
    }
    for port in config.config.exposed_ports.keys() {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        if number.parse::<u16>().is_err() || !matches!(protocol, "tcp" | "udp" | "sctp") {
            return field("config.ExposedPorts", port, "a port such as `8080/tcp`");
        }
    }
    Ok(())
}

/// Tells whether a text is a time as RFC 3339 writes it.
fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let two = |at: usize| -> Option<u8> {
        let pair = bytes.get(at..at + 2)?;
        pair.iter().all(u8::is_ascii_digit).then(|| (pair[0] - b'0') * 10 + pair[1] - b'0')
    };
    let within = |at, low, high| two(at).is_some_and(|value| (low..=high).contains(&value));
    let shape = bytes.len() >= 20
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|(at, byte)| bytes[*at] == *byte);
    let numbers = two(0).is_some()
        && two(2).is_some()
        && within(5, 1, 12)
        && within(8, 1, 31)
        && within(11, 0, 23)
        && within(14, 0, 59)
        && within(17, 0, 60);
    if !shape || !numbers {
        return false;
    }
    let fraction = bytes[19..].strip_prefix(b".").map(|rest| rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
    let zone = &bytes[19 + fraction.map_or(0, |digits| digits + 1)..];
    let start = bytes.len() - zone.len();
    let offset = matches!(zone.first(), Some(b'+' | b'-')) && zone.len() == 6 && zone[3] == b':';
    fraction != Some(0) && (zone == b"Z" || (offset && within(start + 1, 0, 23) && within(start + 4, 0, 59)))
}

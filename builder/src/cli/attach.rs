//! `imgbuild attach` and `imgbuild referrers`: files that belong to an image, in registries and layouts.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::push::{annotation, annotations, open_all};
use super::{Context, images, print, print_json};
use crate::digest::Digest;
use crate::exit_code;
use crate::image::{Artifact, ArtifactPart, Descriptor, Image, open_verified};
use crate::platform::Platform;
use crate::transport::{Content, Put, Transport};
use crate::units::ByteSize;

const TITLE: &str = "org.opencontainers.image.title";
/// Attached files are read into memory, and are documents.
const LARGEST: u64 = 64 << 20;

/// `imgbuild attach`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild attach docker://localhost:5000/acme/magika:1 scan.json --type application/vnd.example.scan+json
  imgbuild attach oci:model.oci:latest notes.txt --type text/plain --annotation reviewed-by=ml-platform")]
pub struct AttachArgs {
    /// The image: docker://HOST/NAME:TAG or oci:DIR:TAG
    pub image: String,

    /// The file
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,

    /// What it is: its media type, under which it is found
    #[arg(long = "type", value_name = "MEDIATYPE", value_parser = media_type)]
    pub kind: String,

    /// Annotation of what is attached (may be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = annotation)]
    pub annotation: Vec<(String, String)>,

    /// Attach to the image for this platform, not to the index that has it
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `imgbuild referrers`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild referrers docker://localhost:5000/acme/magika:1
  imgbuild referrers docker://localhost:5000/acme/magika:1 --type application/vnd.cyclonedx+json --output sbom")]
pub struct ReferrersArgs {
    /// The image: docker://HOST/NAME:TAG or oci:DIR:TAG
    pub image: String,

    /// Only those of this media type
    #[arg(long = "type", value_name = "MEDIATYPE")]
    pub kind: Option<String>,

    /// Write the attached files into this folder
    #[arg(long, short, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output: Option<PathBuf>,

    /// What is attached to the image for this platform, not to the index that has it
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Reads a media type.
fn media_type(text: &str) -> Result<String, String> {
    let is_name = |part: &str| {
        !part.is_empty()
            && part.len() <= 127
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
            && part.as_bytes()[0].is_ascii_alphanumeric()
    };
    match text.split_once('/') {
        Some((kind, rest)) if is_name(kind) && is_name(rest) => Ok(text.to_owned()),
        _ => Err("expected a media type such as `application/vnd.example+json`".to_owned()),
    }
}

/// What an image's name stands for: what lies there, or the image for a platform.
fn subject(
    context: &Context,
    text: &str,
    platform: Option<Platform>,
    registry: &RegistryArgs,
) -> Result<(Transport, Descriptor), Failure> {
    Transport::guess_for_reading(text)?.check_referrers()?;
    if platform.is_some() {
        let (transport, image) = images::open(context, text, platform, registry)?;
        return Ok((transport, image.descriptor()));
    }
    let transport = Transport::guess_for_reading(text)?;
    let descriptor = match &transport {
        Transport::Registry(reference) => {
            images::client(context, registry, Some(&reference.registry)).fetch_manifest(reference)?.descriptor
        }
        other => open_all(context, other, registry)?.descriptor(),
    };
    Ok((transport, descriptor))
}

/// Lists what is attached to a manifest, of one kind or of all.
pub(super) fn list(
    context: &Context,
    place: &Transport,
    subject: &Digest,
    kind: Option<&str>,
    registry: &RegistryArgs,
) -> Result<Vec<Descriptor>, Failure> {
    if let Transport::Registry(reference) = place {
        let client = images::client(context, registry, Some(&reference.registry));
        return Ok(client.referrers(reference, subject, kind)?);
    }
    let mut found = place.referrers(subject, &context.store()?.scratch())?;
    found.retain(|entry| kind.is_none_or(|kind| entry.artifact_type.as_deref() == Some(kind)));
    Ok(found)
}

/// Puts an artifact beside the image that it belongs to, and gives the tag that lists it where there is one.
pub(super) fn put(
    context: &Context,
    place: &Transport,
    artifact: &Image,
    registry: &RegistryArgs,
) -> Result<Option<String>, Failure> {
    if let Transport::Registry(reference) = place {
        let client = images::client(context, registry, Some(&reference.registry));
        return Ok(client.push_referrer(reference, artifact)?.fallback_tag);
    }
    let request = Put { name: None, platform: None, store: None, progress: &context.progress };
    place.attach(artifact, &request)?;
    Ok(None)
}

pub(super) fn attach(context: &Context, args: &AttachArgs) -> Result<u8, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(format!("failed to read `{}`: {error}", args.file.display()), exit_code::UNUSABLE_INPUT)
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&args.file).map_err(unreadable)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        let text = format!("`{}` has more than {}", args.file.display(), ByteSize(LARGEST));
        return Err(Failure::new(text, exit_code::UNUSABLE_INPUT));
    }
    let (place, subject) = subject(context, &args.image, args.platform, &args.registry)?;
    let title = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let part =
        ArtifactPart { media_type: args.kind.clone(), bytes, annotations: [(TITLE.to_owned(), title)].into_iter().collect() };
    let artifact = Artifact { artifact_type: args.kind.clone(), parts: vec![part], annotations: annotations(&args.annotation) };
    let image = artifact.attached_to(&subject);
    let tag = put(context, &place, &image, &args.registry)?;
    let digest = image.descriptor().digest;
    if args.json {
        print_json(&serde_json::json!({ "subject": subject.digest, "digest": digest, "type": args.kind, "fallback_tag": tag }));
    } else {
        print(&format!("{digest}\n"));
    }
    Ok(exit_code::SUCCESS)
}

pub(super) fn referrers(context: &Context, args: &ReferrersArgs) -> Result<u8, Failure> {
    let (place, subject) = subject(context, &args.image, args.platform, &args.registry)?;
    let found = list(context, &place, &subject.digest, args.kind.as_deref(), &args.registry)?;
    let mut rows = Vec::with_capacity(found.len());
    let mut taken = BTreeSet::new();
    for descriptor in &found {
        let content = open_all(context, &place.at(descriptor.digest), &args.registry)?;
        let Content::Image(artifact) = &content else { continue };
        let mut files = Vec::new();
        for part in artifact.parsed.layers.iter().filter(|part| part.media_type != "application/vnd.oci.empty.v1+json") {
            let path = match &args.output {
                Some(folder) => Some(save(folder, &file_name(part, &mut taken), artifact, part)?),
                None => None,
            };
            files.push(serde_json::json!({
                "title": part.annotations.get(TITLE),
                "media_type": part.media_type,
                "digest": part.digest,
                "size": part.size,
                "file": path,
            }));
        }
        rows.push(serde_json::json!({
            "digest": descriptor.digest,
            "type": descriptor.artifact_type,
            "annotations": artifact.parsed.annotations,
            "files": files,
        }));
    }
    if args.json {
        print_json(&serde_json::json!({ "subject": subject.digest, "referrers": rows }));
        return Ok(exit_code::SUCCESS);
    }
    let mut text = String::new();
    for (descriptor, row) in found.iter().zip(&rows) {
        text.push_str(&format!("{}  {}\n", descriptor.digest, descriptor.artifact_type.as_deref().unwrap_or("of no kind")));
        for file in row["files"].as_array().into_iter().flatten() {
            let name = file["file"].as_str().or(file["title"].as_str()).unwrap_or("without a name");
            text.push_str(&format!("  {name}, {}\n", ByteSize(file["size"].as_u64().unwrap_or_default())));
        }
    }
    print(&text);
    Ok(exit_code::SUCCESS)
}

/// A name for a file: its title, where that is the name of a file and no other one has it.
fn file_name(part: &Descriptor, taken: &mut BTreeSet<String>) -> String {
    let title = part
        .annotations
        .get(TITLE)
        .filter(|title| !title.is_empty() && !title.starts_with('.') && !title.contains(['/', '\\', '\0']) && title.len() <= 200);
    let name = match title {
        Some(title) if !taken.contains(title) => title.clone(),
        Some(title) => format!("{}-{title}", part.digest.short()),
        None => part.digest.hex(),
    };
    taken.insert(name.clone());
    name
}

/// Writes one part of an artifact, whole or not at all, after its digest was checked.
fn save(folder: &Path, name: &str, artifact: &Image, part: &Descriptor) -> Result<PathBuf, Failure> {
    let path = folder.join(name);
    let storage =
        |error: std::io::Error| Failure::new(format!("failed to write `{}`: {error}", path.display()), exit_code::STORAGE);
    std::fs::create_dir_all(folder).map_err(storage)?;
    let permissions = std::fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder).map_err(storage)?;
    let unreadable =
        |error: std::io::Error| Failure::new(format!("failed to read {}: {error}", part.digest), exit_code::UNUSABLE_INPUT);
    let mut reader = open_verified(artifact.blobs.as_ref(), part).map_err(unreadable)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = reader.read(&mut buffer).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        std::io::Write::write_all(&mut file, &buffer[..count]).map_err(storage)?;
    }
    file.persist(&path).map_err(|error| storage(error.error))?;
    Ok(path)
}

//! `imgbuild inspect`, `why` and `push`: reading images wherever they are, and putting them elsewhere.

use serde::Serialize;

use super::args::{ImageArgs, InspectArgs, PushArgs, RegistryArgs, WhyArgs};
use super::failure::Failure;
use super::{Context, print, print_json};
use crate::digest::Digest;
use crate::exit_code;
use crate::image::{Image, ImageConfig};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Client, PushOptions, Settings};
use crate::report::{Composition, LABEL};
use crate::transport::{Content, Open, Put, Transport, validate};
use crate::units::ByteSize;

/// How an image is pushed to a registry.
#[derive(Debug, Default)]
pub(super) struct PushChoices {
    pub immutable: bool,
    pub mount_from: Vec<String>,
}

/// A client for the registries of one command line.
pub(super) fn client(context: &Context, args: &RegistryArgs, target: Option<&str>) -> Client {
    Client::new(settings(args, target), &context.progress)
}

/// How the registries of one command line are reached.
pub(super) fn settings(args: &RegistryArgs, target: Option<&str>) -> Settings {
    let mut settings = Settings::from_environment(target);
    settings.insecure.extend(args.insecure.iter().cloned());
    settings.ca_file = args.ca_file.clone();
    settings
}

/// Opens an image wherever it is.
pub(super) fn open(
    context: &Context,
    text: &str,
    platform: Option<Platform>,
    registry: &RegistryArgs,
) -> Result<(Transport, Image), Failure> {
    let transport = Transport::guess_for_reading(text)?;
    let platform = platform.unwrap_or_else(Platform::host);
    if let Transport::Registry(reference) = &transport {
        let image = client(context, registry, Some(&reference.registry)).open(reference, platform)?;
        return Ok((transport, image));
    }
    let request = Open { platform: Some(platform), scratch: Some(context.store()?.scratch()), progress: &context.progress };
    let content = transport.open(&request)?;
    let image = content.image(Some(platform))?.clone();
    Ok((transport, image))
}

/// Puts an image somewhere and tells in words what that took.
pub(super) fn put(
    context: &Context,
    place: &Transport,
    content: &Content,
    request: &Put<'_>,
    registry: &RegistryArgs,
    choices: &PushChoices,
) -> Result<String, Failure> {
    let Transport::Registry(reference) = place else {
        let placed = place.put(content, request)?;
        return Ok(format!("{} ({} written)", placed.descriptor.digest, ByteSize(placed.written)));
    };
    let options = PushOptions { immutable: choices.immutable, mount_from: choices.mount_from.clone(), ..PushOptions::default() };
    let client = client(context, registry, Some(&reference.registry));
    if let Content::Index(index) = content {
        // The images first, each by its digest alone; then what names them.
        let mut sent = 0;
        for image in content.images() {
            let by_digest = Reference { tag: None, digest: Some(image.descriptor().digest), ..reference.clone() };
            sent += client.push(image, &by_digest, &options)?.bytes_sent;
        }
        let digest = client.push_manifest(reference, &content.descriptor().media_type, &index.bytes)?;
        return Ok(format!("{digest} ({} sent)", ByteSize(sent + index.bytes.len() as u64)));
    }
    let image = content.image(request.platform)?;
    let pushed = client.push(image, reference, &options)?;
    Ok(format!("{} ({} sent)", pushed.digest, ByteSize(pushed.bytes_sent)))
}

pub(super) fn config_of(image: &Image) -> Result<ImageConfig, Failure> {
    serde_json::from_slice(&image.config).map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))
}

/// The composition of an image that must have one.
pub(super) fn required_composition(config: &ImageConfig, image: &str) -> Result<Composition, Failure> {
    composition_of(config).ok_or_else(|| {
        Failure::new(format!("`{image}` does not say why its files are there"), exit_code::UNUSABLE_INPUT)
            .with_hint("only images that imgbuild built carry that")
    })
}

fn composition_of(config: &ImageConfig) -> Option<Composition> {
    let text = config.config.labels.as_ref()?.get(LABEL)?;
    Composition::parse(text).ok()
}

fn opened(context: &Context, args: &ImageArgs) -> Result<(Image, ImageConfig), Failure> {
    let (_, image) = open(context, &args.image, args.platform, &args.registry)?;
    let config = config_of(&image)?;
    Ok((image, config))
}

#[derive(Serialize)]
struct Inspected<'a> {
    digest: Digest,
    platform: String,
    compressed: u64,
    layers: Vec<InspectedLayer>,
    config: &'a crate::image::ContainerConfig,
    composition: Option<Composition>,
    verified: bool,
}

#[derive(Serialize)]
struct InspectedLayer {
    digest: Digest,
    diff_id: Option<Digest>,
    media_type: String,
    size: u64,
    created_by: Option<String>,
}

pub(super) fn inspect(context: &Context, args: &InspectArgs) -> Result<u8, Failure> {
    let (image, config) = opened(context, &args.image)?;
    if args.verify {
        validate(&image, &context.progress)?;
    }
    let mut rows = config.history.iter().filter(|row| row.empty_layer != Some(true));
    let mut diff_ids = config.rootfs.diff_ids.iter();
    let layers: Vec<InspectedLayer> = image
        .parsed
        .layers
        .iter()
        .map(|layer| InspectedLayer {
            digest: layer.digest,
            diff_id: diff_ids.next().copied(),
            media_type: layer.media_type.clone(),
            size: layer.size,
            created_by: rows.next().and_then(|row| row.created_by.clone()),
        })
        .collect();
    let inspected = Inspected {
        digest: image.descriptor().digest,
        platform: format!("{}/{}", config.os, config.architecture),
        compressed: image.parsed.layers.iter().map(|layer| layer.size).sum(),
        layers,
        config: &config.config,
        composition: composition_of(&config),
        verified: args.verify,
    };
    if args.json {
        print_json(&inspected);
    } else {
        print(&render(&inspected));
    }
    Ok(exit_code::SUCCESS)
}

fn render(inspected: &Inspected<'_>) -> String {
    let mut text = format!("{}\n{}, {} compressed", inspected.digest, inspected.platform, ByteSize(inspected.compressed));
    text.push_str(if inspected.verified { ", every blob verified\n" } else { "\n" });
    let user = inspected.config.user.as_deref().unwrap_or("root");
    let entrypoint = inspected.config.entrypoint.clone().unwrap_or_default().join(" ");
    text.push_str(&format!("runs {entrypoint} as {user}\n\n"));
    for layer in &inspected.layers {
        let what = layer.created_by.as_deref().unwrap_or_default();
        text.push_str(&format!("{}  {:>10}  {what}\n", layer.digest.short(), ByteSize(layer.size)));
    }
    let Some(composition) = &inspected.composition else {
        text.push_str("\nnot built by imgbuild: it does not say why its files are there\n");
        return text;
    };
    text.push_str(&format!("\nserves `{}` with {} on {}\n", composition.model, composition.stack, composition.base));
    for library in &composition.libraries {
        text.push_str(&format!("{:>10}  {}  ({})\n", ByteSize(library.size), library.path, library.from));
    }
    text
}

pub(super) fn why(context: &Context, args: &WhyArgs) -> Result<u8, Failure> {
    let (_, config) = opened(context, &args.image)?;
    let composition = required_composition(&config, &args.image.image)?;
    let matches = |name: &str| name.rsplit('/').next().unwrap_or(name).contains(&args.library);
    let libraries: Vec<_> = composition.libraries.iter().filter(|library| matches(&library.path)).collect();
    let omitted: Vec<_> = composition.omitted.iter().filter(|omission| matches(&omission.name)).collect();
    if libraries.is_empty() && omitted.is_empty() {
        let known: Vec<&str> =
            composition.libraries.iter().map(|library| library.path.rsplit('/').next().unwrap_or_default()).collect();
        return Err(Failure::new(
            format!("`{}` is neither in the image nor was it left out", args.library),
            exit_code::UNUSABLE_INPUT,
        )
        .with_hint(format!("the image has {}", known.join(", "))));
    }
    if args.json {
        print_json(&serde_json::json!({ "present": libraries, "omitted": omitted }));
        return Ok(exit_code::SUCCESS);
    }
    let mut text = String::new();
    for library in libraries {
        text.push_str(&format!("{} is in the image ({}, from {})\n", library.path, ByteSize(library.size), library.from));
        for step in &library.chain {
            text.push_str(&format!("  {step}\n"));
        }
    }
    for omission in omitted {
        text.push_str(&format!(
            "{} is not in the image, which saves {}\n  {}: {}\n",
            omission.name,
            ByteSize(omission.unpacked),
            omission.package,
            omission.reason
        ));
    }
    print(&text);
    Ok(exit_code::SUCCESS)
}

pub(super) fn push(context: &Context, args: &PushArgs) -> Result<u8, Failure> {
    let destination: Transport = args.destination.parse()?;
    let (source, image) = open(context, &args.source, args.platform, &args.registry)?;
    let digest = image.descriptor().digest;
    let name = match &source {
        Transport::Registry(reference) => Some(reference),
        _ => None,
    };
    let content = Content::from(image);
    let request = Put { name, platform: args.platform, store: None, progress: &context.progress };
    let choices = PushChoices { immutable: args.immutable, mount_from: args.mount_from.clone() };
    let placed = put(context, &destination, &content, &request, &args.registry, &choices)?;
    if args.json {
        print_json(
            &serde_json::json!({ "source": args.source, "destination": args.destination, "digest": digest, "placed": placed }),
        );
    } else {
        print(&format!("{destination}: {placed}\n"));
    }
    Ok(exit_code::SUCCESS)
}

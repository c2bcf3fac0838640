//! `imgbuild inspect` and `why`: reading images wherever they are.

use serde::Serialize;

use super::args::{ImageArgs, InspectArgs, RegistryArgs, WhyArgs};
use super::failure::Failure;
use super::push::open_all;
use super::{Context, print, print_json};
use crate::digest::Digest;
use crate::doctor::{best, entries};
use crate::exit_code;
use crate::fatbin::Sm;
use crate::image::{Image, ImageConfig};
use crate::platform::Platform;
use crate::registry::{Client, ClientCertificate, Settings};
use crate::report::{Composition, LABEL};
use crate::transport::{Content, Open, Transport, gpus_of, validate};
use crate::units::ByteSize;

/// A client for the registries of one command line.
pub(super) fn client(context: &Context, args: &RegistryArgs, target: Option<&str>) -> Client {
    Client::new(settings(args, target), &context.progress)
}

/// How the registries of one command line are reached.
pub(super) fn settings(args: &RegistryArgs, target: Option<&str>) -> Settings {
    let mut settings = Settings::from_environment(target);
    settings.insecure.extend(args.insecure.iter().cloned());
    settings.ca_file = args.ca_file.clone();
    if let (Some(certificate), Some(key)) = (&args.client_cert, &args.client_key) {
        settings.client_certificate = Some(ClientCertificate { certificate: certificate.clone(), key: key.clone() });
    }
    settings
}

/// Which image of an index is wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choice {
    /// This machine's where none is given.
    pub platform: Option<Platform>,
    /// The first image for the platform where none is given.
    pub gpu: Option<Sm>,
}

impl From<Option<Platform>> for Choice {
    fn from(platform: Option<Platform>) -> Self {
        Self { platform, gpu: None }
    }
}

impl ImageArgs {
    pub(super) fn choice(&self) -> Choice {
        Choice { platform: self.platform, gpu: self.gpu }
    }
}

/// Opens an image wherever it is.
pub(super) fn open(
    context: &Context,
    text: &str,
    choice: impl Into<Choice>,
    registry: &RegistryArgs,
) -> Result<(Transport, Image), Failure> {
    let transport = Transport::guess_for_reading(text)?;
    let choice = choice.into();
    let platform = choice.platform.unwrap_or_else(Platform::host);
    if let Some(gpu) = choice.gpu {
        let content = open_all(context, &transport, registry)?;
        let image = for_gpu(&content, platform, gpu, text)?.clone();
        return Ok((transport, image));
    }
    if let Transport::Registry(reference) = &transport {
        let image = client(context, registry, Some(&reference.registry)).open(reference, platform)?;
        return Ok((transport, image));
    }
    let request = Open { platform: Some(platform), scratch: Some(context.store()?.scratch()), progress: &context.progress };
    let content = transport.open(&request)?;
    let image = content.image(Some(platform))?.clone();
    Ok((transport, image))
}

/// The image of an index for a GPU: of those with code for it the one with the least other code.
fn for_gpu<'a>(content: &'a Content, platform: Platform, gpu: Sm, place: &str) -> Result<&'a Image, Failure> {
    // Whether there is one for the platform at all is asked first.
    content.image(Some(platform))?;
    let all = entries(content, platform);
    if let Some(entry) = best(&all, &[gpu]) {
        return Ok(entry.image);
    }
    let known: Vec<&str> = all.iter().filter_map(|entry| entry.gpus.as_deref()).collect();
    let what = match known.as_slice() {
        [] => format!("`{place}` has no image for {platform} that says which GPUs it is for, expected one for {gpu}"),
        known => format!("`{place}` has no image for {platform} with code for {gpu}, only for {}", known.join(" and for ")),
    };
    Err(Failure::new(what, exit_code::UNUSABLE_INPUT)
        .with_hint(format!("build it for this GPU, `imgbuild build --gpu {gpu}`, or leave `--gpu` out")))
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
    let (_, image) = open(context, &args.image, args.choice(), &args.registry)?;
    let config = config_of(&image)?;
    Ok((image, config))
}

#[derive(Serialize)]
struct Inspected<'a> {
    digest: Digest,
    platform: String,
    /// GPUs that it has device code for, where it is for a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<String>,
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
        gpus: gpus_of(&image),
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
    if let Some(gpus) = &inspected.gpus {
        text.push_str(&format!("device code for {gpus}\n"));
    }
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

//! `imgbuild push`: copying an image or an index from anywhere to anywhere, with what is attached to it.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde::Serialize;

use super::args::RegistryArgs;
use super::failure::Failure;
use super::images::Choice;
use super::require::RequireArgs;
use super::{Context, images, print, print_json, require};
use crate::digest::Digest;
use crate::exit_code;
use crate::fatbin::Sm;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::registry::{Placed, PushOptions, Pushed};
use crate::transport::{Content, Open, Put, Transport};
use crate::units::ByteSize;

/// `imgbuild push`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild push oci:model.oci docker://localhost:5000/acme/magika:1
  imgbuild push docker://localhost:5000/acme/magika:1 oci-archive:magika.tar
  imgbuild push docker://localhost:5000/acme/magika:1 docker://localhost:5000/prod/magika:1 --all --referrers --tag stable
      copies every platform, with bills of materials, provenance and signatures
  imgbuild push oci:model.oci docker://localhost:5000/prod/magika:1 --require verified --policy policy.toml --referrers
      only where `imgbuild verify oci:model.oci --data … --policy policy.toml --attach` has passed; ends with 7 otherwise")]
pub struct PushArgs {
    /// Where the image is
    pub source: String,

    /// Where it goes, as a transport
    pub destination: String,

    /// Platform to choose from an index [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all")]
    pub platform: Option<Platform>,

    /// GPU to choose from an index, such as sm_75 [default: the first image, as container engines do]
    #[arg(long = "gpu", value_name = "SM", conflicts_with = "all")]
    pub gpu: Option<Sm>,

    /// Copy an index with all its platforms and GPUs, not one image of it
    #[arg(long)]
    pub all: bool,

    /// Further tag at the destination, a registry (may be repeated)
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,

    /// Annotation for the manifest, or for the index with --all; changes its digest (may be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = annotation)]
    pub annotation: Vec<(String, String)>,

    /// Copy what is attached to the image as well: referrers, and the tags that cosign keeps signatures under
    #[arg(long, conflicts_with = "annotation")]
    pub referrers: bool,

    #[command(flatten)]
    pub require: RequireArgs,

    /// Refuse to move a tag that points at another image
    #[arg(long)]
    pub immutable: bool,

    /// Repository on the same registry from which layers may be mounted (may be repeated)
    #[arg(long, value_name = "REPOSITORY")]
    pub mount_from: Vec<String>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Reads `NAME=VALUE`.
pub(super) fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// How an image is pushed to a registry.
#[derive(Debug, Default)]
pub(super) struct PushChoices {
    pub immutable: bool,
    pub mount_from: Vec<String>,
    pub tags: Vec<String>,
}

/// What putting an image somewhere did.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    /// Digest of what lies there.
    pub digest: Digest,
    /// What it took, in words.
    #[serde(rename = "placed")]
    pub text: String,
    /// What it took, for a registry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Pushed>,
}

/// Puts an image or index somewhere and tells what that took.
pub(super) fn put(
    context: &Context,
    place: &Transport,
    content: &Content,
    request: &Put<'_>,
    registry: &RegistryArgs,
    choices: &PushChoices,
) -> Result<Outcome, Failure> {
    let Transport::Registry(reference) = place else {
        let placed = place.put(content, request)?;
        let digest = placed.descriptor.digest;
        return Ok(Outcome { digest, text: format!("{digest} ({} written)", ByteSize(placed.written)), pushed: None });
    };
    let options = PushOptions {
        immutable: choices.immutable,
        mount_from: choices.mount_from.clone(),
        tags: choices.tags.clone(),
        ..PushOptions::default()
    };
    let pushed = images::client(context, registry, Some(&reference.registry)).push_content(content, reference, &options)?;
    Ok(Outcome { digest: pushed.digest, text: format!("{} ({})", pushed.digest, in_words(&pushed)), pushed: Some(pushed) })
}

/// What a push sent, what it found and what was mounted.
fn in_words(pushed: &Pushed) -> String {
    let (mut sent, mut bytes, mut there, mut mounted) = (0, 0, 0, 0);
    for blob in &pushed.blobs {
        match blob.placed {
            Placed::Uploaded | Placed::Resumed => {
                sent += 1;
                bytes += blob.size;
            }
            Placed::Existed | Placed::NotDistributable => there += 1,
            Placed::Mounted { .. } => mounted += 1,
        }
    }
    let again = pushed.bytes_sent.saturating_sub(bytes + pushed.manifest_bytes);
    let again = if again > 0 { format!(", {} of them twice", ByteSize(again)) } else { String::new() };
    format!(
        "{} bytes sent{again}: {sent} blobs {}, manifests {}; {there} blobs were there, {mounted} mounted",
        pushed.bytes_sent,
        ByteSize(bytes),
        ByteSize(pushed.manifest_bytes)
    )
}

/// Opens an index with all that it names, or an image, wherever it is.
pub(super) fn open_all(context: &Context, transport: &Transport, registry: &RegistryArgs) -> Result<Content, Failure> {
    if let Transport::Registry(reference) = transport {
        return Ok(images::client(context, registry, Some(&reference.registry)).open_all(reference)?);
    }
    let request = Open { platform: None, scratch: Some(context.store()?.scratch()), progress: &context.progress };
    Ok(transport.open(&request)?)
}

pub(super) fn push(context: &Context, args: &PushArgs) -> Result<u8, Failure> {
    let destination: Transport = args.destination.parse()?;
    if !args.tag.is_empty() && !matches!(destination, Transport::Registry(_)) {
        return Err(Failure::new(format!("`--tag` is for registries, and `{destination}` is none"), exit_code::USAGE));
    }
    let source = Transport::guess_for_reading(&args.source)?;
    if args.referrers {
        source.check_referrers()?;
        destination.check_referrers()?;
    }
    let content = if args.all {
        open_all(context, &source, &args.registry)?
    } else {
        let choice = Choice { platform: args.platform, gpu: args.gpu };
        Content::from(images::open(context, &args.source, choice, &args.registry)?.1)
    };
    require::check(context, &args.require, &source, &content, &args.registry)?;
    let original = content.clone();
    let content = content.annotated(&annotations(&args.annotation));
    let (name, mut mount_from) = (source.registry(), args.mount_from.clone());
    if let (Some(from), Some(to)) = (name, destination.registry())
        && from.registry == to.registry
    {
        mount_from.push(from.repository.clone());
    }
    let platform = if args.all { args.platform } else { Some(args.platform.unwrap_or_else(Platform::host)) };
    let request = Put { name, platform, store: None, progress: &context.progress };
    let choices = PushChoices { immutable: args.immutable, mount_from, tags: args.tag.clone() };
    let outcome = put(context, &destination, &content, &request, &args.registry, &choices)?;
    let attached = if args.referrers {
        let mut copy =
            Copy { context, source: &source, destination: &destination, registry: &args.registry, seen: BTreeSet::new() };
        copy.attached_to(&original)?;
        copy.seen.into_iter().collect()
    } else {
        Vec::new()
    };
    if args.json {
        let mut json = serde_json::to_value(&outcome).expect("an outcome has string keys only");
        json["source"] = args.source.clone().into();
        json["destination"] = args.destination.clone().into();
        json["attached"] = serde_json::to_value(&attached).expect("digests become JSON");
        print_json(&json);
    } else {
        print(&format!("{destination}: {}\n", outcome.text));
        if args.referrers {
            print(&format!("{} attached to it copied\n", attached.len()));
        }
    }
    Ok(exit_code::SUCCESS)
}

/// Copies what belongs to an image, and what belongs to that.
struct Copy<'a> {
    context: &'a Context,
    source: &'a Transport,
    destination: &'a Transport,
    registry: &'a RegistryArgs,
    seen: BTreeSet<Digest>,
}

impl Copy<'_> {
    fn attached_to(&mut self, content: &Content) -> Result<(), Failure> {
        self.of(&content.descriptor().digest)?;
        if let Content::Index(index) = content {
            for child in &index.children {
                self.attached_to(child)?;
            }
        }
        Ok(())
    }

    fn of(&mut self, subject: &Digest) -> Result<(), Failure> {
        self.cosign(subject)?;
        for descriptor in super::attach::list(self.context, self.source, subject, None, self.registry)? {
            if !self.seen.insert(descriptor.digest) {
                continue;
            }
            let content = open_all(self.context, &self.source.at(descriptor.digest), self.registry)?;
            if let Content::Image(artifact) = &content {
                super::attach::put(self.context, self.destination, artifact, self.registry)?;
            }
            self.of(&descriptor.digest)?;
        }
        Ok(())
    }

    /// Copies the tags under which cosign keeps signatures, attestations and bills of materials, byte for byte.
    fn cosign(&mut self, subject: &Digest) -> Result<(), Failure> {
        let (Some(from), Some(to)) = (self.source.registry(), self.destination.registry()) else { return Ok(()) };
        let client = images::client(self.context, self.registry, Some(&from.registry));
        for kind in ["sig", "att", "sbom"] {
            let tagged = |reference: &Reference| Reference {
                tag: Some(format!("sha256-{}.{kind}", subject.hex())),
                digest: None,
                ..reference.clone()
            };
            if client.head_manifest(&tagged(from))?.is_none() {
                continue;
            }
            let content = client.open_all(&tagged(from))?;
            if !self.seen.insert(content.descriptor().digest) {
                continue;
            }
            let request = Put { name: None, platform: None, store: None, progress: &self.context.progress };
            let target = Transport::Registry(tagged(to));
            put(self.context, &target, &content, &request, self.registry, &PushChoices::default())?;
        }
        Ok(())
    }
}

/// Annotations by name.
pub(super) fn annotations(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

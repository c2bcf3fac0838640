//! `imgbuild push --require verified`: images go no further without a verification that counts.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::push::open_all;
use super::{Context, attach};
use crate::digest::Digest;
use crate::exit_code;
use crate::image::{Image, open_verified};
use crate::transport::{Content, Transport, TransportError, platform_of};
use crate::verify::{MEDIA_TYPE, Policy, Requirement, TestSet};

/// The largest report that is read.
const LARGEST: u64 = 64 << 20;

/// What an image must have to be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Required {
    /// A verification of its digest that passed
    Verified,
}

/// What an image must have to be pushed, as `push` is told.
#[derive(Debug, Args)]
pub struct RequireArgs {
    /// Refuse an image that lacks it
    #[arg(long, value_enum, conflicts_with = "annotation")]
    pub require: Option<Required>,

    /// The policy that the image must be verified by [default: the default policy]
    #[arg(long, value_name = "FILE", requires = "require", value_hint = ValueHint::FilePath)]
    pub policy: Option<PathBuf>,

    /// The test set that the image must be verified with [default: any]
    #[arg(long, value_name = "DIR|FILE", requires = "require", value_hint = ValueHint::AnyPath)]
    pub data: Option<PathBuf>,

    /// A report of `imgbuild verify --report` that counts beside those attached to the image (may be repeated)
    #[arg(long, value_name = "FILE", requires = "require", value_hint = ValueHint::FilePath)]
    pub verification: Vec<PathBuf>,
}

/// Where an image comes from, and what it must have.
struct Gate<'a> {
    context: &'a Context,
    source: &'a Transport,
    registry: &'a RegistryArgs,
    args: &'a RequireArgs,
    requirement: Requirement,
}

/// Checks that every image of what is to be pushed has what is required of it.
pub(super) fn check(
    context: &Context,
    args: &RequireArgs,
    source: &Transport,
    content: &Content,
    registry: &RegistryArgs,
) -> Result<(), Failure> {
    let Some(Required::Verified) = args.require else { return Ok(()) };
    let policy = args.policy.as_deref().map(Policy::load).transpose()?.unwrap_or_default();
    let data = args.data.as_deref().map(TestSet::open).transpose()?.map(|set| set.digest);
    let requirement = Requirement { policy: policy.digest(), data };
    let gate = Gate { context, source, registry, args, requirement };
    // What is in an index beside the images, such as an attestation, is for no platform.
    let is_for_platform = |image: &&Image| platform_of(image).is_some_and(|fields| fields.os != "unknown");
    let images: Vec<&Image> = content.images().into_iter().filter(is_for_platform).collect();
    if images.is_empty() {
        return Err(Failure::new(format!("`{source}` holds no image that could be verified"), exit_code::UNUSABLE_INPUT));
    }
    images.into_iter().try_for_each(|image| gate.check(image))
}

impl Gate<'_> {
    fn check(&self, image: &Image) -> Result<(), Failure> {
        let digest = image.descriptor().digest;
        let mut found = Vec::new();
        for path in &self.args.verification {
            let read = std::fs::read(path).map_err(|error| {
                Failure::new(format!("failed to read `{}`: {error}", path.display()), exit_code::UNUSABLE_INPUT)
            });
            match self.requirement.judge(&digest, &read?) {
                Ok(_) => return Ok(()),
                Err(reason) => found.push(format!("`{}` {reason}", path.display())),
            }
        }
        match attach::list(self.context, self.source, &digest, Some(MEDIA_TYPE), self.registry) {
            Ok(attached) => {
                for entry in attached {
                    let judged = self.report(entry.digest).and_then(|report| self.requirement.judge(&digest, &report));
                    match judged {
                        Ok(_) => return Ok(()),
                        Err(reason) => found.push(format!("{} {reason}", entry.digest.short())),
                    }
                }
            }
            // What keeps nothing beside its images can still be pushed with a report that is named.
            Err(failure) if is_no_place(&failure) => found.push(failure.error.to_string()),
            Err(failure) => return Err(failure),
        }
        Err(self.refusal(&digest, &found))
    }

    /// Reads the report in an attached artifact.
    fn report(&self, artifact: Digest) -> Result<Vec<u8>, String> {
        let content =
            open_all(self.context, &self.source.at(artifact), self.registry).map_err(|failure| failure.error.to_string())?;
        let Content::Image(artifact) = content else { return Err("is an index, expected a report".to_owned()) };
        let part = artifact.parsed.layers.iter().find(|part| part.media_type == MEDIA_TYPE && part.size <= LARGEST);
        let part = part.ok_or("holds no report")?;
        let mut bytes = Vec::new();
        let read = open_verified(artifact.blobs.as_ref(), part).and_then(|mut reader| reader.read_to_end(&mut bytes));
        read.map_err(|error| format!("cannot be read: {error}"))?;
        Ok(bytes)
    }

    fn refusal(&self, image: &Digest, found: &[String]) -> Failure {
        let Requirement { policy, data } = &self.requirement;
        let data = data.as_ref().map(|data| format!(" with test set {}", data.short())).unwrap_or_default();
        let mut text = format!(
            "{image} has no verification that passed by policy {}{data}: looked for `{MEDIA_TYPE}` attached to it in {}",
            policy.short(),
            self.source
        );
        for reason in found {
            text.push_str(&format!("\n  {reason}"));
        }
        let option = |name: &str, path: &Option<PathBuf>, missing: &str| match path {
            Some(path) => format!(" --{name} {}", path.display()),
            None => missing.to_owned(),
        };
        let how = match self.source.check_referrers() {
            Ok(()) => "--attach",
            Err(_) => "--report verification.json` and name that by `--verification verification.json",
        };
        Failure::new(text, exit_code::OVER_BUDGET).with_hint(format!(
            "run `imgbuild verify {}{}{} {how}`",
            self.source,
            option("data", &self.args.data, " --data TEST-SET"),
            option("policy", &self.args.policy, "")
        ))
    }
}

fn is_no_place(failure: &Failure) -> bool {
    matches!(failure.error.downcast_ref::<TransportError>(), Some(TransportError::NoReferrers { .. }))
}

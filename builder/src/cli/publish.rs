//! `imgbuild publish-runtime`, and how `imgbuild build` finds what it published.

use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use clap::{Args, ValueHint};

use super::args::RegistryArgs;
use super::failure::Failure;
use super::{Context, images, print, print_json, push};
use crate::build::{BuildError, BuildOptions, PublishedRuntime, RuntimeSettings, build_shared, epoch_of_environment};
use crate::exit_code;
use crate::layer::CompressionChoice;
use crate::lock::{Lock, LockMode};
use crate::platform::Platform;
use crate::recipe::{FILE_NAME, GpuPart, Minimize, Overrides, Recipe};
use crate::reference::Reference;
use crate::source::Reach;
use crate::store::Store;
use crate::transport::{Content, Put, Transport};

/// The repository beside an image's own in which a published runtime is looked for.
const REPOSITORY: &str = "imgbuild-runtime";

/// `imgbuild publish-runtime`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  imgbuild publish-runtime onnx-cpu localhost:5000/acme/imgbuild-runtime
      puts the layers below the model there; every later build of a model that is pushed to localhost:5000/acme/… with the
      same imgbuild.lock finds them and sends the model alone
  imgbuild build model.onnx -t localhost:5000/acme/magika:1 --push --runtime-from localhost:5000/acme/imgbuild-runtime
      takes the published pins and layers on a machine that has nothing")]
pub struct PublishArgs {
    /// Runtime stack, such as onnx-cpu
    pub stack: String,

    /// Where it goes: HOST/NAME[:TAG]
    pub reference: String,

    /// Recipe file whose choices count [default: imgbuild.toml here, where there is one]
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,

    /// What lies at the bottom
    #[arg(long, value_name = "BASE")]
    pub base: Option<String>,

    /// Platform, linux/amd64 or linux/arm64 [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<Platform>,

    /// Server binary [default: imgserve beside imgbuild]
    #[arg(long, env = "IMGBUILD_SERVER", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub server: Option<PathBuf>,

    /// auto, zstd[:LEVEL], gzip[:LEVEL] or none [default: auto]
    #[arg(long, value_name = "CODEC")]
    pub compression: Option<String>,

    /// How much is left out [default: model]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub minimize: Option<Minimize>,

    /// Keep this library whatever the rules say (may be repeated)
    #[arg(long, value_name = "LIBRARY")]
    pub keep: Vec<String>,

    /// Strip the stack's libraries only; do not bind lookups within them
    #[arg(long)]
    pub no_bind: bool,

    /// Refuse unless the lock is there and up to date
    #[arg(long)]
    pub locked: bool,

    /// Use the store alone; fetch nothing
    #[arg(long)]
    pub offline: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Options of `imgbuild build` about published layers.
#[derive(Debug, Args)]
pub struct RuntimeFromArgs {
    /// Published runtime whose layers serve instead of packages: HOST/NAME[:TAG] [default: with --push, the one of this lock in
    /// the image's repository or in `imgbuild-runtime` beside it, where packages would have to be fetched]
    #[arg(long, value_name = "REF", env = "IMGBUILD_RUNTIME_FROM")]
    pub runtime_from: Option<String>,
}

fn reference(text: &str) -> Result<Reference, Failure> {
    let name = text.strip_prefix("docker://").unwrap_or(text);
    name.parse().map_err(|error| Failure::new(error, exit_code::UNUSABLE_INPUT))
}

pub(super) fn publish(context: &Context, args: PublishArgs) -> Result<u8, Failure> {
    let place = reference(&args.reference)?;
    let here = Path::new(FILE_NAME);
    let file = args.file.as_deref().or_else(|| here.exists().then_some(here));
    let overrides = Overrides {
        // What is published has no model; the name is for people.
        model: Some(PathBuf::from(&args.stack)),
        name: Some(args.stack.clone()),
        stack: Some(args.stack),
        base: args.base,
        platform: args.platform,
        compression: args.compression,
        minimize: args.minimize,
        server: args.server,
        keep: args.keep,
        bind: args.no_bind.then_some(false),
        ..Overrides::default()
    };
    let recipe = Recipe::load(file, overrides)?;
    let options = BuildOptions {
        lock: if args.locked { LockMode::Locked } else { LockMode::Complete },
        reach: if args.offline { Reach::Offline } else { Reach::Online },
        threads: available_parallelism().map_or(1, usize::from),
        epoch: epoch_of_environment()?,
        client: images::client(context, &args.registry, None),
        server: super::build::server(&recipe)?,
        dry_run: false,
        published: None,
    };
    let store = context.store()?;
    let shared = build_shared(&recipe, &options, &store, &context.progress)?;
    super::build::tell_lock_changes(context, &recipe, &shared.lock_changes, false);
    let tag = shared.record.settings.tag(&shared.record.lock);
    let content = Content::from(shared.image);
    let request = Put { name: Some(&place), platform: None, store: Some(&store), progress: &context.progress };
    let choices = push::PushChoices { tags: vec![tag.clone()], ..push::PushChoices::default() };
    let target = Transport::Registry(place.clone());
    let outcome = push::put(context, &target, &content, &request, &args.registry, &choices)?;
    if args.json {
        let mut json = serde_json::to_value(&outcome).expect("an outcome has string keys only");
        json["tag"] = tag.into();
        print_json(&json);
    } else {
        print(&format!("{}:{tag}: {}\n", place.name(), outcome.text));
    }
    Ok(exit_code::SUCCESS)
}

/// Published layers that were found, and where.
pub(super) struct Found {
    pub runtime: PublishedRuntime,
    pub place: Reference,
    /// Whether the user named it; one that was found by itself may turn out not to fit.
    pub named: bool,
}

/// What a search needs to know.
pub(super) struct Search<'a> {
    pub recipe: &'a Recipe,
    pub compression: CompressionChoice,
    pub epoch: u64,
    /// The references that the image is pushed to.
    pub pushed_to: &'a [Reference],
    pub registry: &'a RegistryArgs,
}

impl RuntimeFromArgs {
    /// Finds published layers: those that were named, or those of the lock beside where the image goes.
    pub(super) fn find(&self, context: &Context, search: &Search<'_>) -> Result<Option<Found>, Failure> {
        if search.recipe.part != GpuPart::Only {
            // What is published is for all GPUs of its lock.
            return match &self.runtime_from {
                None => Ok(None),
                Some(name) => Err(Failure::new(
                    format!("`{name}` is for all GPUs of its lock, expected none with `--per-gpu`"),
                    exit_code::UNUSABLE_INPUT,
                )
                .with_hint("leave `--runtime-from` (or IMGBUILD_RUNTIME_FROM) out: layers that images share are made once")),
            };
        }
        let lock = Lock::load(&search.recipe.lock_path()).map_err(BuildError::from)?;
        let settings = RuntimeSettings::new(search.recipe, search.compression, search.epoch);
        let tag = lock.as_ref().map(|lock| settings.tag(lock));
        if let Some(text) = &self.runtime_from {
            let named = reference(text)?;
            return search.named(context, named, tag).map(Some);
        }
        let (Some(lock), Some(tag)) = (lock, tag) else { return Ok(None) };
        if search.pushed_to.is_empty() || is_whole(&lock, &context.store()?)? {
            return Ok(None);
        }
        Ok(search.beside(context, &tag))
    }
}

/// Whether the store has every input that a lock pins.
fn is_whole(lock: &Lock, store: &Store) -> Result<bool, Failure> {
    for pin in &lock.inputs {
        if store.find(&pin.sha256)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Search<'_> {
    fn open(&self, context: &Context, place: Reference, named: bool) -> Result<Found, Failure> {
        let client = images::client(context, self.registry, Some(&place.registry));
        let image = client.open(&place, self.recipe.platform)?;
        let runtime = PublishedRuntime::of_image(&place.to_string(), &image).map_err(BuildError::from)?;
        Ok(Found { runtime, place, named })
    }

    fn named(&self, context: &Context, named: Reference, tag: Option<String>) -> Result<Found, Failure> {
        if named.tag.is_none()
            && named.digest.is_none()
            && let Some(tag) = tag
        {
            let tagged = Reference { tag: Some(tag), ..named.clone() };
            let client = images::client(context, self.registry, Some(&named.registry));
            if client.head_manifest(&tagged)?.is_some() {
                return self.open(context, tagged, true);
            }
        }
        self.open(context, named, true)
    }

    /// Looks in the repositories of the image and beside them. Not to find anything, or not to be allowed to look, is no reason to
    /// fail.
    fn beside(&self, context: &Context, tag: &str) -> Option<Found> {
        for target in self.pushed_to {
            let beside = match target.repository.rsplit_once('/') {
                Some((namespace, _)) => format!("{namespace}/{REPOSITORY}"),
                None => REPOSITORY.to_owned(),
            };
            for repository in [target.repository.clone(), beside] {
                let registry = target.registry.clone();
                let place = Reference { registry, repository, tag: Some(tag.to_owned()), digest: None };
                let client = images::client(context, self.registry, Some(&place.registry));
                match client.head_manifest(&place) {
                    Ok(None) => {}
                    Ok(Some(_)) => match self.open(context, place, false) {
                        Ok(found) => return Some(found),
                        Err(failure) => context.progress.note(format!("not used: {}", failure.error)),
                    },
                    Err(error) => context.progress.note(format!("no published runtime: {error}")),
                }
            }
        }
        None
    }
}

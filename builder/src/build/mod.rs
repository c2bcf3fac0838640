//! The way of a build, stage by stage: recipe → model → lock → runtime → optimised model → tree → plan → layers → image → report.

mod error;
mod gpu;
mod inputs;
mod layout;
mod published;
mod sizes;
mod warm;

pub use error::BuildError;
pub use inputs::{Inputs, ServerBinary};
pub use published::{PublishedError, PublishedRuntime, RUNTIME_LABEL, RuntimeRecord, RuntimeSettings};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use inputs::Choice;
use layout::Ready;
use sizes::Findings;

use crate::digest::Digest;
use crate::image::{ContainerConfig, History, Image, ImageParts, LayerWithHistory, timestamp};
use crate::layer::{self, CompressionChoice, LayerFormat, LayerOutcome};
use crate::lock::{Lock, LockError, LockMode, XlaPin};
use crate::model::Content;
use crate::optimize::{self, Prepared};
use crate::parent::Parent;
use crate::plan;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::reference::Reference;
use crate::registry::Client;
use crate::report::{Composition, LABEL, SizeReport};
use crate::runtime::{Runtime, SERVER_PATH};
use crate::source::Reach;
use crate::store::Store;
use crate::template::ReleaseRule;
use crate::tree::{LayerName, Tree};
use warm::Xla;

/// How a build is done, as opposed to what is built.
#[derive(Debug, Clone)]
pub struct BuildOptions {
    /// What may happen to the lock.
    pub lock: LockMode,
    /// Whether the network may be used.
    pub reach: Reach,
    /// Threads for compression.
    pub threads: usize,
    /// Seconds since 1970 for every time in the image.
    pub epoch: u64,
    /// Reaches the registry of a base that is an image.
    pub client: Client,
    /// The server binary, found by the caller.
    pub server: PathBuf,
    /// Leave the lock file as it is.
    pub dry_run: bool,
    /// Layers below the model that a registry has already.
    pub published: Option<PublishedRuntime>,
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// How big it is and why.
    pub report: SizeReport,
    /// The lock that it was built with.
    pub lock: Lock,
    /// The distribution that the base's packages must be from, where they are from one.
    pub distribution: Option<ReleaseRule>,
    /// What changed in the lock, for people.
    pub lock_changes: Vec<String>,
    /// Layers that an earlier build had made.
    pub reused: Vec<LayerName>,
    /// Where the base's layers are, where it is an image in a registry: other repositories there can mount them.
    pub base_reference: Option<Reference>,
}

/// Builds the image of a recipe into the store. Where it goes from there is the caller's business.
///
/// # Errors
/// The first stage that fails says why; nothing but the store and the lock was written.
pub fn build(recipe: &Recipe, options: &BuildOptions, store: &Store, progress: &Progress) -> Result<Built, BuildError> {
    let compression: CompressionChoice = recipe.compression.parse()?;
    let Foundation { mut inputs, runtime, tree: below, finished } = match &options.published {
        Some(published) => Foundation::of_published(recipe, options, compression, published, progress)?,
        None => Foundation::of_model(recipe, options, store, progress)?,
    };
    gpu::tell(recipe, &inputs, progress);
    let prepared = optimize::prepare(recipe, &inputs, &runtime, store, progress)?;
    if let Some(change) = inputs.lock.pin_optimized(prepared.pin.clone(), &recipe.lock_path(), options.lock)? {
        progress.warn(change);
    }
    let lay_out = |xla: Option<&Xla>| {
        layout::lay_out_model(below.clone(), recipe, &inputs, &runtime, &Ready { prepared: &prepared, xla }, store)
    };
    let graph = measured_graph(&inputs, &prepared);
    let mut xla = xla(recipe, &inputs, graph, options.lock, progress)?;
    let mut tree = lay_out(xla.as_ref())?;
    let format = LayerFormat { compression, epoch: options.epoch, threads: options.threads };
    let mut written = write_layers(&tree, finished.clone(), &format, store, progress)?;
    let composition = sizes::composition(recipe, &inputs, &runtime);
    if let Some(before) = xla.take() {
        let image = assemble(recipe, &inputs, options, &written, &composition);
        let after = warm::warm(before, recipe, inputs.stack.gpu.as_ref(), &image, store, progress)?;
        tree = lay_out(Some(&after))?;
        written = write_again(&tree, finished, &format, &written, store, progress)?;
        if let Some((graph, compile)) = graph.zip(after.measured()).filter(|_| options.lock != LockMode::Locked) {
            inputs.lock.xla = Some(XlaPin { graph, compile });
        }
        xla = Some(after);
    }
    // Last, so that a build that fails leaves the lock as it was.
    if !options.dry_run {
        inputs.lock.save(&recipe.lock_path())?;
    }
    let image = assemble(recipe, &inputs, options, &written, &composition);
    let report = sizes::report(
        recipe,
        &inputs,
        &runtime,
        Findings { optimization: prepared.report, xla: xla.map(|xla| xla.report) },
        &tree,
        &written,
        &image,
    );
    let reused = written.iter().filter(|(_, outcome)| outcome.reused).map(|(name, _)| *name).collect();
    let base_reference = inputs.parent.as_ref().and_then(|parent| parent.name.reference().cloned());
    let Inputs { lock, lock_changes, base, .. } = inputs;
    Ok(Built { image, report, lock, distribution: base.release, lock_changes, reused, base_reference })
}

/// Layers that every model of a stack shares, finished.
#[derive(Debug)]
pub struct SharedLayers {
    /// An image of them, which says so in its labels.
    pub image: Image,
    /// What a build needs to know of them.
    pub record: RuntimeRecord,
    /// What changed in the lock, for people.
    pub lock_changes: Vec<String>,
}

/// Builds the layers below the model into the store: what `imgbuild publish-runtime` pushes. The recipe's model is not looked at.
///
/// # Errors
/// As [`build`], and where the recipe has parts that belong to one model.
pub fn build_shared(
    recipe: &Recipe,
    options: &BuildOptions,
    store: &Store,
    progress: &Progress,
) -> Result<SharedLayers, BuildError> {
    let compression: CompressionChoice = recipe.compression.parse()?;
    let name = || format!("runtime of {}", recipe.stack.as_deref().unwrap_or("the stack"));
    for (what, present) in [
        ("custom operators, which belong to a model", !recipe.custom_operators.is_empty()),
        ("a runtime of its own (`runtime.path`)", recipe.runtime.is_some()),
    ] {
        if present {
            return Err(PublishedError::Recipe { name: name(), what }.into());
        }
    }
    let choice = Choice::without_model(recipe)?;
    gpu::check_shared(recipe, &choice.stack.value, name)?;
    if choice.base_image.is_some() {
        return Err(PublishedError::Recipe { name: name(), what: ON_IMAGE }.into());
    }
    if choice.stack.value.compiler.is_some() {
        return Err(PublishedError::Recipe { name: name(), what: COMPILING }.into());
    }
    let Foundation { inputs, runtime, tree, finished } = Foundation::of_packages(choice, recipe, options, store, progress)?;
    let format = LayerFormat { compression, epoch: options.epoch, threads: options.threads };
    let written = write_layers(&tree, finished, &format, store, progress)?;
    inputs.lock.save(&recipe.lock_path())?;
    let settings = RuntimeSettings::new(recipe, compression, options.epoch);
    let record = RuntimeRecord::new(inputs.lock.clone(), settings, &runtime, &tree, &written);
    let title = format!("runtime of {}", inputs.stack.name);
    let labels = BTreeMap::from([
        (TITLE.to_owned(), title.clone()),
        ("io.imgbuild.stack".to_owned(), inputs.stack.name.clone()),
        (RUNTIME_LABEL.to_owned(), record.to_label()),
    ]);
    let image = Image::assemble(ImageParts {
        platform: recipe.platform,
        epoch: options.epoch,
        container: ContainerConfig { user: Some(inputs.user.to_string()), labels: Some(labels), ..ContainerConfig::default() },
        base_history: Vec::new(),
        base_layers: Vec::new(),
        base_blobs: None,
        layers: with_history(&written, options.epoch),
        annotations: BTreeMap::from([(TITLE.to_owned(), title)]),
    });
    Ok(SharedLayers { image, record, lock_changes: inputs.lock_changes })
}

/// Bases that are images: their layers are referenced where they are anyway.
const ON_IMAGE: &str = "a base that is an image";
/// Stacks that compile: what is below their models is a few megabytes, and which libraries it needs follows from the model.
const COMPILING: &str = "a stack that compiles models, which have no runtime to share";
const TITLE: &str = "org.opencontainers.image.title";

type Written = Vec<(LayerName, LayerOutcome)>;

/// What the model is put upon.
struct Foundation {
    inputs: Inputs,
    runtime: Runtime,
    /// The tree without the model.
    tree: Tree,
    /// Layers that are finished before anything is written.
    finished: Written,
}

impl Foundation {
    /// Compiles the model where that can be; where it turns out that it cannot, and nobody asked for it, takes the other stack.
    fn of_model(recipe: &Recipe, options: &BuildOptions, store: &Store, progress: &Progress) -> Result<Self, BuildError> {
        let choice = Choice::of(recipe, options)?;
        let automatic = choice.automatic;
        match Self::of_packages(choice, recipe, options, store, progress) {
            Err(BuildError::Compile(error)) if automatic && error.is_refusal() => {
                Self::of_packages(Choice::of_default(recipe, error.to_string())?, recipe, options, store, progress)
            }
            made => made,
        }
    }

    fn of_packages(
        choice: Choice,
        recipe: &Recipe,
        options: &BuildOptions,
        store: &Store,
        progress: &Progress,
    ) -> Result<Self, BuildError> {
        let mut inputs = choice.obtain(recipe, options, store, progress)?;
        inputs.compile(recipe, options, store, progress)?;
        let runtime = Runtime::resolve(&inputs.runtime_request(recipe), store, progress)?;
        let tree = layout::lay_out_runtime(recipe, &inputs, &runtime)?;
        Ok(Self { inputs, runtime, tree, finished: Written::new() })
    }

    /// Takes layers that were published, with their lock where there is no other.
    fn of_published(
        recipe: &Recipe,
        options: &BuildOptions,
        compression: CompressionChoice,
        published: &PublishedRuntime,
        progress: &Progress,
    ) -> Result<Self, BuildError> {
        let choice = Choice::of(recipe, options)?;
        if choice.base_image.is_some() {
            return Err(PublishedError::Recipe { name: published.name.clone(), what: ON_IMAGE }.into());
        }
        gpu::check_shared(recipe, &choice.stack.value, || published.name.clone())?;
        if choice.stack.value.compiler.is_some() {
            return Err(PublishedError::Recipe { name: published.name.clone(), what: COMPILING }.into());
        }
        let own = Lock::load(&recipe.lock_path())?;
        if own.is_none() && options.lock == LockMode::Locked {
            return Err(LockError::Missing { path: recipe.lock_path() }.into());
        }
        let mut lock = published.record.lock.clone();
        let (request, _) = choice.lock_request(recipe, lock.server.clone())?;
        let (stack, rewriting) = (&choice.stack.value.name, request.rewriting);
        let device_code = request.device_code.as_ref().map_or_else(|| "kept whole".to_owned(), ToString::to_string);
        let needed = published::Needed { stack, request: request.digest(), rewriting, device_code, lock: own.as_ref() };
        published.check(recipe, options, compression, &needed)?;
        let is_stale = |own: &&Lock| options.lock == LockMode::Locked && published::shared_part(own) != lock;
        if let Some(own) = own.as_ref().filter(is_stale) {
            let reason = format!("its request is {}, expected {}", own.request, lock.request);
            return Err(LockError::Stale { path: recipe.lock_path(), reason }.into());
        }
        let changes = match own {
            Some(own) => {
                lock.optimized = own.optimized;
                lock.xla = own.xla;
                Vec::new()
            }
            None => vec![format!("took the pins of {}", published.name)],
        };
        progress.note(format!("the layers below the model are those of {}", published.name));
        let (runtime, tree, finished) = published.unpack()?;
        let inputs = Inputs::without_packages(choice, recipe, lock, changes, &options.server, progress)?;
        Ok(Self { inputs, runtime, tree, finished })
    }
}

/// Writes the layers that are not finished, one after the other: each uses all threads by itself.
fn write_layers(
    tree: &Tree,
    mut finished: Written,
    format: &LayerFormat,
    store: &Store,
    progress: &Progress,
) -> Result<Written, BuildError> {
    plan::partition(tree)
        .into_iter()
        .map(|planned| {
            if let Some(at) = finished.iter().position(|(name, _)| *name == planned.name) {
                return Ok(finished.swap_remove(at));
            }
            let format = LayerFormat { compression: format.compression.for_layer(planned.name), ..*format };
            let outcome = layer::write(&planned.entries, &format, store, progress)
                .map_err(|source| BuildError::Layer { name: planned.name, source })?;
            progress.note(format!(
                "layer {} {}: {} bytes ({}){}",
                planned.name,
                outcome.layer.descriptor.digest.short(),
                outcome.layer.descriptor.size,
                outcome.compression,
                if outcome.reused { ", unchanged" } else { "" }
            ));
            Ok((planned.name, outcome))
        })
        .collect()
}

/// Writes the layers of a tree that changed after it was written: what was new then is new still.
fn write_again(
    tree: &Tree,
    finished: Written,
    format: &LayerFormat,
    before: &Written,
    store: &Store,
    progress: &Progress,
) -> Result<Written, BuildError> {
    let mut written = write_layers(tree, finished, format, store, &Progress::silent())?;
    for (name, outcome) in &mut written {
        let same = before.iter().find(|(_, earlier)| earlier.layer.descriptor.digest == outcome.layer.descriptor.digest);
        match same {
            Some((_, earlier)) => outcome.reused = earlier.reused,
            None => progress.note(format!("layer {name} {}", outcome.layer.descriptor.digest.short())),
        }
    }
    Ok(written)
}

/// The graph that times of XLA are pinned for: that of a SavedModel, and which signature of it is served.
fn measured_graph(inputs: &Inputs, prepared: &Prepared) -> Option<Digest> {
    let Content::SavedModel(model) = &inputs.model().content else { return None };
    let file = prepared.files.iter().find(|file| file.location == "saved_model.pb")?;
    Some(Digest::of(format!("{}\n{}", file.digest, model.signature).as_bytes()))
}

/// What XLA does when the image starts, for models that it can compile and has not compiled before.
fn xla(
    recipe: &Recipe,
    inputs: &Inputs,
    graph: Option<Digest>,
    lock: LockMode,
    progress: &Progress,
) -> Result<Option<Xla>, BuildError> {
    match &inputs.model().content {
        Content::SavedModel(model) if inputs.compiled.is_none() => {
            let pin = inputs.lock.xla.filter(|pin| Some(pin.graph) == graph);
            Xla::choose(recipe, model.must_compile, pin, lock, progress).map(Some)
        }
        _ => Ok(None),
    }
}

fn assemble(recipe: &Recipe, inputs: &Inputs, options: &BuildOptions, written: &Written, composition: &Composition) -> Image {
    let environment = inputs.environment(recipe);
    let parent = inputs.parent.as_ref();
    let mut labels = BTreeMap::from([
        (TITLE.to_owned(), recipe.name.clone()),
        ("io.imgbuild.stack".to_owned(), inputs.stack.name.clone()),
        (LABEL.to_owned(), composition.to_label()),
    ]);
    labels.extend(gpu::labels(recipe, &inputs.stack));
    labels.extend(recipe.labels.clone());
    let published = options.published.as_ref().map(|published| Arc::clone(&published.blobs));
    Image::assemble(ImageParts {
        platform: recipe.platform,
        epoch: options.epoch,
        container: ContainerConfig {
            user: Some(inputs.user.to_string()),
            exposed_ports: BTreeMap::from([("8080/tcp".to_owned(), BTreeMap::new())]),
            env: Some(environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            entrypoint: Some(vec![SERVER_PATH.to_owned()]),
            working_dir: Some(inputs.working_folder().to_owned()),
            labels: Some(labels),
            stop_signal: Some("SIGTERM".to_owned()),
            ..ContainerConfig::default()
        },
        base_history: parent.map(Parent::history).unwrap_or_default(),
        base_layers: parent.map(Parent::layers).unwrap_or_default(),
        base_blobs: parent.map(Parent::blobs).or(published),
        layers: with_history(written, options.epoch),
        annotations: annotations(recipe, parent),
    })
}

/// What the manifest says about the image: its title, and upon what it was put.
fn annotations(recipe: &Recipe, parent: Option<&Parent>) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(TITLE.to_owned(), recipe.name.clone())]);
    if let Some(parent) = parent {
        annotations.insert("org.opencontainers.image.base.digest".to_owned(), parent.pin.sha256.to_string());
        if let Some(reference) = parent.name.reference() {
            annotations.insert("org.opencontainers.image.base.name".to_owned(), reference.to_string());
        }
    }
    annotations
}

fn with_history(written: &Written, epoch: u64) -> Vec<LayerWithHistory> {
    let created = timestamp(epoch);
    let row = |name: &LayerName| History {
        created: Some(created.clone()),
        created_by: Some(format!("imgbuild: {name} layer")),
        ..History::default()
    };
    written.iter().map(|(name, outcome)| LayerWithHistory { layer: outcome.layer.clone(), history: row(name) }).collect()
}

/// Seconds since 1970 for every time in the image: `SOURCE_DATE_EPOCH`, or 0.
///
/// # Errors
/// Where the variable is no whole number.
pub fn epoch_of_environment() -> Result<u64, BuildError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().map_err(|_| BuildError::Epoch { found: text }),
        Err(std::env::VarError::NotPresent) => Ok(0),
        Err(std::env::VarError::NotUnicode(text)) => Err(BuildError::Epoch { found: text.to_string_lossy().into_owned() }),
    }
}

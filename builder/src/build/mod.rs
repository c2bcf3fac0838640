//! The way of a build, stage by stage: recipe → model → lock → runtime → tree → plan → layers → image → report.

mod error;
mod inputs;
mod layout;
mod sizes;
mod warm;

pub use error::BuildError;
pub use inputs::{Inputs, ServerBinary};

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::image::{ContainerConfig, History, Image, ImageParts, LayerWithHistory, timestamp};
use crate::layer::{self, CompressionChoice, LayerFormat, LayerOutcome};
use crate::lock::LockMode;
use crate::model::Content;
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
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// How big it is and why.
    pub report: SizeReport,
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
    let inputs = Inputs::obtain(recipe, options, store, progress)?;
    let runtime = Runtime::resolve(&inputs.runtime_request(recipe), store)?;
    let mut xla = xla(recipe, &inputs)?;
    let mut tree = layout::lay_out(recipe, &inputs, &runtime, xla.as_ref(), store)?;
    let format = LayerFormat { compression, epoch: options.epoch, threads: options.threads };
    let mut written = write_layers(&tree, &format, store, progress)?;
    let composition = sizes::composition(recipe, &inputs, &runtime);
    if let Some(before) = xla.take() {
        let image = assemble(recipe, &inputs, options, &written, &composition);
        let after = warm::warm(before, recipe, &image, store, progress)?;
        tree = layout::lay_out(recipe, &inputs, &runtime, Some(&after), store)?;
        written = write_again(&tree, &format, &written, store, progress)?;
        xla = Some(after);
    }
    // Last, so that a build that fails leaves the lock as it was.
    if !options.dry_run {
        inputs.lock.save(&recipe.lock_path())?;
    }
    let image = assemble(recipe, &inputs, options, &written, &composition);
    let report = sizes::report(recipe, &inputs, &runtime, &tree, &written, &image, xla.as_ref());
    let reused = written.iter().filter(|(_, outcome)| outcome.reused).map(|(name, _)| *name).collect();
    let base_reference = inputs.parent.as_ref().and_then(|parent| parent.name.reference().cloned());
    Ok(Built { image, report, lock_changes: inputs.lock_changes, reused, base_reference })
}

type Written = Vec<(LayerName, LayerOutcome)>;

/// Writes the layers, one after the other: each uses all threads by itself.
fn write_layers(tree: &Tree, format: &LayerFormat, store: &Store, progress: &Progress) -> Result<Written, BuildError> {
    plan::partition(tree)
        .into_iter()
        .map(|planned| {
            let outcome = layer::write(&planned.entries, format, store, progress)
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
    format: &LayerFormat,
    before: &Written,
    store: &Store,
    progress: &Progress,
) -> Result<Written, BuildError> {
    let mut written = write_layers(tree, format, store, &Progress::silent())?;
    for (name, outcome) in &mut written {
        let same = before.iter().find(|(_, earlier)| earlier.layer.descriptor.digest == outcome.layer.descriptor.digest);
        match same {
            Some((_, earlier)) => outcome.reused = earlier.reused,
            None => progress.note(format!("layer {name} {}", outcome.layer.descriptor.digest.short())),
        }
    }
    Ok(written)
}

/// What XLA does, for models that it can compile.
fn xla(recipe: &Recipe, inputs: &Inputs) -> Result<Option<Xla>, BuildError> {
    match &inputs.model.content {
        Content::SavedModel(model) => Xla::choose(recipe, model.must_compile).map(Some),
        Content::Onnx(_) => Ok(None),
    }
}

fn assemble(recipe: &Recipe, inputs: &Inputs, options: &BuildOptions, written: &Written, composition: &Composition) -> Image {
    let environment = inputs.environment(recipe);
    let parent = inputs.parent.as_ref();
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), recipe.name.clone()),
        ("io.imgbuild.stack".to_owned(), inputs.stack.name.clone()),
        (LABEL.to_owned(), composition.to_label()),
    ]);
    labels.extend(recipe.labels.clone());
    let created = timestamp(options.epoch);
    let layers = written
        .iter()
        .map(|(name, outcome)| LayerWithHistory {
            layer: outcome.layer.clone(),
            history: History {
                created: Some(created.clone()),
                created_by: Some(format!("imgbuild: {name} layer")),
                ..History::default()
            },
        })
        .collect();
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
        base_blobs: parent.map(Parent::blobs),
        layers,
        annotations: annotations(recipe, parent),
    })
}

/// What the manifest says about the image: its title, and upon what it was put.
fn annotations(recipe: &Recipe, parent: Option<&Parent>) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([("org.opencontainers.image.title".to_owned(), recipe.name.clone())]);
    if let Some(parent) = parent {
        annotations.insert("org.opencontainers.image.base.digest".to_owned(), parent.pin.sha256.to_string());
        if let Some(reference) = parent.name.reference() {
            annotations.insert("org.opencontainers.image.base.name".to_owned(), reference.to_string());
        }
    }
    annotations
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

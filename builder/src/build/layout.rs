//! Laying out the tree: base, libraries, server, model, configuration, the user's files.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::warm::Xla;
use super::{BuildError, Inputs};
use crate::compiled::CompiledModel;
use crate::digest::Digest;
use crate::layer::{self, IndexKind};
use crate::model::Content as ModelContent;
use crate::optimize::Prepared;
use crate::parent::Parent;
use crate::recipe::Recipe;
use crate::report::XlaMode;
use crate::runtime::Runtime;
use crate::store::Store;
use crate::template::User;
use crate::tree::{Content, Entry, ImagePath, Kind, LayerName, LayoutError, Origin, Provenance, Tree};

/// Where the server's options lie in every image.
const SERVER_CONFIG: &str = "/etc/imgserve/config.json";
/// Where lies what XLA compiled ahead.
pub(super) const XLA_CACHE: &str = "/var/cache/imgserve/xla";

/// Lays out what lies below the model: base, libraries, server.
pub(super) fn lay_out_runtime(recipe: &Recipe, inputs: &Inputs, runtime: &Runtime) -> Result<Tree, BuildError> {
    let mut ground = Ground::new(inputs.parent.as_ref());
    lay_out_base(&mut ground, recipe, inputs)?;
    for taken in &runtime.taken {
        ground.add(taken.path.clone(), taken.kind.clone(), taken.mode, taken.provenance.clone())?;
    }
    Ok(ground.tree)
}

/// Adds the model, what XLA compiled of it, and the user's files to a tree. Reads no weights: their digests are known or cached.
pub(super) fn lay_out_model(
    tree: Tree,
    recipe: &Recipe,
    inputs: &Inputs,
    runtime: &Runtime,
    ready: &Ready<'_>,
    store: &Store,
) -> Result<Tree, BuildError> {
    let mut ground = Ground { tree, parent: inputs.parent.as_ref() };
    add_model(&mut ground, recipe, inputs, runtime, ready)?;
    if let Some(xla) = ready.xla {
        lay_out_compiled(&mut ground, xla)?;
    }
    if let Some(compiled) = &inputs.compiled {
        describe_compiled(&mut ground, recipe, compiled)?;
    }
    for extra in &recipe.files {
        let (digest, size) = layer::digest_file(&extra.from, store)
            .map_err(|source| BuildError::ExtraFile { path: extra.from.clone(), source })?;
        let kind = Kind::File { content: Content::Disk(extra.from.clone()), size, digest: Some(digest) };
        let provenance = Provenance {
            layer: LayerName::Model,
            origin: Origin::User { path: extra.from.display().to_string() },
            reason: "a file of the recipe".to_owned(),
        };
        ground.add(extra.to.clone(), kind, extra.mode, provenance)?;
    }
    Ok(ground.tree)
}

/// The tree, and the image that it stands on where the base is one.
struct Ground<'a> {
    tree: Tree,
    parent: Option<&'a Parent>,
}

impl<'a> Ground<'a> {
    /// A tree that has the directories of the image below, so that layers repeat them as they are there.
    fn new(parent: Option<&'a Parent>) -> Self {
        let mut tree = Tree::default();
        let entries = parent.into_iter().flat_map(|parent| parent.listing.entries());
        for (path, entry) in entries.filter(|(_, entry)| entry.kind == IndexKind::Directory) {
            let reason = "part of the base image".to_owned();
            let (layer, origin) = (LayerName::BaseImage, Origin::BaseImage);
            tree.entries.insert(path, Entry { kind: Kind::Directory, mode: entry.mode, layer, origin, reason });
        }
        Self { tree, parent }
    }

    /// Puts an entry in its place; directories of the base may be links.
    fn add(&mut self, path: ImagePath, kind: Kind, mode: u32, provenance: Provenance) -> Result<(), LayoutError> {
        let path = self.parent.map_or_else(|| Ok(path.clone()), |parent| parent.listing.place(&path))?;
        match kind {
            Kind::Directory => self.tree.add_directory(path, mode, provenance),
            kind => self.tree.add(path, kind, mode, provenance),
        }
    }

    /// Puts an entry that an image below may have already; then that is left as it is.
    fn add_missing(&mut self, path: ImagePath, kind: Kind, mode: u32, provenance: Provenance) -> Result<(), LayoutError> {
        if self.parent.is_some_and(|parent| parent.listing.get(&path).is_some()) {
            return Ok(());
        }
        self.add(path, kind, mode, provenance)
    }
}

/// A file whose bytes are in memory.
fn in_memory(bytes: Vec<u8>) -> Kind {
    Kind::File { size: bytes.len() as u64, digest: Some(Digest::of(&bytes)), content: Content::Bytes(bytes) }
}

fn lay_out_base(ground: &mut Ground<'_>, recipe: &Recipe, inputs: &Inputs) -> Result<(), BuildError> {
    let base = &inputs.base;
    for link in base.links(recipe.platform) {
        let target = parent_join(&link.path.at(recipe.platform), &link.target);
        let provenance = Provenance::generated(LayerName::Base, &link.reason);
        if let Ok(target) = target.parse() {
            ground.add_missing(target, Kind::Directory, 0o755, provenance.clone())?;
        }
        let kind = Kind::Symlink { target: link.target.clone() };
        ground.add_missing(link.path.at(recipe.platform), kind, 0o777, provenance)?;
    }
    for directory in &base.directories {
        let provenance = Provenance::generated(LayerName::Base, &directory.reason);
        ground.add_missing(directory.path.at(recipe.platform), Kind::Directory, directory.mode, provenance)?;
    }
    if let Some(folder) = inputs.working_folder().parse().ok().filter(|_| inputs.parent.is_some()) {
        let provenance = Provenance::generated(LayerName::Base, "the working folder that the base names");
        ground.add_missing(folder, Kind::Directory, 0o755, provenance)?;
    }
    let user = User { name: base.user.name.clone(), uid: inputs.user.uid, gid: inputs.user.gid };
    for file in &base.files {
        let provenance = Provenance::generated(LayerName::Base, &file.reason);
        ground.add_missing(file.path.at(recipe.platform), in_memory(file.bytes(&user)), 0o644, provenance)?;
    }
    Ok(())
}

/// The absolute path that a link's relative target means.
fn parent_join(link: &ImagePath, target: &str) -> String {
    match link.parent() {
        Some(parent) => format!("{parent}/{target}"),
        None => format!("/{target}"),
    }
}

/// A model as it goes into the image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready<'a> {
    /// Its files and the options that go with them.
    pub prepared: &'a Prepared,
    /// What XLA does of it, where it can.
    pub xla: Option<&'a Xla>,
}

fn add_model(
    ground: &mut Ground<'_>,
    recipe: &Recipe,
    inputs: &Inputs,
    runtime: &Runtime,
    ready: &Ready<'_>,
) -> Result<(), BuildError> {
    let folder: ImagePath = format!("/models/{}", recipe.name).parse()?;
    // Files keep their names and their places to each other, by which the model refers to them.
    for file in &ready.prepared.files {
        let path = folder.join(&file.location)?;
        let kind = Kind::File { content: Content::Disk(file.path.clone()), size: file.size, digest: Some(file.digest) };
        let origin = Origin::User { path: path.file_name().to_owned() };
        ground.add(path, kind, 0o644, Provenance { layer: LayerName::Model, origin, reason: file.reason.clone() })?;
    }
    let config = server_config(recipe, inputs, &folder, runtime, ready)?;
    let provenance = Provenance::generated(LayerName::Model, "tells the server which model to serve");
    ground.add(SERVER_CONFIG.parse()?, in_memory(config), 0o644, provenance)?;
    Ok(())
}

/// What XLA compiled, and what a processor must be able to do to run it.
fn lay_out_compiled(ground: &mut Ground<'_>, xla: &Xla) -> Result<(), BuildError> {
    if xla.cache.is_empty() {
        return Ok(());
    }
    let folder: ImagePath = XLA_CACHE.parse()?;
    for (name, blob) in &xla.cache {
        let kind = Kind::File { content: Content::Disk(blob.path.clone()), size: blob.size, digest: Some(blob.digest) };
        let provenance =
            Provenance::generated(LayerName::Compiled, "a cluster of operators that XLA compiled while the image was built");
        ground.add(folder.join(name)?, kind, 0o644, provenance)?;
    }
    let flags = format!("{}\n", xla.cpu_flags).into_bytes();
    let provenance = Provenance::generated(LayerName::Compiled, "the features of the processor that XLA compiled for");
    ground.add(folder.join("cpu-flags")?, in_memory(flags), 0o644, provenance)?;
    Ok(())
}

/// What belongs to the library of a compiled model: its description, and the licences of what is linked into it.
fn describe_compiled(ground: &mut Ground<'_>, recipe: &Recipe, compiled: &CompiledModel) -> Result<(), BuildError> {
    let path = format!("/models/{}/model.json", recipe.name).parse()?;
    let provenance = Provenance::generated(LayerName::Compiled, "what the compiled model takes and gives, and what runs it");
    ground.add(path, in_memory(compiled.description.clone()), 0o644, provenance)?;
    for (licence, text) in &compiled.licences {
        let kind = Kind::File { content: Content::Disk(text.path.clone()), size: text.size, digest: Some(text.digest) };
        let origin = compiled.package.pin.origin();
        let provenance = Provenance { layer: LayerName::Compiled, origin, reason: licence.reason.clone() };
        ground.add(licence.to.at(recipe.platform), kind, 0o644, provenance)?;
    }
    Ok(())
}

/// The server's file: sorted keys, so that equal options are equal bytes.
fn server_config(
    recipe: &Recipe,
    inputs: &Inputs,
    folder: &ImagePath,
    runtime: &Runtime,
    ready: &Ready<'_>,
) -> Result<Vec<u8>, BuildError> {
    let mut config: BTreeMap<String, Value> = BTreeMap::new();
    config.insert("model_name".to_owned(), Value::from(recipe.name.clone()));
    match &inputs.model().content {
        ModelContent::Onnx(_) => {
            let file = folder.join(&ready.prepared.files[0].location)?;
            config.insert("model_path".to_owned(), Value::from(file.to_string()));
        }
        ModelContent::SavedModel(saved) => {
            config.insert("backend".to_owned(), Value::from(inputs.stack.backend.clone()));
            config.insert("model_path".to_owned(), Value::from(folder.to_string()));
            if inputs.compiled.is_none() {
                config.insert("saved_model_tags".to_owned(), Value::from(saved.tags.clone()));
            }
            config.insert("signature".to_owned(), Value::from(saved.signature.clone()));
            if let Some(xla) = ready.xla {
                let mode = if xla.report.mode == XlaMode::Auto { "auto" } else { "off" };
                config.insert("xla".to_owned(), Value::from(mode));
                if !xla.cache.is_empty() {
                    config.insert("xla_cache".to_owned(), Value::from(XLA_CACHE));
                }
            }
        }
    }
    if !runtime.custom_operators.is_empty() {
        let paths: Vec<String> = runtime.custom_operators.iter().map(ToString::to_string).collect();
        config.insert("custom_op_libraries".to_owned(), Value::from(paths));
    }
    config.extend(super::gpu::server_options(recipe, inputs).into_iter().map(|(key, value)| (key.to_owned(), value)));
    config.extend(ready.prepared.options.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    for (key, value) in &recipe.server_options {
        let value = serde_json::to_value(value).map_err(|_| BuildError::ServerOption { key: key.clone() })?;
        let key = key.replace('-', "_");
        // What the rules ask of a table stays where the recipe adds to it.
        match (config.get_mut(&key), value) {
            (Some(Value::Object(known)), Value::Object(added)) => known.extend(added),
            (_, value) => _ = config.insert(key, value),
        }
    }
    if !recipe.prepack
        && let Some(session) = config.entry("session_config".to_owned()).or_insert_with(|| json!({})).as_object_mut()
    {
        session.entry("session.disable_prepacking").or_insert_with(|| Value::from("1"));
    }
    let mut text = serde_json::to_vec_pretty(&config).expect("a map of strings and JSON values is JSON");
    text.push(b'\n');
    Ok(text)
}

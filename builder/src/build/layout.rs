//! Laying out the tree: base, libraries, server, model, configuration, the user's files.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::warm::Xla;
use super::{BuildError, Inputs};
use crate::layer;
use crate::model::Content as ModelContent;
use crate::recipe::Recipe;
use crate::report::XlaMode;
use crate::runtime::Runtime;
use crate::store::{Store, StoreError};
use crate::template::User;
use crate::tree::{Content, ImagePath, Kind, LayerName, Origin, Provenance, Tree};

/// Where the server's options lie in every image.
const SERVER_CONFIG: &str = "/etc/imgserve/config.json";
/// Where lies what XLA compiled ahead.
const XLA_CACHE: &str = "/var/cache/imgserve/xla";

/// Lays out the one merged file system of the image. Reads no weights: their digests are known or cached.
pub(super) fn lay_out(
    recipe: &Recipe,
    inputs: &Inputs,
    runtime: &Runtime,
    xla: Option<&Xla>,
    store: &Store,
) -> Result<Tree, BuildError> {
    let mut tree = Tree::default();
    lay_out_base(&mut tree, recipe, inputs)?;
    for taken in &runtime.taken {
        tree.add(taken.path.clone(), taken.kind.clone(), taken.mode, taken.provenance.clone())?;
    }
    lay_out_model(&mut tree, recipe, inputs, store)?;
    let config = server_config(recipe, inputs, runtime, xla)?;
    let provenance = Provenance::generated(LayerName::Model, "tells the server which model to serve");
    tree.add_bytes(SERVER_CONFIG.parse()?, config, 0o644, provenance)?;
    if let Some(xla) = xla {
        lay_out_compiled(&mut tree, xla)?;
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
        tree.add(extra.to.clone(), kind, extra.mode, provenance)?;
    }
    Ok(tree)
}

fn lay_out_base(tree: &mut Tree, recipe: &Recipe, inputs: &Inputs) -> Result<(), BuildError> {
    let base = &inputs.base;
    for link in base.links(recipe.platform) {
        let target = parent_join(&link.path.at(recipe.platform), &link.target);
        if let Ok(target) = target.parse() {
            tree.add_directory(target, 0o755, Provenance::generated(LayerName::Base, &link.reason))?;
        }
        tree.add_symlink(link.path.at(recipe.platform), &link.target, Provenance::generated(LayerName::Base, &link.reason))?;
    }
    for directory in &base.directories {
        let provenance = Provenance::generated(LayerName::Base, &directory.reason);
        tree.add_directory(directory.path.at(recipe.platform), directory.mode, provenance)?;
    }
    let user = User { name: base.user.name.clone(), uid: recipe.user.uid, gid: recipe.user.gid };
    for file in &base.files {
        let provenance = Provenance::generated(LayerName::Base, &file.reason);
        tree.add_bytes(file.path.at(recipe.platform), file.bytes(&user), 0o644, provenance)?;
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

fn lay_out_model(tree: &mut Tree, recipe: &Recipe, inputs: &Inputs, store: &Store) -> Result<(), BuildError> {
    let folder = model_folder(recipe)?;
    let mut add = |path: ImagePath, file: &std::path::Path, reason: String| -> Result<(), BuildError> {
        let file = fs::canonicalize(file).map_err(|source| StoreError::Io { action: "read", path: file.to_owned(), source })?;
        let (digest, size) = layer::digest_file(&file, store)?;
        let kind = Kind::File { content: Content::Disk(file), size, digest: Some(digest) };
        let origin = Origin::User { path: path.file_name().to_owned() };
        Ok(tree.add(path, kind, 0o644, Provenance { layer: LayerName::Model, origin, reason })?)
    };
    // Files keep their names and their places to each other, by which the model refers to them.
    for (index, file) in inputs.model.files().iter().enumerate() {
        let reason = match (&inputs.model.content, index) {
            (ModelContent::Onnx(_), 0) => "the model".to_owned(),
            (ModelContent::Onnx(_), _) => "weights that the model keeps in a file of their own".to_owned(),
            (ModelContent::SavedModel(_), _) => "a file of the SavedModel".to_owned(),
        };
        add(folder.join(&file.location)?, &file.path, reason)?;
    }
    Ok(())
}

fn model_folder(recipe: &Recipe) -> Result<ImagePath, BuildError> {
    Ok(format!("/models/{}", recipe.name).parse()?)
}

/// What XLA compiled, and what a processor must be able to do to run it.
fn lay_out_compiled(tree: &mut Tree, xla: &Xla) -> Result<(), BuildError> {
    if xla.cache.is_empty() {
        return Ok(());
    }
    let folder: ImagePath = XLA_CACHE.parse()?;
    for (name, blob) in &xla.cache {
        let kind = Kind::File { content: Content::Disk(blob.path.clone()), size: blob.size, digest: Some(blob.digest) };
        let provenance =
            Provenance::generated(LayerName::Compiled, "a cluster of operators that XLA compiled while the image was built");
        tree.add(folder.join(name)?, kind, 0o644, provenance)?;
    }
    let flags = format!("{}\n", xla.cpu_flags).into_bytes();
    let provenance = Provenance::generated(LayerName::Compiled, "the features of the processor that XLA compiled for");
    tree.add_bytes(folder.join("cpu-flags")?, flags, 0o644, provenance)?;
    Ok(())
}

/// The server's file: sorted keys, so that equal options are equal bytes.
fn server_config(recipe: &Recipe, inputs: &Inputs, runtime: &Runtime, xla: Option<&Xla>) -> Result<Vec<u8>, BuildError> {
    let folder = model_folder(recipe)?;
    let mut config: BTreeMap<String, Value> = BTreeMap::new();
    config.insert("model_name".to_owned(), Value::from(recipe.name.clone()));
    match &inputs.model.content {
        ModelContent::Onnx(_) => {
            let file = inputs.model.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            config.insert("model_path".to_owned(), Value::from(folder.join(&file)?.to_string()));
        }
        ModelContent::SavedModel(saved) => {
            config.insert("backend".to_owned(), Value::from(inputs.stack.backend.clone()));
            config.insert("model_path".to_owned(), Value::from(folder.to_string()));
            config.insert("saved_model_tags".to_owned(), Value::from(saved.tags.clone()));
            config.insert("signature".to_owned(), Value::from(saved.signature.clone()));
            if let Some(xla) = xla {
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
    for (key, value) in &recipe.server_options {
        let value = serde_json::to_value(value).map_err(|_| BuildError::ServerOption { key: key.clone() })?;
        config.insert(key.replace('-', "_"), value);
    }
    let mut text = serde_json::to_vec_pretty(&config).expect("a map of strings and JSON values is JSON");
    text.push(b'\n');
    Ok(text)
}

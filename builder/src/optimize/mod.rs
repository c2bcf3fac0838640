//! Makes a model start fast: [`prepare`].
//!
//! Two steps, each of which may be left out. The runtime that goes into the image optimises the model now and not at every
//! start ([`offline`]); and large tensors move to a file of their own that the runtime maps (`model::externalize`). The
//! second is a pure rewrite and the default; the first runs foreign code and is made on request, and its result is compared
//! with the model it came from (`docs/decisions/0005-optimised-models.md`).

mod error;
mod offline;

pub use error::OptimizeError;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::build::Inputs;
use crate::compiled::CompiledModel;
use crate::digest::Digest;
use crate::layer;
use crate::lock::OptimizedPin;
use crate::model::{CHECKPOINT_INDEX, CHECKPOINT_SHARD, Content, Deduplicated, Externalized, Format};
use crate::progress::Progress;
use crate::recipe::{Optimize, Recipe};
use crate::report::Optimization;
use crate::runtime::Runtime;
use crate::store::{Blob, Store, StoreError};

/// Version of the rewrite, part of the key under which results are kept.
const REWRITE: &str = "1";

/// The files of a model as the image gets them, and what the server has to know about them.
#[derive(Debug)]
pub struct Prepared {
    /// The model first, then the files beside it.
    pub files: Vec<PreparedFile>,
    /// Options of the server that go with them.
    pub options: BTreeMap<&'static str, Value>,
    /// The runtime's result, to be pinned.
    pub pin: Option<OptimizedPin>,
    /// What was done.
    pub report: Optimization,
}

/// One file of a model.
#[derive(Debug)]
pub struct PreparedFile {
    /// Where it goes, relative to the model's folder.
    pub location: String,
    /// Where it lies now.
    pub path: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Why it is there.
    pub reason: String,
}

/// What the rewrite gave, as the store keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Rewritten {
    model: Digest,
    data: Digest,
}

/// Prepares the model's files as the recipe asks.
///
/// # Errors
/// Where a file cannot be read or written; where the runtime was asked to optimise and fails, or its result does not compute
/// what the model computes. What cannot be done on this machine at all is left out with a warning.
pub fn prepare(
    recipe: &Recipe,
    inputs: &Inputs,
    runtime: &Runtime,
    store: &Store,
    progress: &Progress,
) -> Result<Prepared, OptimizeError> {
    if let Some(compiled) = &inputs.compiled {
        return Ok(Prepared::compiled(recipe, inputs, compiled));
    }
    let mut prepared = Prepared::untouched(recipe, inputs, store)?;
    if inputs.model().format == Format::SavedModel {
        if recipe.optimize != Optimize::Off && !prepared.deduplicate(store)? {
            prepared.report.left = Some("a SavedModel keeps its weights in files of their own already".to_owned());
        }
        prepared.report.after = prepared.files.iter().map(|file| file.size).sum();
        return Ok(prepared);
    }
    if recipe.optimize.is_by_runtime() {
        let request = offline::Request { recipe, inputs, runtime, model: prepared.files[0].digest };
        match offline::optimize(&request, store, progress)? {
            Ok(optimized) => prepared.take_optimized(recipe.optimize, optimized),
            Err(reason) => {
                progress.warn(format!("the model is not optimised at level `{}`: {reason}", recipe.optimize));
                prepared.report.left = Some(reason);
            }
        }
    }
    if recipe.optimize != Optimize::Off {
        prepared.externalize(store)?;
    }
    prepared.report.after = prepared.files.iter().map(|file| file.size).sum();
    Ok(prepared)
}

impl Prepared {
    /// The weights of a model that was compiled: what is left of its files.
    fn compiled(recipe: &Recipe, inputs: &Inputs, compiled: &CompiledModel) -> Self {
        let weights = compiled.weights.iter().map(|weights| PreparedFile {
            location: "weights".to_owned(),
            path: weights.path.clone(),
            digest: weights.digest,
            size: weights.size,
            reason: "weights of the SavedModel, which the compiled model maps".to_owned(),
        });
        let mapped = compiled.report.weights;
        let report = Optimization {
            asked: recipe.optimize,
            done: Optimize::Off,
            left: Some("the model is compiled ahead of time".to_owned()),
            runtime: None,
            cpu: None,
            mapped,
            before: inputs.model().total_size(),
            after: mapped,
        };
        Self { files: weights.collect(), options: BTreeMap::new(), pin: None, report }
    }

    /// The files as they are.
    fn untouched(recipe: &Recipe, inputs: &Inputs, store: &Store) -> Result<Self, OptimizeError> {
        let model = inputs.model();
        let mut files = Vec::new();
        // Files keep their names and their places to each other, by which the model refers to them.
        for (index, file) in model.files().iter().enumerate() {
            let reason = match (&model.content, index) {
                (Content::Onnx(_), 0) => "the model",
                (Content::Onnx(_), _) => "weights that the model keeps in a file of their own",
                (Content::SavedModel(_), _) => "a file of the SavedModel",
            };
            files.push(PreparedFile::on_disk(&file.location, &file.path, reason.to_owned(), store)?);
        }
        let report = Optimization {
            asked: recipe.optimize,
            done: Optimize::Off,
            left: None,
            runtime: None,
            cpu: None,
            mapped: 0,
            before: files.iter().map(|file| file.size).sum(),
            after: 0,
        };
        Ok(Self { files, options: BTreeMap::new(), pin: None, report })
    }

    fn take_optimized(&mut self, level: Optimize, optimized: offline::Optimized) {
        // Weights that were laid out for one CPU are no matter of other machines.
        self.pin = (level != Optimize::Hardware).then_some(OptimizedPin { from: optimized.key, sha256: optimized.model.digest });
        let model = &mut self.files[0];
        model.take(optimized.model);
        model.reason = format!("the model, optimised by {} at level `{level}`", optimized.runtime);
        self.report.done = level;
        self.report.runtime = Some(optimized.runtime);
        if level == Optimize::Hardware {
            // Weights lie as this CPU's kernels want them: on another they would be computed with wrongly.
            self.options.insert("cpu", Value::from(optimized.cpu.clone()));
            self.options.insert("graph_optimization_level", Value::from("disable"));
            self.report.cpu = Some(optimized.cpu);
        }
    }

    /// Stores once what the checkpoint of a SavedModel has more than once; tells whether there was any.
    fn deduplicate(&mut self, store: &Store) -> Result<bool, OptimizeError> {
        let place = |name: &str| self.files.iter().position(|file| file.location == name);
        let (Some(index), Some(shard)) = (place(CHECKPOINT_INDEX), place(CHECKPOINT_SHARD)) else { return Ok(false) };
        let digests = (self.files[index].digest, self.files[shard].digest);
        let key = Digest::of(format!("checkpoint {REWRITE}\n{}\n{}\n", digests.0, digests.1).as_bytes());
        let (new, data) = match kept(store, &key)? {
            Some(found) => found,
            None => match write_once(&self.files[index].path, &self.files[shard].path, &key, store)? {
                Some(written) => written,
                None => return Ok(false),
            },
        };
        self.files[index].take(new);
        self.files[shard].take(data);
        self.files[shard].reason = "weights of the SavedModel, without those that it stored twice".to_owned();
        // It is that of the files as they were.
        self.files.retain(|file| file.location != "fingerprint.pb");
        self.report.done = Optimize::Weights;
        Ok(true)
    }

    /// Moves large tensors to a file of their own.
    fn externalize(&mut self, store: &Store) -> Result<(), OptimizeError> {
        let name = self.files[0].location.clone();
        let taken = |location: &str| self.files.iter().any(|file| file.location == location);
        let location = std::iter::once(format!("{name}.data"))
            .chain((2..).map(|number| format!("{name}.data{number}")))
            .find(|location| !taken(location))
            .expect("one of endlessly many names is free");
        let model = &self.files[0];
        let key = Digest::of(format!("{REWRITE}\n{}\n{location}\n", model.digest).as_bytes());
        let (new, data) = match kept(store, &key)? {
            Some(found) => found,
            None => {
                let read = |source| OptimizeError::Read { path: model.path.clone(), source };
                match Externalized::plan(&model.path, &location).map_err(read)? {
                    Err(reason) => {
                        // Where the runtime was stopped, that says more; where it was not, this is no failure.
                        if self.report.done == Optimize::Off {
                            self.report.left.get_or_insert_with(|| reason.to_string());
                        }
                        return Ok(());
                    }
                    Ok(plan) => rewrite(&plan, &model.path, &key, store)?,
                }
            }
        };
        self.report.mapped = data.size;
        if self.report.done == Optimize::Off {
            self.report.done = Optimize::Weights;
        }
        self.files[0].take(new);
        let reason = format!("weights of {name} that the runtime maps instead of reading them");
        self.files.push(PreparedFile { location, path: data.path, digest: data.digest, size: data.size, reason });
        Ok(())
    }
}

impl PreparedFile {
    fn on_disk(location: &str, path: &Path, reason: String, store: &Store) -> Result<Self, OptimizeError> {
        let path = std::fs::canonicalize(path).map_err(|source| OptimizeError::Read { path: path.to_owned(), source })?;
        let (digest, size) = layer::digest_file(&path, store)?;
        Ok(Self { location: location.to_owned(), path, digest, size, reason })
    }

    fn take(&mut self, blob: Blob) {
        (self.path, self.digest, self.size) = (blob.path, blob.digest, blob.size);
    }
}

/// The files of an earlier rewrite, where the store still has both.
fn kept(store: &Store, key: &Digest) -> Result<Option<(Blob, Blob)>, StoreError> {
    let Some(found) = store.record("weights", key).and_then(|body| serde_json::from_slice::<Rewritten>(&body).ok()) else {
        return Ok(None);
    };
    Ok(store.find(&found.model)?.zip(store.find(&found.data)?))
}

/// Writes a checkpoint without what it has twice, where it has such.
fn write_once(index: &Path, shard: &Path, key: &Digest, store: &Store) -> Result<Option<(Blob, Blob)>, OptimizeError> {
    let map = |path: &Path| {
        #[expect(unsafe_code, reason = "mapping is what keeps memory flat")]
        // SAFETY: the map is read-only and private; a file that shrinks meanwhile would end the process, as for every reader of it.
        let map = File::open(path).and_then(|file| unsafe { Mmap::map(&file) });
        map.map_err(|source| OptimizeError::Read { path: path.to_owned(), source })
    };
    let failed = |source: io::Error| OptimizeError::Rewrite { path: shard.to_owned(), source };
    let (old_index, old_shard) = (map(index)?, map(shard)?);
    let plan = Deduplicated::plan(&old_index, &old_shard).map_err(|problem| OptimizeError::Read {
        path: index.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, format!("it {problem}")),
    })?;
    let Some(plan) = plan else { return Ok(None) };
    let (mut new, mut data) = (store.writer()?, store.writer()?);
    new.write_all(&plan.index).map_err(failed)?;
    plan.write_shard(&old_shard, &mut data).map_err(failed)?;
    let (new, data) = (new.finish()?, data.finish()?);
    let body = serde_json::to_vec(&Rewritten { model: new.digest, data: data.digest }).expect("digests are JSON");
    store.put_record("weights", key, &body)?;
    Ok(Some((new, data)))
}

fn rewrite(plan: &Externalized, model: &Path, key: &Digest, store: &Store) -> Result<(Blob, Blob), OptimizeError> {
    let failed = |source: io::Error| OptimizeError::Rewrite { path: model.to_owned(), source };
    let mut old = File::open(model).map_err(failed)?;
    let (mut new, mut data) = (store.writer()?, store.writer()?);
    plan.write_model(&mut old, &mut new).map_err(failed)?;
    plan.write_data(&mut old, &mut data).map_err(failed)?;
    let (new, data) = (new.finish()?, data.finish()?);
    let body = serde_json::to_vec(&Rewritten { model: new.digest, data: data.digest }).expect("digests are JSON");
    store.put_record("weights", key, &body)?;
    Ok((new, data))
}

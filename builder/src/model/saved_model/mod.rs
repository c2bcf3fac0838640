//! Opens a SavedModel folder: its graph's signatures and operators, and the files that belong to it.
//!
//! The graph is streamed and weights are never read: time and memory depend on the number of nodes and of variables.

mod checkpoint;
mod deduplicate;
mod graph;
mod problem;
mod proto;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use memmap2::Mmap;
use serde::Serialize;
use walkdir::WalkDir;

pub(crate) use deduplicate::Deduplicated;
pub use problem::SavedModelProblem;

use self::checkpoint::Checkpoint;
use self::graph::{File, MetaGraph, Tagged};
use self::proto::TensorInfo;
use super::error::{ModelError, SINGLE_FILE_LIMIT};
use super::external::{self, ExternalFile};
use super::onnx::OperatorId;
use super::value::{DataType, Dimension, Value, ValueType};

/// The file that makes a folder a SavedModel.
pub const GRAPH_FILE: &str = "saved_model.pb";

/// The signature that is served unless the user says otherwise.
pub const DEFAULT_SIGNATURE: &str = "serving_default";

/// The index of a checkpoint.
pub(crate) const INDEX: &str = "variables/variables.index";
/// Its data, where all of it is in one file.
pub(crate) const ONLY_SHARD: &str = "variables/variables.data-00000-of-00001";

/// Operators that make a variable, whose value a checkpoint brings.
const VARIABLES: [&str; 5] = ["VarHandleOp", "VariableV2", "Variable", "AutoReloadVariable", "TemporaryVariable"];

/// Which graph and signature of a SavedModel are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The tags of the graph.
    pub tags: Vec<String>,
    /// The signature's key; without one it is `serving_default`, or the only one that there is.
    pub signature: Option<String>,
}

impl Default for Selection {
    fn default() -> Self {
        Self { tags: vec!["serve".to_owned()], signature: None }
    }
}

/// What a SavedModel says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct SavedModel {
    /// The TensorFlow that wrote it.
    pub tensorflow_version: String,
    /// The tags of the chosen graph.
    pub tags: Vec<String>,
    /// The key of the chosen signature.
    pub signature: String,
    /// Every signature of the graph, by its key.
    pub signatures: BTreeMap<String, Signature>,
    /// How often each operator is used, in the graph and its functions.
    pub operators: BTreeMap<String, u64>,
    /// Whether the model itself asks to be compiled by XLA.
    pub must_compile: bool,
    /// The checkpoint, where there is one.
    pub variables: Option<Variables>,
    /// The files that belong to the model, relative to its folder.
    pub files: Vec<ExternalFile>,
}

/// What goes into and comes out of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Signature {
    /// Inputs by name.
    pub inputs: Vec<Value>,
    /// Outputs by name.
    pub outputs: Vec<Value>,
}

/// The weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Variables {
    /// The number of stored tensors.
    pub tensors: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl SavedModel {
    /// Opens a folder that has a `saved_model.pb`.
    pub(crate) fn open(folder: &Path, selection: &Selection) -> Result<SavedModel, ModelError> {
        let path = folder.join(GRAPH_FILE);
        if !path.is_file() {
            return Err(unusable(folder, SavedModelProblem::Text));
        }
        let bytes = map(&path)?;
        let (mut model, assets) = Self::parse(&bytes, &path, selection, folder)?;
        let allowed = external::allowed(folder, &path)?;
        let place = |location: &str| {
            external::place(folder, location, &allowed)
                .map_err(|problem| unusable(folder, SavedModelProblem::File { location: location.to_owned(), problem }))
        };
        model.files.push(place(GRAPH_FILE)?);
        if folder.join("fingerprint.pb").is_file() {
            model.files.push(place("fingerprint.pb")?);
        }
        model.variables = model.read_variables(folder, place)?;
        let assets = assets.into_iter().map(|name| format!("assets/{name}"));
        let locations: BTreeSet<String> = assets.chain(assets_in(folder)).collect();
        for location in &locations {
            model.files.push(place(location)?);
        }
        model.files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(model)
    }

    /// Reads a `saved_model.pb` from its bytes, and the names of assets with it; no other file is looked at.
    fn parse(
        bytes: &[u8],
        path: &Path,
        selection: &Selection,
        folder: &Path,
    ) -> Result<(SavedModel, BTreeSet<String>), ModelError> {
        let file = File { bytes, path };
        let graphs = file.graphs()?;
        let wanted: BTreeSet<String> = selection.tags.iter().cloned().collect();
        let Some(tagged) = graphs.iter().find(|graph| graph.tags == wanted) else {
            let known = graphs.into_iter().map(|graph| graph.tags.into_iter().collect()).collect();
            return Err(unusable(folder, SavedModelProblem::Tags { tags: selection.tags.clone(), known }));
        };
        let mut graph = file.read(tagged)?;
        let assets = std::mem::take(&mut graph.assets);
        let model = Self::new(tagged, graph, selection).map_err(|problem| unusable(folder, problem))?;
        Ok((model, assets))
    }

    fn new(tagged: &Tagged, graph: MetaGraph, selection: &Selection) -> Result<SavedModel, SavedModelProblem> {
        let signatures: BTreeMap<String, Signature> = graph
            .signatures
            .iter()
            // Those are for TensorFlow itself: they initialise, or train.
            .filter(|(key, _)| !key.starts_with("__saved_model"))
            .map(|(key, signature)| {
                let values = |tensors: &BTreeMap<String, TensorInfo>| tensors.iter().map(value).collect();
                (key.clone(), Signature { inputs: values(&signature.inputs), outputs: values(&signature.outputs) })
            })
            .collect();
        let signature = choose(&signatures, selection.signature.as_deref())?;
        check_signature(&signature, &signatures[&signature])?;
        Ok(SavedModel {
            tensorflow_version: tagged.tensorflow_version.clone(),
            tags: selection.tags.clone(),
            signature,
            signatures,
            operators: graph.operators,
            must_compile: graph.must_compile,
            variables: None,
            files: Vec::new(),
        })
    }

    /// Reads the checkpoint's index and adds its files.
    fn read_variables(
        &mut self,
        folder: &Path,
        place: impl Fn(&str) -> Result<ExternalFile, ModelError>,
    ) -> Result<Option<Variables>, ModelError> {
        let uses_variables = VARIABLES.iter().any(|name| self.operators.contains_key(*name));
        if !uses_variables && !folder.join(INDEX).exists() {
            return Ok(None);
        }
        let index = place(INDEX)?;
        let bytes = map(&index.path)?;
        let checkpoint = checkpoint::parse(&bytes)
            .map_err(|problem| unusable(folder, SavedModelProblem::Index { location: INDEX.to_owned(), problem }))?;
        self.files.push(index);
        for shard in 0..checkpoint.shards {
            let file = place(&shard_name(shard, checkpoint.shards))?;
            check_shard(&checkpoint, shard, &file).map_err(|problem| unusable(folder, problem))?;
            self.files.push(file);
        }
        let bytes = checkpoint.tensors.iter().fold(0_u64, |total, tensor| total.saturating_add(tensor.size));
        Ok(Some(Variables { tensors: checkpoint.tensors.len() as u64, bytes }))
    }

    /// Whether it has variables of TensorFlow 1, which are no resources.
    pub(crate) fn has_plain_variables(&self) -> bool {
        VARIABLES.iter().filter(|name| **name != "VarHandleOp").any(|name| self.operators.contains_key(*name))
    }

    /// Compares the operators with those that a runtime has.
    ///
    /// # Errors
    /// Where the runtime lacks some: it would refuse the whole graph, wherever they stand in it.
    pub fn check_operators(&self, table: &TensorFlowOperators, folder: &Path) -> Result<(), ModelError> {
        let operators: Vec<String> =
            self.operators.keys().filter(|name| !table.operators.contains(name.as_str())).cloned().collect();
        if operators.is_empty() {
            return Ok(());
        }
        let runtime = format!("{} {}", table.runtime, table.version);
        Err(unusable(folder, SavedModelProblem::Operators { runtime, operators }))
    }
}

impl SavedModel {
    /// Counts the nodes whose operator is not in a table of kernels, by operator.
    #[must_use]
    pub fn nodes_without_kernel(&self, kernels: &TensorFlowOperators) -> BTreeMap<OperatorId, u64> {
        let missing = self.operators.iter().filter(|(name, _)| !kernels.operators.contains(name.as_str()));
        missing.map(|(name, count)| (OperatorId::new("tensorflow", name), *count)).collect()
    }
}

/// The operators of a release of TensorFlow, as `tests/tools/tensorflow_operators.py` writes them.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorFlowOperators {
    format: u32,
    runtime: String,
    version: String,
    operators: BTreeSet<String>,
}

impl TensorFlowOperators {
    const FORMAT: u32 = 1;

    /// Adds operators, written `tensorflow:Name`.
    pub fn provide(&mut self, operators: &[String]) {
        self.operators.extend(operators.iter().filter_map(|operator| operator.strip_prefix("tensorflow:")).map(str::to_owned));
    }

    /// Reads a table from its text.
    ///
    /// # Errors
    /// Where it is no such table, or one for a newer builder.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let table: Self = serde_json::from_str(text).map_err(|source| ModelError::TableParse { path: None, source })?;
        if table.format == Self::FORMAT {
            Ok(table)
        } else {
            Err(ModelError::TableFormat { found: table.format, expected: Self::FORMAT })
        }
    }
}

fn choose(signatures: &BTreeMap<String, Signature>, wanted: Option<&str>) -> Result<String, SavedModelProblem> {
    let known = || signatures.keys().cloned().collect::<Vec<_>>();
    let mut keys = signatures.keys();
    match (wanted, keys.next(), keys.next()) {
        (_, None, _) => Err(SavedModelProblem::NoSignature),
        (Some(wanted), ..) if signatures.contains_key(wanted) => Ok(wanted.to_owned()),
        (None, Some(only), None) => Ok(only.clone()),
        (None, ..) if signatures.contains_key(DEFAULT_SIGNATURE) => Ok(DEFAULT_SIGNATURE.to_owned()),
        (wanted, ..) => {
            let signature = wanted.unwrap_or(DEFAULT_SIGNATURE).to_owned();
            Err(SavedModelProblem::Signature { signature, known: known() })
        }
    }
}

fn check_signature(key: &str, signature: &Signature) -> Result<(), SavedModelProblem> {
    if signature.outputs.is_empty() {
        return Err(SavedModelProblem::NoOutputs { signature: key.to_owned() });
    }
    let sides = [("an input", &signature.inputs), ("an output", &signature.outputs)];
    for (what, value) in sides.into_iter().flat_map(|(what, values)| values.iter().map(move |value| (what, value))) {
        let found = match &value.r#type {
            ValueType::Tensor { datatype, .. } if datatype.is_served() => continue,
            ValueType::Tensor { datatype, .. } => format!("a tensor of {datatype}"),
            ValueType::Opaque { name, .. } => name.clone(),
            other => other.to_string(),
        };
        let (signature, name) = (key.to_owned(), value.name.clone());
        return Err(SavedModelProblem::Tensor { what, signature, name, found });
    }
    Ok(())
}

fn check_shard(checkpoint: &Checkpoint, shard: usize, file: &ExternalFile) -> Result<(), SavedModelProblem> {
    let last = checkpoint.tensors.iter().filter(|tensor| tensor.shard == shard).max_by_key(|tensor| tensor.end);
    match last {
        Some(tensor) if tensor.end > file.size => Err(SavedModelProblem::Shard {
            location: file.location.clone(),
            tensor: tensor.name.clone(),
            expected: tensor.end,
            found: file.size,
        }),
        _ => Ok(()),
    }
}

fn shard_name(shard: usize, shards: usize) -> String {
    format!("variables/variables.data-{shard:05}-of-{shards:05}")
}

/// Files below `assets/`, which the graph need not list.
fn assets_in(folder: &Path) -> Vec<String> {
    WalkDir::new(folder.join("assets"))
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| !entry.file_type().is_dir())
        .filter_map(|entry| Some(entry.path().strip_prefix(folder).ok()?.to_str()?.to_owned()))
        .collect()
}

fn value((name, tensor): (&String, &TensorInfo)) -> Value {
    let opaque = |name: &str| ValueType::Opaque { domain: "tensorflow".to_owned(), name: name.to_owned() };
    let r#type = if tensor.coo_sparse.is_some() {
        opaque("a sparse tensor")
    } else if tensor.composite_tensor.is_some() {
        opaque("a composite tensor")
    } else {
        match data_type(tensor.dtype) {
            Some(datatype) => ValueType::Tensor { datatype, shape: shape(tensor) },
            None => opaque(&format!("a tensor of TensorFlow's type {}", tensor.dtype)),
        }
    };
    Value { name: name.clone(), r#type }
}

fn shape(tensor: &TensorInfo) -> Option<Vec<Dimension>> {
    let shape = tensor.tensor_shape.as_ref().filter(|shape| !shape.unknown_rank)?;
    Some(shape.dim.iter().map(|dim| u64::try_from(dim.size).map_or(Dimension::Unknown, Dimension::Fixed)).collect())
}

/// ONNX's number for TensorFlow's, where both have the type.
fn data_type(number: i32) -> Option<DataType> {
    Some(DataType::from_number(match number {
        1 => 1,   // float
        2 => 11,  // double
        3 => 6,   // int32
        4 => 2,   // uint8
        5 => 5,   // int16
        6 => 3,   // int8
        7 => 8,   // string
        8 => 14,  // complex64
        9 => 7,   // int64
        10 => 9,  // bool
        14 => 16, // bfloat16
        17 => 4,  // uint16
        18 => 15, // complex128
        19 => 10, // half
        22 => 12, // uint32
        23 => 13, // uint64
        _ => return None,
    }))
}

fn map(path: &Path) -> Result<Mmap, ModelError> {
    let read = |source| ModelError::Read { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    if size == 0 {
        return Err(ModelError::Empty { path: path.to_owned() });
    }
    if size > SINGLE_FILE_LIMIT {
        return Err(ModelError::TooLarge { path: path.to_owned(), size });
    }
    super::format::map(&file).map_err(read)
}

fn unusable(folder: &Path, problem: SavedModelProblem) -> ModelError {
    ModelError::SavedModel { path: folder.to_owned(), problem: Box::new(problem) }
}

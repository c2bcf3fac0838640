//! Collects from a decoded model what the rest of the build and the report ask of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use prost::Message as _;
use serde::{Serialize, Serializer};

use super::error::ModelError;
use super::external::{self, ExternalFile, ExternalTensor};
use super::proto::{
    AttributeProto, FunctionProto, GraphProto, LOCATION_EXTERNAL, ModelProto, NodeProto, SparseTensorProto, TensorProto, text,
};
use super::value::{DataType, Value};
use super::wire;

/// IR versions beyond this one are taken for damage; the newest that exists is 14.
pub const IR_VERSION_LIMIT: i64 = 1000;

/// The name of ONNX's own domain, which models may also write as the empty string.
pub const ONNX_DOMAIN: &str = "ai.onnx";

/// An operator: the domain that defines it, and its name there.
///
/// Displays and serialises as `domain:name`; ONNX's own domain is always `ai.onnx`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorId {
    /// The domain.
    pub domain: String,
    /// The name, such as `Conv`.
    pub name: String,
}

impl OperatorId {
    /// Names an operator; an empty domain is ONNX's own.
    #[must_use]
    pub fn new(domain: &str, name: &str) -> OperatorId {
        OperatorId { domain: domain_name(domain.as_bytes()), name: name.to_owned() }
    }
}

impl fmt::Display for OperatorId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.domain, self.name)
    }
}

impl Serialize for OperatorId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An operator set that a model imports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OpsetImport {
    /// The domain; ONNX's own is `ai.onnx`.
    pub domain: String,
    /// The version.
    pub version: i64,
}

/// What a model's constants amount to, by their types and shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Initializers {
    /// How many there are, in the graph and in nested graphs.
    pub count: u64,
    /// Their bytes in the model file; strings count as none.
    pub inline_bytes: u64,
    /// Their bytes in external files.
    pub external_bytes: u64,
}

/// What is known of an ONNX model.
#[derive(Clone, Debug, Serialize)]
pub struct OnnxModel {
    /// The version of the file format.
    pub ir_version: i64,
    /// The tool that wrote the model.
    pub producer_name: String,
    /// That tool's version.
    pub producer_version: String,
    /// The model's own domain.
    pub domain: String,
    /// The model's own version.
    pub model_version: i64,
    /// The graph's name.
    pub graph_name: String,
    /// Operator sets by domain; of a domain that is imported twice, the last one, as the runtime reads it.
    pub opsets: BTreeMap<String, i64>,
    /// Imports that a later one of the same domain overrides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overridden_opsets: Vec<OpsetImport>,
    /// Operators and how many nodes use each: in the graph, in nested graphs, and in the bodies of the
    /// model's own functions that are called (each body once).
    pub operators: BTreeMap<OperatorId, u64>,
    /// The model's own functions that are called.
    pub functions: BTreeSet<OperatorId>,
    /// Nodes that run an operator, counted as in `operators`.
    pub node_count: u64,
    /// What a request gives: the graph's inputs that are not initializers.
    pub inputs: Vec<Value>,
    /// What an answer holds.
    pub outputs: Vec<Value>,
    /// The constants.
    pub initializers: Initializers,
    /// Free-form metadata.
    pub metadata: BTreeMap<String, String>,
    /// The external data files, sorted by location; all of them belong into the image.
    pub external: Vec<ExternalFile>,
    /// The path that errors name.
    #[serde(skip)]
    pub(crate) path: std::path::PathBuf,
    /// The messages, for the check against a runtime.
    #[serde(skip)]
    pub(crate) proto: ModelProto,
}

pub(crate) fn domain_name(domain: &[u8]) -> String {
    if domain.is_empty() { ONNX_DOMAIN.to_owned() } else { text(domain) }
}

pub(crate) fn operator_of(node: &NodeProto) -> OperatorId {
    OperatorId { domain: domain_name(&node.domain), name: text(&node.op_type) }
}

/// What a call and a function must share: domain, name, overload.
pub(crate) type FunctionKey = (String, Vec<u8>, Vec<u8>);

pub(crate) fn function_key(function: &FunctionProto) -> FunctionKey {
    (domain_name(&function.domain), function.name.clone(), function.overload.clone())
}

pub(crate) fn call_key(node: &NodeProto) -> FunctionKey {
    (domain_name(&node.domain), node.op_type.clone(), node.overload.clone())
}

/// The graphs in a node's attributes, each of which may hold nodes of its own.
pub(crate) fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs))
}

/// Decodes a model; `path` is what errors name.
pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<ModelProto, ModelError> {
    ModelProto::decode(bytes).map_err(|error| match wire::locate(bytes) {
        Some(damage) => damage.into_error(path),
        None => ModelError::Damaged {
            path: path.to_owned(),
            field: "(unknown)".to_owned(),
            offset: 0,
            problem: format!("does not decode: {error}"),
        },
    })
}

impl OnnxModel {
    /// Reads a model from its bytes; external data is looked for beside `path`.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<OnnxModel, ModelError> {
        let proto = decode(bytes, path)?;
        let Some(graph) = &proto.graph else {
            return Err(ModelError::NoGraph { path: path.to_owned() });
        };
        if proto.opset_import.is_empty() {
            return Err(ModelError::NoOpsetImport { path: path.to_owned() });
        }
        let ir_version = match proto.ir_version {
            Some(version @ 1..=IR_VERSION_LIMIT) => version,
            found => {
                return Err(ModelError::IrVersion { path: path.to_owned(), found });
            }
        };

        let mut functions = HashMap::with_capacity(proto.functions.len());
        for function in &proto.functions {
            if functions.insert(function_key(function), function).is_some() {
                let function = OperatorId { domain: domain_name(&function.domain), name: text(&function.name) };
                return Err(ModelError::DuplicateFunction { path: path.to_owned(), function: function.to_string() });
            }
        }
        let mut opsets = BTreeMap::new();
        let mut overridden_opsets = Vec::new();
        for import in &proto.opset_import {
            let domain = domain_name(&import.domain);
            if let Some(version) = opsets.insert(domain.clone(), import.version) {
                overridden_opsets.push(OpsetImport { domain, version });
            }
        }

        let mut usage = Usage {
            functions: &functions,
            operators: BTreeMap::new(),
            called: BTreeSet::new(),
            pending: Vec::new(),
            node_count: 0,
        };
        usage.count_nodes(&graph.node);
        while let Some(key) = usage.pending.pop() {
            if let Some(function) = functions.get(&key) {
                usage.count_nodes(&function.node);
            }
        }
        let Usage { operators, called, node_count, .. } = usage;

        let mut tensors = Tensors::new(path);
        tensors.graph(graph)?;
        for function in &proto.functions {
            tensors.attributes(&function.attribute_proto)?;
            tensors.nodes(&function.node)?;
        }
        let Tensors { initializers, external, .. } = tensors;
        let external = external::verify(path, external)?;

        let initialized: BTreeSet<&[u8]> = initializer_names(graph).collect();
        let inputs = graph.input.iter().filter(|input| !initialized.contains(input.name.as_slice()));
        Ok(OnnxModel {
            ir_version,
            producer_name: text(&proto.producer_name),
            producer_version: text(&proto.producer_version),
            domain: text(&proto.domain),
            model_version: proto.model_version,
            graph_name: text(&graph.name),
            opsets,
            overridden_opsets,
            operators,
            functions: called.into_iter().map(|(domain, name, _)| OperatorId { domain, name: text(&name) }).collect(),
            node_count,
            inputs: inputs.map(Value::from_proto).collect(),
            outputs: graph.output.iter().map(Value::from_proto).collect(),
            initializers,
            metadata: proto.metadata_props.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect(),
            external,
            path: path.to_owned(),
            proto,
        })
    }
}

/// The names of a graph's constants, sparse ones included.
pub(crate) fn initializer_names(graph: &GraphProto) -> impl Iterator<Item = &[u8]> {
    let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
    graph.initializer.iter().chain(sparse).map(|tensor| tensor.name.as_slice())
}

struct Usage<'a> {
    functions: &'a HashMap<FunctionKey, &'a FunctionProto>,
    operators: BTreeMap<OperatorId, u64>,
    called: BTreeSet<FunctionKey>,
    pending: Vec<FunctionKey>,
    node_count: u64,
}

impl Usage<'_> {
    fn count_nodes(&mut self, nodes: &[NodeProto]) {
        for node in nodes {
            let key = call_key(node);
            if self.functions.contains_key(&key) {
                if self.called.insert(key.clone()) {
                    self.pending.push(key);
                }
            } else {
                *self.operators.entry(operator_of(node)).or_default() += 1;
                self.node_count += 1;
            }
            for graph in subgraphs(node) {
                self.count_nodes(&graph.node);
            }
        }
    }
}

/// Visits every tensor of a model, wherever ONNX allows one.
struct Tensors<'a> {
    path: &'a Path,
    initializers: Initializers,
    external: Vec<ExternalTensor>,
}

impl<'a> Tensors<'a> {
    fn new(path: &'a Path) -> Tensors<'a> {
        Tensors { path, initializers: Initializers::default(), external: Vec::new() }
    }

    fn graph(&mut self, graph: &GraphProto) -> Result<(), ModelError> {
        for tensor in &graph.initializer {
            self.initializer(tensor)?;
        }
        for sparse in &graph.sparse_initializer {
            for tensor in [&sparse.values, &sparse.indices].into_iter().flatten() {
                self.initializer(tensor)?;
            }
        }
        self.nodes(&graph.node)
    }

    fn nodes(&mut self, nodes: &[NodeProto]) -> Result<(), ModelError> {
        nodes.iter().try_for_each(|node| self.attributes(&node.attribute))
    }

    fn attributes(&mut self, attributes: &[AttributeProto]) -> Result<(), ModelError> {
        for attribute in attributes {
            for tensor in attribute.t.iter().chain(&attribute.tensors) {
                self.tensor(tensor)?;
            }
            for sparse in attribute.sparse_tensor.iter().chain(&attribute.sparse_tensors) {
                self.sparse(sparse)?;
            }
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                self.graph(graph)?;
            }
        }
        Ok(())
    }

    fn sparse(&mut self, sparse: &SparseTensorProto) -> Result<(), ModelError> {
        [&sparse.values, &sparse.indices].into_iter().flatten().try_for_each(|tensor| self.tensor(tensor).map(drop))
    }

    fn initializer(&mut self, tensor: &TensorProto) -> Result<(), ModelError> {
        let bytes = self.tensor(tensor)?.unwrap_or(0);
        self.initializers.count += 1;
        let total = if tensor.data_location == LOCATION_EXTERNAL {
            &mut self.initializers.external_bytes
        } else {
            &mut self.initializers.inline_bytes
        };
        *total = total.saturating_add(bytes);
        Ok(())
    }

    /// Returns a tensor's bytes by type and shape, and notes it if its data lies elsewhere.
    fn tensor(&mut self, tensor: &TensorProto) -> Result<Option<u64>, ModelError> {
        let shape_error =
            || ModelError::TensorShape { path: self.path.to_owned(), tensor: text(&tensor.name), dims: tensor.dims.clone() };
        let mut elements = 1u64;
        for &size in &tensor.dims {
            let size = u64::try_from(size).map_err(|_| shape_error())?;
            elements = elements.checked_mul(size).ok_or_else(shape_error)?;
        }
        let datatype = DataType::from_number(tensor.data_type);
        let bytes = datatype.bytes_of(elements);
        if bytes.is_none() && datatype.bytes_of(1).is_some() {
            return Err(shape_error());
        }
        if tensor.data_location == LOCATION_EXTERNAL {
            self.external.push(ExternalTensor::from_proto(tensor, bytes, self.path)?);
        }
        Ok(bytes)
    }
}

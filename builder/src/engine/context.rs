//! An engine as a model of ONNX Runtime: one node `com.microsoft:EPContext`, with the inputs and outputs of the model that was
//! compiled. Its attributes are those that the runtime's documentation of the operator and the provider's own models have.

use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use prost::Message;

use super::{Engine, PROVIDER};

/// The version of the format of models that are written.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;
/// Numbers of `AttributeProto.AttributeType`.
const INT: i32 = 2;
const STRING: i32 = 3;

/// Why an engine was not wrapped.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// The model cannot be read.
    #[error("failed to read `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The model is no ONNX model.
    #[error("`{}` is no ONNX model", path.display())]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// Why.
        source: prost::DecodeError,
    },
    /// The engine has an input or output that the model does not have.
    #[error("the engine has `{name}`, which is no input or output of `{}`", path.display())]
    Unknown {
        /// The model.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// Where the engine's bytes are.
pub(super) enum Content {
    /// In the model.
    Inside(Vec<u8>),
    /// In a file beside it, of this name.
    Beside(String),
}

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    /// Inputs and outputs as they are written, types and all.
    #[prost(bytes = "vec", repeated, tag = "11")]
    input: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "12")]
    output: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, optional, tag = "3")]
    i: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    s: Option<Vec<u8>>,
    #[prost(int32, tag = "20")]
    kind: i32,
}

/// What is read of the model that was compiled. Nodes and weights are passed over.
#[derive(Clone, PartialEq, Message)]
struct Source {
    #[prost(message, optional, tag = "7")]
    graph: Option<SourceGraph>,
}

#[derive(Clone, PartialEq, Message)]
struct SourceGraph {
    #[prost(bytes = "vec", tag = "2")]
    name: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "11")]
    input: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "12")]
    output: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// What the wrapped model takes over from the one that was compiled.
#[derive(Debug)]
pub(super) struct Original {
    path: PathBuf,
    name: String,
    /// Inputs and outputs as they are written.
    values: [Vec<Vec<u8>>; 2],
}

impl Original {
    /// Reads it of a model; nodes and weights are passed over.
    pub(super) fn read(path: &Path) -> Result<Self, ContextError> {
        let unreadable = |source| ContextError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        #[expect(unsafe_code, reason = "mapping is what keeps memory flat")]
        // SAFETY: the map is read-only and private; a file that shrinks meanwhile would end the process, as for every reader of it.
        let map = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
        let source = Source::decode(&*map).map_err(|source| ContextError::NotOnnx { path: path.to_owned(), source })?;
        let graph = source.graph.unwrap_or_default();
        let name = String::from_utf8_lossy(&graph.name).into_owned();
        Ok(Self { path: path.to_owned(), name, values: [graph.input, graph.output] })
    }

    /// The values of these names.
    fn described(&self, names: &[String], values: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, ContextError> {
        let is = |value: &&Vec<u8>, name: &str| Named::decode(value.as_slice()).is_ok_and(|named| named.name == name);
        let find = |name: &String| {
            let unknown = || ContextError::Unknown { path: self.path.clone(), name: name.clone() };
            values.iter().find(|value| is(value, name)).cloned().ok_or_else(unknown)
        };
        names.iter().map(find).collect()
    }
}

/// Makes the model that holds an engine. `inputs` and `outputs` are the engine's, in its order.
pub(super) fn wrap(
    original: &Original,
    inputs: &[String],
    outputs: &[String],
    content: Content,
    engine: &Engine,
) -> Result<Vec<u8>, ContextError> {
    let (embed, bytes) = match content {
        Content::Inside(bytes) => (1, bytes),
        Content::Beside(name) => (0, name.into_bytes()),
    };
    let number = |name: &str, i: i64| Attribute { name: name.to_owned(), i: Some(i), s: None, kind: INT };
    let text = |name: &str, s: Vec<u8>| Attribute { name: name.to_owned(), i: None, s: Some(s), kind: STRING };
    let Original { path, name, values } = original;
    let gpus = engine.gpus.iter().map(|gpu| gpu.number().to_string()).collect::<Vec<_>>().join(",");
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let node = Node {
        input: inputs.to_vec(),
        output: outputs.to_vec(),
        name: format!("{PROVIDER}_{name}"),
        op_type: "EPContext".to_owned(),
        attribute: vec![
            number("main_context", 1),
            number("embed_mode", embed),
            text("ep_cache_context", bytes),
            text("source", PROVIDER.into()),
            text("ep_sdk_version", engine.library.to_string().into()),
            text("hardware_architecture", gpus.into()),
            text("onnx_model_filename", file_name.into()),
            text("partition_name", format!("{PROVIDER}_{name}").into()),
        ],
        domain: "com.microsoft".to_owned(),
    };
    let set = |domain: &str, version| OperatorSet { domain: domain.to_owned(), version };
    let model = Model {
        ir_version: IR_VERSION,
        producer_name: "imgbuild".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(Graph {
            node: vec![node],
            name: name.clone(),
            input: original.described(inputs, &values[0])?,
            output: original.described(outputs, &values[1])?,
        }),
        opset_import: vec![set("", OPSET), set("com.microsoft", 1)],
    };
    Ok(model.encode_to_vec())
}

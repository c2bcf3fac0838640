//! Models made of the same messages that the builder reads, and what becomes of them.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use tempfile::TempDir;

use super::proto::{
    AttributeProto, DimensionProto, EntryProto, FunctionProto, GraphProto, LOCATION_EXTERNAL, ModelProto, NodeProto,
    OperatorSetProto, ShapeProto, SparseTensorProto, TensorProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::{Model, ModelError, OperatorTable, check_operators};

mod checking;
mod external;
mod fuzzing;
mod opening;
mod structure;

const FLOAT: i32 = 1;
const INT16: i32 = 5;
const BFLOAT16: i32 = 16;

fn opset(domain: &str, version: i64) -> OperatorSetProto {
    OperatorSetProto { domain: domain.into(), version }
}

fn node(domain: &str, operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto {
        op_type: operator.into(),
        domain: domain.into(),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: outputs.iter().map(|&name| name.into()).collect(),
        ..NodeProto::default()
    }
}

fn relu() -> NodeProto {
    node("", "Relu", &["x"], &["y"])
}

fn tensor_type(elem_type: i32, shape: Option<Vec<DimensionProto>>) -> TypeProto {
    let shape = shape.map(|dim| ShapeProto { dim });
    TypeProto { tensor_type: Some(TensorTypeProto { elem_type, shape }), ..TypeProto::default() }
}

fn value(name: &str, elem_type: i32) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: Some(tensor_type(elem_type, None)) }
}

fn tensor(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto { name: name.into(), dims: dims.to_vec(), data_type: FLOAT, ..TensorProto::default() }
}

fn external(name: &str, entries: &[(&str, &str)]) -> TensorProto {
    let external_data = entries.iter().map(|(key, value)| EntryProto { key: (*key).into(), value: (*value).into() }).collect();
    TensorProto { external_data, data_location: LOCATION_EXTERNAL, ..tensor(name, &[4]) }
}

fn graph(nodes: Vec<NodeProto>) -> GraphProto {
    GraphProto {
        name: b"graph".to_vec(),
        node: nodes,
        input: vec![value("x", FLOAT)],
        output: vec![value("y", FLOAT)],
        ..GraphProto::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        producer_name: b"tests".to_vec(),
        graph: Some(graph),
        opset_import: vec![opset("", 13)],
        ..ModelProto::default()
    }
}

fn with_branches(then: NodeProto, other: NodeProto) -> NodeProto {
    let branch = |name: &str, inner| AttributeProto {
        name: name.into(),
        g: Some(GraphProto { node: vec![inner], ..GraphProto::default() }),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![branch("then_branch", then), branch("else_branch", other)], ..node("", "If", &["c"], &["y"]) }
}

fn function(domain: &str, name: &str, nodes: Vec<NodeProto>, opsets: Vec<OperatorSetProto>) -> FunctionProto {
    FunctionProto { domain: domain.into(), name: name.into(), node: nodes, opset_import: opsets, ..FunctionProto::default() }
}

/// A model on disk, in a folder of its own.
struct OnDisk {
    folder: TempDir,
    path: PathBuf,
}

fn on_disk(content: &[u8]) -> OnDisk {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("my model.v2.onnx");
    fs::write(&path, content).expect("writable");
    OnDisk { folder, path }
}

fn open(content: &[u8]) -> Result<Model, ModelError> {
    Model::open(&on_disk(content).path)
}

fn open_model(model: &ModelProto) -> Result<Model, ModelError> {
    open(&model.encode_to_vec())
}

fn table() -> OperatorTable {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../templates/operators/onnxruntime-1.32.0.json");
    OperatorTable::load(&path).expect("the repository's own table is valid")
}

fn check(model: &ModelProto) -> Result<super::OperatorCheck, ModelError> {
    check_operators(open_model(model).expect("it opens").onnx().expect("ONNX"), &table(), &[] as &[&str])
}

/// Bytes of a model that has every kind of field.
fn rich_model() -> ModelProto {
    let mut nested = graph(vec![with_branches(relu(), node("own", "F", &["x"], &["y"])), relu()]);
    nested.initializer = vec![tensor("w", &[2, 2])];
    nested.value_info = vec![value("v", BFLOAT16)];
    nested.sparse_initializer = vec![SparseTensorProto { values: Some(tensor("s", &[1])), indices: None }];
    let mut proto = model(nested);
    proto.functions = vec![function("own", "F", vec![relu()], vec![opset("", 13)])];
    proto.metadata_props = vec![EntryProto { key: b"k".to_vec(), value: b"v".to_vec() }];
    proto.opset_import.push(opset("own", 1));
    proto
}

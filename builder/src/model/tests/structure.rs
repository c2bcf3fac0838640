//! What is collected from a model.

use super::*;
use crate::model::{DataType, Dimension, OperatorId, ValueType};

#[test]
fn a_model_tells_its_inputs_outputs_and_operators() {
    let mut graph = graph(vec![
        node("", "Add", &["x", "w"], &["a"]),
        node("ai.onnx", "Add", &["a", "s"], &["b"]),
        node("com.microsoft", "Gelu", &["b"], &["y"]),
    ]);
    let dims = vec![
        DimensionProto { dim_param: Some(b"batch".to_vec()), ..DimensionProto::default() },
        DimensionProto { dim_value: Some(4), ..DimensionProto::default() },
        DimensionProto { dim_value: Some(-1), ..DimensionProto::default() },
        DimensionProto::default(),
    ];
    graph.input = vec![
        ValueInfoProto { name: b"x".to_vec(), r#type: Some(tensor_type(FLOAT, Some(dims))) },
        value("w", FLOAT),
        value("s", FLOAT),
    ];
    graph.initializer = vec![tensor("w", &[3, 4])];
    graph.sparse_initializer = vec![SparseTensorProto { values: Some(tensor("s", &[2])), indices: Some(tensor("", &[2])) }];
    let mut proto = model(graph);
    proto.opset_import = vec![opset("", 12), opset("com.microsoft", 1), opset("ai.onnx", 13)];
    proto.metadata_props = vec![EntryProto { key: b"license".to_vec(), value: b"MIT".to_vec() }];
    let opened = open_model(&proto).expect("a sound model");
    assert_eq!(opened.name, "my model.v2");
    let expected = serde_json::json!({
        "name": "my model.v2",
        "format": "onnx",
        "size": proto.encoded_len(),
        "onnx": {
            "ir_version": 8,
            "producer_name": "tests",
            "producer_version": "",
            "domain": "",
            "model_version": 0,
            "graph_name": "graph",
            "opsets": { "ai.onnx": 13, "com.microsoft": 1 },
            "overridden_opsets": [{ "domain": "ai.onnx", "version": 12 }],
            "operators": { "ai.onnx:Add": 2, "com.microsoft:Gelu": 1 },
            "functions": [],
            "node_count": 3,
            "inputs": [
                { "name": "x", "kind": "tensor", "datatype": "float", "shape": ["batch", 4, null, null] },
            ],
            "outputs": [{ "name": "y", "kind": "tensor", "datatype": "float", "shape": null }],
            "initializers": { "count": 3, "inline_bytes": 64, "external_bytes": 0 },
            "metadata": { "license": "MIT" },
            "external": [],
        },
    });
    assert_eq!(serde_json::to_value(&opened).expect("serialisable"), expected);
}

#[test]
fn nested_graphs_and_called_functions_count_and_unused_ones_do_not() {
    let body = vec![node("own", "Inner", &["x"], &["t"]), node("", "Tanh", &["t"], &["y"])];
    let mut proto = model(graph(vec![
        with_branches(
            node("own", "Outer", &["x"], &["a"]),
            with_branches(node("", "Elu", &["x"], &["b"]), node("", "Elu", &["x"], &["d"])),
        ),
        node("own", "Outer", &["y"], &["z"]),
    ]));
    proto.functions = vec![
        function("own", "Outer", body, vec![opset("", 13), opset("own", 1)]),
        function("own", "Inner", vec![node("", "Sigmoid", &["x"], &["y"])], vec![opset("", 13)]),
        function("own", "Unused", vec![node("", "Sin", &["x"], &["y"])], vec![opset("", 13)]),
    ];
    proto.opset_import.push(opset("own", 1));
    let opened = open_model(&proto).expect("a sound model");
    let opened = opened.onnx().expect("ONNX");
    let counts: Vec<(String, u64)> = opened.operators.iter().map(|(id, &count)| (id.to_string(), count)).collect();
    let expected = [("ai.onnx:Elu", 2), ("ai.onnx:If", 2), ("ai.onnx:Sigmoid", 1), ("ai.onnx:Tanh", 1)];
    assert_eq!(counts, expected.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!(opened.node_count, 6);
    let called: Vec<String> = opened.functions.iter().map(OperatorId::to_string).collect();
    assert_eq!(called, ["own:Inner", "own:Outer"]);
    assert_eq!(check(&proto).expect("supported").operators.len(), 4);
}

#[test]
fn names_that_are_not_utf8_are_no_reason_to_refuse() {
    let mut proto = model(graph(vec![relu()]));
    proto.producer_name = vec![0xff, b'a'];
    assert_eq!(open_model(&proto).expect("readable").onnx().expect("ONNX").producer_name, "\u{fffd}a");
}

#[test]
fn data_types_are_sized_as_onnx_packs_them() {
    let bytes = |number, elements| DataType::from_number(number).bytes_of(elements);
    assert_eq!(bytes(1, 3), Some(12));
    assert_eq!(bytes(22, 3), Some(2), "int4 in pairs");
    assert_eq!(bytes(26, 5), Some(2), "int2 in fours");
    assert_eq!(bytes(8, 3), None, "strings");
    assert_eq!(bytes(99, 3), None, "unknown");
    assert_eq!(bytes(-1, 3), None, "unknown");
    assert_eq!(bytes(15, u64::MAX), None, "overflow");
    assert_eq!(DataType::from_number(99).to_string(), "type-99");
    assert_eq!(DataType::from_number(0).name(), None);
    let sequence = ValueType::Sequence {
        element: Box::new(ValueType::Map {
            key: DataType::from_number(7),
            value: Box::new(ValueType::Tensor { datatype: DataType::FLOAT, shape: Some(vec![Dimension::Fixed(1)]) }),
        }),
    };
    assert_eq!(sequence.to_string(), "seq(map(int64,tensor(float)))");
}

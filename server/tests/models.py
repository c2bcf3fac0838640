"""Small ONNX models, one for each thing that is to be judged."""

import numpy as np
import onnx
from onnx import TensorProto, helper

# Datatype of the protocol, ONNX's element type.
DATATYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def value(name, kind=TensorProto.FLOAT, shape=("n",)):
    return helper.make_tensor_value_info(name, kind, shape)


def save(path, nodes, inputs, outputs, initializers=(), opset=20, domains=(), **keywords):
    """Writes a model; it need not be one that any runtime takes."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, path, **keywords)
    return path


def identity(path, kind, shape):
    return save(path, [helper.make_node("Identity", ["x"], ["y"])], [value("x", kind, shape)], [value("y", kind, shape)])


def types(folder):
    """One model that has an input and an output of every datatype, of two dynamic dimensions."""
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in DATATYPES]
    return save(
        folder / "types.onnx",
        nodes,
        [value(f"in_{name}", kind, ["n", "m"]) for name, kind in DATATYPES.items()],
        [value(f"out_{name}", kind, ["n", "m"]) for name, kind in DATATYPES.items()],
    )


def fixed(folder):
    """Adds and subtracts two inputs of [batch, 2]; three outputs, one of them an input itself."""
    shape = ["batch", 2]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    outputs = [value(name, shape=shape) for name in ("sum", "difference", "a")]
    return save(folder / "fixed.onnx", nodes, [value("a", shape=shape), value("b", shape=shape)], outputs)


def not_finite(folder):
    nodes = [helper.make_node("Div", ["x", "x"], ["ratio"]), helper.make_node("Identity", ["x"], ["same"])]
    return save(folder / "notfinite.onnx", nodes, [value("x")], [value("ratio"), value("same")])


def slow(folder):
    """Multiplies matrices `n` times: as slow as is asked for, in many small steps."""
    weight = onnx.numpy_helper.from_array(np.eye(256, dtype=np.float32), "w")
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["t"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("s", shape=[256, 256])],
        [value("d", TensorProto.BOOL, []), value("t", shape=[256, 256])],
    )
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["start"]),
        helper.make_node("Loop", ["n", "", "start"], ["y"], body=body),
    ]
    size = onnx.numpy_helper.from_array(np.array([256, 256]), "size")
    inputs = [value("n", TensorProto.INT64, []), value("x", shape=[1])]
    return save(folder / "slow.onnx", nodes, inputs, [value("y", shape=[256, 256])], [weight, size])


def sequence_output(folder):
    outputs = [value("y"), helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("SequenceConstruct", ["x"], ["list"])]
    return save(folder / "sequence.onnx", nodes, [value("x")], outputs)


def sequence_input(folder):
    inputs = [helper.make_tensor_sequence_value_info("list", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("SequenceLength", ["list"], ["y"])]
    return save(folder / "sequence_input.onnx", nodes, inputs, [value("y", TensorProto.INT64, [])])


def float8(folder):
    return identity(folder / "float8.onnx", TensorProto.FLOAT8E4M3FN, [2])


def unknown_operator(folder, domain=""):
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain=domain)]
    return save(folder / "unknown.onnx", nodes, [value("x")], [value("y")], domains=[domain] if domain else [])


def future_opset(folder):
    return save(folder / "future.onnx", [helper.make_node("Abs", ["x"], ["y"])], [value("x")], [value("y")], opset=99)


def external(folder):
    """Adds weights that lie in a file of their own; gives the model and that file."""
    weights = onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "w")
    path = save(
        folder / "external.onnx",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", shape=[1000])],
        [value("y", shape=[1000])],
        [weights],
        save_as_external_data=True,
        location="external.bin",
        size_threshold=0,
    )
    return path, folder / "external.bin"

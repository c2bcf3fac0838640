#!/usr/bin/env python3
"""Writes small models that reach different parts of the CUDA provider: gpu_models.py FOLDER

    transformer.onnx  attention by its parts, with a mask: no operator of cuDNN, and two that a fusion would make of others
    cnn.onnx          convolution, pooling
    recurrent.onnx    LSTM
    fft.onnx          Rfft
    engine.onnx       an engine of TensorRT, embedded
    mixed.onnx        two nodes that the provider has no kernel for
"""

import pathlib
import sys

import numpy
from onnx import TensorProto, helper, numpy_helper, save

folder = pathlib.Path(sys.argv[1])


def write(name, inputs, nodes, weights, output="y", kind=TensorProto.FLOAT):
    random = numpy.random.default_rng(3)
    constants = [numpy_helper.from_array(random.standard_normal(shape).astype(numpy.float32), key) for key, shape in weights.items()]
    values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()]
    made = [helper.make_node(operator, names, outputs, domain=attributes.pop("domain", ""), **attributes) for operator, names, outputs, attributes in nodes]
    graph = helper.make_graph(made, name, values, [helper.make_tensor_value_info(output, kind, None)], constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    save(model, folder / f"{name}.onnx")


write("transformer", {"x": [1, 8, 64], "mask": [1, 1, 8]}, [
    ("MatMul", ["x", "q"], ["queries"], {}),
    ("MatMul", ["x", "k"], ["keys"], {}),
    ("MatMul", ["x", "v"], ["values"], {}),
    ("Transpose", ["keys"], ["turned"], {"perm": [0, 2, 1]}),
    ("MatMul", ["queries", "turned"], ["scores"], {}),
    ("Add", ["scores", "mask"], ["masked"], {}),
    ("Softmax", ["masked"], ["weights"], {"axis": -1}),
    ("MatMul", ["weights", "values"], ["mixed"], {}),
    ("Add", ["mixed", "x"], ["sum"], {}),
    ("LayerNormalization", ["sum", "scale"], ["y"], {"axis": -1}),
], {"q": [64, 64], "k": [64, 64], "v": [64, 64], "scale": [64]})
write("cnn", {"x": [1, 3, 16, 16]}, [
    ("Conv", ["x", "w"], ["c"], {}),
    ("Relu", ["c"], ["r"], {}),
    ("MaxPool", ["r"], ["y"], {"kernel_shape": [2, 2]}),
], {"w": [4, 3, 3, 3]})
write("recurrent", {"x": [4, 1, 8]}, [("LSTM", ["x", "w", "r"], ["y"], {"hidden_size": 8})], {"w": [1, 32, 8], "r": [1, 32, 8]})
write("fft", {"x": [1, 8]}, [("Rfft", ["x"], ["y"], {"domain": "com.microsoft", "normalized": 0, "onesided": 1, "signal_ndim": 1})], {})
write("engine", {"x": [1, 8]}, [
    ("EPContext", ["x"], ["y"], {"domain": "com.microsoft", "main_context": 1, "embed_mode": 1, "ep_cache_context": "no engine", "source": "TensorrtExecutionProvider"}),
], {})
write("mixed", {"x": [1, 8]}, [
    ("Relu", ["x"], ["r"], {}),
    ("Unique", ["r"], ["u"], {}),
    ("Unique", ["u"], ["y"], {}),
], {})

#!/usr/bin/env python3
"""Makes ONNX models with the shapes of well-known ones and random weights: what starts slowly depends on shapes, not on training.

    python bench_models.py FOLDER NAME…        # NAME: resnet50, bert-base, tiny-bert

Writes FOLDER/NAME.onnx, weights inside. Equal runs write equal files.
"""

import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """A graph that grows node by node."""

    def __init__(self):
        self.nodes, self.weights, self.random, self.count = [], [], numpy.random.default_rng(1), 0

    def weight(self, value, kind=numpy.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(numpy.asarray(value, kind), name))
        return name

    def normal(self, shape, scale):
        return self.weight(self.random.standard_normal(shape, numpy.float32) * numpy.float32(scale))

    def node(self, operator, inputs, **attributes):
        self.count += 1
        output = f"t{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"n{self.count}", **attributes))
        return output

    def save(self, path, inputs, output, shape):
        graph = helper.make_graph(self.nodes, path.stem, inputs, [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.write_bytes(model.SerializeToString(deterministic=True))


def resnet50(path):
    g = Graph()

    def convolution(x, inputs, outputs, size, stride, relu=True):
        x = g.node("Conv", [x, g.normal((outputs, inputs, size, size), (2 / (inputs * size * size)) ** 0.5)], kernel_shape=[size, size], strides=[stride, stride], pads=[size // 2] * 4)
        mean, variance = g.normal((outputs,), 0.1), g.weight(g.random.uniform(0.5, 1.5, outputs))
        x = g.node("BatchNormalization", [x, g.weight(numpy.full(outputs, 0.7)), g.normal((outputs,), 0.1), mean, variance])
        return g.node("Relu", [x]) if relu else x

    x = g.node("MaxPool", [convolution("image", 3, 64, 7, 2)], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, blocks in enumerate([3, 4, 6, 3]):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 else 1
            short = convolution(x, channels, width * 4, 1, stride, relu=False) if block == 0 else x
            y = convolution(convolution(x, channels, width, 1, 1), width, width, 3, stride)
            x = g.node("Relu", [g.node("Add", [convolution(y, width, width * 4, 1, 1, relu=False), short])])
            channels = width * 4
    x = g.node("Flatten", [g.node("GlobalAveragePool", [x])])
    x = g.node("Gemm", [x, g.normal((1000, channels), 0.02), g.normal((1000,), 0.02)], transB=1)
    g.save(path, [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])], x, ["batch", 1000])


def bert(path, layers, width, heads, words):
    g = Graph()
    size = width // heads

    def normalized(x):
        return g.node("LayerNormalization", [x, g.weight(numpy.ones(width)), g.weight(numpy.zeros(width))], axis=-1, epsilon=1e-12)

    def dense(x, inputs, outputs):
        return g.node("Add", [g.node("MatMul", [x, g.normal((inputs, outputs), 0.02)]), g.normal((outputs,), 0.02)])

    def split(x, order):
        shape = g.weight([0, 0, heads, size], numpy.int64)
        return g.node("Transpose", [g.node("Reshape", [x, shape])], perm=order)

    x = normalized(g.node("Gather", [g.normal((words, width), 0.02), "tokens"], axis=0))
    for _ in range(layers):
        query, key, value = (split(dense(x, width, width), order) for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
        scores = g.node("Div", [g.node("MatMul", [query, key]), g.weight(size**0.5)])
        mixed = g.node("MatMul", [g.node("Softmax", [scores], axis=-1), value])
        mixed = g.node("Reshape", [g.node("Transpose", [mixed], perm=[0, 2, 1, 3]), g.weight([0, 0, width], numpy.int64)])
        x = normalized(g.node("Add", [dense(mixed, width, width), x]))
        y = dense(x, width, width * 4)
        erf = g.node("Add", [g.node("Erf", [g.node("Div", [y, g.weight(2**0.5)])]), g.weight(1.0)])
        y = g.node("Mul", [g.node("Mul", [y, erf]), g.weight(0.5)])
        x = normalized(g.node("Add", [dense(y, width * 4, width), x]))
    g.save(path, [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "length"])], x, ["batch", "length", width])


MODELS = {
    "resnet50": resnet50,
    "bert-base": lambda path: bert(path, 12, 768, 12, 30522),
    "tiny-bert": lambda path: bert(path, 2, 64, 2, 1000),
}

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for name in sys.argv[2:]:
    if name not in MODELS:
        sys.exit(f"error: no model is named {name}, expected one of {', '.join(MODELS)}")
    MODELS[name](folder / f"{name}.onnx")

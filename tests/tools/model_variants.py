#!/usr/bin/env python3
"""Makes variants of a model that a release gate must tell apart: model_variants.py MODEL.onnx FOLDER.

Writes MODEL's inputs as FOLDER/inputs.npz (16 of them, fixed seed) and, each as FOLDER/NAME/model.onnx:

    weight-0.0005, weight-0.005, weight-0.05    every weight tensor scaled by 1 + that
    swapped                                     the first two outputs of one shape under each other's name
    reversed                                    the first output reversed along its last dimension
    preprocessing                               the input clipped at ±0.1 before anything else, instead of not at all
    nan                                         NaN as the first element of the first output
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLES = 16


def inputs(model, rng):
    arrays = {}
    for value in model.graph.input:
        shape = [dimension.dim_value or 1 for dimension in value.type.tensor_type.shape.dim]
        length = int(np.prod(shape))
        time = np.arange(length) / 22050
        rows = []
        for number in range(SAMPLES):
            tones = sum(np.sin(2 * np.pi * 110 * 2 ** (note / 12) * time) for note in rng.integers(0, 36, 3))
            rows.append((0.2 * tones + 0.01 * rng.normal(size=length)).astype(np.float32).reshape(shape))
        arrays[value.name] = np.stack(rows) if shape[0] != 1 else np.concatenate(rows)
    return arrays


def scaled(model, factor):
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and array.ndim >= 2:
            tensor.CopyFrom(numpy_helper.from_array((array * np.float32(factor)).astype(np.float32), tensor.name))


def renamed_output(model, index, name):
    """Lets the node that makes an output write to another name, so that nodes can be put behind it."""
    old = model.graph.output[index].name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, value in enumerate(names):
                if value == old:
                    names[at] = name
    return old


def swapped(model):
    shape = lambda value: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    outputs = list(model.graph.output)
    one, other = next((a, b) for a in range(len(outputs)) for b in range(a + 1, len(outputs)) if shape(outputs[a]) == shape(outputs[b]))
    names = [renamed_output(model, one, "one"), renamed_output(model, other, "other")]
    model.graph.node.append(helper.make_node("Identity", ["other"], [names[0]]))
    model.graph.node.append(helper.make_node("Identity", ["one"], [names[1]]))


def backwards(model):
    name = renamed_output(model, 0, "forwards")
    constants = {"starts": [-1], "ends": [-(2**31)], "axes": [-1], "steps": [-1]}
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"reverse/{key}"))
    model.graph.node.append(helper.make_node("Slice", ["forwards", *(f"reverse/{key}" for key in constants)], [name]))


def preprocessing(model):
    name = model.graph.input[0].name
    for node in model.graph.node:
        for at, value in enumerate(node.input):
            if value == name:
                node.input[at] = "preprocessed"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-0.1), "lowest"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "highest"))
    model.graph.node.insert(0, helper.make_node("Clip", [name, "lowest", "highest"], ["preprocessed"]))


def nan(model):
    name = renamed_output(model, 0, "clean")
    rank = len(model.graph.output[0].type.tensor_type.shape.dim)
    model.graph.initializer.append(numpy_helper.from_array(np.array([[0] * rank], np.int64), "place"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float32), "value"))
    model.graph.node.append(helper.make_node("ScatterND", ["clean", "place", "value"], [name]))


VARIANTS = {
    "weight-0.0005": lambda model: scaled(model, 1.0005),
    "weight-0.005": lambda model: scaled(model, 1.005),
    "weight-0.05": lambda model: scaled(model, 1.05),
    "swapped": swapped,
    "reversed": backwards,
    "preprocessing": preprocessing,
    "nan": nan,
}


def main(source, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "inputs.npz", **inputs(onnx.load(source), np.random.default_rng(1)))
    for name, change in VARIANTS.items():
        model = onnx.load(source)
        change(model)
        (folder / name).mkdir(exist_ok=True)
        onnx.save(model, folder / name / "model.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])

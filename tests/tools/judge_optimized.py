#!/usr/bin/env python3
"""Judges the model in an image against the model that the image was built from, with the `onnx` package and ONNX Runtime.

    python judge_optimized.py [--same-tensors] LAYOUT MODEL

LAYOUT is an OCI layout whose layers are not compressed. Prints the image's server options as JSON. With --same-tensors the two
must also be the same model but for where tensors lie, and mapped tensors must begin at pages.
"""

import argparse
import json
import pathlib
import sys
import tarfile
import tempfile

import numpy
import onnx
import onnxruntime


def unpack(layout, folder):
    """Writes the files of the model and of its server options, as the layers have them."""
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer["digest"])) as tar:
            for member in tar:
                if member.isfile() and member.name.lstrip("./").startswith(("models/", "etc/imgserve/")):
                    tar.extract(member, folder, filter="data")


def answers(model, level, inputs):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if inputs is None:
        random = numpy.random.default_rng(3)
        inputs = {}
        for node in session.get_inputs():
            shape = [size if isinstance(size, int) else 2 for size in node.shape]
            inputs[node.name] = random.random(shape, numpy.float32) if node.type == "tensor(float)" else random.integers(0, 200, shape, numpy.dtype(node.type[7:-1]))
    return inputs, session.run(None, inputs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--same-tensors", action="store_true")
    parser.add_argument("layout", type=pathlib.Path)
    parser.add_argument("model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(arguments.layout, folder)
        options = json.loads(pathlib.Path(folder, "etc/imgserve/config.json").read_text())
        built = folder + options["model_path"]
        levels = onnxruntime.GraphOptimizationLevel
        level = {"disable": levels.ORT_DISABLE_ALL}.get(options.get("graph_optimization_level"), levels.ORT_ENABLE_ALL)
        inputs, expected = answers(arguments.model, levels.ORT_ENABLE_ALL, None)
        _, found = answers(built, level, inputs)
        for before, after in zip(expected, found, strict=True):
            assert before.shape == after.shape and before.dtype == after.dtype
            numpy.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
        if arguments.same_tensors:
            same_tensors(built, arguments.model)
    print(json.dumps(options))
    return 0


def same_tensors(built, original):
    references = onnx.load(built, load_external_data=False)
    mapped = [tensor for tensor in references.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert mapped, "no tensor is mapped"
    for tensor in mapped:
        assert int({entry.key: entry.value for entry in tensor.external_data}["offset"]) % 4096 == 0
    onnx.checker.check_model(built)
    before, after = onnx.load(original), onnx.load(built)
    for tensor in after.graph.initializer:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    assert before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True)


if __name__ == "__main__":
    sys.exit(main())

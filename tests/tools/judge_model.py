#!/usr/bin/env python3
"""Asks a served ONNX model through Triton's client with its defaults, and compares with ONNX Runtime's own interface.

    python judge_model.py --address HOST:PORT --name NAME MODEL.onnx

Dynamic dimensions are tried as 1 and as 3. Exits 1 on any difference of shape, type or value (absolute 1e-5, relative 1e-4).
"""

import argparse
import sys

import numpy
import onnxruntime
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

TYPES = {"tensor(float)": numpy.float32, "tensor(double)": numpy.float64, "tensor(int32)": numpy.int32, "tensor(int64)": numpy.int64}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("model")
    arguments = parser.parse_args()
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    client = triton.InferenceServerClient(arguments.address)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(arguments.name)
    random = numpy.random.default_rng(7)
    compared = 0
    for batch in (1, 3):
        values, inputs = {}, []
        for node in session.get_inputs():
            shape = [size if isinstance(size, int) else batch for size in node.shape]
            kind = TYPES[node.type]
            value = random.integers(0, 256, shape).astype(kind) if numpy.issubdtype(kind, numpy.integer) else random.standard_normal(shape).astype(kind)
            values[node.name] = value
            tensor = triton.InferInput(node.name, shape, np_to_triton_dtype(kind))
            tensor.set_data_from_numpy(value)
            inputs.append(tensor)
        answer = client.infer(arguments.name, inputs)
        for node, expected in zip(session.get_outputs(), session.run(None, values)):
            actual = answer.as_numpy(node.name)
            assert actual.shape == expected.shape and actual.dtype == expected.dtype, (node.name, actual.shape, expected.shape)
            numpy.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
            compared += actual.size
    print(f"{compared} values equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())

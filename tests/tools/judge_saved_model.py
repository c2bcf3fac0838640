#!/usr/bin/env python3
"""Compares a served SavedModel with what TensorFlow's Python answered, through Triton's client and TensorFlow Serving's API.

    python judge_saved_model.py --address HOST:PORT --name NAME [--atol 1e-4] [--cases 16] REFERENCE.npz

Prints the largest absolute difference and the mean time of a request. Exits 1 on any difference of shape, type or value.
"""

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.request

import numpy
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype


def load(path):
    """The cases by number: inputs and outputs by name."""
    cases = {}
    with numpy.load(path, allow_pickle=True) as arrays:
        for key in arrays:
            index, side, name = key.split("/", 2)
            cases.setdefault(int(index), {"in": {}, "out": {}})[side][name] = arrays[key]
    return [cases[index] for index in sorted(cases)]


def as_json(value):
    """An array as lists, bytes encoded."""
    if value.dtype == object:
        encode = lambda item: [encode(i) for i in item] if isinstance(item, list) else {"b64": base64.b64encode(item).decode()}
        return encode(value.tolist())
    return value.tolist()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def compare(name, actual, expected, atol):
    assert actual.shape == expected.shape, (name, actual.shape, expected.shape)
    if expected.dtype == object or expected.dtype.kind in "SU":
        assert actual.tolist() == expected.tolist(), name
        return 0.0
    difference = float(numpy.max(numpy.abs(actual.astype(numpy.float64) - expected.astype(numpy.float64)), initial=0))
    assert difference <= atol, f"{name}: differs by {difference}, expected at most {atol}"
    return difference


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--atol", type=float, default=1e-4)
    parser.add_argument("--cases", type=int, help="of the reference, from its start")
    parser.add_argument("reference")
    arguments = parser.parse_args()
    client = triton.InferenceServerClient(arguments.address)
    metadata = client.get_model_metadata(arguments.name)
    assert metadata["platform"] == "tensorflow_savedmodel", metadata
    worst, times = 0.0, []
    cases = load(arguments.reference)[: arguments.cases]
    for number, case in enumerate(cases):
        inputs = []
        for name, value in case["in"].items():
            tensor = triton.InferInput(name, value.shape, np_to_triton_dtype(value.dtype))
            tensor.set_data_from_numpy(value)
            inputs.append(tensor)
        started = time.perf_counter()
        answer = client.infer(arguments.name, inputs)
        times.append(time.perf_counter() - started)
        for name, expected in case["out"].items():
            worst = max(worst, compare(name, answer.as_numpy(name), expected, arguments.atol))
        text = all(value.dtype != object for value in case["out"].values())  # Bytes that are no text have no form in JSON.
        if number < 2 and text:  # JSON of large tensors is slow to make in Python.
            url = f"http://{arguments.address}/v1/models/{arguments.name}:predict"
            columns = {name: as_json(value) for name, value in case["in"].items()}
            rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
            for body, key in (({"inputs": columns}, "outputs"), ({"instances": rows}, "predictions")):
                status, reply = post(url, body)
                assert status == 200, reply
                reply = reply[key]
                for name, expected in case["out"].items():
                    part = reply if len(case["out"]) == 1 else reply[name] if key == "outputs" else [row[name] for row in reply]
                    worst = max(worst, compare(name, numpy.array(part), expected, arguments.atol))
    print(json.dumps({"cases": len(cases), "largest_difference": worst, "mean_ms": round(1e3 * sum(times) / len(times), 2)}))


if __name__ == "__main__":
    sys.exit(main())

"""Requests by tritonclient and by hand, answers of ONNX Runtime's Python interface, and what a check is made of."""

import http.client
import json

import ml_dtypes
import numpy as np
import onnxruntime
import tritonclient.http as triton

from harness import Server

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


class Skipped(Exception):
    """What this machine does not let be judged."""


def ours(context, model, **keywords):
    return Server(context.server, context.library, model, **keywords)


def theirs(model, feed, outputs=None):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(outputs, feed)


def tensor(name, array, datatype, binary=True):
    value = triton.InferInput(name, list(array.shape), datatype)
    return value.set_data_from_numpy(array, binary_data=binary)


def request(server, body, headers=(), path=None, method="POST"):
    """A request by hand; the status, the headers and the body."""
    connection = http.client.HTTPConnection(server.address, timeout=60)
    connection.request(method, path or "/invocations", body, dict(headers))
    answer = connection.getresponse()
    result = answer.status, answer.headers, answer.read()
    connection.close()
    return result


def post(server, document):
    status, _, body = request(server, json.dumps(document))
    # Strict JSON: Python would take the tokens that JSON lacks.
    return status, json.loads(body, parse_constant=lambda token: fail(f"{token} is no JSON"))


def fail(message):
    raise AssertionError(message)


def refused(status, answer, code, text):
    assert status == code, f"status {status}, expected {code}: {answer}"
    assert isinstance(answer["error"], str) and text in answer["error"], f"`{text}` is not in {answer}"


def samples(name, shape, random):
    """Every datatype's edges among random values."""
    kind = {"FP16": "float16", "FP32": "float32", "FP64": "float64", "BF16": ml_dtypes.bfloat16}.get(name)
    if name == "BYTES":
        words = [b"", "grüße".encode(), b"\x00zero\x00", b"\xff\xfe", b"x" * 300]
        return np.array([words[i % len(words)] for i in range(int(np.prod(shape)))], object).reshape(shape)
    if name == "BOOL":
        return random.integers(0, 2, shape).astype(bool)
    if kind is None:
        info = np.iinfo(name.lower())
        array = random.integers(info.min, info.max, shape, dtype=info.dtype, endpoint=True)
        edges = [info.min, info.max, 0]
    else:
        array = random.standard_normal(shape).astype(kind)
        edges = [np.inf, -np.inf, -0.0]
    array.reshape(-1)[: len(edges)] = edges[: array.size]
    return array


def same(expected, found, what):
    assert found is not None, f"{what} is missing"
    assert expected.shape == found.shape, f"{what} has shape {found.shape}, expected {expected.shape}"
    assert expected.dtype == found.dtype, f"{what} has dtype {found.dtype}, expected {expected.dtype}"
    np.testing.assert_array_equal(found, expected, what)

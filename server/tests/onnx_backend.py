"""Runs every model with data of the `onnx` wheel through the real server, over HTTP.

For each model a server is started; each data set's inputs are sent in binary, and the outputs must meet the expected
ones in shape, datatype and values (rtol 1e-3, atol 1e-7, as the ONNX project's own runner has it). Where the runtime
refuses a model, the server's error line must name the operator, which must be one of the model, and the runtime's own
Python interface must refuse the model too.

    python server/tests/onnx_backend.py --server target/debug/imgserve --library LIBONNXRUNTIME

Prints the counts; exits 1 when any model does otherwise.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import sys

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import tritonclient.http as triton
from tritonclient.utils import np_to_triton_dtype

from harness import Server, StartError

RTOL, ATOL = 1e-3, 1e-7
DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"


def tensor(path):
    proto = onnx.TensorProto()
    proto.ParseFromString(path.read_bytes())
    return onnx.numpy_helper.to_array(proto)


def numbered(folder, kind):
    return [tensor(folder / f"{kind}_{n}.pb") for n in range(len(list(folder.glob(f"{kind}_*.pb"))))]


def to_wire(array):
    """Strings as the client wants them; everything else as it is."""
    if array.dtype.kind in "OUS":
        return np.array([s.encode() if isinstance(s, str) else bytes(s) for s in array.ravel()], object).reshape(array.shape)
    return array


def compare(expected, found, name):
    expected = to_wire(expected)
    if found is None:
        return f"output `{name}` is missing"
    if expected.shape != found.shape:
        return f"output `{name}` has shape {found.shape}, expected {expected.shape}"
    if expected.dtype != found.dtype:
        return f"output `{name}` has dtype {found.dtype}, expected {expected.dtype}"
    if expected.dtype == object:
        return None if (expected == found).all() else f"output `{name}` is {found!r}, expected {expected!r}"
    try:
        np.testing.assert_allclose(found, expected, rtol=RTOL, atol=ATOL)
    except AssertionError as error:
        return f"output `{name}`: {error}"
    return None


def operators(model):
    """Every operator of a model as `domain:Name`, or `Name` in the default domain; functions and subgraphs too."""
    names = set()

    def walk(nodes):
        for node in nodes:
            names.add(f"{node.domain}:{node.op_type}" if node.domain else node.op_type)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    walk(graph.node)

    walk(model.graph.node)
    for function in model.functions:
        walk(function.node)
    return names


def judge(folder, arguments):
    """`ok`, `unsupported: …` or `failed: …` for one model, and how many data sets were compared."""
    model = onnx.load(folder / "model.onnx")
    initialized = {initializer.name for initializer in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initialized]
    outputs = [value.name for value in model.graph.output]
    sets = sorted(folder.glob("test_data_set_*"))
    try:
        with Server(arguments.server, arguments.library, folder / "model.onnx", {"model_name": folder.name, "threads": 1}) as server:
            for data in sets:
                client = triton.InferenceServerClient(server.address)
                inputs = []
                for name, array in zip(names, numbered(data, "input"), strict=True):
                    array = to_wire(array)
                    value = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
                    inputs.append(value.set_data_from_numpy(array))
                result = client.infer(folder.name, inputs)
                for name, expected in zip(outputs, numbered(data, "output"), strict=True):
                    if wrong := compare(expected, result.as_numpy(name), name):
                        return f"failed: {wrong}", 0
                client.close()
            status = server.stop()
            return ("ok", len(sets)) if status == 0 else (f"failed: exit status {status} after SIGTERM", 0)
    except StartError as error:
        operator = error.error.get("operator")
        if error.status != 4 or operator not in operators(model):
            return f"failed: {error}", 0
        # The runtime itself is the judge of what it refuses.
        try:
            onnxruntime.InferenceSession(folder / "model.onnx")
        except Exception:  # noqa: BLE001 - its errors share no class
            return f"unsupported: {operator}", 0
        return f"failed: refused for {operator}, but the runtime's Python interface loads it: {error}", 0
    except Exception as error:  # noqa: BLE001 - whatever went wrong, it is this model's failure
        return f"failed: {type(error).__name__}: {error}", 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, type=pathlib.Path)
    parser.add_argument("--library", required=True, type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="part of the models' names")
    arguments = parser.parse_args()

    onnxruntime.set_default_logger_severity(4)
    folders = sorted(path.parent for path in DATA.glob("*/*/model.onnx") if list(path.parent.glob("test_data_set_*")))
    folders = [folder for folder in folders if arguments.only in folder.name]
    if not folders:
        sys.exit("error: no models with data were found in the onnx wheel")
    counts = collections.Counter()
    compared = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for folder, (verdict, sets) in zip(folders, pool.map(lambda folder: judge(folder, arguments), folders)):
            kind = verdict.split(":")[0]
            counts[kind] += 1
            compared += sets
            if kind != "ok":
                print(f"{folder.parent.name}/{folder.name}: {verdict}", flush=True)
    print(
        f"{len(folders)} models with data: {counts['ok']} meet their outputs ({compared} data sets, rtol {RTOL:g}, "
        f"atol {ATOL:g}), {counts['unsupported']} refused naming the operator, {counts['failed']} failed"
    )
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Makes models for tests and benchmarks, on demand, into a folder.

    python make_models.py DIR NAME...        makes DIR/NAME/model.onnx (and its data) for each name
    python make_models.py DIR --list         lists the names

Sized models, all runnable chains of MatMul with float32 weights that do not compress
(numpy, fixed seed), written in a stream, so that any size needs little memory:

    SIZE            one file, such as 10MB or 1GB
    SIZE-external   weights in `weights.bin`
    SIZE-split      weights in several files, one for each matrix

Append `-sparse` to any of them for weights that are holes in the file: no time, no disk, no sense.
"""

import argparse
import os
import re
import sys

import numpy
import onnx
from onnx import TensorProto, helper

WIDTH = 1024  # columns of every matrix; 4 MiB each
OPSET = 13
IR_VERSION = 8


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def header(field, length):
    """The key and length of a length-delimited field."""
    return varint(field << 3 | 2) + varint(length)


class Weights:
    """Writes matrices of a size, or leaves holes for them."""

    def __init__(self, sparse):
        self.sparse = sparse
        self.random = numpy.random.default_rng(1)

    def write(self, file, rows):
        if self.sparse:
            file.seek(rows * WIDTH * 4, os.SEEK_CUR)
            file.truncate(file.tell())
            return
        for start in range(0, rows, 256):
            count = min(256, rows - start)
            # Scaled so that a long chain of products stays near one.
            block = self.random.standard_normal((count, WIDTH), dtype=numpy.float32) / numpy.float32(WIDTH**0.5)
            file.write(block.astype("<f4").tobytes())


def tensor_head(name, rows):
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[rows, WIDTH])


def chain(rows):
    """Nodes, input and output of x · w0 · w1 · …; every matrix but the first is square."""
    nodes, value = [], "x"
    for index in range(len(rows)):
        result = "y" if index == len(rows) - 1 else f"h{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [result], name=f"matmul{index}"))
        value = result
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows[0]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])]
    return nodes, inputs, outputs


def envelope():
    """Everything of a model but its graph."""
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="make_models", producer_version="1")
    model.opset_import.append(helper.make_opsetid("", OPSET))
    return model.SerializeToString()


def sized(folder, size, layout, sparse):
    matrices, rest = divmod(size, WIDTH * WIDTH * 4)
    rows = [WIDTH] * matrices
    if rest // (WIDTH * 4):
        rows.insert(0, rest // (WIDTH * 4))
    if not rows:
        sys.exit("the smallest sized model is 4kB")
    weights = Weights(sparse)
    nodes, inputs, outputs = chain(rows)
    path = os.path.join(folder, "model.onnx")
    if layout == "inline":
        # A graph is the concatenation of its parts, so the tensors can be streamed behind the rest.
        graph = helper.make_graph(nodes, "chain", inputs, outputs).SerializeToString()
        heads = [tensor_head(f"w{i}", r).SerializeToString() for i, r in enumerate(rows)]
        raws = [header(9, r * WIDTH * 4) for r in rows]
        sizes = [len(h) + len(raw) + r * WIDTH * 4 for h, raw, r in zip(heads, raws, rows)]
        total = len(graph) + sum(len(header(5, s)) + s for s in sizes)
        with open(path, "wb") as file:
            file.write(envelope() + header(7, total) + graph)
            for r, head, raw, length in zip(rows, heads, raws, sizes):
                file.write(header(5, length) + head + raw)
                weights.write(file, r)
        return
    tensors, offset, file = [], 0, None
    for index, count in enumerate(rows):
        location = "weights.bin" if layout == "external" else f"weights/{index:04}.bin"
        if file is None or layout == "split":
            if file:
                file.close()
            os.makedirs(os.path.dirname(os.path.join(folder, location)), exist_ok=True)
            file, offset = open(os.path.join(folder, location), "wb"), 0
        weights.write(file, count)
        length = count * WIDTH * 4
        tensors.append(external_tensor(f"w{index}", [count, WIDTH], location, offset, length))
        offset += length
    file.close()
    save(path, make(nodes, inputs, outputs, tensors))


def external_tensor(name, dims, location, offset=None, length=None):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def make(nodes, inputs, outputs, initializers=(), opsets=(("", OPSET),), functions=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializer=list(initializers))
    model = helper.make_model(
        graph, producer_name="make_models", functions=list(functions),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets])
    model.ir_version = IR_VERSION
    return model


def save(path, model):
    with open(path, "wb") as file:
        file.write(model.SerializeToString())


# ---------------------------------------------------------------------------------------------
# Small models, good and bad

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])


def one_node(operator="Relu", domain="", opsets=(("", OPSET),)):
    return make([helper.make_node(operator, ["x"], ["y"], name="node", domain=domain)], [X], [Y], opsets=opsets)


def with_external(location, offset=None, length=None):
    tensor = external_tensor("w", [4], location, offset, length)
    return make([helper.make_node("Add", ["x", "w"], ["y"], name="add")], [X], [Y], [tensor])


def data(folder, name, content=b"\0" * 64):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def small(model):
    return lambda folder: save(os.path.join(folder, "model.onnx"), model)


def raw(content):
    return lambda folder: data(folder, "model.onnx", content)


def external(location, offset=None, length=None, files=()):
    def write(folder):
        for name in files:
            data(folder, name)
        small(with_external(location, offset, length))(folder)
    return write


def escaping_link(folder):
    data(folder, "outside.bin")
    os.makedirs(os.path.join(folder, "inside"), exist_ok=True)
    link = os.path.join(folder, "inside", "w.bin")
    if not os.path.lexists(link):
        os.symlink("../outside.bin", link)
    save(os.path.join(folder, "inside", "model.onnx"), with_external("w.bin"))


def download_cache(folder):
    """Model and data are links into one store, as download caches keep them."""
    data(folder, "store/1")
    save(os.path.join(folder, "store", "2"), with_external("model.onnx_data"))
    for name, target in (("model.onnx_data", "store/1"), ("model.onnx", "store/2")):
        if not os.path.lexists(os.path.join(folder, name)):
            os.symlink(target, os.path.join(folder, name))


def truncated(folder):
    content = make([helper.make_node("Add", ["x", "w"], ["y"])], [X], [Y],
                   [helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])]).SerializeToString()
    data(folder, "model.onnx", content[:len(content) // 2])


def changed(change):
    model = one_node()
    change(model)
    return small(model)


def function_model():
    function = helper.make_function(
        "acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", OPSET)])
    return make([helper.make_node("Twice", ["x"], ["y"], domain="acme")], [X], [Y],
                opsets=(("", OPSET), ("acme", 1)), functions=[function])


SMALL = {
    "relu": small(one_node()),
    "function": small(function_model()),
    "external-small": external("w.bin", 16, 16, ["w.bin"]),
    "external-subfolder": external("sub/w.bin", files=["sub/w.bin"]),
    "external-links": download_cache,
    # Bad ones.
    "future-opset": small(one_node(opsets=(("", 99),))),
    "future-ir": changed(lambda model: setattr(model, "ir_version", 99)),
    "no-ir": changed(lambda model: model.ClearField("ir_version")),
    "no-graph": changed(lambda model: model.ClearField("graph")),
    "no-opset": changed(lambda model: model.ClearField("opset_import")),
    "unknown-domain": small(one_node("Frobnicate", "acme", (("", OPSET), ("acme", 1)))),
    "unknown-operator": small(one_node("Frobnicate")),
    "removed-operator": small(one_node("Upsample", opsets=(("", 10),))),
    "no-kernel": small(one_node("Relu", opsets=(("", 5),))),
    "external-missing": external("w.bin"),
    "external-dotdot": external("../w.bin", files=["w.bin"]),
    "external-absolute": external("/etc/passwd"),
    "external-directory": external("sub", files=["sub/w.bin"]),
    "external-short": external("w.bin", 60, files=["w.bin"]),
    "external-length": external("w.bin", 0, 8, files=["w.bin"]),
    "external-escape": escaping_link,
    "truncated": truncated,
    "empty": raw(b""),
    "text": raw(b"this is not a model\n"),
    "html": raw(b"<!DOCTYPE html><html><body>404</body></html>\n"),
    "json": raw(b'{"error": "not found"}\n'),
    "lfs": raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"),
    "zeros": raw(bytes(4096)),
    "noise": lambda folder: data(folder, "model.onnx", numpy.random.default_rng(2).bytes(4096)),
    "directory": lambda folder: os.makedirs(os.path.join(folder, "model.onnx"), exist_ok=True),
}

UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join([*SMALL, *(f"SIZE{layout}{sparse}" for layout in ("", "-external", "-split") for sparse in ("", "-sparse"))]))
        return
    for name in arguments.names:
        folder = os.path.join(arguments.folder, name)
        os.makedirs(folder, exist_ok=True)
        if name in SMALL:
            SMALL[name](folder)
            continue
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMG]i?B)(-external|-split)?(-sparse)?", name)
        if not match or match[2] not in UNITS:
            sys.exit(f"no model is called {name}; --list lists them")
        size = int(float(match[1]) * UNITS[match[2]])
        sized(folder, size, (match[3] or "-inline")[1:], bool(match[4]))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes SavedModels that consist of one operator each, for rules that look at operators: saved_model_of.py FOLDER OPERATOR…

Each goes to FOLDER/OPERATOR: an input `x`, the operator, an output `y`. They are read, not run: attributes are left out.
"""

import pathlib
import sys


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def block(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def node(name, operator, *inputs):
    return block(1, block(1, name) + block(2, operator) + b"".join(block(3, each) for each in inputs))


def entry(field, key, value):
    return block(field, block(1, key) + block(2, value))


def tensor(name):
    # A vector of 4 numbers of type float (1).
    return block(1, name) + bytes([2 << 3, 1]) + block(3, block(2, bytes([1 << 3, 4])))


folder = pathlib.Path(sys.argv[1])
for operator in sys.argv[2:]:
    graph = node("x", "Placeholder") + node("operation", operator, "x") + node("y", "Identity", "operation")
    signature = entry(1, "x", tensor("x:0")) + entry(2, "y", tensor("y:0")) + block(3, "tensorflow/serving/predict")
    meta_graph = block(1, block(4, "serve")) + block(2, graph) + entry(5, "serving_default", signature)
    (folder / operator).mkdir(parents=True)
    (folder / operator / "saved_model.pb").write_bytes(bytes([1 << 3, 1]) + block(2, meta_graph))

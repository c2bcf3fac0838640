"""Writes the table of operators that TensorFlow's libraries register: what `libtensorflow_cc.so.2` of a wheel says itself.

Usage: tensorflow_operators.py WHEEL_FOLDER VERSION > templates/operators/tensorflow-VERSION.json

WHEEL_FOLDER holds the wheel's `tensorflow/` folder, unpacked. The library is asked through its C interface, without Python's
modules, because those register operators of their own that no image has.
"""

import ctypes
import json
import os
import sys


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def fields(data):
    """Yields the length-delimited fields of a protobuf message as (number, bytes)."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        if key & 7 == 0:
            _, at = varint(data, at)
        elif key & 7 == 2:
            length, at = varint(data, at)
            yield key >> 3, data[at : at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[key & 7]


class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("free", ctypes.c_void_p)]


def main():
    folder, version = sys.argv[1:]
    library = ctypes.CDLL(os.path.join(folder, "tensorflow/libtensorflow_cc.so.2"))
    library.TF_GetAllOpList.restype = ctypes.POINTER(Buffer)
    library.TF_Version.restype = ctypes.c_char_p
    found = library.TF_Version().decode()
    if found != version:
        sys.exit(f"error: the library is TensorFlow {found}, expected {version}")
    buffer = library.TF_GetAllOpList().contents
    operators = ctypes.string_at(buffer.data, buffer.length)
    # OpList.op is field 1, OpDef.name is field 1.
    names = sorted(name.decode() for _, op in fields(operators) for number, name in fields(op) if number == 1)
    lines = ",\n".join(f"  {json.dumps(name)}" for name in names)
    print(f'{{"format": 1, "runtime": "TensorFlow", "version": {json.dumps(version)}, "operators": [\n{lines}\n]}}')


main()

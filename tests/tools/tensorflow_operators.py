"""Writes the tables of operators that TensorFlow's libraries register: what `libtensorflow_cc.so.2` of a wheel says itself.

Usage: tensorflow_operators.py WHEEL_FOLDER VERSION > templates/operators/tensorflow-VERSION.json
       tensorflow_operators.py WHEEL_FOLDER VERSION gpu > templates/operators/tensorflow-VERSION-gpu.json

The second, of the wheel for GPUs, gives the operators that have a kernel for them; no GPU is needed.

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
    folder, version, *kernels = sys.argv[1:]
    library = ctypes.CDLL(os.path.join(folder, "tensorflow/libtensorflow_cc.so.2"))
    library.TF_GetAllOpList.restype = ctypes.POINTER(Buffer)
    library.TF_Version.restype = ctypes.c_char_p
    found = library.TF_Version().decode()
    if found != version:
        sys.exit(f"error: the library is TensorFlow {found}, expected {version}")
    if kernels:
        library.TF_GetAllRegisteredKernels.restype = ctypes.POINTER(Buffer)
        library.TF_NewStatus.restype = ctypes.c_void_p
        buffer = library.TF_GetAllRegisteredKernels(ctypes.c_void_p(library.TF_NewStatus())).contents
        # KernelList.kernel is field 1, KernelDef.op field 1 and its device field 2. DEFAULT stands for every device.
        kernels = [dict(fields(kernel)) for _, kernel in fields(ctypes.string_at(buffer.data, buffer.length))]
        names = sorted({kernel[1].decode() for kernel in kernels if kernel[2] in (b"GPU", b"DEFAULT")})
    else:
        buffer = library.TF_GetAllOpList().contents
        operators = ctypes.string_at(buffer.data, buffer.length)
        # OpList.op is field 1, OpDef.name is field 1.
        names = sorted(name.decode() for _, op in fields(operators) for number, name in fields(op) if number == 1)
    lines = ",\n".join(f"  {json.dumps(name)}" for name in names)
    print(f'{{"format": 1, "runtime": "TensorFlow", "version": {json.dumps(version)}, "operators": [\n{lines}\n]}}')


main()

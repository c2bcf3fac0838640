#!/usr/bin/env python3
"""Holds a release of cuDNN against ONNX Runtime's CUDA provider: cudnn_version.py PROVIDER FOLDER-OF-CUDNN

Prints the version that the provider was compiled with, read from its machine code, and that of the libraries, which they tell; and in
which library the functions are that the provider looks up. Ends with 1 where one is missing, or where the libraries are older than what
the provider was compiled with, for which cuDNN promises nothing.
"""

import ctypes
import pathlib
import re
import struct
import subprocess
import sys

import numpy

# Written where the two versions differ, with the first of them put between this text and the next.
MESSAGE = b"The cuDNN version used at compilation ("
# `mov $VERSION, %esi`, the number that is written.
MOVE = re.compile(rb"\xbe(....)", re.DOTALL)
REACH = 256


def sections(path):
    said = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True).stdout
    for name, *numbers in re.findall(r"\]\s+(\.\S+)\s+\w+\s+(\w+) (\w+) (\w+)", said):
        yield name, [int(number, 16) for number in numbers]


def compiled_with(path):
    """CUDNN_VERSION as it was when the provider was compiled: the only such number near the one reference to the message."""
    content, places = path.read_bytes(), dict(sections(path))
    address, offset, size = places[".text"]
    text_at = content.find(MESSAGE)
    start = content.rfind(b"\0", 0, text_at) + 1
    target = start - places[".rodata"][1] + places[".rodata"][0]
    found = []
    for shift in range(4):
        words = numpy.frombuffer(content, "<i4", (size - shift) // 4, offset + shift).astype(numpy.int64)
        at = address + shift + 4 * numpy.arange(len(words), dtype=numpy.int64)
        found += [int(place) for place in at[words + at + 4 == target]]
    near = {number for place in found for word in MOVE.findall(content, offset + place - address, offset + place - address + REACH)
            for number in struct.unpack("<I", word) if 90000 <= number < 100000}
    if len(near) != 1:
        sys.exit(f"the version is not where it was looked for: {found}, {near}")
    return near.pop()


def main():
    provider, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    wanted = set(re.findall(rb"\0(cudnn[A-Z]\w*)(?=\0)", provider.read_bytes()))
    wanted = {name.decode() for name in wanted}
    missing = set(wanted)
    for library in sorted(folder.glob("libcudnn_*.so.9")):
        said = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
        has = {line.split()[-1].split("@")[0] for line in said.splitlines()} & wanted
        missing -= has
        print(f"{library.name}: {len(has)} of the {len(wanted)} functions that the provider looks up")
    shim = ctypes.CDLL(str(folder / "libcudnn.so.9"))
    shim.cudnnGetVersion.restype = shim.cudnnGetCudartVersion.restype = ctypes.c_size_t
    compiled, own = compiled_with(provider), shim.cudnnGetVersion()
    print(f"compiled with cuDNN {compiled}; this is {own}, made with CUDA {shim.cudnnGetCudartVersion()}")
    if missing:
        print(f"missing: {', '.join(sorted(missing))}")
    return 1 if missing or own < compiled else 0


if __name__ == "__main__":
    sys.exit(main())

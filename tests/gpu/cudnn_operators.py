#!/usr/bin/env python3
"""Finds the operators whose kernels refuse to run without cuDNN or cuFFT, and checks that the template's rules name them.

    LD_LIBRARY_PATH=FAKE cudnn_operators.py templates/onnx-cuda.toml      (FAKE: what fake_cuda.py built)

Two ways, which share nothing. Every case of the onnx package with its data, and some operators of ONNX Runtime's own, run on the
provider without cuDNN, each in a process of its own: the kernel itself says what is missing. And the provider's machine code is
followed: from the functions that hold the messages about a missing cuDNN, back through all direct calls, to the classes whose
virtual tables name a function on the way. The second finds what no case happens to reach; it may find too much, never too little,
but for calls by pointer. Ends with 1 where the template lacks an operator that either way found.
"""

import bisect
import collections
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tomllib
import warnings

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

warnings.filterwarnings("ignore")
onnxruntime.set_default_logger_severity(4)
PROVIDER = pathlib.Path(onnxruntime.__file__).parent / "capi/libonnxruntime_providers_cuda.so"
MESSAGE = b"cuDNN is unavailable"
NEWEST_OPSET = 24


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CUDAExecutionProvider"])
    session.run(None, feeds(session))
    return "ok"


def apart(work):
    """What a piece of work says in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(30)
        try:
            said = work()
        except BaseException as error:
            said = str(error) or repr(error)
        os.write(writer, said.encode()[:3000])
        os._exit(0)
    os.close(writer)
    said = b""
    while block := os.read(reader, 65536):
        said += block
    os.close(reader)
    os.waitpid(child, 0)
    return said.decode(errors="replace") or "ended without a word"


def onnx_cases():
    from onnx.backend.test.case.node import collect_testcases
    for case in collect_testcases(None):
        if case.model is None or not case.data_sets:
            continue
        for imported in case.model.opset_import:
            if imported.domain in ("", "ai.onnx"):
                imported.version = min(imported.version, NEWEST_OPSET)
        case.model.ir_version = min(case.model.ir_version, 10)

        def feeds(session, inputs=case.data_sets[0][0]):
            values = [numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value for value in inputs]
            return {known.name: numpy.asarray(value) if isinstance(value, numpy.generic) else value for known, value in zip(session.get_inputs(), values)}
        yield case.name, case.model, feeds


def own_cases():
    """Operators of ONNX Runtime that fusions make, with plausible inputs."""
    def case(operator, inputs, outputs=1, **attributes):
        kinds = {numpy.float32: TensorProto.FLOAT, numpy.float16: TensorProto.FLOAT16, numpy.int32: TensorProto.INT32}
        infos = [helper.make_tensor_value_info(name, kinds[value.dtype.type], value.shape) for name, value in inputs.items()]
        names = [f"y{index}" for index in range(outputs)]
        node = helper.make_node(operator, list(inputs), names, domain="com.microsoft", **attributes)
        results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
        for result in results:
            result.ClearField("type")
        graph = helper.make_graph([node], "g", infos, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
        return f"{operator} {next(iter(inputs.values())).dtype}", model, lambda session: inputs
    for kind in (numpy.float32, numpy.float16):
        def ones(*shape, kind=kind):
            return numpy.ones(shape, kind)
        yield case("Attention", {"x": ones(1, 8, 64), "w": ones(64, 192), "b": ones(192)}, num_heads=4)
        yield case("MultiHeadAttention", {"q": ones(1, 8, 64), "k": ones(1, 8, 64), "v": ones(1, 8, 64)}, num_heads=4)
        yield case("BiasSoftmax", {"x": ones(1, 4, 8, 64), "b": ones(1, 1, 8, 64)}, axis=3, is_inner_broadcast=0)
        yield case("SkipLayerNormalization", {"x": ones(1, 8, 64), "s": ones(1, 8, 64), "g": ones(64)})
        yield case("BiasGelu", {"x": ones(1, 8, 64), "b": ones(64)})
        yield case("FastGelu", {"x": ones(1, 8, 64)})
        yield case("FusedMatMul", {"x": ones(1, 8, 64), "y": ones(1, 64, 8)})
        yield case("Rfft", {"x": ones(1, 8, 64)}, normalized=0, onesided=1, signal_ndim=1)
        yield case("Irfft", {"x": ones(1, 8, 33, 2)}, normalized=0, onesided=1, signal_ndim=1)


def dynamic():
    """Operators that a kernel refused to run without cuDNN, those without cuFFT, and how many cases ran."""
    cudnn, cufft, counts = set(), set(), collections.Counter()
    for name, model, feeds in [*onnx_cases(), *own_cases()]:
        said = apart(lambda model=model, feeds=feeds: run(model, feeds))
        running = re.search(r"while running (\w+) node", said)
        used = {node.op_type for node in model.graph.node}
        if MESSAGE.decode() in said:
            cudnn |= {running[1]} if running else used
            counts["without cuDNN refused"] += 1
        elif "cufft" in said.lower():
            cufft |= {running[1]} if running else used
            counts["without cuFFT refused"] += 1
        else:
            counts["ran" if said == "ok" else "not tried: other errors"] += 1
    return cudnn, cufft, counts


def static():
    """Classes of kernels from which a function with the message can be reached by direct calls."""
    data = PROVIDER.read_bytes()
    sections = {}
    for line in subprocess.run(["readelf", "-SW", PROVIDER], capture_output=True, text=True, check=True).stdout.splitlines():
        if found := re.match(r"\s*\[\s*\d+\]\s+(\S+)\s+\S+\s+([0-9a-f]+)\s+([0-9a-f]+)\s+([0-9a-f]+)", line):
            sections[found[1]] = tuple(int(found[group], 16) for group in (2, 3, 4))

    def content(name):
        address, offset, size = sections[name]
        return address, data[offset:offset + size]
    constants, texts = content(".rodata")
    messages = set()
    at = -1
    while (at := texts.find(MESSAGE, at + 1)) >= 0:
        messages |= {constants + at, constants + texts.rfind(b"\0", 0, at) + 1}
    base, header = content(".eh_frame_hdr")
    count = struct.unpack_from("<I", header, 8)[0]
    starts = sorted(base + struct.unpack_from("<i", header, 12 + 8 * index)[0] for index in range(count))
    functions = set(starts)

    def function(address):
        return starts[bisect.bisect_right(starts, address) - 1]
    callers, roots = collections.defaultdict(set), set()
    lines = subprocess.Popen(["objdump", "-d", "--no-show-raw-insn", "-j", ".text", PROVIDER], stdout=subprocess.PIPE, text=True).stdout
    for line in lines:
        parts = line.split("\t")
        if len(parts) < 2 or parts[1][0] not in "cjl":
            continue
        address = int(parts[0].strip().rstrip(":"), 16)
        if parts[1].startswith("lea"):
            if found := re.search(r"# ([0-9a-f]+)", line):
                target = int(found[1], 16)
                if target in messages:
                    roots.add(function(address))
                elif target in functions:
                    callers[target].add(function(address))
        elif found := re.match(r"(?:call|j\w+)\s+([0-9a-f]+)", parts[1]):
            callers[function(int(found[1], 16))].add(function(address))
    reached, pending = set(roots), list(roots)
    while pending:
        for caller in callers[pending.pop()] - reached:
            reached.add(caller)
            pending.append(caller)
    _, offset, size = sections[".rela.dyn"]
    words = {}
    for index in range(size // 24):
        address, info, addend = struct.unpack_from("<QQq", data, offset + 24 * index)
        if info & 0xffffffff == 8:
            words[address] = addend
    types = {}
    for address, target in words.items():
        if constants <= target < constants + len(texts):
            name = texts[target - constants:texts.find(b"\0", target - constants)]
            if name.startswith(b"N11onnxruntime"):
                types[address - 8] = name.decode()
    classes = set()
    for address, target in words.items():
        if target in types:
            slot = address + 8
            while words.get(slot) in functions:
                if words[slot] in reached:
                    classes.add(types[target])
                slot += 8
    shown = subprocess.run(["c++filt", "-t"], input="\n".join(sorted(classes)), capture_output=True, text=True, check=True).stdout
    return {re.sub(r"<.*", "", name).rsplit("::", 1)[-1] for name in shown.splitlines()}


# Kernels' classes that are called otherwise than their operators, or are no kernels.
CLASSES = {
    "BatchNorm": {"BatchNormalization"}, "InstanceNorm": {"InstanceNormalization"}, "CudnnRnnBase": {"RNN", "LSTM", "GRU"},
    "Pool": {"MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"}, "CUDAExecutionProvider": set(),
}


def main():
    rules = tomllib.loads(pathlib.Path(sys.argv[1]).read_text())["omit"]
    absent = {rule["library"]: set(rule["when"]["operators-absent"]) for rule in rules if isinstance(rule["when"], dict)}
    cudnn, cufft, counts = dynamic()
    followed = set().union(*(CLASSES.get(name, {name}) for name in static()))
    print(json.dumps({"cases": counts, "refused without cuDNN": sorted(cudnn), "reach cuDNN in the code": sorted(followed), "refused without cuFFT": sorted(cufft)}, indent=1))
    lacking = (cudnn | followed) - absent["libcudnn*.so.9"] | cufft - absent["libcufft.so.12"]
    if lacking or not cudnn or not followed or not cufft:
        sys.exit(f"error: the template's rules do not name {', '.join(sorted(lacking)) or 'anything that was found'}")


main()

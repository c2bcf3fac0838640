#!/usr/bin/env python3
"""Sends the operator cases of the `onnx` package through the gate: each is built into an image, started and verified.

    operator_cases.py --imgbuild PATH --folder DIR [--sample] [--jobs N] [--expect FILE]

The package generates the cases (`onnx.backend.test.case.node`), each one a model of an operator with inputs and expected outputs;
they are kept below --folder. `--sample` takes those of SAMPLE alone, which needs seconds. Each case ends as one of

    passed        the image answers within the default policy
    failed        it answers otherwise, or something went wrong that should not
    refused       `imgbuild build` refuses the model, because the runtime has no kernel for it
    unsupported   the server cannot serve it, such as inputs that are sequences, or the runtime refuses to load it

Prints every case that did not pass with the reason, and the counts. With --expect, names that are in FILE may fail; exits with 1
where another one does, or where one of FILE passes.
"""

import argparse
import collections
import concurrent.futures
import importlib
import json
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import onnx
import onnx.numpy_helper

warnings.filterwarnings("ignore")

# Cases of modules that are imported one by one: every datatype, every kind of shape, and some of what is refused.
SAMPLE = {
    "add": ["test_add", "test_add_bcast", "test_add_int8", "test_add_uint64"],
    "argmax": ["test_argmax_default_axis_example"],
    "cast": ["test_cast_FLOAT_to_FLOAT16", "test_cast_FLOAT16_to_DOUBLE", "test_cast_FLOAT_to_BFLOAT16"],
    "concat": ["test_concat_3d_axis_1"],
    "conv": ["test_basic_conv_with_padding", "test_conv_with_strides_padding"],
    "cumsum": ["test_cumsum_1d_exclusive"],
    "einsum": ["test_einsum_batch_matmul"],
    "equal": ["test_equal_string", "test_equal_bcast"],
    "gather": ["test_gather_1", "test_gather_negative_indices"],
    "gemm": ["test_gemm_all_attributes"],
    "if_": ["test_if", "test_if_seq"],
    "isinf": ["test_isinf"],
    "layernormalization": ["test_layer_normalization_2d_axis0"],
    "loop": ["test_loop11"],
    "lstm": ["test_lstm_with_peepholes"],
    "matmul": ["test_matmul_4d"],
    "maxpool": ["test_maxpool_2d_default"],
    "nonzero": ["test_nonzero_example"],
    "optionalhaselement": ["test_optional_has_element_empty_no_input_tensor_input"],
    "reducemean": ["test_reduce_mean_default_axes_keepdims_example"],
    "reshape": ["test_reshape_negative_dim", "test_reshape_allowzero_reordered"],
    "resize": ["test_resize_upsample_scales_nearest"],
    "scatternd": ["test_scatternd"],
    "sequenceinsert": ["test_sequence_insert_at_back"],
    "shape": ["test_shape"],
    "softmax": ["test_softmax_large_number"],
    "split": ["test_split_zero_size_splits_opset18"],
    "string_concat": ["test_string_concat"],
    "topk": ["test_top_k"],
    "unique": ["test_unique_sorted_with_axis"],
    "where": ["test_where_long_example"],
}


def generate(sample):
    """The cases, and those of the sample that the package does not have."""
    from onnx.backend.test.case import node

    if not sample:
        return node.collect_testcases(None), []
    wanted = {name for names in SAMPLE.values() for name in names}
    for module in SAMPLE:
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    cases = {case.name: case for case in node._NodeTestCases}  # noqa: SLF001 - there is no other way to a part of them
    return [cases[name] for name in sorted(wanted & cases.keys())], sorted(wanted - cases.keys())


def write(case, folder):
    """Writes a case as ONNX's own test data; gives why that cannot be, where it cannot."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    for number, (inputs, outputs) in enumerate(case.data_sets):
        data = folder / f"test_data_set_{number}"
        data.mkdir()
        for kind, specs, values in (("input", case.model.graph.input, inputs), ("output", case.model.graph.output, outputs)):
            for index, (spec, value) in enumerate(zip(specs, values, strict=False)):
                if not spec.type.HasField("tensor_type"):
                    return f"{kind} `{spec.name}` is a {spec.type.WhichOneof('value').removesuffix('_type')}"
                proto = value if isinstance(value, onnx.TensorProto) else onnx.numpy_helper.from_array(np.asarray(value), spec.name)
                proto.name = spec.name
                (data / f"{kind}_{index}.pb").write_bytes(proto.SerializeToString())
    return None


def prepare(folder, sample):
    """Writes the cases once; gives their names with the reason why one cannot be written as tensors."""
    index = folder / "cases.json"
    if not index.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        cases, missing = generate(sample)
        if missing:
            sys.exit(f"error: the onnx package has no cases {', '.join(missing)}")
        index.write_text(json.dumps({case.name: write(case, folder / case.name) for case in cases}))
    return json.loads(index.read_text())


def last(text):
    """What the server said last, or the line that says why with what it was caused by."""
    for line in reversed(text.splitlines()):
        if line.strip().startswith('{"imgserve":"error"'):
            return json.loads(line)["message"]
    lines = [line.strip() for line in text.splitlines() if line.startswith(("error: ", "caused by: "))]
    return ": ".join(line.partition(": ")[2] for line in lines) or text.strip()[-200:]


def judge(name, inexpressible, arguments, layout):
    """What became of a case, and why."""
    folder = arguments.folder / name
    image = f"oci:{layout}:case"
    run = lambda *words: subprocess.run(  # noqa: E731 - said once
        [arguments.imgbuild, "--quiet", *words], cwd=arguments.folder, capture_output=True, text=True, timeout=600, check=False)
    shutil.rmtree(layout, ignore_errors=True)
    built = run("build", f"{name}/model.onnx", "--name", "case", "-o", image)
    if built.returncode == 3:
        return "refused", last(built.stderr)
    if built.returncode != 0:
        return "failed", f"build ended with {built.returncode}: {last(built.stderr)}"
    if inexpressible:
        return "unsupported", inexpressible
    verified = run("verify", image, "--data", name, "--runner", "embedded", "--format", "json")
    if verified.returncode == 0:
        return "passed", ""
    if verified.returncode == 10:
        return "unsupported", last(verified.stderr)
    if verified.returncode != 7:
        return "failed", f"verify ended with {verified.returncode}: {last(verified.stderr)}"
    return "failed", "; ".join(reasons(json.loads(verified.stdout)))


def reasons(report):
    for output in report["outputs"]:
        if output["passed"]:
            continue
        checks = [f"{check['metric']} {check['found']} (limit {check['limit']})" for check in output["checks"] if not check["passed"]]
        yield f"`{output['name']}`: " + ", ".join(output["problems"] + checks + output["diagnosis"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imgbuild", required=True, type=pathlib.Path)
    parser.add_argument("--folder", required=True, type=pathlib.Path)
    parser.add_argument("--lock", type=pathlib.Path, help="a lock of the stack [default: made once]")
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--expect", type=pathlib.Path)
    parser.add_argument("--only", default="", help="part of the cases' names, or `@FILE` with whole ones")
    arguments = parser.parse_args()
    arguments.imgbuild = arguments.imgbuild.resolve()
    arguments.folder = arguments.folder.resolve()
    # Every case runs in the folder of its own.
    for variable in ("IMGBUILD_SERVER", "IMGBUILD_STORE"):
        if variable in os.environ:
            os.environ[variable] = str(pathlib.Path(os.environ[variable]).resolve())
    for program in (arguments.imgbuild, pathlib.Path(os.environ.get("IMGBUILD_SERVER", arguments.imgbuild))):
        if not program.exists():
            sys.exit(f"`{program}` is missing: `make build` builds it")
    cases = prepare(arguments.folder, arguments.sample)
    if arguments.only.startswith("@"):
        names = set(pathlib.Path(arguments.only[1:]).read_text().split())
        cases = {name: why for name, why in cases.items() if name in names}
    else:
        cases = {name: why for name, why in cases.items() if arguments.only in name}
    # Versions are chosen once for all.
    lock = arguments.lock or arguments.folder / "imgbuild.lock"
    if not lock.exists():
        first = arguments.folder / next(iter(cases))
        subprocess.run([arguments.imgbuild, "lock", first / "model.onnx"], check=True, stdout=subprocess.DEVNULL)
        shutil.copyfile(first / "imgbuild.lock", lock)
    for name in cases:
        shutil.copyfile(lock, arguments.folder / name / "imgbuild.lock")
    begun = time.monotonic()
    layouts = queue.SimpleQueue()
    for job in range(arguments.jobs):
        layouts.put(arguments.folder / f"image-{job}")

    def one(case):
        layout = layouts.get()
        try:
            return judge(*case, arguments, layout)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it is this case's failure
            return "failed", f"{type(error).__name__}: {error}"
        finally:
            layouts.put(layout)

    ends = collections.defaultdict(dict)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for (name, _), (end, why) in zip(cases.items(), pool.map(one, cases.items()), strict=True):
            ends[end][name] = why
            if end != "passed":
                print(f"{end} {name}: {why}", flush=True)
    for job in range(arguments.jobs):
        shutil.rmtree(arguments.folder / f"image-{job}", ignore_errors=True)
    known = set()
    if arguments.expect:
        known = {line for line in arguments.expect.read_text().splitlines() if line and not line.startswith("#")}
    wrong = ends["failed"].keys() ^ (known & cases.keys())
    print(f"{len(cases)} cases: " + ", ".join(f"{len(ends[end])} {end}" for end in ("passed", "refused", "unsupported", "failed"))
          + f"; {time.monotonic() - begun:.0f} s")
    if wrong:
        sys.exit(f"not as expected: {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()

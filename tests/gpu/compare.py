#!/usr/bin/env python3
"""Runs models with ONNX Runtime's own CUDA provider and with pruned ones, each in a process of its own, and compares.

    compare.py --right PRUNED --wrong PRUNED-FOR-ANOTHER-GPU --scratch FOLDER MODEL…

Prints a table; ends with 1 where outputs differ, or where the wrong provider does anything but say that it has no code for the GPU.
`--provider CPUExecutionProvider` runs the same without a GPU, to check this script.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

LIBRARY = "libonnxruntime_providers_cuda.so"
CUDA = "CUDAExecutionProvider"


def inputs_of(session):
    """Inputs that are the same in every process; dynamic dimensions are 1."""
    import numpy
    random = numpy.random.default_rng(7)
    kinds = {"tensor(float)": numpy.float32, "tensor(int64)": numpy.int64, "tensor(int32)": numpy.int32, "tensor(bool)": numpy.bool_}
    made = {}
    for each in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in each.shape]
        kind = kinds[each.type]
        made[each.name] = random.standard_normal(shape).astype(kind) if kind is numpy.float32 else random.integers(0, 2, shape).astype(kind)
    return made


def child(model, provider, options, output):
    """Loads a model, runs it, and prints what it took; an exception is printed too, and is no failure of this program."""
    import numpy
    import onnxruntime
    if provider == CUDA and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    try:
        started = time.perf_counter()
        session = onnxruntime.InferenceSession(model, providers=[(provider, options)])
        loaded = time.perf_counter()
        if session.get_providers()[0] != provider:
            raise RuntimeError(f"the session runs on {session.get_providers()}, expected {provider}")
        values = inputs_of(session)
        results = session.run(None, values)
        first = time.perf_counter()
        steady = []
        for _ in range(50):
            before = time.perf_counter()
            session.run(None, values)
            steady.append(time.perf_counter() - before)
        numpy.savez(output, *results)
        figures = {"load": loaded - started, "first": first - loaded, "steady": statistics.median(steady)}
    except Exception as error:
        figures = {"error": str(error)}
    print(json.dumps(figures))


def variant(scratch, name, library):
    """A copy of the installed package with another provider; what is the same is linked."""
    import onnxruntime
    package = pathlib.Path(onnxruntime.__file__).parent
    target = scratch / name
    shutil.rmtree(target, ignore_errors=True)

    def link(source, destination):
        try:
            os.link(source, destination)
        except OSError:
            shutil.copy2(source, destination)
    shutil.copytree(package, target / "onnxruntime", copy_function=link)
    if library:
        place = target / "onnxruntime/capi" / LIBRARY
        place.unlink(missing_ok=True)
        shutil.copy2(library, place)
    return target


def run(path, model, provider, output, options=None):
    """Gives the figures of a child, or how it ended."""
    command = [sys.executable, __file__, "--child", json.dumps([model, provider, options or {}, str(output)])]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": f"ended with {done.returncode}", "crashed": True, "said": done.stderr[-400:]}
    return json.loads(done.stdout.splitlines()[-1])


def largest_difference(one, other):
    import numpy
    with numpy.load(one) as a, numpy.load(other) as b:
        return max(float(numpy.max(numpy.abs(a[name].astype(numpy.float64) - b[name]), initial=0.0)) for name in a.files)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--right")
    parser.add_argument("--wrong")
    parser.add_argument("--scratch", type=pathlib.Path)
    parser.add_argument("--provider", default=CUDA)
    parser.add_argument("--dry-run", action="store_true", help="what it runs on computes nothing: outputs and refusals are not judged")
    parser.add_argument("models", nargs="*")
    arguments = parser.parse_args()
    if arguments.child:
        return child(*json.loads(arguments.child))
    problems = []
    scratch, provider = arguments.scratch, arguments.provider
    paths = {"original": variant(scratch, "original", None), "pruned": variant(scratch, "pruned", arguments.right)}
    print("| model | provider | load ms | first answer ms | steady ms | largest difference |\n|---|---|--:|--:|--:|--:|")
    for model in arguments.models:
        name = pathlib.Path(model).stem
        reference = scratch / f"{name}-original.npz"
        repeat = None
        # The original runs twice: what it says the second time is how exact its own answers are.
        for label, path in [("original", paths["original"]), ("original again", paths["original"]), ("pruned", paths["pruned"])]:
            output = scratch / f"{name}-{label.replace(' ', '-')}.npz"
            figures = run(path, model, provider, output)
            if "error" in figures:
                problems.append(f"{name}, {label}: {figures}")
                continue
            difference = 0.0 if label == "original" else largest_difference(reference, output)
            if label == "original again":
                repeat = difference
            if label == "pruned" and not arguments.dry_run and difference > (repeat or 0.0):
                problems.append(f"{name}: the pruned provider's outputs differ by {difference}, the original's own by {repeat}")
            cells = " | ".join(f"{1000 * figures[key]:.1f}" for key in ("load", "first", "steady"))
            print(f"| {name} | {label} | {cells} | {difference:.3g} |")
    if provider == CUDA:
        wrong = run(variant(scratch, "wrong", arguments.wrong), arguments.models[0], provider, scratch / "wrong.npz")
        print(f"\nWith code for another GPU: {wrong}")
        if arguments.dry_run:
            print("\nnot decided without a GPU: whether a provider for another GPU and a missing cuDNN are refused")
            return finish(problems)
        if wrong.get("crashed") or "no kernel image" not in wrong.get("error", ""):
            problems.append(f"the wrong provider did not say that it has no code for the GPU: {wrong}")
        without = run(paths["pruned"], arguments.models[0], provider, scratch / "without.npz", {"enable_cudnn": "0"})
        print(f"\nWithout cuDNN, a model with convolutions: {without}")
        if "error" not in without or without.get("crashed"):
            problems.append(f"a model with convolutions was not refused without cuDNN: {without}")
    return finish(problems)


def finish(problems):
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Starts the server on a GPU, from folders of libraries or from images, asks it, and compares: outputs, times, and what it says where it
must not start.

    server.py PLAN

PLAN is a JSON list. Each part has `name`, `command` (what starts the server at `port`), `port`, `environment`, and either `expect`,
fields of the error line that it must end with, or `nodes`, the runtime's provider that must have taken nodes. Parts of one `model` are
compared with the first of it. Prints a table; ends with 1 where something is not as it should be. Needs numpy alone.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy

KINDS = {"FP32": numpy.float32, "FP16": numpy.float16, "FP64": numpy.float64, "INT64": numpy.int64, "INT32": numpy.int32, "BOOL": numpy.bool_}
WAIT = 600


class Server:
    """A server that was started, and the lines that it wrote."""

    def __init__(self, part):
        self.port, self.started = part["port"], time.perf_counter()
        environment = {**os.environ, **part.get("environment", {})}
        self.process = subprocess.Popen(part["command"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.lines = []

    def until(self, done):
        """Reads lines until one is as asked for, or there are no more."""
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                continue
            if done(self.lines[-1]):
                return self.lines[-1]
        return None

    def get(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body and json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def ask(server, model):
    """The same inputs for every server of a model; gives the outputs, the first answer's time and the median of 50."""
    random = numpy.random.default_rng(7)
    inputs = []
    for tensor in server.get(f"/v2/models/{model}")["inputs"]:
        shape, kind = [max(size, 1) for size in tensor["shape"]], KINDS[tensor["datatype"]]
        data = random.standard_normal(shape).astype(kind) if numpy.issubdtype(kind, numpy.floating) else random.integers(0, 2, shape)
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": tensor["datatype"], "data": data.ravel().tolist()})
    times = []
    for _ in range(51):
        before = time.perf_counter()
        answer = server.get(f"/v2/models/{model}/infer", {"inputs": inputs})
        times.append(time.perf_counter() - before)
    outputs = {output["name"]: numpy.array(output["data"], numpy.float64) for output in answer["outputs"]}
    return outputs, times[0], statistics.median(times[1:])


def must_end(part, problems):
    server = Server(part)
    error = server.until(lambda line: line["imgserve"] == "error" or line.get("phase") == "ready")
    if error is None or error["imgserve"] != "error" or any(error.get(key) != value for key, value in part["expect"].items()):
        problems.append(f"{part['name']}: expected {part['expect']}, it said {error}")
    print(f"| {part['name']} | ends | | | | {(error or {}).get('message', 'nothing')} |")
    server.stop()


def main():
    problems, first = [], {}
    print("| server | ready s | first answer ms | steady ms | largest difference | |\n|---|--:|--:|--:|--:|---|")
    for part in json.load(open(sys.argv[1], encoding="utf-8")):
        if "expect" in part:
            must_end(part, problems)
            continue
        server = Server(part)
        ready = server.until(lambda line: line["imgserve"] == "error" or line.get("phase") == "ready")
        if ready is None or ready["imgserve"] == "error":
            problems.append(f"{part['name']}: {ready}")
            server.stop()
            continue
        took = time.perf_counter() - server.started
        nodes = next(line for line in server.lines if line.get("phase") == "session").get("nodes") or {}
        if not nodes.get(part["nodes"]):
            problems.append(f"{part['name']}: {part['nodes']} took nothing: {nodes}")
        outputs, answer, steady = ask(server, part["model"])
        server.stop()
        reference = first.setdefault(part["model"], outputs)
        difference = max(float(numpy.max(numpy.abs(outputs[name] - reference[name]), initial=0)) for name in outputs)
        scale = max(float(numpy.max(numpy.abs(values), initial=0)) for values in reference.values())
        if difference > part.get("tolerance", 1e-4) * scale:
            problems.append(f"{part['name']}: its outputs differ by {difference} of {scale}")
        print(f"| {part['name']} | {took:.2f} | {1000 * answer:.1f} | {1000 * steady:.1f} | {difference:.3g} | {nodes} |")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

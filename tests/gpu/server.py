#!/usr/bin/env python3
"""Starts the server on a GPU, from folders of libraries or from images, asks it, and compares: outputs, times, and what it says where it
must not start.

    server.py PLAN [--dry-run]

PLAN is a JSON list. Each part has `name`, `command` (what starts the server at `port`), `port`, `environment`, and either `expect`,
fields of the error line that it must end with, or `nodes`, the runtime's provider that must have taken nodes. Parts of one `model` are
compared with the first of it, and asked in turn. Prints a table; ends with 1 where something is not as it should be. With --dry-run
outputs are not compared: what they are run on computes nothing. Needs numpy alone.
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
# Requests to each server in one turn, and turns.
EACH, ROUNDS = 10, 8


class Server:
    """A server that was started, and the lines that it wrote."""

    def __init__(self, part):
        self.port, self.started = part["port"], time.perf_counter()
        environment = {**os.environ, **part.get("environment", {})}
        self.process = subprocess.Popen(part["command"], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.lines, self.other = [], []

    def until(self, done):
        """Reads lines until one is as asked for, or there are no more."""
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.other.append(line.strip())
                continue
            if done(self.lines[-1]):
                return self.lines[-1]
        return None

    def get(self, path, body=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body and json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return json.load(answer)

    def rest(self):
        """The last of what was no line of the server's log."""
        return " ".join(self.other[-3:])

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)


def inputs_for(server, model):
    """The same inputs for every server of a model, as a request."""
    random = numpy.random.default_rng(7)
    inputs = []
    for tensor in server.get(f"/v2/models/{model}")["inputs"]:
        shape, kind = [max(size, 1) for size in tensor["shape"]], KINDS[tensor["datatype"]]
        data = random.standard_normal(shape).astype(kind) if numpy.issubdtype(kind, numpy.floating) else random.integers(0, 2, shape)
        inputs.append({"name": tensor["name"], "shape": shape, "datatype": tensor["datatype"], "data": data.ravel().tolist()})
    return {"inputs": inputs}


def timed(server, model, request):
    """Asks once; gives the outputs and the seconds."""
    before = time.perf_counter()
    answer = server.get(f"/v2/models/{model}/infer", request)
    took = time.perf_counter() - before
    return {output["name"]: numpy.array(output["data"], numpy.float64) for output in answer["outputs"]}, took


def must_end(part, problems, undecided):
    server = Server(part)
    error = server.until(lambda line: line["imgserve"] == "error" or line.get("phase") == "ready")
    if error is None or error["imgserve"] != "error" or any(error.get(key) != value for key, value in part["expect"].items()):
        (undecided if error and error.get("phase") == "ready" else problems).append(f"{part['name']}: expected {part['expect']}, it said {error}")
    print(f"| {part['name']} | ends | | | | | {(error or {}).get('message', 'nothing')} |")
    server.stop()


def start(part, problems):
    """A server that is ready and has nodes where they belong; `None` where it is not."""
    server = Server(part)
    ready = server.until(lambda line: line["imgserve"] == "error" or line.get("phase") == "ready")
    if ready is None or ready["imgserve"] == "error":
        problems.append(f"{part['name']}: {ready}: {server.rest()}")
        server.stop()
        return None
    server.took = time.perf_counter() - server.started
    server.nodes = next(line for line in server.lines if line.get("phase") == "session").get("nodes") or {}
    if not server.nodes.get(part["nodes"]):
        problems.append(f"{part['name']}: {part['nodes']} took nothing: {server.nodes}")
    return server


def compare(parts, problems, check_outputs):
    """Starts the servers of one model one by one, then asks them in turn, so that a busy machine is busy for all of them."""
    running = [(part, server) for part in parts if (server := start(part, problems))]
    first, times = {}, {id(server): [] for _, server in running}
    try:
        answers = []
        for part, server in running:
            request = inputs_for(server, part["model"])
            outputs, answer = timed(server, part["model"], request)
            first = first or outputs
            answers.append((part, server, request, outputs, answer))
        for _ in range(ROUNDS):
            for part, server, request, _, _ in answers:
                times[id(server)] += [timed(server, part["model"], request)[1] for _ in range(EACH)]
    finally:
        for _, server in running:
            server.stop()
    reference = None
    for part, server, _, outputs, answer in answers:
        difference = max(float(numpy.max(numpy.abs(outputs[name] - first[name]), initial=0)) for name in outputs)
        scale = max(float(numpy.max(numpy.abs(values), initial=0)) for values in first.values())
        if check_outputs and not difference <= part.get("tolerance", 1e-4) * scale:
            problems.append(f"{part['name']}: its outputs differ by {difference} of {scale}")
        steady = statistics.median(times[id(server)])
        reference = reference or steady
        print(f"| {part['name']} | {server.took:.2f} | {1000 * answer:.1f} | {1000 * steady:.2f} | {steady / reference:.3f} | {difference:.3g} | {server.nodes} |")


def main():
    problems, undecided, models, dry_run = [], [], {}, "--dry-run" in sys.argv
    parts = json.load(open(sys.argv[1], encoding="utf-8"))
    for part in parts:
        if "expect" not in part:
            models.setdefault(part["model"], []).append(part)
    print("| server | ready s | first answer ms | steady ms | of the first | largest difference | |\n|---|--:|--:|--:|--:|--:|---|")
    for of_model in models.values():
        compare(of_model, problems, check_outputs=not dry_run)
    for part in parts:
        if "expect" in part:
            must_end(part, problems, undecided if dry_run else problems)
    for each in undecided:
        print(f"not decided without a GPU: {each}")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

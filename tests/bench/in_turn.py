#!/usr/bin/env python3
"""Runs two images of one model in the embedded runner and asks them in turn; prints a Markdown row of medians.

    in_turn.py --requests N --imgbuild PROGRAM MODEL FIRST SECOND
"""

import argparse
import http.client
import json
import math
import signal
import statistics
import struct
import subprocess
import time

SIZES = {"FP32": 4, "INT32": 4, "INT64": 8}


class Served:
    """An image that runs, and a connection to it."""

    def __init__(self, program, image, model):
        self.process = subprocess.Popen([program, "run", image, "--runner", "embedded", "--wait", "300"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = self.process.stdout.readline().strip().removeprefix("http://")
        if not address:
            raise SystemExit(f"{image} does not start")
        self.connection = http.client.HTTPConnection(address, timeout=120)
        self.path = f"/v2/models/{model}"

    def interface(self):
        self.connection.request("GET", self.path)
        return json.loads(self.connection.getresponse().read())

    def ask(self, head, body):
        """Seconds of one answer."""
        before = time.perf_counter()
        headers = {"Inference-Header-Content-Length": str(head), "Content-Type": "application/octet-stream"}
        self.connection.request("POST", self.path + "/infer", body, headers)
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.path} answers {answer.status}: {content.decode(errors='replace')}")
        return time.perf_counter() - before

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def request(interface):
    """A request for batch 1 with binary inputs and outputs: the length of its head, and the whole."""
    tensors, data = [], b""
    for tensor in interface["inputs"]:
        shape = [max(size, 1) for size in tensor["shape"]]
        count = math.prod(shape)
        values = struct.pack(f"<{count}f", *(index % 251 / 250 for index in range(count))) if tensor["datatype"] == "FP32" else bytes(count * SIZES[tensor["datatype"]])
        tensors.append({"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "parameters": {"binary_data_size": len(values)}})
        data += values
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return len(head), head + data


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--imgbuild", required=True)
    parser.add_argument("model")
    parser.add_argument("images", nargs=2)
    arguments = parser.parse_args()
    served = [Served(arguments.imgbuild, image, arguments.model) for image in arguments.images]
    try:
        head, body = request(served[0].interface())
        times = ([], [])
        for number in range(arguments.requests + 10):
            for side, one in enumerate(served):
                took = one.ask(head, body) * 1000
                # The first ten warm up.
                if number >= 10:
                    times[side].append(took)
        cells = [f"{statistics.median(side):.1f} ({min(side):.1f}–{max(side):.1f})" for side in times]
        ratio = statistics.median(times[0]) / statistics.median(times[1])
        print(f"| {arguments.model} | {cells[0]} | {cells[1]} | {ratio:.2f} |")
    finally:
        for one in served:
            one.stop()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Starts images built by optimize.sh through the image's own loader, in turns, and prints medians side by side."""

import json
import pathlib
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.request

import numpy

ANSWERS = 15
INPUTS = {
    "resnet50": lambda random: ("image", "FP32", random.standard_normal((1, 3, 224, 224), numpy.float32)),
    "bert-base": lambda random: ("tokens", "INT64", random.integers(0, 1000, (1, 64))),
}


def unpack(layout):
    """The image's root, unpacked beside its layout once, and its environment."""
    root = layout.with_name(layout.name + ".root")
    subprocess.run(["rm", "-rf", root], check=True)
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    for layer in manifest["layers"]:
        with tarfile.open(blob(layer["digest"])) as tar:
            tar.extractall(root, filter="fully_trusted")
    variables = json.loads(blob(manifest["config"]["digest"]).read_text())["config"]["Env"]
    return root, dict(variable.split("=", 1) for variable in variables)


def request(tensor):
    name, kind, values = tensor
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    head = json.dumps({"inputs": [{"name": name, "datatype": kind, "shape": values.shape, "parameters": {"binary_data_size": len(data)}}], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


def start(root, environment, model):
    """One start: milliseconds of the session, of the first answer and of the median answer after it, and megabytes."""
    loader = next(root.glob("usr/lib/*/ld-linux-*"))
    options = json.loads((root / "etc/imgserve/config.json").read_text())
    options.update(model_path=f"{root.resolve()}{options['model_path']}", address="127.0.0.1", port=0, threads=2)
    config = root / "bench.json"
    config.write_text(json.dumps(options))
    server = subprocess.Popen([loader, "--library-path", loader.parent, root / "usr/bin/imgserve", "--config", config], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        session = address = None
        for line in server.stderr:
            line = json.loads(line)
            if line.get("phase") == "session":
                session = line["took_ms"]
            if line.get("phase") == "ready":
                address = line["address"]
                break
        assert address, f"{root} does not start"
        body, headers = request(INPUTS[model](numpy.random.default_rng(1)))
        times = []
        for _ in range(ANSWERS):
            asked = time.perf_counter()
            url = f"http://{address}/v2/models/{options['model_name']}/infer"
            urllib.request.urlopen(urllib.request.Request(url, body, headers)).read()
            times.append(1000 * (time.perf_counter() - asked))
        status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1000
        return session, times[0], statistics.median(times[1:]), min(times[1:]), peak
    finally:
        server.terminate()
        server.wait()


folder, rounds, models = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
for model in models:
    roots = {layout.name[len(model) + 1 :]: unpack(layout) for layout in sorted(folder.glob(f"{model}-*")) if (layout / "index.json").exists()}
    results = {name: [] for name in roots}
    for _ in range(rounds):
        for name, (root, environment) in roots.items():
            results[name].append(start(root, environment, model))
    print(f"\n{model}, {rounds} starts each\n\n| choice | session ms | first answer ms | answer p50 ms | fastest answer ms | peak RSS MB |\n|---|---|---|---|---|---|")
    for name, starts in results.items():
        columns = list(zip(*starts))
        values = [statistics.median(column) for column in columns]
        values[3] = min(columns[3])
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in values) + " |")

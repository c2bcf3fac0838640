#!/usr/bin/env python3
"""Sends a served SavedModel what it must refuse: a tensor with one dimension more than the model takes, and a signature that is not there.

    python wrong_calls.py HOST:PORT NAME

Exits 1 if either is answered with anything but status 400 and the reason.
"""

import json
import sys
import urllib.error
import urllib.request


def ask(url, body=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body and json.dumps(body).encode()), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


address, name = sys.argv[1:]
base = f"http://{address}"
first = ask(f"{base}/v2/models/{name}")[1]["inputs"][0]
# A size that is fixed, one larger, where there is one; else one dimension more.
shape = [1 if size < 0 else size for size in first["shape"]]
fixed = [at for at, size in enumerate(first["shape"]) if size >= 0]
wrong = shape[:-1] + [shape[-1] + 1] if fixed else shape + [1]
wrong = [min(size, 4) if at < len(shape) - 1 else size for at, size in enumerate(wrong)]
count = 1
for size in wrong:
    count *= size
tensor = {"name": first["name"], "shape": wrong, "datatype": first["datatype"], "data": [0] * count}
status, answer = ask(f"{base}/v2/models/{name}/infer", {"inputs": [tensor]})
shown = "[" + ",".join(map(str, wrong)) + "]"
assert status == 400 and shown in answer["error"], (status, answer)
status, answer = ask(f"{base}/v1/models/{name}:predict", {"signature_name": "none", "instances": [0]})
assert status == 400 and "signature `none` is unknown" in answer["error"], (status, answer)

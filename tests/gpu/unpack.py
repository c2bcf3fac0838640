#!/usr/bin/env python3
"""Unpacks the layers of the one image of an OCI layout into a folder: unpack.py LAYOUT FOLDER"""

import json
import pathlib
import subprocess
import sys

layout, folder = map(pathlib.Path, sys.argv[1:])


def blob(digest):
    return layout / "blobs/sha256" / digest.removeprefix("sha256:")


index = json.loads((layout / "index.json").read_text())
manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
for layer in manifest["layers"]:
    # tar finds out by itself how a layer is compressed.
    subprocess.run(["tar", "-xf", blob(layer["digest"]), "-C", folder], check=True)

#!/usr/bin/env python3
"""Makes test sets of a model with one integer input: verify_data.py MODEL FOLDER ROWS…

Writes FOLDER/ROWS.npz with random inputs and the outputs that ONNX Runtime's own Python interface gives for them, and FOLDER/one/input_0.pb,
the first row. Equal runs write equal files.
"""

import pathlib
import sys

import numpy as np
import onnx.numpy_helper
import onnxruntime

model, folder = sys.argv[1], pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
(spec,) = session.get_inputs()
outputs = [output.name for output in session.get_outputs()]
for rows in map(int, sys.argv[3:]):
    inputs = np.random.default_rng(1).integers(0, 256, (rows, *spec.shape[1:]), np.int32)
    parts = [session.run(outputs, {spec.name: inputs[start:start + 100]}) for start in range(0, rows, 100)]
    expected = {name: np.concatenate(values) for name, values in zip(outputs, zip(*parts, strict=True), strict=True)}
    np.savez(folder / f"{rows}.npz", **{spec.name: inputs}, **expected)
one = folder / "one"
one.mkdir(exist_ok=True)
(one / "input_0.pb").write_bytes(onnx.numpy_helper.from_array(inputs[:1], spec.name).SerializeToString())

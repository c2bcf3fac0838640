#!/usr/bin/env python3
"""Runs a SavedModel in TensorFlow's Python on random inputs and keeps inputs and outputs; needs the environment of venv-tf.

    python tensorflow_reference.py MODEL OUT.npz [--count 16] [--batches 1,3]
    python tensorflow_reference.py --make resnet50 FOLDER

With --make it writes a model instead: `resnet50` of keras.applications with random weights, `keras` for a small one that is
exported in the same way, `strings` for byte strings,
`custom` with an operator that no TensorFlow has, `compiled` with a function that XLA must compile; and for compilation ahead
of time `rows` and `rows-2`, which differ in their weights alone, `fixed` of static shapes, `mixed-rows`, whose rows depend on one
another, `kernels`, for which every part of XLA's runtime is linked, and `uncompilable`, with an operator that XLA does not have.
"""

import argparse
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import numpy
import tensorflow as tf


def load(model):
    """The default signature as a function of arrays by name, and its inputs."""
    try:
        loaded = tf.saved_model.load(model)
        signature = loaded.signatures["serving_default"]
        inputs = signature.structured_input_signature[1]
        specs = {name: (spec.shape.as_list(), spec.dtype.as_numpy_dtype) for name, spec in inputs.items()}
        run = lambda feeds: {k: v.numpy() for k, v in signature(**{k: tf.constant(v) for k, v in feeds.items()}).items()}
        run.keep = loaded
        return run, specs
    except Exception as error:  # Models of old versions of Keras: their graph is sound, their objects are not.
        print(f"note: the graph alone is loaded ({type(error).__name__})", file=sys.stderr)
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], model)
        signature = meta.signature_def["serving_default"]
        shape = lambda info: [dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim]
        specs = {k: (shape(v), tf.dtypes.as_dtype(v.dtype).as_numpy_dtype) for k, v in signature.inputs.items()}
        fetches = {k: v.name for k, v in signature.outputs.items()}
        return lambda feeds: session.run(fetches, {signature.inputs[k].name: v for k, v in feeds.items()}), specs


def reference(model, out, count, batches):
    run, specs = load(model)
    random = numpy.random.default_rng(11)
    arrays = {}
    for index in range(count):
        batch = batches[index % len(batches)]
        feeds = {}
        for name, (shape, kind) in specs.items():
            shape = [batch if size is None else size for size in shape]
            if kind in (object, numpy.object_, bytes):
                feeds[name] = numpy.array([b"\xff\x00bytes %d" % i for i in range(int(numpy.prod(shape)))], dtype=object).reshape(shape)
            elif numpy.issubdtype(kind, numpy.integer):
                feeds[name] = random.integers(0, 100, shape).astype(kind)
            else:
                feeds[name] = random.uniform(-1, 1, shape).astype(kind)
        for name, value in feeds.items():
            arrays[f"{index}/in/{name}"] = value
        for name, value in run(feeds).items():
            arrays[f"{index}/out/{name}"] = value
    numpy.savez(out, **arrays)


def make(kind, folder):
    if kind == "resnet50":
        tf.keras.utils.set_random_seed(5)
        tf.keras.applications.ResNet50(weights=None).export(folder, verbose=False)
        return
    if kind == "keras":
        tf.keras.utils.set_random_seed(5)
        layers = [tf.keras.layers.Dense(256, activation="relu"), tf.keras.layers.Dense(16)]
        tf.keras.Sequential([tf.keras.Input([64]), *layers]).export(folder, verbose=False)
        return
    module = tf.Module()
    if kind == "strings":
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def serve(text):
            return {"joined": tf.strings.join([text, text], separator=b"-"), "length": tf.strings.length(text)}
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def other(text):
            return {"upper_bytes": tf.strings.upper(text)}
        signatures = {"serving_default": serve, "other": other}
    elif kind == "compiled":
        module.weight = tf.Variable(tf.random.stateless_normal([64, 64], [1, 2]))
        @tf.function(jit_compile=True)
        def inner(x):
            return tf.nn.relu(x @ module.weight) @ module.weight
        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="x")])
        def serve(x):
            return {"y": inner(x)}
        signatures = {"serving_default": serve}
    elif kind in ("rows", "rows-2"):
        # Sums and no products of matrices: these bring a large part of XLA's runtime, which takes long to compile.
        module.weight = tf.Variable(tf.random.stateless_normal([16, 8], [1, 2 if kind == "rows" else 3]))
        module.bias = tf.Variable(tf.range(8, dtype=tf.float32))
        @tf.function(input_signature=[tf.TensorSpec([None, 16], tf.float32, name="x"), tf.TensorSpec([None], tf.int32, name="k")])
        def serve(x, k):
            y = tf.reduce_sum(tf.tanh(x[:, :, None] + module.weight), 1) + module.bias
            return {"y/out": y, "k:2": k * 2, "largest": tf.argmax(y, 1)}
        signatures = {"serving_default": serve}
    elif kind == "fixed":
        @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float32, name="x")])
        def serve(x):
            return {"y": tf.reduce_sum(x), "z": tf.sqrt(tf.abs(x))}
        signatures = {"serving_default": serve}
    elif kind == "mixed-rows":
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
        def serve(x):
            return {"y": x - tf.reduce_mean(x, 0)}
        signatures = {"serving_default": serve}
    elif kind == "kernels":
        weight = lambda shape, seed: tf.Variable(tf.random.stateless_normal(shape, [1, seed]) / 4)
        module.plane, module.square = weight([3, 3, 8, 8], 1), weight([256, 256], 2)
        half = lambda value: tf.cast(value, tf.float16)
        @tf.function(input_signature=[tf.TensorSpec([64, 8, 8, 8], tf.float32, name="image"), tf.TensorSpec([64, 256], tf.float32, name="rows")])
        def serve(image, rows):
            double = tf.cast(module.square, tf.float64)
            return {
                "plane": tf.nn.conv2d(image, module.plane, 1, "SAME"),
                "plane16": tf.cast(tf.nn.conv2d(half(image), half(module.plane), 1, "SAME"), tf.float32),
                "product": rows @ module.square,
                "product16": tf.cast(half(rows) @ half(module.square), tf.float32),
                "product64": tf.cast(tf.cast(rows, tf.float64) @ double, tf.float32),
                "whole": tf.cast(rows * 9, tf.int32) @ tf.cast(module.square * 9, tf.int32),
                "sorted": tf.sort(rows),
            }
        signatures = {"serving_default": serve}
    elif kind == "uncompilable":
        @tf.function(input_signature=[tf.TensorSpec([4], tf.float32, name="x")])
        def serve(x):
            return {"length": tf.strings.length(tf.strings.as_string(x))}
        signatures = {"serving_default": serve}
    elif kind == "custom":
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def serve(x):
            return {"y": tf.math.softplus(x)}
        signatures = {"serving_default": serve}
    else:
        sys.exit(f"error: no model is named {kind}")
    module.serve = signatures
    tf.saved_model.save(module, folder, signatures=signatures)
    if kind == "custom":
        path = os.path.join(folder, "saved_model.pb")
        with open(path, "rb") as file:
            content = file.read()
        assert b"Softplus" in content
        # A name of the same length, so that all lengths in the file stay right.
        with open(path, "wb") as file:
            file.write(content.replace(b"Softplus", b"Mystery9"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--batches", default="1,3")
    parser.add_argument("model")
    parser.add_argument("out")
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.model, arguments.out)
    else:
        reference(arguments.model, arguments.out, arguments.count, [int(batch) for batch in arguments.batches.split(",")])


main()

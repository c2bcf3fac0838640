#!/usr/bin/env python3
"""Exports ResNet50 of keras.applications, random weights, as a SavedModel and as ONNX, with 16 inputs.

    both_ways.py FOLDER        writes saved_model/, resnet50.onnx and inputs.npz; needs TensorFlow and tf2onnx
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

folder = pathlib.Path(sys.argv[1])
keras.utils.set_random_seed(1)
model = keras.applications.ResNet50(weights=None)
model.export(folder / "saved_model", verbose=False)
signature = (tf.TensorSpec((None, 224, 224, 3), tf.float32, name="keras_tensor"),)
function = tf.function(lambda keras_tensor: model(keras_tensor, training=False), input_signature=signature)
tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=folder / "resnet50.onnx")
np.savez(folder / "inputs.npz", keras_tensor=np.random.default_rng(1).uniform(0, 1, (16, 224, 224, 3)).astype("f4"))

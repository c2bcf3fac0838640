"""Serves one SavedModel the way people do today: FastAPI, uvicorn, and TensorFlow's Python package."""

import numpy
import tensorflow
from fastapi import FastAPI, HTTPException, Request

TYPES = {tensorflow.float32: ("FP32", numpy.float32), tensorflow.int32: ("INT32", numpy.int32), tensorflow.int64: ("INT64", numpy.int64)}

app = FastAPI()
model = tensorflow.saved_model.load("/app/model")
signature = model.signatures["serving_default"]
inputs = {name: TYPES[spec.dtype][1] for name, spec in signature.structured_input_signature[1].items()}


@app.get("/v2/health/ready")
def ready():
    return {"ready": True}


@app.post("/v2/models/model/infer")
async def infer(request: Request):
    body = await request.json()
    try:
        feed = {t["name"]: tensorflow.constant(numpy.array(t["data"], inputs[t["name"]]).reshape(t["shape"])) for t in body["inputs"]}
    except (KeyError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    results = signature(**feed)
    return {
        "model_name": "model",
        "outputs": [
            {"name": name, "datatype": TYPES[value.dtype][0], "shape": value.shape.as_list(), "data": value.numpy().ravel().tolist()}
            for name, value in sorted(results.items())
        ],
    }

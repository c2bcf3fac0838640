"""Serves one ONNX model the way people do today: FastAPI, uvicorn, and ONNX Runtime's Python package."""

import numpy
import onnxruntime
from fastapi import FastAPI, HTTPException, Request

TYPES = {"tensor(float)": ("FP32", numpy.float32), "tensor(int32)": ("INT32", numpy.int32), "tensor(int64)": ("INT64", numpy.int64)}

app = FastAPI()
session = onnxruntime.InferenceSession("/app/model.onnx", providers=["CPUExecutionProvider"])
inputs = {tensor.name: TYPES[tensor.type][1] for tensor in session.get_inputs()}
outputs = [tensor.name for tensor in session.get_outputs()]
datatypes = [TYPES[tensor.type][0] for tensor in session.get_outputs()]


@app.get("/v2/health/ready")
def ready():
    return {"ready": True}


@app.post("/v2/models/model/infer")
async def infer(request: Request):
    body = await request.json()
    try:
        feed = {t["name"]: numpy.array(t["data"], inputs[t["name"]]).reshape(t["shape"]) for t in body["inputs"]}
    except (KeyError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    results = session.run(outputs, feed)
    return {
        "model_name": "model",
        "outputs": [
            {"name": name, "datatype": datatype, "shape": result.shape, "data": result.ravel().tolist()}
            for name, datatype, result in zip(outputs, datatypes, results)
        ],
    }

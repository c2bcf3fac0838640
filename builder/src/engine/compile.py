"""Compiles an ONNX model to an engine of TensorRT for RTX, for GPUs that need not be there.

Arguments: the folder with the packages, the model, where the engine goes, the largest size of dimensions that the model leaves
open (0: there must be none), and the GPUs, as their compute capabilities times ten. The last line of output is a JSON object.
"""

import ctypes
import json
import pathlib
import sys


def end(kind, **values):
    print(json.dumps({kind: values}))
    sys.exit(0)


site, model, target, largest, *gpus = sys.argv[1:]
sys.path.insert(0, site)
libraries = pathlib.Path(site) / "tensorrt_rtx_libs"
rtx = ctypes.CDLL(str(libraries / "libtensorrt_rtx.so.1"), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(str(libraries / "libtensorrt_onnxparser_rtx.so.1"), mode=ctypes.RTLD_GLOBAL)
import tensorrt_rtx_bindings as trt  # noqa: E402  the libraries have to be there before


class Errors(trt.ILogger):
    """Keeps what goes wrong: the functions themselves say only that it did."""

    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, message):
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.lines.append(" ".join(message.split()))


errors = Errors()
builder = trt.Builder(errors)
network = builder.create_network(0)
parser = trt.OnnxParser(network, errors)
if not parser.parse_from_file(model):
    told = [f"{parser.get_error(index).desc()} (node `{parser.get_error(index).node_name()}`, operator "
            f"{parser.get_error(index).node_operator()})" for index in range(parser.num_errors)]
    end("refused", message="; ".join(told or errors.lines or ["it gives no reason"]))
inputs = [network.get_input(index) for index in range(network.num_inputs)]
outputs = [network.get_output(index) for index in range(network.num_outputs)]
config = builder.create_builder_config()
is_open = [tensor for tensor in inputs if -1 in tuple(tensor.shape)]
if is_open and int(largest) == 0:
    end("open", inputs=[f"`{tensor.name}` is {list(tensor.shape)}" for tensor in is_open])
if is_open:
    profile = builder.create_optimization_profile()
    for tensor in is_open:
        shape = tuple(tensor.shape)
        small = tuple(1 if size < 0 else size for size in shape)
        profile.set_shape(tensor.name, small, small, tuple(int(largest) if size < 0 else size for size in shape))
    config.add_optimization_profile(profile)
config.num_compute_capabilities = len(gpus)
for index, gpu in enumerate(gpus):
    capability = getattr(trt.ComputeCapability, f"SM{gpu}", None)
    if capability is None or not config.set_compute_capability(capability, index):
        end("refused", message=f"this version compiles nothing for sm_{gpu}")
engine = builder.build_serialized_network(network, config)
if engine is None:
    end("refused", message="; ".join(errors.lines) or "it gives no reason")
with open(target, "wb") as out:
    out.write(memoryview(engine))
end("compiled", library=rtx.getInferLibVersion(), inputs=[tensor.name for tensor in inputs],
    outputs=[tensor.name for tensor in outputs])

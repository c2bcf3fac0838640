"""Compiles one signature of a SavedModel ahead of time, by TensorFlow's own `aot_compile_cpu`.

    python -I -S compile.py REQUEST.json

The request names the folder of the packages, the model, its tags and signature, the rows of a batch to compile for (0 for a model
whose shapes are all static), the processor, the output folder, and which of `code` and `weights` are wanted. Written are, for each
number of rows N, `bN.h`, `bN.o` and `bN_constants.o`; the file `weights`, in which each variable begins at a multiple of 64 bytes;
and `facts.json`. A model that cannot be compiled gives `refused.json` and exit status 3.
"""

import json
import os
import re
import sys
import types

with open(sys.argv[1], encoding="utf-8") as file:
    REQUEST = json.load(file)
OUTPUT = REQUEST["output"]
sys.path.insert(0, REQUEST["packages"])
os.environ.update(TF_CPP_MIN_LOG_LEVEL="2", CUDA_VISIBLE_DEVICES="-1", TF_ENABLE_ONEDNN_OPTS="0")
# Read once, when XLA is first used. What `saved_model_aot_compile` sets as well.
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=true --xla_cpu_experimental_ynn_fusion_type= "

# TensorFlow imports it to find clusters in clouds, which nothing here does.
sys.modules["requests"] = types.ModuleType("requests")

import numpy  # noqa: E402
import tensorflow as tf  # noqa: E402
from google.protobuf import text_format  # noqa: E402
from tensorflow.compiler.tf2xla import tf2xla_pb2  # noqa: E402
from tensorflow.python.tools import saved_model_aot_compile as aot  # noqa: E402
from tensorflow.python.tools import saved_model_utils  # noqa: E402

ALIGNMENT = 64
DATATYPES = {1: "FP32", 2: "FP64", 3: "INT32", 4: "UINT8", 5: "INT16", 6: "INT8", 9: "INT64", 10: "BOOL"}
DATATYPES |= {14: "BF16", 17: "UINT16", 19: "FP16", 22: "UINT32", 23: "UINT64"}


class Refused(Exception):
    """The model cannot be compiled; the words are for people."""


NUMBERED = "imgbuild"


def meta_graph(rows):
    """The graph, with the first dimension of inputs pinned where it is dynamic, and its signature."""
    graph = saved_model_utils.get_meta_graph_def(REQUEST["model"], ",".join(REQUEST["tags"]))
    signature = graph.signature_def[REQUEST["signature"]]
    shapes = {}
    for tensor in signature.inputs.values():
        dimensions = tensor.tensor_shape.dim
        if rows and dimensions and dimensions[0].size < 0:
            dimensions[0].size = rows
            shapes[tensor.name.split(":")[0]] = tensor.tensor_shape
    for node in graph.graph_def.node:
        if node.name in shapes and "shape" in node.attr:
            node.attr["shape"].shape.CopyFrom(shapes[node.name])
    return graph, signature


def number(graph, signature):
    """Adds a signature whose names are numbers, since the compiler takes letters and digits alone; gives the names by number."""
    numbered = graph.signature_def[NUMBERED]
    numbered.method_name = signature.method_name
    names = []
    for letter, side, tensors in (("i", numbered.inputs, signature.inputs), ("o", numbered.outputs, signature.outputs)):
        names.append(sorted(tensors))
        for place, name in enumerate(names[-1]):
            side[f"{letter}{place}"].CopyFrom(tensors[name])
    return names


def in_order(items, key):
    """Sorts the entries of a configuration: a map of Protobuf has no order."""
    copies = [type(item).FromString(item.SerializeToString(deterministic=True)) for item in sorted(items, key=key)]
    del items[:]
    items.extend(copies)


def freeze(rows, graph, signature):
    """Gives the files of graph and configuration, the latter, and the names of what goes in and comes out, in its order."""
    inputs, outputs = number(graph, signature)
    variables = os.path.join(REQUEST["model"], "variables", "variables")
    graph_file, config_file = aot.freeze_model(variables, graph, os.path.join(OUTPUT, f"graph{rows}"), NUMBERED, None)
    with open(config_file, encoding="utf-8") as file:
        config = text_format.Parse(file.read(), tf2xla_pb2.Config())
    place = lambda item: int(re.sub(r"\D+", "", item.name))
    in_order(config.feed, place)
    in_order(config.fetch, place)
    in_order(config.variable, lambda item: item.node_name)
    # Inputs that no output depends on are gone.
    feeds, fetches = [inputs[place(item)] for item in config.feed], [outputs[place(item)] for item in config.fetch]
    for at, variable in enumerate(config.variable):
        if not variable.readonly:
            raise Refused(f"it changes the variable `{variable.node_name}` while it runs")
        variable.name = f"v{at}"
    with open(config_file, "w", encoding="utf-8") as file:
        file.write(text_format.MessageToString(config))
    return graph_file, config_file, config, feeds, fetches


def shapes_of(header, kind):
    """The shapes of arguments or results, as the generated header has them."""
    found = re.findall(rf"k{kind}(\d+)Shapes\[\] = \{{([^}}]*)\}}", header)
    return {int(number): [int(size) for size in sizes.replace("\n", " ").split(",") if size.strip()] for number, sizes in found}


def ranks_of(header, kind):
    """Their ranks: an array of a scalar's shape still has an element."""
    return {int(number): int(rank) for number, rank in re.findall(rf"\{{ k{kind}(\d+)Shapes, (\d+) \}}", header)}


def compile_for(rows):
    graph, signature = meta_graph(rows)
    graph_file, config_file, config, feeds, fetches = freeze(rows, graph, signature)
    prefix = os.path.join(OUTPUT, f"b{rows}")
    try:
        aot._pywrap_tfcompile.Compile(
            graph=graph_file,
            config=config_file,
            cpp_class=f"imgbuild::Rows{rows}",
            target_triple=REQUEST["triple"],
            target_cpu=REQUEST["cpu"],
            entry_point=f"imgbuild_rows{rows}",
            out_function_object=prefix + ".o",
            out_header=prefix + ".h",
            out_metadata_object=prefix + "_metadata.o",
            out_constant_buffers_object=prefix + "_constants.o",
            gen_name_to_index=False,
            gen_program_shape=False,
        )
    except Exception as error:
        raise Refused(reason(str(error))) from error
    with open(prefix + ".h", encoding="utf-8") as file:
        header = file.read()

    def tensors(kind, names, types, first=0):
        shapes, ranks = shapes_of(header, kind), ranks_of(header, kind)
        shape = lambda at: shapes[at][: ranks[at]]
        return [
            {"name": name, "datatype": DATATYPES[types[place]], "shape": shape(first + place)} for place, name in enumerate(names)
        ]

    inputs = tensors("Arg", feeds, [item.type for item in config.feed])
    outputs = tensors("Result", fetches, [item.type for item in config.fetch])
    names = [variable.node_name for variable in config.variable]
    variables = tensors("Arg", names, [item.type for item in config.variable], len(feeds))
    return {"rows": rows, "inputs": inputs, "outputs": outputs, "variables": variables}


def reason(message):
    """The one line of a message of TensorFlow's compiler that says what it cannot do."""
    unsupported = re.search(r"unsupported operations when trying to compile graph [^:]*: (.*)", message)
    if unsupported:
        names = sorted(set(re.findall(r"(\w+) \(No registered", unsupported.group(1)))) or [unsupported.group(1)]
        return "XLA cannot compile its operators: " + ", ".join(f"`{name}`" for name in names)
    return "XLA cannot compile it: " + " ".join(message.split())[:600]


def restored(graph):
    """A session of the graph with its variables restored."""
    # Each set of outputs would have the whole graph optimised anew, and each variable is a set.
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        saver = tf.compat.v1.train.import_meta_graph(graph, clear_devices=True)
        if saver is not None:
            saver.restore(session, os.path.join(REQUEST["model"], "variables", "variables"))
    return session


def write_weights(session, names):
    """Writes variables one after the other, never all in memory twice; gives their sizes in bytes."""
    from tensorflow.python.ops import gen_resource_variable_ops as resources

    sizes = []
    with open(os.path.join(OUTPUT, "weights"), "wb") as file, session.graph.as_default():
        nodes = [session.graph.get_operation_by_name(name) for name in names]
        reads = [resources.read_variable_op(node.outputs[0], dtype=node.get_attr("dtype")) for node in nodes]
        for read in reads:
            value = session.run(read)
            value = numpy.ascontiguousarray(value)
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            file.write(value.reshape(-1).view(numpy.uint8).data)
            sizes.append(value.nbytes)
    return sizes


def check_rows(session, signature):
    """Checks on random numbers that a row's answer does not depend on the other rows: then rows may be padded and split."""
    random = numpy.random.default_rng(3)
    feeds, batched = {}, []
    for name, tensor in sorted(signature.inputs.items()):
        shape = [2 if place == 0 and dim.size < 0 else dim.size for place, dim in enumerate(tensor.tensor_shape.dim)]
        kind = tf.dtypes.as_dtype(tensor.dtype).as_numpy_dtype
        whole = numpy.issubdtype(kind, numpy.integer) or kind == numpy.bool_
        feeds[tensor.name] = (random.integers(0, 2, shape) if whole else random.uniform(-1, 1, shape)).astype(kind)
        if tensor.tensor_shape.dim and tensor.tensor_shape.dim[0].size < 0:
            batched.append(tensor.name)
    fetches = {name: tensor.name for name, tensor in signature.outputs.items()}
    both = session.run(fetches, feeds)
    for row in range(2):
        one = session.run(fetches, {k: v[row : row + 1] if k in batched else v for k, v in feeds.items()})
        for name in sorted(fetches):
            expected, found = one[name].astype(numpy.float64), both[name][row : row + 1].astype(numpy.float64)
            scale = float(numpy.max(numpy.abs(expected), initial=0))
            if expected.shape != found.shape or not numpy.allclose(found, expected, 1e-3, 1e-4 * scale + 1e-7, equal_nan=True):
                raise Refused(f"output `{name}` of a row depends on the other rows of its batch, so rows cannot be padded or split")


def main():
    facts = {"variants": [], "weights": None}
    if "code" in REQUEST["wanted"]:
        facts["variants"] = [compile_for(rows) for rows in REQUEST["rows"]]
    names = REQUEST.get("variables") or [item["name"] for item in facts["variants"][0]["variables"]]
    graph, _ = meta_graph(0)
    signature = graph.signature_def[REQUEST["signature"]]
    session = restored(graph)
    if "code" in REQUEST["wanted"] and REQUEST["rows"] != [0]:
        try:
            check_rows(session, signature)
        except tf.errors.OpError as error:
            raise Refused("TensorFlow fails on random rows: " + error.message.splitlines()[0]) from error
    if "weights" in REQUEST["wanted"]:
        facts["weights"] = write_weights(session, names)
    with open(os.path.join(OUTPUT, "facts.json"), "w", encoding="utf-8") as file:
        json.dump(facts, file)


try:
    main()
except Refused as refused:
    with open(os.path.join(OUTPUT, "refused.json"), "w", encoding="utf-8") as file:
        json.dump({"reason": str(refused)}, file)
    sys.exit(3)

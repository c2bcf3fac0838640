#!/usr/bin/env python3
"""Compares what the builder makes of models with the onnx package and with ONNX Runtime.

    python model_judge.py VERDICT_BINARY TABLE FOLDER

VERDICT_BINARY is the builder's example `model_verdict`. FOLDER is where test models are written.
Judged are all models in the onnx package, its node test cases, and small models made here around
opsets, domains, functions and types. For each: operators, inputs, outputs, opsets and initializers
against `onnx.load`, and the verdict against a session of ONNX Runtime. Exits 1 on any difference in
structure, on any false refusal, and on a false acceptance of a kind that is not listed in
`TOLERATED`; the counts are printed.
"""

import collections
import json
import os
import subprocess
import sys
import warnings

import onnx
import onnxruntime
from onnx import TensorProto, helper

warnings.filterwarnings("ignore")
onnxruntime.set_default_logger_severity(4)

# What the runtime refuses for reasons that the builder does not claim to see, by the runtime's words.
TOLERATED = {
    "locale of this machine": ("Failed to construct locale",),
    "value of an attribute": ("Batchwise recurrent operations",),
    "types inside an operator's own body": tuple(
        f"an implementation for {name}(" for name in ("Add", "Cast", "Mul", "Expand", "Div")),
    "types inside an operator's own body, level 2": tuple(f"find kernel for {name}(" for name in ("Cast", "Swish")),
}


def runtime_verdict(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return None
    except Exception as error:  # the binding raises many unrelated types
        return str(error).replace("\n", " ")


# ---------------------------------------------------------------------------------------------
# Structure by the onnx package


def type_name(proto):
    kind = proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        element = getattr(proto, kind).elem_type
        name = TensorProto.DataType.Name(element).lower()
        return ("tensor(" if kind == "tensor_type" else "sparse_tensor(") + name + ")"
    if kind in ("sequence_type", "optional_type"):
        return ("seq(" if kind == "sequence_type" else "optional(") + type_name(getattr(proto, kind).elem_type) + ")"
    if kind == "map_type":
        return f"map({TensorProto.DataType.Name(proto.map_type.key_type).lower()},{type_name(proto.map_type.value_type)})"
    return "unknown"


def shape_of(proto):
    kind = proto.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type") or not getattr(proto, kind).HasField("shape"):
        return None
    sizes = []
    for dim in getattr(proto, kind).shape.dim:
        if dim.HasField("dim_value"):
            sizes.append(dim.dim_value if dim.dim_value >= 0 else None)
        else:
            sizes.append(dim.dim_param or None)
    return sizes


def values(protos):
    return [(v.name, type_name(v.type), shape_of(v.type)) for v in protos]


def expected_structure(model):
    functions = {(f.domain or "ai.onnx", f.name, f.overload): f for f in model.functions}
    operators, called, pending = collections.Counter(), set(), []

    def visit(nodes):
        for node in nodes:
            key = (node.domain or "ai.onnx", node.op_type, node.overload)
            if key in functions:
                if key not in called:
                    called.add(key)
                    pending.append(key)
            else:
                operators[f"{key[0]}:{key[1]}"] += 1
            for attribute in node.attribute:
                for graph in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                    visit(graph.node)

    visit(model.graph.node)
    while pending:
        visit(functions[pending.pop()].node)
    constants = {t.name for t in model.graph.initializer} | {s.values.name for s in model.graph.sparse_initializer}
    return {
        "ir_version": model.ir_version,
        "producer": model.producer_name,
        "opsets": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "operators": dict(operators),
        "node_count": sum(operators.values()),
        "inputs": [v for v in values(model.graph.input) if v[0] not in constants],
        "outputs": values(model.graph.output),
        "top_initializer_bytes": sum(onnx.numpy_helper.to_array(t).nbytes for t in model.graph.initializer
                                     if t.data_type != TensorProto.STRING and t.data_location != TensorProto.EXTERNAL),
    }


def nested_initializers(nodes):
    return any(g.initializer or nested_initializers(g.node) for n in nodes for a in n.attribute
               for g in [a.g] * a.HasField("g") + list(a.graphs))


def found_structure(model):
    def name(value):
        if value["kind"] in ("tensor", "sparse_tensor"):
            return f"{value['kind']}({value['datatype']})"
        if value["kind"] in ("sequence", "optional"):
            return {"sequence": "seq(", "optional": "optional("}[value["kind"]] + name(value["element"]) + ")"
        if value["kind"] == "map":
            return f"map({value['key']},{name(value['value'])})"
        return "unknown"

    content = model["onnx"]
    listed = lambda values: [(v["name"], name(v), v.get("shape")) for v in values]
    return {
        "ir_version": content["ir_version"],
        "producer": content["producer_name"],
        "opsets": content["opsets"],
        "operators": content["operators"],
        "node_count": content["node_count"],
        "inputs": listed(content["inputs"]),
        "outputs": listed(content["outputs"]),
        "top_initializer_bytes": content["initializers"]["inline_bytes"],
    }


# ---------------------------------------------------------------------------------------------
# Models


def special_models():
    """Small models around the rules of opsets, domains, functions, types and nested graphs."""
    T = TensorProto
    made = {}

    def model(nodes, opsets, ir=8, functions=(), type=T.FLOAT, out=None, initializers=()):
        graph = helper.make_graph(
            nodes, "g", [helper.make_tensor_value_info("x", type, [2])],
            [helper.make_tensor_value_info("y", out or type, [2])], initializer=list(initializers))
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets], functions=list(functions))
        made.ir_version = ir
        return made

    def node(op, domain="", inputs=("x",), outputs=("y",), **attributes):
        return helper.make_node(op, list(inputs), list(outputs), name=f"n_{op}_{outputs[0]}", domain=domain, **attributes)

    def function(name, nodes, opsets, domain="acme", overload=""):
        f = helper.make_function(domain, name, ["x"], ["y"], nodes, [helper.make_opsetid(d, v) for d, v in opsets])
        if overload:
            f.overload = overload
        return f

    def branch(inner, name):
        return helper.make_graph([inner], name, [], [helper.make_tensor_value_info(inner.output[0], T.FLOAT, [2])])

    def conditional(then, other):
        return node("If", inputs=("c",), then_branch=branch(then, "t"), else_branch=branch(other, "e"))

    condition = [helper.make_tensor("c", T.BOOL, [], [True])]
    relu = node("Relu")
    own = [("", 13), ("acme", 1)]
    for opset in (1, 5, 6, 7, 13, 26, 28, 29, 99):
        made[f"opset {opset}"] = model([relu], [("", opset)])
    for ir in (3, 8, 13, 14, 15, 99):
        made[f"ir {ir}"] = model([relu], [("", 13)], ir=ir)
    for domain, version in (("ai.onnx.ml", 5), ("ai.onnx.ml", 6), ("com.microsoft", 1), ("com.microsoft", 2), ("acme", 7),
                            ("ai.onnx.training", 1), ("ai.onnx.preview.training", 2), ("ai.onnx", 13), ("ai.onnx", 40)):
        made[f"import {domain} {version}"] = model([relu], [("", 13), (domain, version)])
    made["only ml imported"] = model([relu], [("ai.onnx.ml", 1)])
    made["onnx by its long name"] = model([node("Relu", "ai.onnx")], [("ai.onnx", 13)])
    made["twice, the last one lower"] = model([relu], [("", 16), ("", 13)])
    made["twice, the first one too new"] = model([relu], [("", 99), ("", 13)])
    made["twice, removed by the last"] = model([node("Upsample", inputs=("x", "x"))], [("", 9), ("", 13)])
    made["two nodes of one name"] = model(
        [helper.make_node("Relu", ["x"], ["z"], name="n"), helper.make_node("Relu", ["z"], ["y"], name="n")], [("", 13)])
    made["constants of one name"] = model(
        [helper.make_node("Constant", [], [o], name="n", value_floats=[1.0, 2.0]) for o in "ab"]
        + [helper.make_node("Sum", ["x", "a", "b"], ["y"], name="n")], [("", 13)])
    same = helper.make_node("Relu", ["x"], ["a"], name="n")
    made["one name inside and outside"] = model(
        [helper.make_node("If", ["c"], ["y"], name="n", then_branch=branch(same, "t"),
                          else_branch=branch(helper.make_node("Relu", ["x"], ["b"], name="n"), "e"))],
        [("", 13)], initializers=condition)
    made["unknown operator"] = model([node("Frobnicate")], [("", 13)])
    made["unknown domain"] = model([node("Foo", "acme")], own)
    made["unknown domain, no import"] = model([node("Foo", "acme")], [("", 13)])
    made["not yet"] = model([node("HardSwish")], [("", 13)])
    made["by now"] = model([node("HardSwish")], [("", 14)])
    made["removed"] = model([node("Scatter", inputs=("x", "x", "x"))], [("", 13)])
    made["no kernel"] = model([node("Softplus")], [("", 1)])
    made["microsoft without import"] = model([node("Gelu", "com.microsoft")], [("", 13)])
    made["microsoft on CUDA only"] = model([node("BiasAdd", "com.microsoft", ("x", "x", "x"))], [("", 13), ("com.microsoft", 1)])
    made["microsoft unknown"] = model([node("Nonesuch", "com.microsoft")], [("", 13), ("com.microsoft", 1)])
    made["nested unknown"] = model([conditional(node("Relu", outputs=("a",)), node("Frob", outputs=("b",)))], [("", 13)], initializers=condition)
    made["nested known"] = model([conditional(node("Relu", outputs=("a",)), node("Elu", outputs=("b",)))], [("", 13)], initializers=condition)
    made["function"] = model([node("F", "acme")], own, functions=[function("F", [relu], [("", 13)])])
    made["function in a branch"] = model([conditional(node("F", "acme", outputs=("a",)), node("Relu", outputs=("b",)))], own,
                                         functions=[function("F", [relu], [("", 13)])], initializers=condition)
    made["function, domain not imported"] = model([node("F", "acme")], [("", 13)], functions=[function("F", [relu], [("", 13)])])
    made["function, own opset newer"] = model([node("F", "acme")], own, functions=[function("F", [node("HardSwish")], [("", 14)])])
    made["function, own opset too new"] = model([node("F", "acme")], own, functions=[function("F", [relu], [("", 99)])])
    made["function without imports"] = model([node("F", "acme")], own, functions=[function("F", [relu], [])])
    made["function with unknown operator"] = model([node("F", "acme")], own, functions=[function("F", [node("Frob")], [("", 13)])])
    made["function, unused, unknown operator"] = model([relu], own, functions=[function("F", [node("Frob")], [("", 13)])])
    made["function, unused, no imports"] = model([relu], own, functions=[function("F", [relu], [])])
    made["function named like an operator"] = model([relu], [("", 13)], functions=[function("Relu", [node("Frob")], [("", 13)], "")])
    made["function in ONNX's domain"] = model([node("Frob")], [("", 13)], functions=[function("Frob", [relu], [("", 13)], "")])
    made["function in microsoft's domain"] = model([node("Frob", "com.microsoft")], [("", 13), ("com.microsoft", 1)],
                                                   functions=[function("Frob", [relu], [("", 13)], "com.microsoft")])
    made["function calls function"] = model([node("F", "acme")], own, functions=[
        function("F", [node("G", "acme")], own), function("G", [relu], [("", 13)])])
    made["function calls itself"] = model([node("F", "acme")], own, functions=[function("F", [node("F", "acme")], own)])
    made["functions call each other"] = model([node("F", "acme")], own, functions=[
        function("F", [node("G", "acme")], own), function("G", [node("F", "acme")], own)])
    made["function calls an unimported one"] = model([node("F", "acme")], own, functions=[
        function("F", [node("G", "other")], [("", 13), ("other", 1)]), function("G", [relu], [("", 13)], "other")])
    made["function with custom operator"] = model([node("F", "acme")], own, functions=[
        function("F", [node("Foo", "corp")], [("", 13), ("corp", 9)])])
    made["two functions of one name"] = model([node("F", "acme")], own, functions=[function("F", [relu], [("", 13)])] * 2)
    call = node("F", "acme")
    call.overload = "a"
    made["overload"] = model([call], own, ir=10, functions=[function("F", [relu], [("", 13)], overload="a")])
    made["other overload"] = model([call], own, ir=10, functions=[function("F", [relu], [("", 13)], overload="b")])
    for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "INT16", "INT32", "INT64", "UINT8", "STRING", "BOOL"):
        type = getattr(T, name)
        for op in ("Relu", "Identity", "Dropout", "Abs", "Neg", "Sqrt", "Sign", "Softmax"):
            made[f"{op} of {name}"] = model([node(op)], [("", 22)], type=type)
        made[f"Max of {name}"] = model([node("Max", inputs=("x", "x"))], [("", 22)], type=type)
        made[f"Cast from {name}"] = model([node("Cast", to=T.FLOAT)], [("", 22)], type=type, out=T.FLOAT)
        made[f"Max in the middle of {name}"] = model(
            [node("Cast", outputs=("i",), to=type), node("Max", inputs=("i", "i"), outputs=("j",)),
             node("Cast", inputs=("j",), to=T.FLOAT)], [("", 22)])
        made[f"Relu behind a Mul of {name}"] = model(
            [node("Mul", inputs=("x", "x"), outputs=("m",)), node("Relu", inputs=("m",), outputs=("r",)),
             node("Cast", inputs=("r",), to=T.FLOAT)], [("", 22)], type=type, out=T.FLOAT)
    return made


def collect(folder):
    """Writes or finds all models; returns paths by group."""
    groups = collections.defaultdict(list)
    data = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data")
    for parent, _, files in sorted(os.walk(data)):
        groups["models of the package"] += [os.path.join(parent, f) for f in sorted(files) if f.endswith(".onnx")]

    from onnx.backend.test.case.node import collect_testcases

    def write(group, name, model):
        target = os.path.join(folder, group.replace(" ", "-"))
        os.makedirs(target, exist_ok=True)
        path = os.path.join(target, "".join(c if c.isalnum() or c in "_-" else "_" for c in name) + ".onnx")
        with open(path, "wb") as file:
            file.write(model.SerializeToString())
        groups[group].append(path)

    for name, model in special_models().items():
        write("special models", name, model)
    for case in collect_testcases(None):
        if case.model is not None:
            write("node test cases", case.name, case.model)
    return groups


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    binary, table, folder = sys.argv[1:]
    failed = False
    for group, paths in collect(folder).items():
        ran = subprocess.run([binary, table], input="\n".join(paths) + "\n", capture_output=True, text=True, check=True)
        lines = [json.loads(line) for line in ran.stdout.splitlines()]
        if [line["path"] for line in lines] != paths:
            sys.exit("the binary did not answer for every model")
        counts, structures, tolerated = collections.Counter(), 0, collections.Counter()
        for line in lines:
            path = line["path"]
            if "model" in line:
                model = onnx.load(path, load_external_data=False)
                expected, found = expected_structure(model), found_structure(line["model"])
                if nested_initializers(model.graph.node) or model.graph.sparse_initializer:
                    expected.pop("top_initializer_bytes")
                    found.pop("top_initializer_bytes")
                structures += 1
                for key in expected:
                    if expected[key] != found[key]:
                        failed = True
                        print(f"STRUCTURE {path}: {key}: onnx {expected[key]} builder {found[key]}")
            complaint = runtime_verdict(path)
            accepted = line["stage"] == "accepted"
            if accepted and complaint is None:
                counts["both accept"] += 1
            elif not accepted and complaint is not None:
                counts["both refuse"] += 1
            elif accepted:
                counts["false acceptances"] += 1
                kind = next((kind for kind, words in TOLERATED.items() if any(word in complaint for word in words)), None)
                tolerated[kind] += 1
                print(f"false acceptance ({kind}): {os.path.basename(path)}: {complaint[:200]}")
                failed |= kind is None
            else:
                counts["FALSE REFUSALS"] += 1
                failed = True
                print(f"FALSE REFUSAL {path}: {line['error']}")
        print(f"{group}: {len(paths)} models, {structures} structures compared, "
              + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    return failed


if __name__ == "__main__":
    sys.exit(main())

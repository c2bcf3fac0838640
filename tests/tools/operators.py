#!/usr/bin/env python3
"""Writes the operator table of an ONNX Runtime release, read from the release itself.

    python operators.py OUT.json        writes the table of the installed onnxruntime
    python operators.py --check FILE    exits 1 if FILE is not what would be written
    python operators.py OUT.json --provider CUDAExecutionProvider --beside CPU.json
                                        writes the kernels of another provider of the same package; CPU.json is its table for
                                        the CPU. Needs no GPU but NVIDIA's libraries, or stand-ins (tests/gpu/fake_cuda.py).

Everything comes from the installed package: schemas and kernels from its registries, the highest
operator-set and IR versions from sessions that it accepts or refuses. Where the registries alone
would say "no kernel", a session with one such node is tried as well, because the runtime inlines
function bodies and folds some operators away; what it accepts is not left out of the table.
The format is described in `builder/src/model/operators.rs`.
"""

import argparse
import collections
import json
import platform
import sys
import warnings

import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

PROVIDER = "CPUExecutionProvider"
OPEN_END = 2**31 - 1
CANDIDATE_DOMAINS = [
    "", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training",
    "com.microsoft", "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc",
    "com.microsoft.mlfeaturizers", "com.microsoft.dml", "com.microsoft.extensions",
    "org.pytorch.aten", "ai.onnx.contrib", "com.xilinx", "com.qti.aisw", "com.nvidia",
]

onnxruntime.set_default_logger_severity(4)
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.intra_op_num_threads = 1


def verdict(model):
    """Returns "ok", "no kernel", or the runtime's other complaint about a model."""
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), OPTIONS, providers=[PROVIDER])
        return "ok"
    except Exception as error:  # the binding raises many unrelated types
        text = str(error)
        if "NOT_IMPLEMENTED" in text:
            return "no kernel"
        return text


def relu_model(opsets, ir_version=8, functions=(), node=None):
    graph = helper.make_graph(
        [node or helper.make_node("Relu", ["x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])
    model = helper.make_model(
        graph, functions=list(functions),
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets])
    model.ir_version = ir_version
    return model


def highest(accepts, limit):
    """Returns the highest number up to `limit` that is accepted, or None if all of them are."""
    if accepts(limit):
        return None
    return max((n for n in range(limit) if accepts(n)), default=0)


def max_opset(domain):
    if domain == "":
        return highest(lambda n: verdict(relu_model([("", n)])) == "ok", 200)
    return highest(lambda n: verdict(relu_model([("", 13), (domain, n)])) == "ok", 200)


def functions_resolve(domain):
    """Whether a model's own function may define a new operator in a domain."""
    function = helper.make_function(
        domain, "ImgbuildProbe", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
        [helper.make_opsetid("", 13)])
    node = helper.make_node("ImgbuildProbe", ["x"], ["y"], domain=domain)
    opsets = [("", 13)] + ([(domain, 1)] if domain else [])
    return verdict(relu_model(opsets, functions=[function], node=node)) == "ok"


# ---------------------------------------------------------------------------------------------
# Kernels that fit a schema


def kernel_fits(kernel, since):
    """The runtime's rule: an open-ended kernel serves only the version that it starts with."""
    start, end = kernel.version_range
    return start == since or (start < since and end != OPEN_END and end >= since)


class Schema:
    """One version of an operator: labels of its parameters and the kernels that serve it."""

    def __init__(self, definition, kernels):
        self.definition = definition
        self.domain, self.name, self.since = definition.domain, definition.name, definition.since_version
        self.deprecated = bool(definition.deprecated)
        fitting = [k for k in kernels if kernel_fits(k, self.since)]
        constrained = {name for k in fitting for name in k.type_constraints}
        self.inputs = [self.label(p, constrained) for p in definition.inputs]
        self.outputs = [self.label(p, constrained) for p in definition.outputs]
        labels = {label.rstrip("*") for label in self.inputs + self.outputs}
        self.kernels = merge([
            {name: frozenset(types) for name, types in k.type_constraints.items() if name in labels}
            for k in fitting])
        self.function = False
        self.until = None
        self.types = {}
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in definition.type_constraints}
        for parameter, label in zip(list(definition.inputs) + list(definition.outputs), self.inputs + self.outputs):
            name = label.rstrip("*")
            if name:
                types = allowed.get(parameter.typeStr) or {parameter.typeStr}
                self.types[name] = self.types.get(name, types) & types

    @staticmethod
    def label(parameter, constrained):
        variadic = parameter.option == state.schemadef.OpSchema.FormalParameterOption.Variadic
        if variadic and not parameter.isHomogeneous:
            return "*"
        # Kernels name a constraint by the parameter's type variable or by the parameter itself.
        name = parameter.name if parameter.name in constrained and parameter.typeStr not in constrained else parameter.typeStr
        return name + ("*" if variadic else "")


def merge(kernels):
    """Joins kernels that differ in the types of one label only, until none do."""
    kernels = [dict(k) for k in kernels]
    merged = True
    while merged:
        merged = False
        for i, left in enumerate(kernels):
            for j in range(i + 1, len(kernels)):
                right = kernels[j]
                if left.keys() != right.keys():
                    continue
                different = [name for name in left if left[name] != right[name]]
                if len(different) <= 1:
                    for name in different:
                        left[name] = left[name] | right[name]
                    del kernels[j]
                    merged = True
                    break
            if merged:
                break
    return kernels


# ---------------------------------------------------------------------------------------------
# Sessions with one node


ELEMENTS = {
    "tensor(" + name + ")": getattr(TensorProto, number) for name, number in {
        "float": "FLOAT", "uint8": "UINT8", "int8": "INT8", "uint16": "UINT16", "int16": "INT16",
        "int32": "INT32", "int64": "INT64", "string": "STRING", "bool": "BOOL", "float16": "FLOAT16",
        "double": "DOUBLE", "uint32": "UINT32", "uint64": "UINT64", "bfloat16": "BFLOAT16",
        "complex64": "COMPLEX64", "complex128": "COMPLEX128",
        "float8e4m3fn": "FLOAT8E4M3FN", "float8e4m3fnuz": "FLOAT8E4M3FNUZ",
        "float8e5m2": "FLOAT8E5M2", "float8e5m2fnuz": "FLOAT8E5M2FNUZ",
        "float8e8m0": "FLOAT8E8M0", "float4e2m1": "FLOAT4E2M1",
        "uint4": "UINT4", "int4": "INT4", "uint2": "UINT2", "int2": "INT2",
    }.items() if hasattr(TensorProto, number)
}


def type_proto(text, shape=None):
    if text.startswith("seq("):
        inner = type_proto(text[4:-1], shape)
        return inner and helper.make_sequence_type_proto(inner)
    if text.startswith("optional("):
        inner = type_proto(text[9:-1], shape)
        return inner and helper.make_optional_type_proto(inner)
    if text not in ELEMENTS:
        return None
    return helper.make_tensor_type_proto(ELEMENTS[text], shape)


def attribute_value(attribute, types):
    kind = attribute.type
    kinds = state.schemadef.OpSchema.AttrType
    if attribute.name in ("to", "dtype"):
        return next((ELEMENTS[t] for t in types.values() if t in ELEMENTS), TensorProto.FLOAT)
    return {
        kinds.INT: 1, kinds.FLOAT: 1.0, kinds.STRING: "a", kinds.INTS: [1], kinds.FLOATS: [1.0], kinds.STRINGS: ["a"],
        kinds.TENSOR: helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]),
    }.get(kind)


def single_node(schema, types, opset, shape=None):
    """A model with one node of the given types (label -> type), or None if it cannot be made."""
    definition = schema.definition
    attributes = {}
    for name, attribute in definition.attributes.items():
        if attribute.required:
            value = attribute_value(attribute, types)
            if value is None:
                return None
            attributes[name] = value
    if (schema.domain, schema.name) == ("", "Constant"):
        attributes["value"] = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])

    def values(parameters, labels, minimum, prefix):
        made = []
        for index in range(max(minimum, 1 if prefix == "o" else 0)):
            position = min(index, len(labels) - 1)
            if position < 0:
                break
            label = labels[position].rstrip("*")
            proto = type_proto(types.get(label, "tensor(float)"), shape)
            if proto is None:
                return None
            made.append(helper.make_value_info(f"{prefix}{index}", proto))
        return made

    inputs = values(definition.inputs, schema.inputs, definition.min_input, "i")
    outputs = values(definition.outputs, schema.outputs, definition.min_output, "o")
    if inputs is None or outputs is None:
        return None
    node = helper.make_node(
        schema.name, [v.name for v in inputs], [v.name for v in outputs], domain=schema.domain, **attributes)
    graph = helper.make_graph([node], "g", inputs, outputs)
    imports = {"": opset if schema.domain == "" else 21, schema.domain: opset}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in imports.items()])
    model.ir_version = 10
    return model


def assignments(schema):
    """Types for every label: floats where they are allowed, then each other type of each label."""
    first = {}
    for label, allowed in schema.types.items():
        usable = [t for t in sorted(allowed) if type_proto(t)]
        if not usable:
            return
        first[label] = "tensor(float)" if "tensor(float)" in usable else usable[0]
    yield first
    for label, allowed in schema.types.items():
        for other in sorted(allowed):
            if type_proto(other) and other != first[label]:
                yield {**first, label: other}


def covered(schema, types):
    """Whether some kernel takes these types; the runtime casts float16 to float by itself."""
    def fits(kernel):
        return all(
            types[label] in allowed or (types[label] == "tensor(float16)" and "tensor(float)" in allowed)
            for label, allowed in kernel.items() if label in types)
    return any(fits(kernel) for kernel in schema.kernels)


def has_body(schema):
    """Whether ONNX defines the operator as a function; None for operators that are not ONNX's."""
    try:
        known = onnx.defs.get_schema(schema.name, schema.since, schema.domain)
    except onnx.defs.SchemaError:
        return None
    if known.since_version != schema.since:
        return None
    return "fixed" if known.has_function else "of the node" if known.has_context_dependent_function else ""


def attempt(schema, types, opset, shapes):
    """The verdict on one node; a body may be chosen by the rank of the inputs, so several are tried."""
    results = []
    for shape in shapes:
        model = single_node(schema, types, opset, shape)
        results.append(verdict(model) if model else "cannot be tried")
        if results[-1] == "ok":
            return "ok"
    return "no kernel" if "no kernel" in results else results[0]


def settle(schema, last_opset, notes, examples):
    """Tries what the kernels do not cover, and adds to the schema what the runtime manages all the same."""
    if schema.deprecated:
        return
    body = has_body(schema)
    refused, accepted, unknown = [], [], []
    for types in assignments(schema):
        if covered(schema, types):
            continue
        result = attempt(schema, types, schema.since, [None, [2], [1, 2, 2], [1, 2, 2, 2]] if body else [None])
        (accepted if result == "ok" else refused if result == "no kernel" else unknown).append((types, result))
    note = lambda *words: notes.append((schema.domain, schema.name, schema.since, *words))
    if schema.kernels:
        if accepted:
            # One type was varied at a time; any combination of what was accepted is let through.
            labels = set.intersection(*(set(kernel) for kernel in schema.kernels)) & set(schema.types)
            schema.kernels = merge(schema.kernels + [{
                label: frozenset.union(
                    *(kernel[label] for kernel in schema.kernels), frozenset(types[label] for types, _ in accepted))
                for label in labels}])
            note("accepted beside its kernels:", *sorted({t for types, _ in accepted for t in types.values()}))
    elif accepted:
        schema.function = True
        # A body is valid only up to the opset that changes one of the operators in it.
        types = accepted[0][0]
        for opset in range(schema.since + 1, last_opset + 1):
            if attempt(schema, types, opset, [None, [2]]) == "no kernel":
                schema.until = opset - 1
                note("accepted up to opset", schema.until)
                break
    elif body == "of the node" or (body is None and not refused):
        # Bodies that depend on shapes and attributes are seldom hit by a guess: ONNX's own examples
        # decide, and without any the operator gets the benefit of the doubt.
        tried = examples.get((schema.domain, schema.name, schema.since), [])
        schema.function = "ok" in tried or "no kernel" not in tried
        note("by example:" if tried else "never tried with success", *sorted(set(tried)), unknown[0][1][:100] if unknown else "")
    elif body is not None and unknown:
        note("no kernel and no body, though never tried with success", unknown[0][1][:100])
    elif body:
        note("its body was never accepted")


def verdicts_of_examples(definitions):
    """What the runtime says of ONNX's own test cases with one node, by operator and version."""
    from onnx.backend.test.case.node import collect_testcases

    warnings.filterwarnings("ignore")
    examples = collections.defaultdict(list)
    for case in collect_testcases(None):
        if case.model is None or len(case.model.graph.node) != 1:
            continue
        node = case.model.graph.node[0]
        opset = next((o.version for o in case.model.opset_import if o.domain == node.domain), 0)
        versions = [d.since_version for d in definitions.get((node.domain, node.op_type), []) if d.since_version <= opset]
        if versions:
            examples[node.domain, node.op_type, max(versions)].append(verdict(case.model))
    return examples


def build(provider=PROVIDER, beside=None):
    kernels = collections.defaultdict(list)
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == provider:
            kernels[kernel.domain, kernel.op_name].append(kernel)
    definitions = collections.defaultdict(list)
    for definition in state.get_all_operator_schema():
        definitions[definition.domain, definition.name].append(definition)
    limits = {domain: max_opset(domain) for domain in {*CANDIDATE_DOMAINS, *(d for d, _ in definitions)}}
    limits = {domain: limit for domain, limit in limits.items() if limit is not None}
    examples = {} if beside else verdicts_of_examples(definitions)
    notes = []
    type_sets = {}
    domains = {}
    for domain, limit in sorted(limits.items()):
        operators = {}
        for (owner, name), versions in sorted(definitions.items()):
            if owner != domain:
                continue
            entries = {}
            versions = sorted(versions, key=lambda d: d.since_version)
            for definition, following in zip(versions, versions[1:] + [None]):
                schema = Schema(definition, kernels[domain, name])
                if beside:
                    # What the CPU runs by a body or by folding is neither this provider's nor the CPU's.
                    known = beside["domains"].get(domain or "ai.onnx", {"operators": {}})["operators"].get(name, {})
                    schema.function = not schema.kernels and known.get(str(schema.since), {}).get("function", False)
                else:
                    settle(schema, following.since_version - 1 if following else limit, notes, examples)
                entry = {}
                if schema.deprecated:
                    entry["deprecated"] = True
                elif schema.function:
                    entry["function"] = True
                    if schema.until:
                        entry["until"] = schema.until
                elif schema.kernels:
                    entry["inputs"] = schema.inputs
                    entry["outputs"] = schema.outputs
                    entry["kernels"] = [
                        {label: type_sets.setdefault(tuple(sorted(types)), len(type_sets)) for label, types in sorted(k.items())}
                        for k in schema.kernels]
                entries[str(schema.since)] = entry
            operators[name] = entries
        domains[domain or "ai.onnx"] = {
            "max_opset": limit, "functions": functions_resolve(domain), "operators": operators}
    table = {
        "format": 1,
        "runtime": "onnxruntime",
        "version": onnxruntime.__version__,
        "provider": provider,
        "platform": {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[platform.machine()],
        "max_ir_version": highest(lambda n: verdict(relu_model([("", 13)], n)) == "ok", 200),
        "type_sets": [list(types) for types in type_sets],
        "domains": domains,
    }
    return table, notes


def text_of(table):
    """JSON with one operator a line: compact, and readable as a difference between two releases."""
    dump = lambda value: json.dumps(value, separators=(",", ":"))
    lines = ["{"]
    for key in ("format", "runtime", "version", "provider", "platform", "max_ir_version"):
        lines.append(f"{dump(key)}:{dump(table[key])},")
    lines.append('"type_sets":[')
    lines.append(",\n".join(dump(types) for types in table["type_sets"]))
    lines.append('],\n"domains":{')
    parts = []
    for domain, content in table["domains"].items():
        head = f'{dump(domain)}:{{"max_opset":{content["max_opset"]},"functions":{dump(content["functions"])},"operators":{{'
        body = ",\n".join(f"{dump(name)}:{dump(entries)}" for name, entries in content["operators"].items())
        parts.append(head + ("\n" + body + "\n" if body else "") + "}}")
    lines.append(",\n".join(parts))
    lines.append("}}")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--notes", action="store_true", help="print what only a session could settle")
    parser.add_argument("--provider", default=PROVIDER)
    parser.add_argument("--beside", metavar="TABLE", help="the CPU's table, where another provider's is written")
    arguments = parser.parse_args()
    beside = None
    if arguments.beside:
        with open(arguments.beside, encoding="utf-8") as stored:
            beside = json.load(stored)
    table, notes = build(arguments.provider, beside)
    text = text_of(table)
    if arguments.notes:
        for note in notes:
            print(*note, file=sys.stderr)
    if arguments.check:
        with open(arguments.file, encoding="utf-8") as stored:
            if stored.read() != text:
                print(f"{arguments.file} is not the table of onnxruntime {onnxruntime.__version__}", file=sys.stderr)
                return 1
        return 0
    with open(arguments.file, "w", encoding="utf-8") as out:
        out.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Judges files for pipelines and clusters by the schemas and client models of the systems that read them.

    python judge_templates.py FOLDER      with NAME.yaml for each template

Kubernetes: the API's JSON schemas (kubernetes-validate, strict). GitHub, GitLab: the schemas that check-jsonschema ships. Argo: hera's
models. Tekton and KServe: the classes of their Python clients, which name every field, its type, and which must be there; Tekton's
are those of v1beta1. Each judge must also refuse the same document with a field that does not exist.
"""

import copy
import functools
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import types

import kubernetes_validate
import yaml

CHECKS = {"github-action": "vendor.github-actions", "github-workflow": "vendor.github-workflows", "gitlab": "vendor.gitlab-ci"}
PRIMITIVES = {"str": str, "int": int, "bool": bool, "float": (int, float)}


class Refused(Exception):
    pass


def by_schema(schema, document):
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        yaml.safe_dump(document, file, sort_keys=False)
        file.flush()
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file.name]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Refused(done.stdout + done.stderr)


def by_kubernetes(document):
    try:
        kubernetes_validate.validate(document, "1.30", strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Refused(str(error)) from error


def by_argo(document):
    from hera.workflows.models import Workflow
    try:
        kept = Workflow.model_validate(document).model_dump(by_alias=True, exclude_unset=True)
    except ValueError as error:
        raise Refused(str(error)) from error
    # The models pass over what they do not know: whatever does not come back is unknown to them.
    lost(document, kept, "")


def lost(given, kept, path):
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(kept, dict) or key not in kept:
                raise Refused(f"{path} has no {key}")
            lost(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list):
        kept = kept if isinstance(kept, list) else getattr(kept, "root", kept)
        for index, (value, other) in enumerate(zip(given, kept, strict=True)):
            lost(value, other, f"{path}[{index}]")


@functools.cache
def models_of(package):
    """The generated classes of a client, without the rest of it and what that needs."""
    folder = importlib.util.find_spec(package).submodule_search_locations
    stub = types.ModuleType(package)
    stub.__path__ = list(folder)
    sys.modules[package] = stub
    return importlib.import_module(package + ".models")


class Client:
    """A document against generated classes: fields that exist, their types, and those that must be there."""

    def __init__(self, package):
        self.modules = [models_of(package), importlib.import_module("kubernetes.client.models")]

    def find(self, name):
        return next((getattr(module, name) for module in self.modules if hasattr(module, name)), None)

    def check(self, kind, value, path=""):
        if match := re.fullmatch(r"list\[(.*)\]", kind):
            expect(value, list, path)
            for index, item in enumerate(value):
                self.check(match[1], item, f"{path}[{index}]")
        elif match := re.fullmatch(r"dict[(\[]str, (.*)[)\]]", kind):
            expect(value, dict, path)
            for key, item in value.items():
                self.check(match[1], item, f"{path}.{key}")
        elif kind in PRIMITIVES:
            expect(value, PRIMITIVES[kind], path)
        elif hasattr(model := self.find(kind), "openapi_types"):
            self.check_model(model, value, path)

    def check_model(self, model, value, path):
        if set(model.attribute_map) == {"type", "string_val", "array_val"} or set(model.attribute_map) == {"array_val", "string_val", "type"}:
            # Tekton's values, which are written as a text or a list.
            expect(value, (str, list), path)
            return
        expect(value, dict, path)
        names = {key: name for name, key in model.attribute_map.items()}
        for key in value:
            if key not in names:
                raise Refused(f"{path}: {model.__name__} has no {key}")
        try:
            model(**{names[key]: item for key, item in value.items()})
        except ValueError as error:
            raise Refused(f"{path}: {error}") from error
        for key, item in value.items():
            self.check(model.openapi_types[names[key]], item, f"{path}.{key}")


def expect(value, kind, path):
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise Refused(f"{path} is {value!r}, expected {kind}")


CLIENTS = {
    "tekton.dev/v1": ("tekton_pipeline", "V1beta1{}"),
    "serving.kserve.io/v1alpha1": ("kserve", "V1alpha1{}"),
    "serving.kserve.io/v1beta1": ("kserve", "V1beta1{}"),
}


def judge(name, document):
    version = document.get("apiVersion")
    if name in CHECKS:
        by_schema(CHECKS[name], document)
    elif version == "argoproj.io/v1alpha1":
        by_argo(document)
    elif version in CLIENTS:
        package, kind = CLIENTS[version]
        Client(package).check(kind.format(document["kind"]), document)
    else:
        by_kubernetes(document)


def damaged(name, document):
    """The same document with a field that does not exist, where its system would look for others."""
    copied = copy.deepcopy(document)
    place = {"github-action": "runs", "github-workflow": "on", "gitlab": "imgbuild"}.get(name, "spec")
    if document.get("kind") == "ConfigMap":
        place = "metadata"
    copied[place]["nonexistent"] = {"a": 1}
    return copied


def main():
    failed = judged = 0
    for file in sorted(os.listdir(sys.argv[1])):
        name = file.removesuffix(".yaml")
        with open(os.path.join(sys.argv[1], file)) as text:
            documents = list(yaml.safe_load_all(text))
        for document in documents:
            # YAML 1.1 reads the key `on` as true; GitHub does not.
            if True in document:
                document["on"] = document.pop(True)
            what = f"{name} {document.get('kind', '')}".strip()
            judged += 1
            try:
                judge(name, document)
            except Refused as error:
                failed += 1
                print(f"{what}: refused: {error}")
                continue
            try:
                judge(name, damaged(name, document))
            except Refused:
                print(f"{what}: accepted")
            else:
                failed += 1
                print(f"{what}: a field that does not exist was not noticed")
    print(f"{judged} documents judged, {failed} failed")
    sys.exit(bool(failed or not judged))


if __name__ == "__main__":
    main()

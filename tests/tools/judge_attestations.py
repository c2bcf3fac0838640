"""Judges the documents of a build with the formats' own libraries, and their contents against the size report beside them.

usage: judge_attestations.py FOLDER DIGEST
"""

import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement, statement_pb2
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

folder, digest = pathlib.Path(sys.argv[1]), sys.argv[2]
size = json.loads((folder / "size.json").read_text())
assert size["image"]["digest"] == digest, size["image"]
files = {file["path"]: file["digest"].removeprefix("sha256:") for file in size["files"]}
packages = {package["name"]: package for package in size["packages"] if package["taken"]}

# CycloneDX: the official schema, every package with version, licence and address, every file with its digest, the model.
text = (folder / "sbom.cdx.json").read_text()
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
assert error is None, error
bom = json.loads(text)
assert bom["metadata"]["component"]["hashes"][0]["content"] == digest.removeprefix("sha256:")


def walk(components):
    for component in components:
        yield component
        yield from walk(component.get("components", []))


components = list(walk(bom["components"]))
found = {c["name"]: c["hashes"][0]["content"] for c in components if c["type"] == "file"}
assert found == files, set(found.items()) ^ set(files.items())
libraries = {c["name"]: c for c in components if c["type"] == "library"}
# What a C++ compiler links into a model is of no package.
linked = libraries.pop("libstdc++ and libgcc", None)
assert (linked or {}).get("version") == (size.get("compiled") or {}).get("linked_by"), linked
assert libraries.keys() == packages.keys(), libraries.keys() ^ packages.keys()
for name, library in libraries.items():
    address = PackageURL.from_string(library["purl"])
    assert (address.name, address.version) == (name, packages[name]["version"]), address
    assert address.type in ("deb", "pypi") and library["licenses"], library
assert [c["name"] for c in components if c["type"] == "machine-learning-model"] == [size["model"]["name"]]

# SPDX: the official validator, and the same packages and files.
document = parse_file(str(folder / "sbom.spdx.json"))
messages = validate_full_spdx_document(document)
assert not messages, [message.validation_message for message in messages]
checksums = {package.name: package.checksums[0].value for package in document.packages if package.checksums}
for path, hex_digest in files.items():
    assert checksums[path] == hex_digest, path
assert bool(linked) == any(package.name == "libstdc++ and libgcc" for package in document.packages)
for name, package in packages.items():
    assert checksums[name] == package["digest"].removeprefix("sha256:"), name

# Provenance: in-toto's statement with SLSA's predicate, strictly parsed, about this image and every package.
raw = json.loads((folder / "provenance.json").read_text())
parsed = json_format.ParseDict(raw, statement_pb2.Statement())
statement.Statement.copy_from_pb(parsed).validate()
assert raw["predicateType"] == "https://slsa.dev/provenance/v1"
predicate = json_format.ParseDict(raw["predicate"], provenance_pb2.Provenance())
assert predicate.build_definition.build_type and predicate.run_details.builder.id
assert raw["subject"][0]["digest"]["sha256"] == digest.removeprefix("sha256:")
dependencies = {d.digest["sha256"] for d in predicate.build_definition.resolved_dependencies}
for package in packages.values():
    assert package["digest"].removeprefix("sha256:") in dependencies, package
compiled = size.get("compiled")
for path, hex_digest in files.items():
    assert not path.startswith("/models/") or hex_digest in dependencies or compiled, path
if compiled:
    # What was compiled is not in the image; what it was compiled of went into it.
    assert any(name == "saved_model.pb" for name in compiled["sources"]), compiled
    assert {digest.removeprefix("sha256:") for digest in compiled["sources"].values()} <= dependencies, compiled
print(f"{len(files)} files, {len(packages)} packages")

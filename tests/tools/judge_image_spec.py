#!/usr/bin/env python3
"""Validates OCI layouts by the image specification's own JSON schemas: judge_image_spec.py SCHEMAS LAYOUT…"""

import json
import os
import sys
from urllib.parse import urljoin

import jsonschema
from referencing import Registry
from referencing.jsonschema import DRAFT4


def load(*path):
    with open(os.path.join(*path)) as file:
        return json.load(file)


def main():
    folder, *layouts = sys.argv[1:]
    schemas = {name: load(folder, name) for name in os.listdir(folder) if name.endswith(".json")}
    # The schemas name each other by file, relative to their identifiers.
    anchor = schemas["image-manifest-schema.json"]["id"]
    registry = Registry().with_resources((urljoin(anchor, name), DRAFT4.create_resource(schema)) for name, schema in schemas.items())

    def validate(name, document):
        jsonschema.Draft4Validator(schemas[name], registry=registry).validate(document)

    def refuses(name, document):
        try:
            validate(name, document)
        except jsonschema.ValidationError:
            return
        sys.exit(f"{name} accepts {document}: it judges nothing")

    for layout in layouts:
        def blob(descriptor):
            return load(layout, "blobs", *descriptor["digest"].split(":"))

        validate("image-layout-schema.json", load(layout, "oci-layout"))
        index = load(layout, "index.json")
        validate("image-index-schema.json", index)
        refuses("image-index-schema.json", {**index, "manifests": [{"digest": "none"}]})
        for descriptor in index["manifests"]:
            manifest = blob(descriptor)
            validate("image-manifest-schema.json", manifest)
            refuses("image-manifest-schema.json", {**manifest, "layers": [{"size": "large"}]})
            config = blob(manifest["config"])
            validate("config-schema.json", config)
            refuses("config-schema.json", {**config, "rootfs": {}})


if __name__ == "__main__":
    main()

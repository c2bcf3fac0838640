#!/usr/bin/env python3
"""Writes the plan that server.py carries out.

    plan.py FOLDER --server IMGSERVE --libraries FOLDER:… [--right FILE --wrong FILE] [--cpu] --model MODEL…   from folders of libraries
    plan.py FOLDER --image MODEL=NAME:TAG… [--wrong-image NAME:TAG] [--cudnn LIBRARY]                     from images, by Docker
"""

import argparse
import json
import os
import pathlib
import shutil
import socket

LIBRARY = "libonnxruntime_providers_cuda.so"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def variant(folder, name, source, provider):
    """The runtime's libraries in a folder of their own, with another provider."""
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for library in source.glob("libonnxruntime*.so*"):
        os.symlink(library.resolve(), target / ("libonnxruntime.so.1" if library.name.startswith("libonnxruntime.so") else library.name))
    if provider:
        (target / LIBRARY).unlink()
        shutil.copy2(provider, target / LIBRARY)
    return target


def from_folders(arguments):
    source, *others = [pathlib.Path(folder) for folder in arguments.libraries.split(":")]
    nodes, parts = ("CPUExecutionProvider" if arguments.cpu else "CUDAExecutionProvider"), []

    def part(label, model, place, options=None, **more):
        port, file = free_port(), arguments.folder / f"{label}-{model.stem}.json"
        config = {"model_path": str(model.resolve()), "library": str(place / "libonnxruntime.so.1"), "port": port, "address": "127.0.0.1"}
        config |= {"provider": "cpu" if arguments.cpu else "cuda", "provider_options": options or {}}
        file.write_text(json.dumps(config), encoding="utf-8")
        environment = {"LD_LIBRARY_PATH": ":".join(map(str, [place, *others]))}
        name = f"{model.stem}, {label}"
        parts.append({"name": name, "model": model.stem, "port": port, "environment": environment, "command": [arguments.server, "--config", str(file)], **more})

    original = variant(arguments.folder, "original", source, None)
    for model in arguments.models:
        part("original", model, original, nodes=nodes)
        if arguments.right:
            part("pruned", model, variant(arguments.folder, "pruned", source, arguments.right), nodes=nodes)
    if arguments.wrong:
        part("for another GPU", arguments.models[0], variant(arguments.folder, "wrong", source, arguments.wrong), expect={"fault": "no_code"})
    if not arguments.cpu:
        part("without cuDNN", arguments.models[0], original, {"enable_cudnn": "0"}, expect={"imgserve": "error"})
    return parts


def from_images(arguments):
    parts = []

    def part(name, image, model, more=(), **rest):
        port = free_port()
        command = [arguments.docker, "run", "--rm", "--init", "--gpus", "all", "-p", f"127.0.0.1:{port}:8080", *more, image]
        parts.append({"name": name, "model": model, "port": port, "command": command, **rest})

    for pair in arguments.image:
        model, image = pair.split("=", 1)
        part(image, image, model, nodes="CUDAExecutionProvider")
    model, image = arguments.image[0].split("=", 1)
    if arguments.wrong_image:
        part(f"{arguments.wrong_image}, for another GPU", arguments.wrong_image, model, expect={"fault": "no_code"})
    if arguments.cudnn:
        hidden = ["-v", f"/dev/null:{arguments.cudnn}"]
        part(f"{image} without {arguments.cudnn}", image, model, hidden, expect={"imgserve": "error"})
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--server")
    parser.add_argument("--libraries")
    parser.add_argument("--right")
    parser.add_argument("--wrong")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--image", action="append", default=[])
    parser.add_argument("--wrong-image")
    parser.add_argument("--cudnn")
    parser.add_argument("--docker", default="docker", help="what starts images, as docker does")
    parser.add_argument("--model", dest="models", action="append", default=[], type=pathlib.Path)
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    parts = from_images(arguments) if arguments.image else from_folders(arguments)
    print(json.dumps(parts, indent=1))


if __name__ == "__main__":
    main()

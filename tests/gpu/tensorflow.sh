#!/usr/bin/env bash
# What `tf-xla-gpu` makes of TensorFlow's and NVIDIA's real libraries (2.8 GB to fetch, 20 GB of disk, no GPU): the size ladder of a
# ResNet50, and for each set of libraries a real start of the image's own server by the image's own loader, over a driver with one GPU
# that runs nothing and with LD_BIND_NOW=1. TensorFlow then opens its libraries and asks the CUDA runtime, which finds the driver too
# old: that says that everything linked. "Cannot dlopen", or a library that the server names, says that something did not. Every other
# library of the image is opened too, and with one taken away the server has to name it. What TensorFlow computes on the CPU is what its
# Python computes, whatever was taken off its libraries.
# Needs imgbuild and imgserve: `make build`, or IMGBUILD=FILE and IMGBUILD_SERVER=FILE. STEPS="model sm_75" runs these alone.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
imgbuild=$(realpath "${IMGBUILD:-$target/release/imgbuild}")
export IMGBUILD_SERVER=$(realpath "${IMGBUILD_SERVER:-$target/server/imgserve}")
export IMGBUILD_STORE=${IMGBUILD_STORE:-$PWD/build/gpu-store}
folder=$PWD/build/gpu-tensorflow
model=build/models/resnet50
rm -rf "$folder"
mkdir -p "$folder/driver" build/models
if [ ! -d "$model" ]; then
  "$(tests/tools/venv.sh build/venv-tf tests/tools/requirements-tf.txt)" tests/tools/tensorflow_reference.py --make resnet50 "$model" >/dev/null 2>&1
fi
cp -r "$model" "$folder/"
"$(tests/tools/venv.sh build/venv-tf tests/tools/requirements-tf.txt)" tests/tools/tensorflow_reference.py --count 4 "$model" "$folder/reference.npz" 2>"$folder/said"
python=$(tests/tools/venv.sh)
gcc -O1 -o "$folder/open_all" tests/tools/open_all.c -ldl
failed=0

# Functions of the driver's two libraries that TensorFlow looks up by name, for the stand-ins of these.
stand_in() {
  strings -n 5 "$libraries"/libtensorflow_framework.so.2 | grep -E "$1" | sort -u >"$folder/names" || true
  # What the stand-in knows better is not declared twice.
  { grep -vxFf <(sed -n 's/^int \(cu[A-Za-z_0-9]*\)(.*/\1/p' tests/tools/cuda_driver.c) "$folder/names" || true; } | sed 's/.*/FUNCTION(&)/' >"$folder/names.h"
  gcc -shared -fPIC -w -O1 ${3:-} "-DNAMES=\"$folder/names.h\"" -o "$folder/driver/$2" tests/tools/cuda_driver.c "-Wl,-soname,$2"
}

# Starts the server of the unpacked image; prints its last line.
start() {
  "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libraries:$folder/driver" "$root/usr/bin/imgserve" --check --config "$folder/config.json" 2>&1 | tail -n 1
}

# Asks the server on the CPU, and compares with what TensorFlow's Python answered: prints the largest difference.
on_cpu() {
  IMGSERVE_PROVIDER=cpu IMGSERVE_XLA=off IMGSERVE_PORT=0 IMGSERVE_ADDRESS=127.0.0.1 "$root/usr/lib64/ld-linux-x86-64.so.2" \
    --library-path "$libraries" "$root/usr/bin/imgserve" --config "$folder/config.json" 2>"$folder/log" &
  local server=$! address= deadline=$((SECONDS + 300)) code=0
  until [ -n "$address" ] || [ $SECONDS -gt $deadline ] || ! kill -0 $server 2>/dev/null; do
    sleep 0.5
    address=$(sed -n 's/.*"phase":"ready".*"address":"\([^"]*\)".*/\1/p' "$folder/log")
  done
  "$python" tests/tools/judge_saved_model.py --address "$address" --name resnet50 --atol 1e-4 --cases 4 "$folder/reference.npz" || { code=$?; cat "$folder/log" >&2; }
  kill $server 2>/dev/null || true
  wait $server || true
  return $code
}

# The image at one step of the ladder, built and loaded: check STEP ARGUMENT…
check() {
  local step=$1 image=$folder/image verdict=defect said without
  root=$folder/root libraries=$folder/root/usr/lib/x86_64-linux-gnu
  shift
  if [ -n "${STEPS:-}" ] && [[ " $STEPS " != *" $step "* ]]; then return; fi
  rm -rf "$image" "$root"
  mkdir "$root"
  "$imgbuild" build -q "$folder/resnet50" --stack tf-xla-gpu --report "$folder/$step.json" -o "oci:$image" "$@" >/dev/null 2>"$folder/said" \
    || { cat "$folder/said" >&2; exit 1; }
  python3 tests/gpu/unpack.py "$image" "$root"
  python3 - "$root" "$folder/config.json" <<'PYTHON'
import json, pathlib, sys
root, config = map(pathlib.Path, sys.argv[1:])
options = json.loads((root / "etc/imgserve/config.json").read_text())
config.write_text(json.dumps(options | {"model_path": str(root) + options["model_path"]}))
PYTHON
  rm -rf "$image"
  stand_in '^cu[A-Z][A-Za-z0-9_]+$' libcuda.so.1
  stand_in '^nvml[A-Z][A-Za-z0-9_]+$' libnvidia-ml.so.1 -DMANAGEMENT
  said=$(LD_BIND_NOW=1 start) || true
  # A sentence of the CUDA runtime in the image, which TensorFlow asks once all libraries are open.
  if grep -q 'CUDA driver version is insufficient for CUDA runtime version' <<<"$said"; then verdict=links; fi
  [ "$verdict" = links ] || { failed=1; echo "$said" >&2; }
  # With one library less, the server names it.
  mv "$libraries/libcufft.so.11" "$folder/away"
  without=$(start) || true
  mv "$folder/away" "$libraries/libcufft.so.11"
  grep -q '"missing_library":"libcufft.so.11"' <<<"$without" || { verdict=defect; failed=1; echo "$without" >&2; }
  if ! on_cpu >"$folder/judged" 2>&1; then verdict=defect; failed=1; cat "$folder/judged" >&2; fi
  local others=("$libraries"/lib{cu,nv}*.so*)
  "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libraries:$folder/driver" "$folder/open_all" "${others[@]}" >"$folder/opened" 2>&1 \
    || { verdict=defect; failed=1; cat "$folder/opened" >&2; }
  python3 - "$folder/$step.json" "$step" "$verdict" "${#others[@]}" "$folder/judged" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
runtime = next(layer for layer in report["layers"] if layer["name"] == "runtime")
total = report["totals"]["without_model"]
cells = [f"{number / 1e6:.1f}" for number in (runtime["unpacked"], runtime["compressed"], total["unpacked"], total["compressed"])]
lines = open(sys.argv[5]).read().splitlines()
try:
    difference = f"{json.loads(lines[-1])['largest_difference']:.1e}"
except (IndexError, KeyError, ValueError):
    difference = "none"
print(f"| {sys.argv[2]} | {' | '.join(cells)} | {sys.argv[3]}, {sys.argv[4]} opened | {difference} |", flush=True)
PYTHON
  rm -rf "$root"
}

echo "| step | runtime layer MB | compressed | image without model MB | compressed | loaded | on the CPU against Python |"
echo "|---|--:|--:|--:|--:|---|--:|"
check package --minimize package
check closure --minimize closure
check model
check sm_75 --gpu sm_75
check sm_75-vendor --gpu sm_75 --prune-vendor
check sm_90-vendor --gpu sm_90 --prune-vendor
# A GPU that TensorFlow has no code for is refused by the library's name.
if "$imgbuild" build -q "$folder/resnet50" --stack tf-xla-gpu --gpu sm_52 -o "oci:$folder/image" 2>"$folder/said"; then failed=1; fi
grep -q 'libtensorflow_.*no device code that runs on sm_52' "$folder/said" || { failed=1; cat "$folder/said" >&2; }
rm -rf "$folder"
exit $failed

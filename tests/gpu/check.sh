#!/usr/bin/env bash
# What `onnx-cuda` makes of NVIDIA's real libraries (2 GB to fetch, 10 GB of disk, no GPU): the size ladder of a transformer and of a
# CNN, and for each set of libraries a real load by the image's own loader, over a driver without a GPU and with LD_BIND_NOW=1:
# "CUDA failure" says that everything linked, "Failed to load" that something did not. Every other library of the image is opened too.
# The plug-in of TensorRT for RTX registers
# with ONNX Runtime. Needs imgbuild and imgserve: `make build`, or IMGBUILD=FILE and IMGBUILD_SERVER=FILE.
# STEPS="sm_75 rtx" takes some steps alone.
set -euo pipefail
shopt -s nullglob
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
imgbuild=$(realpath "${IMGBUILD:-$target/release/imgbuild}")
export IMGBUILD_SERVER=$(realpath "${IMGBUILD_SERVER:-$target/server/imgserve}")
export IMGBUILD_STORE=${IMGBUILD_STORE:-$PWD/build/gpu-store} ORT_DISABLE_TELEMETRY=1
python=$(tests/tools/venv.sh)
folder=build/gpu-check
rm -rf "$folder"
mkdir -p "$folder/driver"
"$python" tests/tools/bench_models.py "$folder" tiny-bert
"$python" tests/tools/gpu_models.py "$folder"
gcc -O1 -o "$folder/cuda_provider" tests/tools/cuda_provider.c -ldl
gcc -O1 -o "$folder/open_all" tests/tools/open_all.c -ldl
failed=0

# The image of a model at one step of the ladder, built and loaded: check STACK MODEL STEP ARGUMENT…
check() {
  local stack=$1 model=$2 step=$3 image=$folder/image root=$folder/root said
  shift 3
  case " ${STEPS:-$step} " in *" $step "*) ;; *) return ;; esac
  rm -rf "$image" "$root"
  mkdir "$root"
  "$imgbuild" build -q "$folder/$model.onnx" --stack "$stack" --report "$folder/$model-$step.json" -o "oci:$image" "$@" >/dev/null 2>"$folder/said" \
    || { cat "$folder/said" >&2; exit 1; }
  "$python" tests/gpu/unpack.py "$image" "$root"
  local libraries=$root/usr/lib/x86_64-linux-gnu
  # A driver with every function that the image's libraries import of it.
  tests/tools/cuda_stubs.sh "$folder/driver" "$libraries"/lib{cu,onnx}*.so* >/dev/null
  nm -D --undefined-only "$libraries"/*.so* 2>/dev/null | awk '{ print $NF }' | { grep '^nvml' || true; } | sort -u |
    sed 's/..*/int &(void) { return 9; }/' >"$folder/nvml.c"
  find "$folder/driver" -type f ! -name libcuda.so.1 -delete
  gcc -shared -w -fPIC -o "$folder/driver/libnvidia-ml.so.1" "$folder/nvml.c" -Wl,-soname,libnvidia-ml.so.1
  local run=("$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$libraries:$folder/driver")
  local verdict=defect others
  if [ "$stack" = onnx-cuda ]; then
    said=$(LD_BIND_NOW=1 "${run[@]}" "$folder/cuda_provider" "$libraries/libonnxruntime.so.1" "$folder/$model.onnx" 2>&1) || true
    # ONNX Runtime's providers want their runtime, and were opened by it.
    others=("$libraries"/lib{cu,nv}*.so*)
    if grep -q 'CUDA failure' <<<"$said" && ! grep -q 'Failed to load' <<<"$said"; then verdict=links; fi
  else
    # The plug-in registers with ONNX Runtime, which finds no GPU for it.
    others=("$libraries"/lib{cu,tensorrt,onnxruntime_providers}*.so*)
    rm -rf "$folder/only"
    mkdir "$folder/only"
    cp -P "${others[@]}" "$folder/only"
    said=$(LD_BIND_NOW=1 LD_LIBRARY_PATH=$folder/driver:$folder/only "$python" -c 'import onnxruntime, sys
onnxruntime.register_execution_provider_library("nv", sys.argv[1])
print("registered", len(onnxruntime.get_ep_devices()))' "$(realpath "$folder/only/libonnxruntime_providers_nv_tensorrt_rtx.so")" 2>&1) || true
    if grep -q '^registered' <<<"$said"; then verdict=registers; fi
  fi
  [ "$verdict" != defect ] || { failed=1; echo "$said" >&2; }
  "${run[@]}" "$folder/open_all" "${others[@]}" >"$folder/opened" 2>&1 || { verdict="defect"; failed=1; cat "$folder/opened" >&2; }
  "$python" - "$folder/$model-$step.json" "$model" "$step" "$verdict" "${#others[@]}" <<'PYTHON'
import json, sys
report = json.load(open(sys.argv[1]))
runtime = next(layer for layer in report["layers"] if layer["name"] == "runtime")
total = report["totals"]["without_model"]
cells = [f"{number / 1e6:.1f}" for number in (runtime["unpacked"], runtime["compressed"], total["unpacked"], total["compressed"])]
print(f"| {sys.argv[2]} | {sys.argv[3]} | {' | '.join(cells)} | {sys.argv[4]}, {sys.argv[5]} opened |", flush=True)
PYTHON
}

echo "| model | step | runtime layer MB | compressed | image without model MB | compressed | loaded |"
echo "|---|---|--:|--:|--:|--:|---|"
for model in tiny-bert cnn; do
  check onnx-cuda "$model" package --minimize package
  check onnx-cuda "$model" closure --minimize closure
  check onnx-cuda "$model" model
  check onnx-cuda "$model" sm_75 --gpu sm_75
  check onnx-cuda "$model" sm_75-vendor --gpu sm_75 --prune-vendor
done
# The oldest cuDNN that goes with the provider, and the smallest (docs/decisions/0010-gpu-stacks.md).
check onnx-cuda cnn sm_75-vendor-cudnn-9.15 --gpu sm_75 --prune-vendor --package nvidia-cudnn-cu13=9.15.1.9
check onnx-tensorrt-rtx cnn rtx
exit $failed

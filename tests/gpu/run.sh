#!/usr/bin/env bash
# Shows on a GPU that ONNX Runtime's CUDA provider computes the same with the device code of that GPU alone, how much faster
# or slower it loads and answers, and that the wrong GPU and a missing cuDNN end in an error that says so.
#
#   tests/gpu/run.sh                 makes an environment with ONNX Runtime and NVIDIA's wheels (3 GB) under build/gpu
#   PYTHON=python3 tests/gpu/run.sh  takes one that has them (onnxruntime-gpu, numpy, onnx, and what the provider links to)
#
# Then the server itself, and images of it, are started on the GPU with each of the providers: outputs, times, nodes by provider, and
# what is said where there is no code for the GPU, or no cuDNN.
#
# Ends with 77 where there is no GPU. Needs imgbuild and imgserve: `make build`, or IMGBUILD=FILE and IMGSERVE=FILE.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
imgbuild=${IMGBUILD:-$target/release/imgbuild}
server=${IMGSERVE:-$target/server/imgserve}
version=1.31.1
folder=build/gpu
if ! gpus=$(nvidia-smi --query-gpu=compute_cap,name,driver_version --format=csv,noheader 2>/dev/null) || [ -z "$gpus" ]; then
  echo "run.sh: there is no GPU here (nvidia-smi lists none)" >&2
  exit 77
fi
gpu=$(head -n 1 <<<"$gpus")
sm=sm_$(cut -d, -f1 <<<"$gpu" | tr -d ' .')
echo "GPU: $gpu, $sm"
mkdir -p "$folder"
if [ -z "${PYTHON:-}" ]; then
  PYTHON=$folder/venv/bin/python
  if [ ! -x "$PYTHON" ]; then
    python3 -m venv "$folder/venv.tmp"
    "$folder/venv.tmp/bin/python" -m pip install --quiet "onnxruntime-gpu==$version" numpy onnx nvidia-cublas nvidia-cuda-runtime \
      nvidia-cudnn-cu13 nvidia-cufft nvidia-curand nvidia-cuda-nvrtc nvidia-nvjitlink
    mv "$folder/venv.tmp" "$folder/venv"
  fi
fi
for model in resnet50 bert-base; do
  [ -s "$folder/$model.onnx" ] || "$PYTHON" tests/tools/bench_models.py "$folder" "$model"
done
provider=$("$PYTHON" -c 'import onnxruntime, pathlib; print(pathlib.Path(onnxruntime.__file__).parent / "capi/libonnxruntime_providers_cuda.so")')
"$imgbuild" fatbin prune "$provider" -o "$folder/right.so" --gpu "$sm"
# Code that the GPU cannot run: of another major version.
wrong=sm_75
[ "$sm" != sm_75 ] || wrong=sm_80
"$imgbuild" fatbin prune "$provider" -o "$folder/wrong.so" --gpu "$wrong" >/dev/null
failed=0
"$PYTHON" tests/gpu/compare.py --right "$folder/right.so" --wrong "$folder/wrong.so" --scratch "$folder/variants" \
  "$folder/resnet50.onnx" "$folder/bert-base.onnx" || failed=1

echo
echo "The server, with the original provider, the pruned one, one for $wrong, and without cuDNN:"
libraries=$("$PYTHON" - <<'PYTHON'
import glob, onnxruntime, pathlib
packages = pathlib.Path(onnxruntime.__file__).parent
print(":".join([str(packages / "capi"), *glob.glob(str(packages.parent / "nvidia/**/lib"), recursive=True)]))
PYTHON
)
"$PYTHON" tests/gpu/plan.py "$folder/server" --server "$server" --libraries "$libraries" --right "$folder/right.so" --wrong "$folder/wrong.so" \
  --model "$folder/resnet50.onnx" --model "$folder/bert-base.onnx" >"$folder/server.json"
"$PYTHON" tests/gpu/server.py "$folder/server.json" || failed=1

# Images, where the builder has the stack and a container engine gives them the GPU. Of each model: as its libraries came, with ONNX
# Runtime's provider pruned, and with NVIDIA's libraries pruned too.
if ! command -v docker >/dev/null || ! "$imgbuild" build --help | grep -- '--gpu' >/dev/null; then
  echo "run.sh: no images are tried: that takes Docker, and an imgbuild whose build has --gpu" >&2
  exit "$failed"
fi
parts=()
for model in resnet50 bert-base; do
  for kind in whole pruned vendor; do
    options=()
    [ "$kind" = whole ] || options+=(--gpu "$sm")
    [ "$kind" != vendor ] || options+=(--prune-vendor)
    image=imgbuild-gpu-$model:$kind
    "$imgbuild" build "$folder/$model.onnx" --stack onnx-cuda "${options[@]}" -o "docker-daemon:$image"
    "$imgbuild" doctor "docker-daemon:$image" || failed=1
    parts+=(--image "$model=$image")
  done
done
"$imgbuild" build "$folder/resnet50.onnx" --stack onnx-cuda --gpu "$wrong" -o docker-daemon:imgbuild-gpu-resnet50:wrong
if "$imgbuild" doctor docker-daemon:imgbuild-gpu-resnet50:wrong; then
  echo "error: doctor says that an image for $wrong runs on $sm" >&2
  failed=1
fi
"$PYTHON" tests/gpu/plan.py "$folder/server" "${parts[@]}" --wrong-image imgbuild-gpu-resnet50:wrong \
  --cudnn /usr/lib/x86_64-linux-gnu/libcudnn.so.9 >"$folder/images.json"
"$PYTHON" tests/gpu/server.py "$folder/images.json" || failed=1
exit "$failed"

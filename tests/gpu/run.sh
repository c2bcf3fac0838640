#!/usr/bin/env bash
# Shows on a GPU that ONNX Runtime's CUDA provider computes the same with the device code of that GPU alone, how much faster
# or slower it loads and answers, and that the wrong GPU and a missing cuDNN end in an error that says so.
#
#   tests/gpu/run.sh                 makes an environment with ONNX Runtime and NVIDIA's wheels (3 GB) under build/gpu
#   PYTHON=python3 tests/gpu/run.sh  takes one that has them (onnxruntime-gpu, numpy, onnx, and what the provider links to)
#
# Ends with 77 where there is no GPU. Needs imgbuild: `make build`, or IMGBUILD=FILE.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
imgbuild=${IMGBUILD:-$target/release/imgbuild}
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
exec "$PYTHON" tests/gpu/compare.py --right "$folder/right.so" --wrong "$folder/wrong.so" --scratch "$folder/variants" "$folder/resnet50.onnx" "$folder/bert-base.onnx"

#!/usr/bin/env bash
# Reads again what the GPU stacks' data was read from: ONNX Runtime's registries of operators and kernels, and which operators need
# cuDNN and cuFFT. Needs no GPU: NVIDIA's libraries are replaced by ones that compute nothing (fake_cuda.py). 700 MB to fetch, minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=1.31.1
folder=build/gpu-evidence
python=$folder/venv/bin/python
if [ ! -x "$python" ]; then
  rm -rf "$folder"
  mkdir -p "$folder"
  python3 -m venv "$folder/venv.tmp"
  "$folder/venv.tmp/bin/python" -m pip install --quiet --disable-pip-version-check "onnxruntime-gpu==$version" onnx==1.23.2 numpy
  mv "$folder/venv.tmp" "$folder/venv"
fi
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder" nvidia-cuda-runtime==13.5.37
unzip -q -o "$folder"/nvidia_cuda_runtime-*.whl 'nvidia/*/include/*' -d "$folder"
capi=$("$python" -c 'import onnxruntime, pathlib; print(pathlib.Path(onnxruntime.__file__).parent / "capi")')
"$python" tests/gpu/fake_cuda.py "$capi/libonnxruntime_providers_cuda.so" "$folder/nvidia/cu13/include" "$folder/fake"
export LD_LIBRARY_PATH=$PWD/$folder/fake:$PWD/$folder/fake/tensorrt
table=templates/operators/onnxruntime-gpu-$version
"$python" tests/tools/operators.py --check "$table.json"
"$python" tests/tools/operators.py --check "$table-cuda.json" --provider CUDAExecutionProvider --beside "$table.json"
echo "the tables of operators are those of onnxruntime-gpu $version"
LD_LIBRARY_PATH=$PWD/$folder/fake "$python" tests/gpu/cudnn_operators.py templates/onnx-cuda.toml
# The leanest cuDNN that is not older than what the provider was compiled with (350 MB more to fetch).
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$folder" nvidia-cudnn-cu13==9.15.1.9
unzip -q -o -j "$folder"/nvidia_cudnn_cu13-*.whl 'nvidia/cudnn/lib/*' -d "$folder/cudnn"
LD_LIBRARY_PATH=$PWD/$folder/cudnn "$python" tests/gpu/cudnn_version.py "$capi/libonnxruntime_providers_cuda.so" "$folder/cudnn"

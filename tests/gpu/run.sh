#!/usr/bin/env bash
# Shows on a GPU that ONNX Runtime's CUDA provider computes the same with the device code of that GPU alone, how much faster
# or slower it loads and answers, and that the wrong GPU and a missing cuDNN end in an error that says so.
#
#   tests/gpu/run.sh                 makes an environment with ONNX Runtime and NVIDIA's wheels (3 GB) under build/gpu
#   PYTHON=python3 tests/gpu/run.sh  takes one that has them (onnxruntime-gpu, numpy, onnx, and what the provider links to)
#
# Then the server itself, and images of it, are started on the GPU with each of the providers: outputs, times in turn, nodes by provider,
# and what is said where there is no code for the GPU, or no cuDNN. Images are tried as the libraries came, with ONNX Runtime's provider
# pruned, with cuBLAS and cuDNN pruned too, with an older cuDNN, and as the entry of an index that `doctor` picks for this GPU.
#
#   DRY_RUN=1 tests/gpu/run.sh       goes through all of it without a GPU, over a CUDA that computes nothing (fake_cuda.py), with small
#                                    models: that every part is reached and says what it should. What only a GPU can tell is not decided.
#
# Ends with 77 where there is no GPU. Needs imgbuild and imgserve: `make build`, or IMGBUILD=FILE and IMGSERVE=FILE.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
imgbuild=${IMGBUILD:-$target/release/imgbuild}
server=${IMGSERVE:-$target/server/imgserve}
version=1.31.1
folder=build/gpu
dry=${DRY_RUN:-}
if [ -n "$dry" ]; then
  folder=build/gpu-dry
  evidence=build/gpu-evidence
  [ -d "$evidence/fake" ] || { echo "run.sh: a dry run needs $evidence, which tests/gpu/evidence.sh makes" >&2; exit 1; }
  PYTHON=${PYTHON:-$evidence/venv/bin/python}
  gpus="8.0, a CUDA that computes nothing, none"
  export LD_LIBRARY_PATH=$PWD/$evidence/fake IMGBUILD_STORE=${IMGBUILD_STORE:-$PWD/build/gpu-store}
  echo "DRY RUN: no GPU takes part; no time and no output below means anything"
elif ! gpus=$(nvidia-smi --query-gpu=compute_cap,name,driver_version --format=csv,noheader 2>/dev/null) || [ -z "$gpus" ]; then
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
cnn=resnet50 transformer=bert-base
if [ -n "$dry" ]; then
  # These run without cuDNN, which the CUDA that computes nothing does not have: a transformer twice, under two names.
  "$($PWD/tests/tools/venv.sh)" tests/tools/bench_models.py "$folder" tiny-bert
  cp "$folder/tiny-bert.onnx" "$folder/tiny-bert-2.onnx"
  cnn=tiny-bert transformer=tiny-bert-2
fi
for model in "$cnn" "$transformer"; do
  [ -s "$folder/$model.onnx" ] || "$PYTHON" tests/tools/bench_models.py "$folder" "$model"
done
provider=$("$PYTHON" -c 'import onnxruntime, pathlib; print(pathlib.Path(onnxruntime.__file__).parent / "capi/libonnxruntime_providers_cuda.so")')
"$imgbuild" fatbin prune "$provider" -o "$folder/right.so" --gpu "$sm"
# Code that the GPU cannot run: of another major version.
wrong=sm_75
[ "$sm" != sm_75 ] || wrong=sm_80
"$imgbuild" fatbin prune "$provider" -o "$folder/wrong.so" --gpu "$wrong" >/dev/null
failed=0
"$PYTHON" tests/gpu/compare.py ${dry:+--dry-run} --right "$folder/right.so" --wrong "$folder/wrong.so" --scratch "$folder/variants" \
  "$folder/$cnn.onnx" "$folder/$transformer.onnx" || failed=1

echo
echo "The server, with the original provider, the pruned one, one for $wrong, and without cuDNN:"
libraries=$("$PYTHON" - <<'PYTHON'
import glob, onnxruntime, pathlib
packages = pathlib.Path(onnxruntime.__file__).parent
print(":".join([str(packages / "capi"), *glob.glob(str(packages.parent / "nvidia/**/lib"), recursive=True)]))
PYTHON
)${dry:+:$LD_LIBRARY_PATH}
"$PYTHON" tests/gpu/plan.py "$folder/server" --server "$server" --libraries "$libraries" --right "$folder/right.so" --wrong "$folder/wrong.so" \
  --model "$folder/$cnn.onnx" --model "$folder/$transformer.onnx" >"$folder/server.json"
"$PYTHON" tests/gpu/server.py "$folder/server.json" ${dry:+--dry-run} || failed=1

# Images, where a container engine gives them the GPU. Of each model: as its libraries came, with ONNX Runtime's provider pruned, with
# NVIDIA's libraries pruned too, and as one of an index; of the convolutional one also with the smallest cuDNN.
docker=docker
if [ -n "$dry" ]; then
  docker=$PWD/tests/gpu/dry_docker.sh
  export DRY_IMAGES=$PWD/$folder/images DRY_CUDA=$LD_LIBRARY_PATH
  unset LD_LIBRARY_PATH
  rm -rf "$DRY_IMAGES"
elif ! command -v docker >/dev/null; then
  echo "run.sh: no images are tried: that takes Docker" >&2
  exit "$failed"
fi
# Where Docker, or what stands in for it, finds an image: place NAME:TAG
place() { if [ -n "$dry" ]; then echo "oci:$DRY_IMAGES/${1/:/-}:latest"; else echo "docker-daemon:$1"; fi; }
# Checks what doctor says of an image: doctor IMAGE EXIT-STATUS-ON-A-GPU
doctor() {
  local status=0 expected=$2
  "$imgbuild" doctor "$(place "$1")" || status=$?
  # Without a GPU no image for one runs here.
  [ -z "$dry" ] || expected=11
  [ "$status" = "$expected" ] || { echo "error: doctor ends with $status for $1, expected $expected" >&2; failed=1; }
}
parts=()
for model in "$cnn" "$transformer"; do
  kinds=(whole pruned vendor)
  [ "$model" != "$cnn" ] || kinds+=(lean)
  for kind in "${kinds[@]}"; do
    options=()
    [ "$kind" = whole ] || options+=(--gpu "$sm")
    case $kind in vendor | lean) options+=(--prune-vendor) ;; esac
    [ "$kind" != lean ] || options+=(--package nvidia-cudnn-cu13=9.15.1.9)
    image=imgbuild-gpu-$model:$kind
    "$imgbuild" build -q "$folder/$model.onnx" --stack onnx-cuda "${options[@]}" -o "$(place "$image")" >/dev/null
    doctor "$image" 0
    parts+=(--image "$model=$image")
  done
  # An index with images for this GPU and another one: the one for this GPU is found, and started.
  "$imgbuild" build -q "$folder/$model.onnx" --stack onnx-cuda --gpu "$sm,$wrong" --per-gpu -o "oci:$folder/index-$model:1" >/dev/null
  chosen=$("$imgbuild" doctor "oci:$folder/index-$model:1" ${dry:+--gpu "$sm"} --json | "$PYTHON" -c 'import json, sys; index = json.load(sys.stdin)["index"]
print(next(image["gpus"] for image in index["images"] if image["digest"] == index["chosen"]))') || true
  [ "$chosen" = "$sm" ] || { echo "error: doctor picks the image for $chosen, expected $sm" >&2; failed=1; }
  image=imgbuild-gpu-$model:index
  "$imgbuild" push "oci:$folder/index-$model:1" "$(place "$image")" --gpu "$sm"
  parts+=(--image "$model=$image")
done
"$imgbuild" build -q "$folder/$cnn.onnx" --stack onnx-cuda --gpu "$wrong" -o "$(place "imgbuild-gpu-$cnn:wrong")" >/dev/null
doctor "imgbuild-gpu-$cnn:wrong" 11
cudnn=/usr/lib/x86_64-linux-gnu/libcudnn.so.9
# The transformer of a dry run has no cuDNN that could be hidden: its place takes the provider's own library.
[ -z "$dry" ] || cudnn=/usr/lib/x86_64-linux-gnu/libonnxruntime_providers_cuda.so
"$PYTHON" tests/gpu/plan.py "$folder/server" --docker "$docker" "${parts[@]}" --wrong-image "imgbuild-gpu-$cnn:wrong" --cudnn "$cudnn" >"$folder/images.json"
"$PYTHON" tests/gpu/server.py "$folder/images.json" ${dry:+--dry-run} || failed=1
[ -z "$dry" ] || rm -rf "$folder"/images "$folder"/index-* "$folder"/variants
[ -z "$dry" ] || echo "DRY RUN: the end was reached; status $failed"
exit "$failed"

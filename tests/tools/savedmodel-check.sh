#!/usr/bin/env bash
# basic-pitch and a ResNet50 of keras.applications, served by `tf-xla` and `tf-xla-aot` in the embedded runner and in Docker, against
# TensorFlow's Python: 16 inputs, batch 1 and 3, 1e-4 without XLA and 2e-3 with it. `tf-xla` also with oneDNN held to AVX2 and to SSE4.1, against
# TensorFlow's Python that is held so too: oneDNN itself answers basic-pitch otherwise by 1.3e-4 with SSE4.1.
# Every start gets a call of a wrong shape and one of an unknown signature. A model of sizes that do not change has the operators for which
# `tf-xla-aot` links XLA's runtime (convolutions, products and sorts; 5e-3, since some are of 16 bits), for each kind of processor that this one is.
#
#   savedmodel-check.sh            about 35 minutes and 8 GB of disk; a line for every start, and a last line with their number
#   MODELS=, FORMS=, RUNNERS=      fewer: `MODELS=resnet50 FORMS="off aot" RUNNERS=embedded`; OLDER= without the older instruction sets
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
folder=$root/build/savedmodel-check
target=${CARGO_TARGET_DIR:-$root/target}
imgbuild=$(realpath "${IMGBUILD:-$target/release/imgbuild}")
export IMGBUILD_SERVER; IMGBUILD_SERVER=$(realpath "${IMGBUILD_SERVER:-$target/server/imgserve}")
export IMGBUILD_STORE=${IMGBUILD_STORE:-$folder/store}
models=${MODELS:-basic-pitch resnet50 kernels}
runners=${RUNNERS:-embedded docker}
forms=${FORMS:-off auto measure aot}
older=${OLDER-AVX2 SSE41}
python=$("$root/tests/tools/venv.sh")
tensorflow=$("$root/tests/tools/venv.sh" "$root/build/venv-tf" "$root/tests/tools/requirements-tf.txt")
mkdir -p "$folder"
work=$(mktemp -d "$folder/work-XXXXXX")
server="" docker_state=""
cleanup() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
  [ -z "$docker_state" ] || tests/tools/dockerd.sh stop "$docker_state" || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

model() { # NAME: prints its folder
  case $1 in
    basic-pitch) "$root/tests/tools/fetch-models.sh" basic-pitch-saved-model ;;
    resnet50 | kernels)
      local path=$root/build/models/$1
      [ -d "$path" ] || { "$tensorflow" tests/tools/tensorflow_reference.py --make "$1" "$work/made" 2>/dev/null; mkdir -p "${path%/*}"; mv "$work/made" "$path"; }
      echo "$path" ;;
    *) echo "savedmodel-check.sh: no model is named $1, expected basic-pitch, resnet50 or kernels" >&2; exit 64 ;;
  esac
}

started=0
in_docker=docker-daemon:imgbuild-savedmodel-check:1
start() { # RUNNER LAYOUT [VARIABLE]: starts the image and sets address
  local options=() variable image=oci:$2:1
  [ "$1" = embedded ] || image=$in_docker
  for variable in "${@:3}"; do options+=(-e "$variable"); done
  : >"$work/address"
  "$imgbuild" run "$image" --runner "$1" --wait 300 "${options[@]}" >"$work/address" 2>"$work/log" &
  server=$!
  for _ in $(seq 3000); do
    grep -q '^http' "$work/address" && { address=$(sed -n 's|^http://||p' "$work/address"); return; }
    kill -0 "$server" 2>/dev/null || break
    sleep 0.1
  done
  echo "savedmodel-check.sh: no server came up; it said:" >&2
  tail -n 20 "$work/log" >&2
  exit 1
}

# What TensorFlow's Python answers, kept: MODEL FOLDER [VARIABLE]
reference() {
  local path=$folder/$1${3:+-${3#*=}}.npz
  [ -s "$path" ] || { env ${3:+"$3"} "$tensorflow" tests/tools/tensorflow_reference.py "$2" "$work/reference.npz" 2>/dev/null; mv "$work/reference.npz" "$path"; }
  echo "$path"
}

check() { # MODEL FORM RUNNER TOLERANCE LAYOUT [VARIABLE]
  start "$3" "$5" "${@:6}"
  local expected; expected=$(reference "$1" "$work/$1" "${@:6}")
  local outcome; outcome=$("$python" tests/tools/judge_saved_model.py --address "$address" --name m --atol "$4" --cases 16 "$expected")
  "$python" tests/tools/wrong_calls.py "$address" m
  kill "$server"; wait "$server" || { echo "savedmodel-check.sh: the server ended with $?" >&2; exit 1; }
  server=""
  started=$((started + 1))
  echo "$1, $2, $3${6:+, $6}: $outcome"
}

for runner in $runners; do
  if [ "$runner" = docker ]; then
    docker_state=$work/docker
    # Without a daemon, that part is left out, and said so.
    DOCKER_HOST=$(tests/tools/dockerd.sh start "$docker_state" bridge) || { docker_state="" runners=${runners/docker/}; echo "Docker: not run"; continue; }
    export DOCKER_HOST
  fi
done
for name in $models; do
  path=$(model "$name")
  cp -r "$path" "$work/$name"
  these=$forms
  [ "$name" != kernels ] || these="x86-64-v2 x86-64-v3 native"
  for form in $these; do
    tolerance=2e-3 options=(--stack tf-xla --xla "$form")
    case $form in
      off) tolerance=1e-4 ;;
      aot) options=(--stack tf-xla-aot --batch 1,3) ;;
      x86-64-* | native) tolerance=5e-3 options=(--stack tf-xla-aot --cpu "$form") ;;
    esac
    layout=$work/image
    rm -rf "$layout"
    # Docker before 23.0 reads no zstd layers.
    "$imgbuild" build -q "$work/$name" "${options[@]}" --name m --compression gzip -o "oci:$layout:1" --report "$work/size.json" >/dev/null
    "$python" - "$name" "$form" "$work/size.json" <<'PY'
import json, sys
name, form, path = sys.argv[1:]
report = json.load(open(path))
print(f"{name}, {form}: built, {report['totals']['without_model']['unpacked'] / 1e6:.1f} MB without the model; {report.get('xla') or report.get('compiled')}")
PY
    for runner in $runners; do
      [ "$runner" = embedded ] || "$imgbuild" push -q "oci:$layout:1" "$in_docker" >/dev/null
      check "$name" "$form" "$runner" "$tolerance" "$layout"
    done
    case $form in off | auto)
      for set in $older; do check "$name" "$form" embedded "$tolerance" "$layout" "ONEDNN_MAX_CPU_ISA=$set"; done ;;
    esac
  done
  rm -rf "${work:?}/$name"
done
echo "savedmodel-check: $started starts answered as TensorFlow's Python does"

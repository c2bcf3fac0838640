#!/usr/bin/env bash
# A second build: after a change of the model alone, and after no change, against docker build, buildah, and sha256sum of the model.
source "$(dirname "$0")/lib.sh"
sizes=(10MB:5 1GB-external:3 4GB-external:1)
quick && sizes=(2MB-external:1)
[ -z "${BENCH_SIZES:-}" ] || read -ra sizes <<<"$BENCH_SIZES"

emit <<'MD'
## A second build

One image of four layers: base, runtime, server, model. The layers below the model are in every tool's cache. *Model changed*: eight
bytes of the weights are written over, then the image is built. *Nothing changed*: it is built again. `docker build` (BuildKit) and
`buildah build` copy the very same files onto `scratch`; `sha256sum` reads the model's files. All in one run, alternated; a daemon's
CPU time and memory are counted. The ratio is to `imgbuild` in the same case.

MD

# Puts the unpacked layers below the model where docker and buildah copy them from.
lower_layers() { # CONTEXT
  "$imgbuild" build -q "$1/model/model.onnx" --compression none -o "oci:$work/flat" >/dev/null
  python3 - "$work/flat" "$1" <<'PY'
import json, os, subprocess, sys
layout, context = sys.argv[1:]
blob = lambda digest: os.path.join(layout, "blobs", *digest.split(":"))
manifest = json.load(open(blob(json.load(open(layout + "/index.json"))["manifests"][0]["digest"])))
for name, layer in zip(("base", "runtime", "server"), manifest["layers"]):
    os.makedirs(f"{context}/{name}")
    subprocess.run(["tar", "-xf", blob(layer["digest"]), "-C", f"{context}/{name}"], check=True)
PY
  rm -rf "$work/flat"
}

measure() { # NAME REPEATS
  local context=$work/context weights
  mkdir -p "$context/model"
  cd "$work"
  sized "$work" relu
  cp "$work/relu/model.onnx" "$context/model/"
  lower_layers "$context"
  printf 'FROM scratch\nCOPY base/ /\nCOPY runtime/ /\nCOPY server/ /\nCOPY model/ /models/model/\nUSER 65532:65532\nENTRYPOINT ["/usr/bin/imgserve"]\n' >"$context/Dockerfile"
  local build_docker="env DOCKER_BUILDKIT=1 $docker build --quiet --tag bench $context"
  local build_buildah="buildah --root $work/containers --runroot $work/run --storage-driver $storage build --quiet --layers --tag bench $context"
  local build_imgbuild="$imgbuild build -q context/model/model.onnx --name model -o oci:$work/image"
  $build_docker >/dev/null
  $build_buildah >/dev/null
  $build_imgbuild >/dev/null
  sized "$work" "$1"
  mv "$work/$1"/* "$context/model/"
  weights=$context/model/model.onnx
  [ ! -f "$context/model/weights.bin" ] || weights=$context/model/weights.bin
  local offset=$(($(stat -c %s "$weights") - 4096))
  local change="printf '%08d' \$((RANDOM % 10000)) | dd of=$weights bs=1 seek=$offset conv=notrunc status=none"
  # The layer of the last change would only fill the disk; nothing else in the store is that large.
  local forget="rm -rf $work/image; find $IMGBUILD_STORE/blobs -type f -size +300M -delete"
  race --repeats "$2" --daemon "docker build=$docker_pid" "${1%-external}" \
    "model changed: imgbuild" "$forget; $change" "$build_imgbuild" \
    "nothing changed: imgbuild" "" "$build_imgbuild" \
    "model changed: sha256sum" "" "sha256sum $context/model/*" \
    "model changed: docker build" "$change" "$build_docker" \
    "nothing changed: docker build" "" "$build_docker" \
    "model changed: buildah" "$change" "$build_buildah" \
    "nothing changed: buildah" "" "$build_buildah" | emit
  echo | emit
}

storage=overlay
mkdir -p "$work/containers" "$work/run"
buildah --root "$work/containers" --runroot "$work/run" --storage-driver overlay info >/dev/null 2>&1 || storage=vfs
for pair in "${sizes[@]}"; do
  name=${pair%:*}
  if [ "$name" = 4GB-external ] && [ "$(df --output=avail -B1000000000 "$work" | tail -n 1)" -lt 30 ]; then
    echo "The 4 GB model was left out: fewer than 30 GB of disk were free." | emit
    continue
  fi
  start_docker
  note "second build of $name"
  measure "$name" "${pair#*:}"
  "$root/tests/tools/dockerd.sh" stop "$docker_state"
  buildah --root "$work/containers" --runroot "$work/run" --storage-driver "$storage" rmi --all --force >/dev/null 2>&1 || true
  find "$work" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
done

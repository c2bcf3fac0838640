#!/usr/bin/env bash
# Stands in for `docker run` where run.sh is tried without a GPU: the image's own server, by the image's own loader, over a CUDA that
# computes nothing. DRY_IMAGES is the folder of OCI layouts by name, DRY_CUDA the folder with the libraries of fake_cuda.py. A volume
# `/dev/null:FILE` hides that file of the image, another one is a folder that the server writes to.
set -euo pipefail
[ "$1" = run ] || { echo "dry_docker.sh: $1 is not known, expected run" >&2; exit 2; }
shift
port= hidden=() volume= inside=
while :; do
  case $1 in
    --rm | --init) shift ;;
    --gpus) shift 2 ;;
    -p) port=${2#127.0.0.1:}; port=${port%:8080}; shift 2 ;;
    -v | --volume)
      if [ "${2%%:*}" = /dev/null ]; then hidden+=("${2#*:}"); else volume=${2%%:*} inside=${2#*:}; fi
      shift 2 ;;
    -*) echo "dry_docker.sh: option $1 is not known" >&2; exit 2 ;;
    *) break ;;
  esac
done
image=$1
shift
layout=$DRY_IMAGES/${image//:/-} root=$(mktemp -d)
server=
stop() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  wait || true
  rm -rf "$root"
}
trap stop EXIT
trap 'exit 143' TERM INT
python3 - "$layout" "$root" "${port:-0}" <<'PYTHON'
import json, pathlib, subprocess, sys
image, root, port = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
blob = lambda digest: image / "blobs/sha256" / digest.removeprefix("sha256:")
manifest = json.loads(blob(json.loads((image / "index.json").read_text())["manifests"][0]["digest"]).read_text())
for layer in manifest["layers"]:
    subprocess.run(["tar", "--zstd" if layer["mediaType"].endswith("zstd") else "-x", "-xf", blob(layer["digest"]), "-C", root], check=True)
file = root / "etc/imgserve/config.json"
config = json.loads(file.read_text())
config |= {"port": port, "address": "127.0.0.1"} | {key: str(root) + config[key] for key in ("model_path", "library") if key in config}
file.write_text(json.dumps(config))
PYTHON
for file in ${hidden[@]+"${hidden[@]}"}; do rm "$root$file"; done
arguments=("$@")
[ -z "$volume" ] || arguments=("${arguments[@]/#$inside/$volume}")
libraries=$root/usr/lib/x86_64-linux-gnu
ORT_DISABLE_TELEMETRY=1 "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$DRY_CUDA:$libraries" "$root/usr/bin/imgserve" --config "$root/etc/imgserve/config.json" \
  ${arguments[@]+"${arguments[@]}"} &
server=$!
wait "$server"

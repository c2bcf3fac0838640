#!/usr/bin/env bash
# Packages a real model, runs the image, asks it something, and prints its size report and its cold-start report. Needs neither Docker nor a registry account.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
imgbuild=$(realpath "$target/release/imgbuild")
export IMGBUILD_SERVER; IMGBUILD_SERVER=$(realpath "$target/server/imgserve")
work=${IMGBUILD_DEMO_DIR:-build/demo}
mkdir -p "$work"
model=$(tests/tools/fetch-models.sh magika)
cp "$model" "$work/magika.onnx"
cd "$work"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
say "\$ imgbuild build magika.onnx --report size.json"
"$imgbuild" build magika.onnx --report size.json

say "\$ imgbuild run oci:magika.oci"
"$imgbuild" run oci:magika.oci >address.txt 2>run.log &
runner=$!
trap 'kill "$runner" 2>/dev/null || true; wait "$runner" 2>/dev/null || true' EXIT
for _ in $(seq 600); do [ -s address.txt ] && break; kill -0 "$runner" 2>/dev/null || { cat run.log >&2; exit 1; }; sleep 0.1; done
address=$(cat address.txt)
echo "$address"
say "\$ curl $address/v2/models/magika"
curl -sS --fail "$address/v2/models/magika"; echo

say "\$ curl $address/v2/models/magika/infer   (the first 2048 bytes of this script's folder listing)"
python3 - "$address" <<'PY'
import json, sys, urllib.request
address = sys.argv[1]
meta = json.load(urllib.request.urlopen(f"{address}/v2/models/magika"))
source = b"#!/usr/bin/env python3\nimport sys\n\ndef main():\n    print('hello', sys.argv)\n\nif __name__ == '__main__':\n    main()\n"
tensor = meta["inputs"][0]
width = tensor["shape"][-1]
# The model reads the bytes at both ends of a file, each padded with 256.
half = width // 2
first = list(source[:half]) + [256] * (half - len(source[:half]))
last = [256] * (half - len(source[-half:])) + list(source[-half:])
body = {"inputs": [{"name": tensor["name"], "datatype": tensor["datatype"], "shape": [1, width], "data": first + last}]}
request = urllib.request.Request(f"{address}/v2/models/magika/infer", json.dumps(body).encode(), {"Content-Type": "application/json"})
answer = json.load(urllib.request.urlopen(request))
scores = answer["outputs"][0]["data"]
best = max(range(len(scores)), key=scores.__getitem__)
print(f"{len(scores)} scores, the highest is {scores[best]:.4f} at index {best}, their sum is {sum(scores):.4f}")
assert abs(sum(scores) - 1) < 1e-3, "scores of a classifier sum to one"
PY
say "start phases"
grep '"imgserve":"phase"' run.log || { cat run.log >&2; exit 1; }
kill -TERM "$runner"
wait "$runner"
trap - EXIT
say "\$ imgbuild coldstart oci:magika.oci --runs 3 --seconds 1 --report coldstart.json"
"$imgbuild" coldstart oci:magika.oci --runs 3 --seconds 1 --report coldstart.json
say "size report, as above"
"$imgbuild" build magika.onnx
say "\$ imgbuild compare size.json+coldstart.json --baseline package --format html -o report.html"
"$imgbuild" compare size.json+coldstart.json --baseline package --format html -o report.html
echo
echo "image: $work/magika.oci   page: $work/report.html   size report: $work/size.json   cold-start report: $work/coldstart.json"

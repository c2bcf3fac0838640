#!/usr/bin/env bash
# Our image of a real model against the one that people build today: sizes, pull, start to first answer. Images with TensorFlow and
# PyTorch are compared in size alone: from build/bench where they were measured before, or now with BASELINE_LARGE=1 (some minutes and
# 15 GB of disk).
source "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || { note "the baseline needs root"; exit 77; }
command -v debootstrap >/dev/null || { note "the baseline needs debootstrap"; exit 77; }
repeats=7
quick && repeats=1
python_image=$bench/python_image.sh
cd "$work"

model=$("$root/tests/tools/fetch-models.sh" magika)
cp "$model" magika.onnx
start_docker
start_registry
note "building both images"
theirs=$registry/theirs:1 ours=$registry/ours:1
"$python_image" image onnxruntime magika.onnx "$theirs"
docker push --quiet "$theirs" >/dev/null
unpacked=$(($(docker image inspect --format '{{.Size}}' "$theirs") - $(stat -c %s magika.onnx)))
skopeo inspect --raw --tls-verify=false "docker://$theirs" >theirs.json
"$imgbuild" build -q magika.onnx --compression gzip -t "$ours" --push --report gzip.json >/dev/null
"$imgbuild" build -q magika.onnx --report zstd.json >/dev/null
"$imgbuild" build -q magika.onnx --compression zstd --report fast.json >/dev/null
docker rmi imgbuild-bench/python-base:1 >/dev/null
mkdir warmer
cp "$(command -v busybox)" warmer/busybox
tar -C warmer -cf - busybox | docker import - imgbuild-bench/warmer:1 >/dev/null

for packages in tensorflow torch; do
  if [ -n "${BASELINE_LARGE:-}" ]; then "$python_image" size "$packages"; else "$python_image" size --kept "$packages"; fi >"$packages.size"
done

emit <<'MD'
## Against the image that people build today

magika's model (3.1 MB) served by our image and by Debian slim + Python + `pip install onnxruntime fastapi uvicorn` + a small app
(`tests/bench/python_image.sh` builds it here; `tests/bench/python-image/` is what goes in). Sizes are without the model. Compressed
is gzip as a registry holds it; ours by default is zstd at the level that `--compression auto` chooses.

MD
{
  echo "| image, without the model | unpacked | compressed | times ours in gzip | by default | in quick zstd |"
  echo "|---|--:|--:|--:|--:|--:|"
  python3 - "$unpacked" <<'PY'
import json, sys
def totals(file):
    return json.load(open(file))["totals"]["without_model"]
default, fast, gzip = totals("zstd.json"), totals("fast.json"), totals("gzip.json")
layers = [layer["size"] for layer in json.load(open("theirs.json"))["layers"]]
rows = [
    ("`imgbuild`, gzip", gzip["unpacked"], gzip["compressed"]),
    ("`imgbuild`, the default", default["unpacked"], default["compressed"]),
    ("`imgbuild`, `--compression zstd`", fast["unpacked"], fast["compressed"]),
    # The last layer is the app and the model.
    ("Python with onnxruntime, fastapi, uvicorn", int(sys.argv[1]), sum(layers[:-1])),
]
for package in ("tensorflow", "torch"):
    size = open(package + ".size").read().split()
    if size:
        rows.append((f"Python with {package}, fastapi, uvicorn", int(size[0]), int(size[1])))
for name, unpacked, compressed in rows:
    ours = " | ".join(f"{compressed / of['compressed']:.1f}" for of in (gzip, default, fast))
    print(f"| {name} | {unpacked / 1e6:.1f} MB | {compressed / 1e6:.1f} MB | {ours} |")
PY
  echo
  echo "From \`docker run\` (read-only root, all capabilities dropped) to the model's first answer, and \`docker pull\` of the same gzip"
  echo "images from a registry on the loopback; alternated. Cold: page cache dropped, then another container started, so that Docker"
  echo "itself is in memory. Both images gave the same answer."
  echo
  echo "| | imgbuild | Python image | ratio |"
  echo "|---|--:|--:|--:|"
} | emit
python3 - >request.json <<'PY'
import json
print(json.dumps({"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": [i % 257 for i in range(2048)]}]}))
PY
note "pulling and starting both"
python3 "$bench/baseline.py" --repeats "$repeats" --docker docker --body request.json --warmer imgbuild-bench/warmer:1 "$ours" magika "$theirs" | emit

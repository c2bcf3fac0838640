#!/usr/bin/env bash
# SavedModels: our image against Debian slim + Python + `pip install tensorflow-cpu fastapi uvicorn` (sizes, pull, start to first answer by
# Docker), and steady answers with XLA and without, asked in turn.
source "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || { note "the Python image needs root"; exit 77; }
command -v debootstrap >/dev/null || { note "the Python image needs debootstrap"; exit 77; }
repeats=5 requests=200
quick && repeats=1 requests=5
cd "$work"
"$root/tests/tools/venv.sh" "$root/build/venv-tf" "$root/tests/tools/requirements-tf.txt" >/dev/null
[ -d "$cache/resnet50" ] || { "$root/build/venv-tf/bin/python" "$root/tests/tools/tensorflow_reference.py" --make resnet50 "$work/made" 2>/dev/null; mv "$work/made" "$cache/resnet50"; }
cp -r "$cache/resnet50" resnet50
cp -r "$("$root/tests/tools/fetch-models.sh" basic-pitch-saved-model)" basic-pitch
start_docker
start_registry
theirs=$registry/theirs:1
note "building the images"
"$bench/python_image.sh" image tensorflow-cpu resnet50 "$theirs"
docker push --quiet "$theirs" >/dev/null
skopeo inspect --raw --tls-verify=false "docker://$theirs" >theirs.json
unpacked=$(($(docker image inspect --format '{{.Size}}' "$theirs") - $(du -sb resnet50 | cut -f1)))
variants=(tf-xla tf-xla-auto tf-xla-aot)
options() {
  case $1 in
    tf-xla) echo --stack tf-xla ;;
    tf-xla-auto) echo --stack tf-xla --xla auto ;;
    tf-xla-aot) echo --stack tf-xla-aot --batch 1 ;;
  esac
}
for variant in "${variants[@]}"; do
  # Docker before 23.0 reads no zstd layers.
  "$imgbuild" build -q resnet50 $(options "$variant") --compression gzip -t "$registry/$variant:1" --push --report gzip.json >/dev/null
  "$imgbuild" build -q resnet50 $(options "$variant") -o "oci:$variant:1" --report "$variant.json" >/dev/null
done
docker rmi imgbuild-bench/python-base:1 >/dev/null
mkdir warmer
cp "$(command -v busybox)" warmer/busybox
tar -C warmer -cf - busybox | docker import - imgbuild-bench/warmer:1 >/dev/null
emit <<'MD'
## SavedModels against TensorFlow's Python

ResNet50 of keras.applications (random weights) served by our images and by Debian slim + Python +
`pip install tensorflow-cpu fastapi uvicorn` + a small app. Sizes are without the model and, for `tf-xla-aot`, without the code that was compiled of it (4.3 MB); compressed
is zstd, the default, for ours and gzip for theirs.

MD
{
  echo "| | unpacked | ratio | compressed | ratio |"
  echo "|---|--:|--:|--:|--:|"
  python3 - "$unpacked" "${variants[@]}" <<'PY'
import json, sys
# The last layer is the app and the model.
layers = [layer["size"] for layer in json.load(open("theirs.json"))["layers"]]
theirs = {"unpacked": int(sys.argv[1]), "compressed": sum(layers[:-1])}
for variant in sys.argv[2:]:
    ours = json.load(open(f"{variant}.json"))["totals"]["without_model"]
    cells = " | ".join(f"{ours[what] / 1e6:.1f} MB | {theirs[what] / ours[what]:.1f}" for what in theirs)
    print(f"| `{variant}` | {cells} |")
print(f"| Python image | {theirs['unpacked'] / 1e6:.1f} MB | 1.0 | {theirs['compressed'] / 1e6:.1f} MB | 1.0 |")
PY
  echo
  echo "From \`docker run\` to the first answer as above, each of ours in turn with the Python image. \`tf-xla\` measures whether XLA pays; \`tf-xla-auto\` is \`--xla auto\`. The Python image does without XLA."
  echo
  echo "| | imgbuild | Python image | ratio |"
  echo "|---|--:|--:|--:|"
} | emit
note "pulling and starting"
python3 -c 'import json; print(json.dumps({"inputs": [{"name": "keras_tensor", "datatype": "FP32", "shape": [1, 224, 224, 3], "data": [i % 251 / 250 for i in range(150528)]}]}))' >request.json
pulls=$repeats
for variant in "${variants[@]}"; do
  python3 "$bench/baseline.py" --repeats "$repeats" --pulls "$pulls" --label "\`$variant\`: " --docker docker --body request.json \
    --warmer imgbuild-bench/warmer:1 "$registry/$variant:1" resnet50 "$theirs" | emit
  pulls=0
done
emit <<'MD'

Steady answers of two images that differ in XLA alone, both running, asked in turn, one request at a time:

| model | without XLA, ms (median, spread) | with XLA, ms | without over with |
|---|--:|--:|--:|
MD
for model in basic-pitch resnet50; do
  note "$model with XLA and without"
  for xla in off auto; do
    "$imgbuild" build -q "$model" --stack tf-xla --xla "$xla" -o "oci:$model-$xla:1" --report "$model-$xla.json" >/dev/null
  done
  python3 "$bench/in_turn.py" --requests "$requests" --imgbuild "$imgbuild" "$model" "oci:$model-off:1" "oci:$model-auto:1" | emit
done
echo | emit
note "tf-xla-aot against tf-xla in the embedded runner"
"$imgbuild" -q coldstart oci:tf-xla-aot:1 --against oci:tf-xla:1 --runner embedded --runs "$repeats" --clients 1 --requests 1 --report aot-cold.json --against-report tf-cold.json >/dev/null
{
  echo '`tf-xla-aot` against `tf-xla` by itself: `imgbuild coldstart --against` with the embedded runner, the two in turn, from start to first answer.'
  echo
  echo '| page cache | `tf-xla-aot` | `tf-xla` | ratio |'
  echo "|---|--:|--:|--:|"
  python3 - <<'PY'
import json
columns = [{column["cache"]: column["start_to_first_answer"] for column in json.load(open(file))["columns"]} for file in ("aot-cold.json", "tf-cold.json")]
for cache in ("warm", "cold"):
    if cache in columns[0]:
        ours, other = (column[cache] for column in columns)
        cells = " | ".join(f"{side['median']:.0f} ms ({min(side['samples']):.0f}–{max(side['samples']):.0f})" for side in (ours, other))
        print(f"| {cache} (median of {len(ours['samples'])}, spread) | {cells} | {other['median'] / ours['median']:.1f} |")
PY
  echo
} | emit

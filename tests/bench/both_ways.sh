#!/usr/bin/env bash
# ResNet50, exported from TensorFlow as a SavedModel and as ONNX: both as images, the second held against the first.
source "$(dirname "$0")/lib.sh"
"$root/tests/tools/venv.sh" "$root/build/venv-tf" "$root/tests/tools/requirements-tf.txt" >/dev/null
python=$root/build/venv-tf/bin/python
# Without what they ask for, which TensorFlow's own versions stand in for.
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/tf2onnx" tf2onnx==1.17.0 onnx==1.23.2 flatbuffers
note "exporting both ways"
PYTHONPATH=$work/tf2onnx TF_CPP_MIN_LOG_LEVEL=2 "$python" "$bench/both_ways.py" "$work" >"$work/log" 2>&1 || { tail -n 5 "$work/log" >&2; exit 1; }
cd "$work"

emit <<'MD'
## One model, both ways

ResNet50 of keras.applications (random weights), exported from TensorFlow as a SavedModel and, by tf2onnx, as ONNX: 16 inputs through both images.

| XLA | image, SavedModel | image, ONNX | largest error, of the peak | relative RMSE | verdict |
|---|--:|--:|--:|--:|---|
MD
"$imgbuild" build -q resnet50.onnx --name resnet50 -o oci:onnx:1 --report onnx.json >/dev/null
for xla in off auto; do
  note "verifying, XLA $xla"
  "$imgbuild" build -q saved_model --name resnet50 --xla "$xla" -o oci:saved:1 --report saved.json >/dev/null
  code=0
  "$imgbuild" verify -q oci:onnx:1 --reference oci:saved:1 --data inputs.npz --rename output_0=Identity:0 --report drift.json >/dev/null || code=$?
  [ "$code" = 0 ] || [ "$code" = 7 ] || exit "$code"
  python3 - "$xla" <<'PY' | emit
import json, sys
size = lambda name: json.load(open(name + ".json"))["totals"]["image"]["compressed"] / 1e6
drift = json.load(open("drift.json"))
checks = {check["metric"]: check["found"] for check in drift["outputs"][0]["checks"]}
verdict = "passed" if drift["passed"] else "failed"
print(f"| {sys.argv[1]} | {size('saved'):.1f} MB | {size('onnx'):.1f} MB | {checks['max-peak']:.1e} | {checks['relative-rmse']:.1e} | {verdict} |")
PY
done
echo | emit

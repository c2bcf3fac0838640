#!/usr/bin/env bash
# Noise is no regression: one image is measured in sessions one after the other, and every report is held against every other one with
# the gate that pipelines use.
#
#   noise.sh [SESSIONS [RUNS]]     20 sessions of 5 runs
source "$(dirname "$0")/lib.sh"
sessions=20
quick && sessions=2
sessions=${1:-$sessions} runs=${2:-5}
model=$("$root/tests/tools/fetch-models.sh" magika)
cd "$work"
cp "$model" magika.onnx
"$imgbuild" build -q magika.onnx >/dev/null
note "$sessions sessions of $runs runs"
load=$(cut -d' ' -f1 /proc/loadavg)
for session in $(seq -w "$sessions"); do
  "$imgbuild" --quiet coldstart oci:magika.oci --runner embedded --runs "$runs" --clients 1 --requests 20 --report "$session.json" >/dev/null
done
pairs=0 over=0
for base in ??.json; do
  for head in ??.json; do
    [ "$base" != "$head" ] || continue
    code=0
    "$imgbuild" compare "$base" "$head" --max-growth 5% >said 2>&1 || code=$?
    case $code in
      0) ;;
      7) over=$((over + 1)); cat said >&2 ;;
      *) cat said >&2; exit 1 ;;
    esac
    pairs=$((pairs + 1))
  done
done
emit <<'MD'
## Noise is no regression

One image of magika, measured by `imgbuild coldstart` with the embedded runner in sessions one after the other; every report held against every other
one by `imgbuild compare BASE HEAD --max-growth 5%`.

MD
{
  echo "| sessions | runs each | load at the start | ordered pairs | called a regression | start to first answer, medians, warm | cold |"
  echo "|--:|--:|--:|--:|--:|--:|--:|"
  python3 - "$sessions" "$runs" "$load" "$pairs" "$over" ??.json <<'PY'
import json, sys
*figures, = sys.argv[1:6]
def medians(cache):
    found = [column["start_to_first_answer"]["median"] for file in sys.argv[6:] for column in json.load(open(file))["columns"] if column["cache"] == cache]
    return f"{min(found):.0f}–{max(found):.0f} ms" if found else "not measured"
print(f"| {' | '.join(figures)} | {medians('warm')} | {medians('cold')} |")
PY
  echo
} | emit

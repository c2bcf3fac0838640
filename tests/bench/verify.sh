#!/usr/bin/env bash
# A test set of ten thousand samples through `imgbuild verify`: memory of the client, and throughput against the server's own.
source "$(dirname "$0")/lib.sh"
small=1000 large=10000 seconds=5
if quick; then small=100 large=1000 seconds=1; fi
model=$("$root/tests/tools/fetch-models.sh" magika)
python=$("$root/tests/tools/venv.sh")
"$python" "$bench/verify_data.py" "$model" "$work/data" "$small" "$large"
cd "$work"
cp "$model" magika.onnx
"$imgbuild" build -q magika.onnx -o oci:image:1 >/dev/null

emit <<'MD'
## Verifying

`magika` (3 MB) with random inputs, a sample a request, against the outputs of ONNX Runtime's Python interface. The server's own throughput is the one that `imgbuild coldstart` measures on
the same image with as many clients, which ask one request again and again and look at no answer; `imgbuild verify` reads samples, compares answers and computes every metric on the same cores. Its throughput is that of
the samples by which the two test sets differ, so that starting the image does not count. Memory is the client's `VmHWM`, without the server.

MD

# Runs a verification, and prints its seconds and the most memory that the client had, kB.
watch() {
  local begun high=0 now
  begun=$(date +%s.%N)
  "$imgbuild" verify -q oci:image:1 --data "data/$1.npz" --clients "$2" --format json -o "report-$1-$2.json" &
  local pid=$!
  while now=$(awk '/^VmHWM/ { print $2 }' "/proc/$pid/status" 2>/dev/null) && [ -n "$now" ]; do high=$now; sleep 0.05; done
  wait "$pid"
  awk -v begun="$begun" -v end="$(date +%s.%N)" -v high="$high" 'BEGIN { print end - begun, high }'
}

{
  echo "| clients | client's memory, $small samples | $large samples | $large samples took | verified a second | the server's own | ratio |"
  echo "|---:|---:|---:|---:|---:|---:|---:|"
} | emit
for clients in ${BENCH_CLIENTS:-1 2 4}; do
  note "verify with $clients clients"
  own=$("$imgbuild" coldstart -q oci:image:1 --runs 1 --clients "$clients" --seconds "$seconds" --data data/one --json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["steady"][0]["per_second"])')
  read -r small_seconds small_memory <<<"$(watch "$small" "$clients")"
  read -r large_seconds large_memory <<<"$(watch "$large" "$clients")"
  awk -v clients="$clients" -v ss="$small_seconds" -v sm="$small_memory" -v ls="$large_seconds" -v lm="$large_memory" \
    -v samples=$((large - small)) -v own="$own" 'BEGIN {
      rate = samples / (ls - ss)
      printf "| %d | %.1f MB | %.1f MB | %.1f s | %.0f | %.0f | %.2f |\n", clients, sm * 1024 / 1e6, lm * 1024 / 1e6, ls, rate, own, rate / own
    }' | emit
done
echo | emit

#!/usr/bin/env bash
# Runs every section of the benchmark and writes docs/BENCHMARKS.md.
#
#   run.sh            about twelve minutes on two quiet cores; needs root for Docker, and 30 GB of disk for the largest model
#   BENCH=quick       the same steps with small sizes, as a smoke test; BENCH_OUTPUT=FILE writes elsewhere
#
# A section is any script in this folder but this one, lib.sh and python_image.sh; SECTIONS names some of them, and
# BENCH_SIZES other models than the usual, each with its repeats ("1GB-external:3"). One that cannot run
# on this machine exits with 77 and is noted in the result.
set -euo pipefail
cd "$(dirname "$0")"
bench=$PWD
output=$(realpath "${BENCH_OUTPUT:-../../docs/BENCHMARKS.md}")
export BENCH=${BENCH:-full}
export BENCH_OUTPUT=$output.part
case $BENCH in full | quick) ;; *) echo "run.sh: BENCH is \`$BENCH\`, expected full or quick" >&2; exit 64 ;; esac
trap 'rm -f "$output.part"' EXIT
cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)
memory=$(awk '/^MemTotal/ { printf "%.0f", $2 / 1e6 * 1.024 }' /proc/meminfo)
cat >"$BENCH_OUTPUT" <<MD
# Benchmarks

Written by \`make bench\` on $(date -u +%Y-%m-%d)$([ "$BENCH" = full ] || echo ", with small sizes (\`BENCH=$BENCH\`): a smoke test, not figures to quote").
Machine: ${cpu:-unknown processor}, $(nproc) cores, $memory GB of memory, Linux $(uname -r), load $(cut -d' ' -f1 /proc/loadavg) at the start.
Tools: $(docker --version 2>/dev/null | cut -d, -f1), $(buildah --version 2>/dev/null | cut -d' ' -f1-3), $(skopeo --version 2>/dev/null).
Wall time and CPU time of \`/usr/bin/time\`, medians; MB = 10⁶ bytes. Read the ratios: both sides of each were measured in one run.

MD
for section in ${SECTIONS:-$(ls ./*.sh)}; do
  name=$(basename "$section" .sh)
  case $name in run | lib | python_image) continue ;; esac
  echo "bench: $name" >&2
  code=0
  "$bench/$name.sh" || code=$?
  case $code in
    0) ;;
    77) printf 'The section `%s` could not run on this machine.\n\n' "$name" >>"$BENCH_OUTPUT" ;;
    *) echo "run.sh: the section $name failed with $code" >&2; exit "$code" ;;
  esac
done
# One blank line between blocks.
cat -s "$BENCH_OUTPUT" >"$output"
echo "wrote $output" >&2

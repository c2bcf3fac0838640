#!/usr/bin/env bash
# Which of TensorFlow's kernels call cuSOLVER, cuSPARSE, cuFFT and cuDNN: what the rules of `tf-xla-gpu` rest on, read from the machine
# code of the wheel's library for GPUs, which has all its symbols. tensorflow_calls.sh LIBRARY… (ten minutes for libtensorflow_cc.so.2)
#
# Prints, by number of functions: kernels that make an object of GpuSolver or GpuSparse, and functions that call a library themselves.
# Only direct calls are seen.
set -euo pipefail
calls=$(mktemp)
trap 'rm -f "$calls"' EXIT
for library in "$@"; do
  objdump -d --no-show-raw-insn "$library" | awk '
    /^[0-9a-f]+ <.*>:$/ { name = $2; sub(/^</, "", name); sub(/>:$/, "", name); next }
    /call|jmp/ && match($0, /<[^>]*>$/) {
      called = substr($0, RSTART + 1, RLENGTH - 2)
      sub(/@plt.*/, "", called)
      if (called !~ /\+0x/ && called ~ /^(cufft|cusolver|cusparse|cudnn)[A-Z]|GpuSolver|GpuSparse/) print name "\t" called
    }'
done | sort -u >"$calls"
named() { cut -f1 | c++filt -n | sed -E 's/[<(].*//' | grep -vE '^(cu[a-z]+[A-Z]|tensorflow::Gpu(Solver|Sparse))' | sort | uniq -c | sort -rn || true; }
for class in GpuSolver GpuSparse; do
  echo "makes a $class:"
  grep -P "\t_ZN10tensorflow9${class}(C[12]|10Initialize)E" "$calls" | named
done
for library in cusolver cusparse cufft cudnn; do
  echo "calls $library:"
  grep -P "\t$library" "$calls" | named
done

#!/usr/bin/env bash
# Pruning a library of 284 MB to the device code of one GPU, against copying and hashing it.
source "$(dirname "$0")/lib.sh"
repeats=9
quick && repeats=1
provider=$("$root/tests/tools/fetch-cuda.sh")/libonnxruntime_providers_cuda.so

emit <<'MD'
## Pruning device code

`imgbuild fatbin prune` on ONNX Runtime's CUDA provider (284 MB, 609 fatbins), verification included, against `cp` and `sha256sum` of
the same file, both with the file in the page cache. Peak memory is what `time` says, which counts pages of mapped files.

MD

note "pruning"
cat "$provider" >"$work/warm.so"
cat >"$work/copy.sh" <<SH
cp '$provider' '$work/copy.so' && sha256sum '$work/copy.so' >/dev/null
SH
race --repeats "$repeats" "284 MB" \
  "copy and hash" "rm -f $work/*.so" "bash $work/copy.sh" \
  "imgbuild fatbin prune --gpu sm_75" "rm -f $work/*.so" "$imgbuild fatbin prune $provider -o $work/out.so --gpu sm_75" \
  "imgbuild fatbin prune --gpu sm_75,sm_80,sm_86,sm_89,sm_90" "rm -f $work/*.so" \
  "$imgbuild fatbin prune $provider -o $work/out.so --gpu sm_75,sm_80,sm_86,sm_89,sm_90" | emit
echo | emit
for limit in 12 16 24 32; do
  if prlimit --data=${limit}000000 "$imgbuild" fatbin prune "$provider" -o "$work/out.so" --gpu sm_75 >/dev/null 2>&1; then
    echo "It also runs where no more than $limit MB of memory may be written to (\`prlimit --data\`)." | emit
    break
  fi
done
echo | emit

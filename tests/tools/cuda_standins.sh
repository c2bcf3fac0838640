#!/usr/bin/env bash
# Writes a folder that stands in for NVIDIA's packages where their gigabytes would be too much: cuda_standins.sh FOLDER PROVIDER…
#
# Every library has the soname of the real one; those that the given providers are linked to export what these import, under the
# real versions. A licence lies beside them. `libcuda.so.1`, which belongs to the driver, goes to FOLDER/driver.
set -euo pipefail
folder=$1
mkdir -p "$folder/driver"
"$(dirname "$0")/cuda_stubs.sh" "$@"
mv "$folder/libcuda.so.1" "$folder/driver/"
rm -f "$folder"/*.c "$folder"/*.map
echo 'int unused;' >"$folder/driver/empty.c"
for soname in libcudnn.so.9 libcudnn_{graph,ops,cnn,adv,ext,heuristic,engines_precompiled,engines_runtime_compiled,engines_tensor_ir}.so.9 \
  libcufft.so.12 libnvrtc.so.13 libnvrtc-builtins.so.13.5 libnvJitLink.so.13; do
  gcc -shared -o "$folder/$soname" "$folder/driver/empty.c" "-Wl,-soname,$soname"
done
echo 'The licence of the libraries beside it.' >"$folder/License.txt"

#!/usr/bin/env bash
# Writes a folder that stands in for NVIDIA's packages where their gigabytes would be too much: cuda_standins.sh FOLDER PROVIDER…
#
# Every library has the soname of the real one; those that the given providers are linked to export what these import, under the
# real versions. FOLDER/tensorrt gets TensorRT's. A licence lies beside them. `libcuda.so.1`, which belongs to the driver, goes to FOLDER/driver.
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
# What the providers import without a version is TensorRT's, and the first three calls of cuDNN are the TensorRT provider's.
mkdir -p "$folder/tensorrt"
export_all() {
  local soname=$1 names=$2
  # Each returns an object all of whose virtual functions return 0.
  {
    echo 'static void *table[64], *object[2]; static long zero(void) { return 0; }'
    echo '__attribute__((constructor)) static void fill(void) { for (int k = 0; k < 64; k++) table[k] = zero; object[0] = table; }'
    sort -u <<<"$names" | sed -n 's/..*/void *&(void) { return object; }/p'
  } >"$folder/driver/$soname.c"
  gcc -shared -fPIC -w -o "${3:-$folder}/$soname" "$folder/driver/$soname.c" "-Wl,-soname,$soname" ${4:+"-Wl,--version-script=$4"}
}
imports=$(nm -D --undefined-only "${@:2}" | awk '{ print $NF }')
export_all libnvinfer.so.10 "$(grep -E '^(createInfer|getInfer|getPlugin|initLib)' <<<"$imports" || true)" "$folder/tensorrt"
export_all libnvonnxparser.so.10 "$(grep -E '^createNvOnnx' <<<"$imports" || true)" "$folder/tensorrt"
export_all libnvinfer_plugin.so.10 initLibNvInferPlugins "$folder/tensorrt"
export_all libnvinfer_builder_resource.so.10.16.1 "" "$folder/tensorrt"
if cudnn=$(grep -E '@libcudnn\.so\.9$' <<<"$imports"); then
  echo 'libcudnn.so.9 { global: *; };' >"$folder/driver/map"
  export_all libcudnn.so.9 "$(sed 's/@.*//' <<<"$cudnn")" "$folder" "$folder/driver/map"
fi
echo 'The licence of the libraries beside it.' | tee "$folder/tensorrt/License.txt" >"$folder/License.txt"
find "$folder/driver" -type f ! -name libcuda.so.1 -delete

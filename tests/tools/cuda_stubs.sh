#!/usr/bin/env bash
# Builds libraries that stand in for NVIDIA's where there is no GPU: cuda_stubs.sh FOLDER LIBRARY…
#
# Each exports, under the versions that the given libraries want, the functions that they import of it. All but a few return
# error 100 ("no CUDA-capable device"). The registration of device code is not a stand-in: it follows every wrapper that a
# library registers to its container, walks the container, and says at the end how many were intact.
set -euo pipefail
folder=$1
shift
mkdir -p "$folder"
cat >"$folder/known.c" <<'C'
#include <stdio.h>
#include <string.h>
typedef struct { unsigned magic, version; const unsigned char *data; void *name; } wrapper;
static const unsigned char *seen[1 << 14];
static int registered, distinct, broken, kernels;
static int is_intact(const unsigned char *data) {
    unsigned magic; unsigned short version, header; unsigned long size, at = 16;
    memcpy(&magic, data, 4); memcpy(&version, data + 4, 2); memcpy(&header, data + 6, 2); memcpy(&size, data + 8, 8);
    if (magic != 0xba55ed50 || version != 1 || header != 16 || size == 0) return 0;
    while (at < size + 16) {
        unsigned length; unsigned long payload; unsigned short kind;
        memcpy(&kind, data + at, 2); memcpy(&length, data + at + 4, 4); memcpy(&payload, data + at + 8, 8);
        if ((kind != 1 && kind != 2) || length < 64 || length > 4096) return 0;
        at += length + payload;
    }
    return at == size + 16;
}
void **__cudaRegisterFatBinary(void *pointer) {
    static void *handle;
    const wrapper *known = pointer;
    int index = 0;
    registered++;
    if (known->magic != 0x466243b1 || known->version != 1 || !is_intact(known->data)) broken++;
    while (index < distinct && seen[index] != known->data) index++;
    if (index == distinct && distinct < 1 << 14) seen[distinct++] = known->data;
    return &handle;
}
void __cudaRegisterFunction(void) { kernels++; }
static void __attribute__((destructor)) report(void) {
    fprintf(stderr, "device code: %d registered, %d distinct, %d broken, %d kernels\n", registered, distinct, broken, kernels);
}
const char *cudaGetErrorString(int code) { return code == 100 ? "no CUDA-capable device is detected" : "another error"; }
const char *cudaGetErrorName(int code) { return code == 100 ? "cudaErrorNoDevice" : "another"; }
C
known=" __cudaRegisterFatBinary __cudaRegisterFunction cudaGetErrorString cudaGetErrorName "
# LIBRARY SONAME PATTERN: what is imported of a library, by the version or, where it has none, by the name.
stub() {
  local soname=$1 pattern=$2 source=$folder/$1.c
  if [ "$soname" = libcudart.so.13 ]; then cp "$folder/known.c" "$source"; else echo 'extern int unused;' >"$source"; fi
  nm -D --undefined-only "${libraries[@]}" | awk '{ print $NF }' | { grep -E "$pattern" || true; } | sed 's/@.*//' | sort -u | while read -r name; do
    if [ "$soname" = libcudart.so.13 ] && [[ $known == *" $name "* ]]; then continue; fi
    case $name in
      cublasGetStatusString) echo "const char *$name(int code) { (void)code; return \"not initialised\"; }" ;;
      # An object of a C++ class without anything in it: every call of it gives nothing.
      getPluginRegistry) echo "static void *none(void) { return 0; } static void *calls[64] = { [0 ... 63] = none }; static void *object = calls;
        void *$name(void) { return &object; }" ;;
      *) echo "int $name(void) { return 100; }" ;;
    esac
  done >>"$source"
  echo "$soname { global: *; };" >"$folder/$soname.map"
  local version=(); [[ $soname =~ ^lib(cuda|nvidia-ml|nvinfer|nvonnxparser)\.so ]] || version=("-Wl,--version-script=$folder/$soname.map")
  gcc -shared -fPIC -O1 -w -fno-builtin -o "$folder/$soname" "$source" "-Wl,-soname,$soname" "${version[@]}"
}
libraries=("$@")
stub libcudart.so.13 '@libcudart\.so\.13$'
stub libcublas.so.13 '@libcublas\.so\.13$'
stub libcublasLt.so.13 '@libcublasLt\.so\.13$'
stub libcurand.so.10 '@libcurand\.so\.10$'
stub libcuda.so.1 '^cu[A-Z][A-Za-z0-9_]*$'
# The others only where something is imported of them.
optional() {
  # Not `grep -q`, which ends early: what writes to it would fail then, and the whole line with it.
  if nm -D --undefined-only "${libraries[@]}" | awk '{ print $NF }' | grep -E "$2" >/dev/null; then stub "$1" "$2"; fi
}
optional libcudnn.so.9 '@libcudnn\.so\.9$'
optional libnvidia-ml.so.1 '^nvml[A-Z][A-Za-z0-9_]*$'
optional libnvinfer.so.10 '^(createInfer|getInferLib|getPluginRegistry)'
optional libnvonnxparser.so.10 '^createNvOnnx'

#!/usr/bin/env bash
# Writes a folder that stands in for the packages of `tf-xla-gpu` where their gigabytes would be too much: tensorflow_standins.sh FOLDER
#
# Every library has the soname of the real one, and cuSOLVER needs what it needs. TensorFlow's has device code for sm_70 and sm_80.
# A licence, libdevice and ptxas lie beside them. FOLDER-driver gets the driver's two libraries.
set -euo pipefail
folder=$1
tools=$(dirname "$0")
mkdir -p "$folder/nvvm/libdevice" "$folder/bin"
library() { gcc -shared -fPIC -w -o "$folder/$1" -x c - -x none "-Wl,-soname,$1" -Wl,--no-as-needed "${@:2}"; }
library libtensorflow_framework.so.2 <<<'int TF_One(void) { return 1; }'
library libtensorflow_cc.so.2 "$folder/libtensorflow_framework.so.2" <<'C'
typedef struct { unsigned short kind, version; unsigned header; unsigned long payload; unsigned zero[2]; unsigned short minor, major; unsigned sm, name[2]; unsigned long flags, none, size; char code[64]; } entry;
typedef struct { unsigned magic; unsigned short version, header; unsigned long size; entry entries[2]; } container;
static const container device_code __attribute__((section(".nv_fatbin"), aligned(8))) = {0xba55ed50, 1, 16, sizeof(entry[2]), {
  {2, 0x101, 64, 64, {0, 0}, 7, 1, 70, {0, 0}, 0x15, 0, 0, "\177ELF\2\1\1\63\7\0\0\0\0\0\0\0\2\0\276"}, {2, 0x101, 64, 64, {0, 0}, 7, 1, 80, {0, 0}, 0x15, 0, 0, "\177ELF\2\1\1\63\7\0\0\0\0\0\0\0\2\0\276"}}};
static struct { unsigned magic, version; const void *data; void *name; } wrapper __attribute__((section(".nvFatBinSegment"), used)) = {0x466243b1, 1, &device_code, 0};
int TF_One(void); int TF_Two(void) { return TF_One() + 1 + (wrapper.magic == 0); }
C
for soname in libcudart.so.12 libcublasLt.so.12 libcudnn.so.9 libcudnn_{graph,ops,cnn,adv,heuristic,engines_precompiled,engines_runtime_compiled}.so.9 \
  libcufft.so.11 libnvJitLink.so.12 libnvrtc.so.12 libnvrtc-builtins.so.12.9; do
  library "$soname" <<<'int unused;'
done
library libcublas.so.12 "$folder/libcublasLt.so.12" <<<'int unused;'
library libcusparse.so.12 "$folder/libnvJitLink.so.12" <<<'int unused;'
library libcusolver.so.11 "$folder/"lib{cusparse.so.12,cublas.so.12,cublasLt.so.12,nvJitLink.so.12} <<<'int unused;'
echo 'The licence of the files beside it.' | tee "$folder/License.txt" >"$folder/LICENSE"
printf 'BC' >"$folder/nvvm/libdevice/libdevice.10.bc"
printf '#!/bin/sh\n' >"$folder/bin/ptxas"
# The driver stays outside of the packages.
mkdir -p "$folder-driver"
gcc -shared -fPIC -w -o "$folder-driver/libcuda.so.1" "$tools/cuda_driver.c" -Wl,-soname,libcuda.so.1
gcc -shared -fPIC -w -DMANAGEMENT -o "$folder-driver/libnvidia-ml.so.1" "$tools/cuda_driver.c" -Wl,-soname,libnvidia-ml.so.1

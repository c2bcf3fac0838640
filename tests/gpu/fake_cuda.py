#!/usr/bin/env python3
"""Builds a CUDA that computes nothing: fake_cuda.py PROVIDER HEADERS FOLDER

ONNX Runtime's CUDA provider loads over it, makes sessions and runs models: memory is the host's, copies copy, kernels are not
launched, matrix products are left out. Outputs mean nothing, but which kernel was chosen for a node, and which one refuses to run
because a library is missing, are the provider's own decisions. HEADERS is the folder with `driver_types.h` (wheel
nvidia-cuda-runtime). `FOLDER/tensorrt` gets libraries that let the TensorRT provider load, which listing kernels asks for.
"""

import pathlib
import re
import subprocess
import sys

RUNTIME = r"""
typedef struct CUstream_st *stream;
#include <driver_types.h>
#include <stdlib.h>
#include <string.h>
#define OK(...) { __VA_ARGS__; return 0; }
void **__cudaRegisterFatBinary(void *p) { static void *h; return &h; }
void __cudaRegisterFatBinaryEnd(void **p) {}
void __cudaUnregisterFatBinary(void **p) {}
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
int __cudaPopCallConfiguration(void *a, void *b, size_t *c, void *d) OK(memset(a, 0, 12); memset(b, 0, 12); *c = 0; *(void **)d = 0)
int __cudaGetKernel(void **k, void *f) OK(*k = f)
int cudaDeviceGetAttribute(int *v, int a, int d) OK(*v = a == cudaDevAttrComputeCapabilityMajor ? 8 : a == cudaDevAttrComputeCapabilityMinor ? 0 : a == cudaDevAttrWarpSize ? 32 : a == cudaDevAttrMultiProcessorCount ? 8 : a == cudaDevAttrMemoryPoolsSupported ? 1 : 65536)
int cudaDriverGetVersion(int *v) OK(*v = 13000)
int cudaRuntimeGetVersion(int *v) OK(*v = 13000)
int cudaEventCreate(void **e) OK(*e = malloc(8))
int cudaEventCreateWithFlags(void **e) OK(*e = malloc(8))
int cudaEventElapsedTime(float *t) OK(*t = 1)
int cudaFree(void *p) OK(free(p))
int cudaFreeAsync(void *p) OK(free(p))
int cudaFreeHost(void *p) OK(free(p))
int cudaFuncGetAttributes(struct cudaFuncAttributes *a) OK(memset(a, 0, sizeof *a); a->maxThreadsPerBlock = 1024; a->numRegs = 32)
int cudaGetDevice(int *d) OK(*d = 0)
int cudaGetDeviceCount(int *d) OK(*d = 1)
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int d) OK(memset(p, 0, sizeof *p); strcpy(p->name, "none"); p->totalGlobalMem = 8ull << 30; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536; p->warpSize = 32; p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64; p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535; p->totalConstMem = 65536; p->major = 8; p->minor = 0; p->textureAlignment = 512; p->multiProcessorCount = 8; p->maxThreadsPerMultiProcessor = 2048; p->sharedMemPerMultiprocessor = 102400; p->regsPerMultiprocessor = 65536; p->sharedMemPerBlockOptin = 101376; p->l2CacheSize = 1 << 22; p->unifiedAddressing = 1; p->maxBlocksPerMultiProcessor = 16)
const char *cudaGetErrorName(int c) { return "none"; }
const char *cudaGetErrorString(int c) { return "no kernel ran"; }
int cudaGetDriverEntryPointByVersion(const char *s, void **f, unsigned v, unsigned long long flags, int *r) OK(*f = (void *)cudaGetErrorName; if (r) *r = 0)
int cudaHostAlloc(void **p, size_t n) OK(*p = calloc(1, n + 256))
int cudaMallocHost(void **p, size_t n) OK(*p = calloc(1, n + 256))
int cudaMalloc(void **p, size_t n) OK(*p = aligned_alloc(256, (n + 511) / 256 * 256); memset(*p, 0, n))
int cudaMallocFromPoolAsync(void **p, size_t n) OK(cudaMalloc(p, n))
int cudaMemGetInfo(size_t *f, size_t *t) OK(*f = 7ull << 30; *t = 8ull << 30)
int cudaMemPoolCreate(void **p) OK(*p = malloc(8))
int cudaMemPoolGetAttribute(void *p, int a, unsigned long long *v) OK(*v = 0)
int cudaMemcpy2DAsync(char *d, size_t dp, const char *s, size_t sp, size_t w, size_t h) OK(for (; h--; d += dp, s += sp) memmove(d, s, w))
int cudaMemcpy(void *d, const void *s, size_t n) OK(memmove(d, s, n))
int cudaMemcpyAsync(void *d, const void *s, size_t n) OK(memmove(d, s, n))
int cudaMemcpyFromSymbol(void *d, const void *s, size_t n) OK(memset(d, 0, n))
int cudaMemset(void *d, int v, size_t n) OK(memset(d, v, n))
int cudaMemsetAsync(void *d, int v, size_t n) OK(memset(d, v, n))
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n) OK(*n = 2)
int cudaPointerGetAttributes(struct cudaPointerAttributes *a, void *p) OK(memset(a, 0, sizeof *a); a->type = cudaMemoryTypeDevice; a->devicePointer = p)
int cudaStreamCreate(void **s) OK(*s = malloc(8))
int cudaStreamCreateWithFlags(void **s) OK(*s = malloc(8))
int cudaStreamIsCapturing(void *s, int *v) OK(*v = 0)
int cudaLibraryGetKernel(void **k) OK(*k = malloc(8))
int cudaLibraryLoadData(void **k) OK(*k = malloc(8))
int cudaGraphInstantiate(void **k) OK(*k = malloc(8))
int cudaStreamEndCapture(void *s, void **g) OK(*g = malloc(8))
"""
# What the runtime's header wants of a package of its own.
HOST = """
#define __device_builtin__
#define __cuda_builtin_vector_align8(tag, members) struct tag { members }
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_align__(n) __attribute__((aligned(n)))
#define CUDARTAPI
#define __host__
#define __device__
"""
TENSORRT = {
    "libnvinfer.so.10": """
        static void *table[64]; static void *object[2]; static int zero(void) { return 0; }
        __attribute__((constructor)) static void fill(void) { for (int k = 0; k < 64; k++) table[k] = zero; object[0] = table; }
        void *createInferBuilder_INTERNAL() { return object; } void *createInferRefitter_INTERNAL() { return object; }
        void *createInferRuntime_INTERNAL() { return object; } void *getPluginRegistry() { return object; }
        int getInferLibVersion() { return 101600; }""",
    "libnvonnxparser.so.10": "void *createNvOnnxParserRefitter_INTERNAL() { return 0; } void *createNvOnnxParser_INTERNAL() { return 0; }",
    "libcudnn.so.9": "int cudnnCreate(void **h) { *h = h; return 0; } int cudnnDestroy() { return 0; } int cudnnSetStream() { return 0; }",
}


def compile_library(folder, soname, source, versioned=True, includes=()):
    (folder / f"{soname}.c").write_text(source)
    (folder / f"{soname}.map").write_text(f"{soname} {{ global: *; }};")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-w", "-fno-builtin", *(f"-I{each}" for each in includes), "-o", str(folder / soname)]
    command += [str(folder / f"{soname}.c"), f"-Wl,-soname,{soname}"]
    subprocess.run(command + ([f"-Wl,--version-script={folder / soname}.map"] if versioned else []), check=True)


def main():
    provider, headers, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    (folder / "include/crt").mkdir(parents=True, exist_ok=True)
    (folder / "tensorrt").mkdir(exist_ok=True)
    (folder / "include/crt/host_defines.h").write_text(HOST)
    listed = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True).stdout
    names = [line.split()[-1] for line in listed.splitlines()]

    def of(library):
        return sorted({name.split("@")[0] for name in names if name.endswith("@" + library)})
    known = set(re.findall(r"\b(_*cuda\w+)\(", RUNTIME))
    rest = "".join(f"int {name}(void) OK()\n" for name in of("libcudart.so.13") if name not in known)
    compile_library(folder, "libcudart.so.13", RUNTIME + rest, includes=(folder / "include", headers))
    for library in ("libcublas.so.13", "libcublasLt.so.13"):
        source = "#include <stdlib.h>\n#include <string.h>\n"
        for name in of(library):
            if re.search(r"(Create_v2|LtCreate|DescCreate|LayoutCreate|PreferenceCreate)$", name):
                source += f"int {name}(void **h) {{ *h = malloc(8); return 0; }}\n"
            elif name == "cublasLtMatmulAlgoGetHeuristic":
                source += f"int {name}(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int n, char *r, int *k) {{ memset(r, 0, 96); *k = 1; return 0; }}\n"
            elif "Status" in name:
                source += f'const char *{name}(int c) {{ return "none"; }}\n'
            elif name == "cublasGetMathMode":
                source += f"int {name}(void *h, int *m) {{ *m = 0; return 0; }}\n"
            else:
                source += f"int {name}(void) {{ return 0; }}\n"
        compile_library(folder, library, source)
    compile_library(folder, "libcurand.so.10", "int unused;\n")
    compile_library(folder, "libcuda.so.1", "int cuTensorMapEncodeTiled(void) { return 0; }\n", versioned=False)
    for soname, source in TENSORRT.items():
        compile_library(folder / "tensorrt", soname, source, versioned=soname == "libcudnn.so.9")


main()

// A driver (libcuda.so.1) with one GPU of sm_75 that runs nothing: enough for TensorFlow to see a GPU, open the CUDA libraries, and
// find out from the CUDA runtime that the driver is too old. -DINIT=N makes it fail to start, -DGPUS=0 leaves it without a GPU.
// -DMANAGEMENT gives libnvidia-ml.so.1 instead, whose every function succeeds; which ones is in the file named by -DNAMES.
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#ifndef INIT
#define INIT 0
#endif
#ifndef GPUS
#define GPUS 1
#endif
#define OK(...) { __VA_ARGS__; return 0; }
#ifdef NAMES
#define FUNCTION(name) int name(void) { return RESULT; }
#ifdef MANAGEMENT
#define RESULT 0
#else
#define RESULT 100
#endif
#include NAMES
#endif
#ifndef MANAGEMENT
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) OK(*version = 12090)
int cuDeviceGetCount(int *count) OK(*count = GPUS)
int cuDeviceGet(int *device, int ordinal) OK(*device = ordinal)
int cuDeviceGetName(char *name, int length, int device) OK(snprintf(name, length, "none"))
int cuDeviceTotalMem_v2(size_t *bytes, int device) OK(*bytes = 8ull << 30)
int cuDeviceGetUuid(char *uuid, int device) OK(memset(uuid, 1, 16))
int cuDeviceGetUuid_v2(char *uuid, int device) OK(memset(uuid, 1, 16))
int cuDeviceGetPCIBusId(char *id, int length, int device) OK(snprintf(id, length, "0000:01:00.0"))
// Threads, memory and clocks of a small card, by the numbers of CUdevice_attribute; 75 and 76 are the compute capability.
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    static const int known[][2] = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152},
        {10, 32}, {12, 65536}, {13, 1500000}, {16, 40}, {36, 5000000}, {37, 256}, {38, 4 << 20}, {39, 1024}, {75, 7}, {76, 5},
        {81, 65536}, {82, 65536}, {97, 65536}};
    *value = 0;
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (known[k][0] == attribute) *value = known[k][1];
    return 0;
}
int cuGetErrorName(int code, const char **name) OK(*name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_OTHER")
int cuGetErrorString(int code, const char **text) OK(*text = "the stub has no such function")
#endif

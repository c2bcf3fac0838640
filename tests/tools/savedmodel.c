// Opens TensorFlow's C library and, if a model is named, runs it once: what binding must leave as it was.
//
//   savedmodel LIBRARY                                          time and memory of dlopen
//   savedmodel LIBRARY MODEL TAG INPUT DIMS OUTPUT... > BYTES   the outputs' bytes, for an input that is always the same
//
// INPUT and OUTPUT are OPERATION:INDEX, DIMS is 1x43844x1. XLA=1 turns it on for the CPU. Figures and errors go to standard
// error as NAME VALUE; the exit status is 3 if the library does not load, 4 if the model does not, 5 for an unknown
// operation, 6 if the run fails.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    void *operation;
    int index;
} Port;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static double cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void memory(const char *when) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "VmRSS:", 6)) fprintf(stderr, "%s_rss_kb %ld\n", when, atol(line + 6));
    if (file) fclose(file);
}

static void keep(void *data, size_t length, void *argument) {
    (void)data, (void)length, (void)argument;
}

static void *library;

static void *symbol(const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "error no symbol %s\n", name);
        exit(3);
    }
    return found;
}

#define API(result, name, ...) result (*name)(__VA_ARGS__) = (result (*)(__VA_ARGS__))symbol(#name)

static Port port(void *graph, void *(*find)(void *, const char *), char *text) {
    char *colon = strrchr(text, ':');
    Port port = {NULL, colon ? atoi(colon + 1) : 0};
    if (colon) *colon = 0;
    port.operation = find(graph, text);
    if (!port.operation) {
        fprintf(stderr, "error no operation %s\n", text);
        _exit(5);
    }
    return port;
}

int main(int count, char **arguments) {
    if (count != 2 && count < 7) {
        fprintf(stderr, "usage: savedmodel LIBRARY [MODEL TAG INPUT DIMS OUTPUT...]\n");
        return 2;
    }
    double start = now(), used = cpu();
    library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "error %s\n", dlerror());
        return 3;
    }
    fprintf(stderr, "dlopen_ms %.1f\ndlopen_cpu_ms %.1f\n", now() - start, cpu() - used);
    memory("dlopen");
    if (count == 2) _exit(0);

    API(void *, TF_NewStatus, void);
    API(int, TF_GetCode, void *);
    API(const char *, TF_Message, void *);
    API(void *, TF_NewSessionOptions, void);
    API(void, TF_SetConfig, void *, const void *, size_t, void *);
    API(void *, TF_NewGraph, void);
    API(void *, TF_LoadSessionFromSavedModel, void *, void *, const char *, const char *const *, int, void *, void *, void *);
    API(void *, TF_GraphOperationByName, void *, const char *);
    API(void *, TF_NewTensor, int, const int64_t *, int, void *, size_t, void (*)(void *, size_t, void *), void *);
    API(void, TF_SessionRun, void *, void *, const Port *, void **, int, const Port *, void **, int, void **, int, void *, void *);
    API(void *, TF_TensorData, void *);
    API(size_t, TF_TensorByteSize, void *);

    void *status = TF_NewStatus(), *options = TF_NewSessionOptions(), *graph = TF_NewGraph();
    // graph_options { optimizer_options { global_jit_level: ON_2 cpu_global_jit: true } }
    static const uint8_t xla[] = {0x52, 6, 0x1a, 4, 0x28, 2, 0x38, 1};
    if (getenv("XLA")) TF_SetConfig(options, xla, sizeof xla, status);
    start = now();
    void *session = TF_LoadSessionFromSavedModel(options, NULL, arguments[2], (const char *const *)&arguments[3], 1, graph, NULL, status);
    if (TF_GetCode(status)) {
        fprintf(stderr, "error %s\n", TF_Message(status));
        _exit(4);
    }
    fprintf(stderr, "load_ms %.1f\n", now() - start);

    Port input = port(graph, TF_GraphOperationByName, arguments[4]), outputs[16];
    int64_t dims[8];
    int rank = 0, wanted = 0;
    size_t elements = 1;
    for (char *text = strtok(arguments[5], "x"); text && rank < 8; text = strtok(NULL, "x")) elements *= dims[rank++] = atoll(text);
    for (int at = 6; at < count && wanted < 16; at++) outputs[wanted++] = port(graph, TF_GraphOperationByName, arguments[at]);
    float *values = aligned_alloc(64, (elements * sizeof *values + 63) / 64 * 64);
    uint32_t state = 1;
    for (size_t at = 0; at < elements; at++) {
        state = state * 1664525 + 1013904223;
        values[at] = (float)(state >> 8) / (1 << 23) - 1;
    }
    void *given = TF_NewTensor(1, dims, rank, values, elements * sizeof *values, keep, NULL), *results[16] = {0};
    start = now();
    TF_SessionRun(session, NULL, &input, &given, 1, outputs, results, wanted, NULL, 0, NULL, status);
    if (TF_GetCode(status)) {
        fprintf(stderr, "error %.200s\n", TF_Message(status));
        _exit(6);
    }
    fprintf(stderr, "first_run_ms %.1f\n", now() - start);
    memory("run");
    for (int at = 0; at < wanted; at++) fwrite(TF_TensorData(results[at]), 1, TF_TensorByteSize(results[at]), stdout);
    fflush(stdout);
    _exit(0);
}

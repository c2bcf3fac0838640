/* Loads ONNX Runtime's CUDA provider, or its TensorRT provider, as a server would, and says how far it came.
 *
 *     cuda_provider LIBONNXRUNTIME MODEL [tensorrt]
 *
 * The functions are those of OrtApi by their place in it, which never changes. Ends with 0 where the provider's library was
 * loaded and only the GPU is missing ("CUDA failure"), or where a session was made; with 1 otherwise. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct base { const void **(*api)(uint32_t version); const char *(*version)(void); };
enum { MESSAGE = 2, ENVIRONMENT = 3, SESSION = 7, OPTIONS = 10, APPEND_TENSORRT = 170, TENSORRT_OPTIONS = 171, APPEND_CUDA = 204, CUDA_OPTIONS = 205 };
typedef void *status;

static const void **api;

static int failed(const char *step, status error) {
    if (!error) return 0;
    const char *text = ((const char *(*)(status))api[MESSAGE])(error);
    printf("%s: %s\n", step, text);
    return strstr(text, "CUDA failure") ? 0 : 1;
}

int main(int count, char **arguments) {
    if (count != 3 && count != 4) return 2;
    int is_tensorrt = count == 4 && !strcmp(arguments[3], "tensorrt");
    void *library = dlopen(arguments[1], RTLD_NOW);
    if (!library) { printf("dlopen: %s\n", dlerror()); return 1; }
    struct base *(*base)(void) = (struct base *(*)(void))dlsym(library, "OrtGetApiBase");
    api = base()->api(22);
    void *environment = 0, *options = 0, *cuda = 0, *session = 0;
    status error = ((status (*)(int, const char *, void **))api[ENVIRONMENT])(3, "test", &environment);
    if (!error) error = ((status (*)(void **))api[OPTIONS])(&options);
    if (!error) error = ((status (*)(void **))api[is_tensorrt ? TENSORRT_OPTIONS : CUDA_OPTIONS])(&cuda);
    if (error) return failed("options", error) || 1;
    error = ((status (*)(void *, void *))api[is_tensorrt ? APPEND_TENSORRT : APPEND_CUDA])(options, cuda);
    if (error) return failed("provider", error);
    error = ((status (*)(void *, const char *, void *, void **))api[SESSION])(environment, arguments[2], options, &session);
    if (error) return failed("session", error);
    printf("session: made\n");
    return 0;
}

/* A library with one operator of its own, `com.example.Scale`: each element times three.
   The few parts of ONNX Runtime's C interface that it uses are declared here: positions in that interface's table of
   functions never change, which is what makes it stable. */
#include <stddef.h>
#include <stdint.h>

typedef struct Status Status;
typedef struct Operator Operator;
typedef struct Api {
    const void *function[512];
} Api;
typedef struct ApiBase {
    const Api *(*get_api)(uint32_t version);
    const char *(*version)(void);
} ApiBase;
struct Operator {
    uint32_t version;
    void *(*create)(const Operator *self, const Api *api, const void *info);
    const char *(*name)(const Operator *self);
    const char *(*provider)(const Operator *self);
    int (*input_type)(const Operator *self, size_t index);
    size_t (*inputs)(const Operator *self);
    int (*output_type)(const Operator *self, size_t index);
    size_t (*outputs)(const Operator *self);
    void (*compute)(void *kernel, void *context);
    void (*destroy)(void *kernel);
    int (*input_kind)(const Operator *self, size_t index);
    int (*output_kind)(const Operator *self, size_t index);
};

enum { CREATE_DOMAIN = 26, DOMAIN_ADD = 27, ADD_DOMAIN = 28, MUTABLE_DATA = 51, DIMENSIONS_COUNT = 61, DIMENSIONS = 62,
       ELEMENT_COUNT = 64, TYPE_AND_SHAPE = 65, GET_INPUT = 90, GET_OUTPUT = 91, RELEASE_SHAPE = 99 };
enum { FLOAT = 1, REQUIRED = 0, API_VERSION = 7 };

static const Api *api;
#define CALL(number, types, ...) ((Status *(*) types)api->function[number])(__VA_ARGS__)

#ifdef MISSING
extern float nobody_has_this(float value);
#else
static float nobody_has_this(float value) { return 3 * value; }
#endif

static void *create(const Operator *self, const Api *given, const void *info) { (void)self; (void)info; api = given; return &api; }
static const char *name(const Operator *self) { (void)self; return "Scale"; }
static const char *provider(const Operator *self) { (void)self; return NULL; }
static int type(const Operator *self, size_t index) { (void)self; (void)index; return FLOAT; }
static size_t one(const Operator *self) { (void)self; return 1; }
static int kind(const Operator *self, size_t index) { (void)self; (void)index; return REQUIRED; }
static void destroy(void *kernel) { (void)kernel; }

static void compute(void *kernel, void *context) {
    (void)kernel;
    const void *input;
    void *output, *shape;
    const float *from;
    float *to;
    size_t dimensions = 0, count = 0;
    int64_t sizes[8];
    CALL(GET_INPUT, (void *, size_t, const void **), context, 0, &input);
    CALL(TYPE_AND_SHAPE, (const void *, void **), input, &shape);
    CALL(DIMENSIONS_COUNT, (const void *, size_t *), shape, &dimensions);
    CALL(DIMENSIONS, (const void *, int64_t *, size_t), shape, sizes, dimensions);
    CALL(ELEMENT_COUNT, (const void *, size_t *), shape, &count);
    ((void (*)(void *))api->function[RELEASE_SHAPE])(shape);
    CALL(GET_OUTPUT, (void *, size_t, const int64_t *, size_t, void **), context, 0, sizes, dimensions, &output);
    CALL(MUTABLE_DATA, (const void *, const void **), input, (const void **)&from);
    CALL(MUTABLE_DATA, (void *, void **), output, (void **)&to);
    for (size_t at = 0; at < count; at++) to[at] = nobody_has_this(from[at]);
}

static const Operator scale = { API_VERSION, create, name, provider, type, one, type, one, compute, destroy, kind, kind };

Status *RegisterCustomOps(void *options, const ApiBase *base) {
    void *domain;
    api = base->get_api(API_VERSION);
    Status *status = CALL(CREATE_DOMAIN, (const char *, void **), "com.example", &domain);
    if (!status) status = CALL(DOMAIN_ADD, (void *, const Operator *), domain, &scale);
    if (!status) status = CALL(ADD_DOMAIN, (void *, void *), options, domain);
    return status;
}

// What a compiled model gives the server: one symbol, `imgbuild_model`, in plain C. `docs/spec/compiled.md` describes it.
#ifndef IMGBUILD_MODEL_H_
#define IMGBUILD_MODEL_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The version of this interface.
#define IMGBUILD_MODEL_VERSION 1

// A tensor, row-major: `rank` dimensions, and the bytes of all elements.
typedef struct {
  const int32_t* dimensions;
  uint64_t rank;
  uint64_t bytes;
} imgbuild_tensor;

// The model compiled for one number of rows; 0 stands for a model without a batch.
typedef struct {
  uint64_t rows;
  uint64_t inputs;
  uint64_t outputs;
  uint64_t variables;
  const imgbuild_tensor* input;
  const imgbuild_tensor* output;
  const imgbuild_tensor* variable;
} imgbuild_variant;

typedef struct imgbuild_threads imgbuild_threads;
typedef struct imgbuild_instance imgbuild_instance;

typedef struct {
  uint64_t version;
  uint64_t variants;
  // The bytes of the file of weights: variables in order, each from a multiple of 64.
  uint64_t weights;
  // The variant at a place.
  const imgbuild_variant* (*variant)(uint64_t place);
  // So many threads, for any number of runs at a time; null where there are none to be had.
  imgbuild_threads* (*threads)(uint64_t count);
  // Buffers for one run at a time. Weights are only read, begin at a multiple of 64, and stay as long as the instance; null
  // where memory is short.
  imgbuild_instance* (*make)(uint64_t place, const void* weights, const imgbuild_threads* threads);
  // Where an input is to be written before a run, and an output to be read after it.
  void* (*input)(imgbuild_instance* instance, uint64_t index);
  const void* (*output)(const imgbuild_instance* instance, uint64_t index);
  // 0 where it succeeded.
  int (*run)(imgbuild_instance* instance);
  void (*free)(imgbuild_instance* instance);
} imgbuild_model_table;

extern const imgbuild_model_table imgbuild_model;

#ifdef __cplusplus
}
#endif
#endif

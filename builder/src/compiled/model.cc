// Puts classes that tfcompile generated behind `imgbuild_model`.
//
// `variants.h`, which the builder writes, names them: IMGBUILD_VARIANT(0, Rows8, 8) has its place, its class and its rows. Of the
// classes only their tables and the function that runs are used, so that little of TensorFlow's runtime is linked; these are not
// public, hence -fno-access-control.

#define EIGEN_USE_THREADS

#include "model.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "unsupported/Eigen/CXX11/Tensor"
#include "unsupported/Eigen/CXX11/ThreadPool"
#include "variants.h"

struct imgbuild_threads {
  explicit imgbuild_threads(int count) : pool(count), device(&pool, count) {}
  Eigen::ThreadPool pool;
  Eigen::ThreadPoolDevice device;
};

namespace {

constexpr uint64_t kAlignment = 64;

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

using RunFunction = decltype(imgbuild::First::ThunkRunImplFunction());

// What is known of one generated class.
struct Variant {
  imgbuild_variant shown;
  const xla::cpu::BufferAllocationInfo* buffers;
  uint64_t buffer_count;
  const int32_t* argument_places;
  const int32_t* result_places;
  std::vector<std::pair<uint64_t, char*>> constants;
  std::vector<int64_t> random_states;
  RunFunction run;
  std::vector<imgbuild_tensor> arguments;
  std::vector<imgbuild_tensor> results;
};

template <class Generated>
Variant* describe(uint64_t rows) {
  auto* variant = new Variant();
  variant->buffers = Generated::BufferAllocationInfos();
  variant->buffer_count = Generated::kNumBuffers;
  variant->argument_places = Generated::ArgIndexToBufferIndex();
  variant->result_places = Generated::ResultIndexToBufferIndex();
  variant->constants = Generated::EmbeddedConstantBuffers();
  variant->random_states = Generated::RngStateDeltas();
  variant->run = Generated::ThunkRunImplFunction();
  auto tensors = [&](auto* shapes, const int32_t* places, size_t count, std::vector<imgbuild_tensor>& out) {
    for (size_t index = 0; index < count; ++index) {
      const uint64_t rank = static_cast<uint64_t>(shapes[index].num_dimensions);
      out.push_back({shapes[index].dimensions, rank, variant->buffers[places[index]].size()});
    }
  };
  tensors(Generated::ArgShapeInfos(), variant->argument_places, Generated::kNumArgs, variant->arguments);
  tensors(Generated::ResultShapeInfos(), variant->result_places, Generated::kNumResults, variant->results);
  const uint64_t inputs = Generated::kNumArgs - Generated::kNumVariables;
  variant->shown = {rows,
                    inputs,
                    Generated::kNumResults,
                    Generated::kNumVariables,
                    variant->arguments.data(),
                    variant->results.data(),
                    variant->arguments.data() + inputs};
  return variant;
}

// Described once, when first asked for, and never freed: instances point into it.
const Variant* variant_at(uint64_t place) {
  switch (place) {
#define IMGBUILD_VARIANT(at, name, rows)                                    \
  case at: {                                                                \
    static const Variant* const described = describe<imgbuild::name>(rows); \
    return described;                                                       \
  }
    IMGBUILD_VARIANTS
#undef IMGBUILD_VARIANT
  }
  return nullptr;
}

}  // namespace

struct imgbuild_instance {
  ~imgbuild_instance() { std::free(memory); }
  const Variant* variant = nullptr;
  void* memory = nullptr;
  std::vector<void*> buffers;
  std::vector<std::unique_ptr<xla::cpu::RngState>> random_states;
  xla::ExecutableRunOptions options;
};

namespace {

const imgbuild_variant* show(uint64_t place) {
  const Variant* variant = variant_at(place);
  return variant ? &variant->shown : nullptr;
}

imgbuild_threads* make_threads(uint64_t count) try {
  return new imgbuild_threads(static_cast<int>(count));
} catch (...) {
  return nullptr;
}

imgbuild_instance* make(uint64_t place, const void* weights, const imgbuild_threads* threads) try {
  const Variant* variant = variant_at(place);
  if (variant == nullptr) return nullptr;
  auto instance = std::make_unique<imgbuild_instance>();
  instance->variant = variant;
  instance->buffers.assign(variant->buffer_count, nullptr);
  // Constants lie in the library, weights in their file; everything else is this instance's own, in one piece.
  size_t constants = 0;
  std::vector<bool> own(variant->buffer_count, false);
  for (uint64_t index = 0; index < variant->buffer_count; ++index) {
    const auto& buffer = variant->buffers[index];
    if (!buffer.is_constant()) {
      own[index] = !buffer.is_thread_local();
    } else if (!variant->constants.empty()) {
      if (constants == variant->constants.size() || variant->constants[constants].first != buffer.size()) return nullptr;
      instance->buffers[index] = variant->constants[constants++].second;
    }
  }
  uint64_t offset = 0;
  const char* const base = static_cast<const char*>(weights);
  for (uint64_t index = 0; index < variant->shown.variables; ++index) {
    const int32_t at = variant->argument_places[variant->shown.inputs + index];
    // The generated code does not write to variables that are read-only, and the builder refuses others.
    instance->buffers[at] = const_cast<char*>(base + offset);
    offset += aligned(variant->shown.variable[index].bytes);
    own[at] = false;
  }
  uint64_t total = 0;
  for (uint64_t index = 0; index < variant->buffer_count; ++index) {
    if (own[index]) total += aligned(variant->buffers[index].size());
  }
  instance->memory = std::aligned_alloc(kAlignment, total ? total : kAlignment);
  if (instance->memory == nullptr) return nullptr;
  char* next = static_cast<char*>(instance->memory);
  for (uint64_t index = 0; index < variant->buffer_count; ++index) {
    if (!own[index]) continue;
    instance->buffers[index] = next;
    next += aligned(variant->buffers[index].size());
  }
  for (int64_t delta : variant->random_states) {
    instance->random_states.push_back(std::make_unique<xla::cpu::RngState>(delta));
  }
  instance->options.set_intra_op_thread_pool(&threads->device);
  return instance.release();
} catch (...) {
  return nullptr;
}

void* input(imgbuild_instance* instance, uint64_t index) { return instance->buffers[instance->variant->argument_places[index]]; }

const void* output(const imgbuild_instance* instance, uint64_t index) {
  return instance->buffers[instance->variant->result_places[index]];
}

int run(imgbuild_instance* instance) try {
  return instance->variant->run(instance->buffers.data(), &instance->options, instance->random_states) ? 0 : 1;
} catch (...) {
  return 1;
}

void free_instance(imgbuild_instance* instance) { delete instance; }

}  // namespace

extern "C" __attribute__((visibility("default"))) const imgbuild_model_table imgbuild_model = {
    IMGBUILD_MODEL_VERSION, imgbuild::kVariants, imgbuild::kWeights, show,          make_threads, make,
    input,                  output,              run,                free_instance,
};

// Stands before Abseil's header of this name: the checks of XLA's runtime, without Abseil's logging, of which TensorFlow's package has
// only headers. A check that fails says where and ends the process.
#ifndef IMGBUILD_ABSL_LOG_CHECK_H_
#define IMGBUILD_ABSL_LOG_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace imgbuild {

// Takes what is streamed into a check and shows none of it; ends the process when it is dropped.
class Failure {
 public:
  Failure(const char* file, int line, const char* what) { std::fprintf(stderr, "%s:%d: %s\n", file, line, what); }
  [[noreturn]] ~Failure() { std::abort(); }
  template <class T>
  Failure& operator<<(const T&) {
    return *this;
  }
};

// Takes what is streamed into a line of a log that nobody reads.
class Nothing {
 public:
  template <class T>
  Nothing& operator<<(const T&) {
    return *this;
  }
};

}  // namespace imgbuild

#define CHECK(condition) \
  while (__builtin_expect(!(condition), 0)) ::imgbuild::Failure(__FILE__, __LINE__, "check failed: " #condition)
#define CHECK_OK(status) CHECK((status).ok())
#define CHECK_EQ(a, b) CHECK((a) == (b))
#define CHECK_NE(a, b) CHECK((a) != (b))
#define CHECK_LE(a, b) CHECK((a) <= (b))
#define CHECK_LT(a, b) CHECK((a) < (b))
#define CHECK_GE(a, b) CHECK((a) >= (b))
#define CHECK_GT(a, b) CHECK((a) > (b))
// The runtime is compiled without debugging checks, as TensorFlow's own build of it is.
#define DCHECK(condition) while (false && (condition)) ::imgbuild::Nothing()
#define DCHECK_EQ(a, b) DCHECK((a) == (b))
#define DCHECK_NE(a, b) DCHECK((a) != (b))
#define DCHECK_LE(a, b) DCHECK((a) <= (b))
#define DCHECK_LT(a, b) DCHECK((a) < (b))
#define DCHECK_GE(a, b) DCHECK((a) >= (b))
#define DCHECK_GT(a, b) DCHECK((a) > (b))

#endif

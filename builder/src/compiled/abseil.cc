// The few functions of Abseil that compiled models call and that TensorFlow's package has only headers for.
//
// Each is written to the contract that the headers give. What belongs to failures that a model cannot recover from says so and
// ends the process.

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/status/status.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace {

void sleep_while(const std::atomic<int32_t>* word, int32_t value) {
  syscall(SYS_futex, reinterpret_cast<const int32_t*>(word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake(const std::atomic<int32_t>* word, int count) {
  syscall(SYS_futex, reinterpret_cast<const int32_t*>(word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "the compiled model failed: %s\n", what);
  std::abort();
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

// A lock in the lower half of the state's word: 0 free, 1 held, 2 held and wanted.
static std::atomic<int32_t>* word_of(std::atomic<intptr_t>& state) { return reinterpret_cast<std::atomic<int32_t>*>(&state); }

void Mutex::lock() {
  std::atomic<int32_t>* word = word_of(mu_);
  int32_t expected = 0;
  if (word->compare_exchange_strong(expected, 1, std::memory_order_acquire)) return;
  while (word->exchange(2, std::memory_order_acquire) != 0) sleep_while(word, 2);
}

void Mutex::unlock() {
  std::atomic<int32_t>* word = word_of(mu_);
  if (word->exchange(0, std::memory_order_release) == 2) wake(word, 1);
}

// Counts notifications of all objects. Who waits sleeps on it, and not on its own object: that may be gone as soon as it was seen.
static std::atomic<int32_t> given{0};

void Notification::Notify() {
  mutex_.lock();
  notified_yet_.store(true, std::memory_order_release);
  mutex_.unlock();
  given.fetch_add(1, std::memory_order_release);
  wake(&given, INT_MAX);
}

void Notification::WaitForNotification() const {
  while (true) {
    const int32_t seen = given.load(std::memory_order_acquire);
    if (notified_yet_.load(std::memory_order_acquire)) return;
    sleep_while(&given, seen);
  }
}

// Who notifies may still hold the lock; its giving back is the last that it does with the object.
Notification::~Notification() {
  mutex_.lock();
  mutex_.unlock();
}

BlockingCounter::BlockingCounter(int initial_count) : count_(initial_count), num_waiting_(0), done_(initial_count == 0) {}

// The last one is done with the object when it gives the lock back, which who waits takes before it returns.
bool BlockingCounter::DecrementCount() {
  if (count_.fetch_sub(1, std::memory_order_acq_rel) != 1) return false;
  lock_.lock();
  done_ = true;
  lock_.unlock();
  given.fetch_add(1, std::memory_order_release);
  wake(&given, INT_MAX);
  return true;
}

void BlockingCounter::Wait() {
  while (true) {
    const int32_t seen = given.load(std::memory_order_acquire);
    lock_.lock();
    const bool done = done_;
    lock_.unlock();
    if (done) return;
    sleep_while(&given, seen);
  }
}

namespace status_internal {
// Only failures have one, and `InternalError` below makes none.
void StatusRep::Unref() const { fail("a status that nobody made"); }
}  // namespace status_internal

Status InternalError(absl::string_view message) { fail(std::string(message).c_str()); }

ABSL_NAMESPACE_END
}  // namespace absl

#include "threads.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
static inline void relax() { _mm_pause(); }
#elif defined(__aarch64__)
static inline void relax() { asm volatile("yield"); }
#else
static inline void relax() {}
#endif

namespace dsv4 {
namespace {

// Rounds of `relax` before a waiting thread goes to sleep: some milliseconds, longer than what lies
// between two decoding steps. A thread that is woken may be put on its waker's processor, and wait
// there for the scheduler's next tick.
constexpr int kSpins = 200000;

// The tasks that a thread begins with; others take over what is left. One word, so that whoever takes
// a task knows the end that belongs to it: the end above, the next task below. Taking from a range
// that is used up moves `next` past the end, which does no harm.
class alignas(64) Range {
 public:
  void reset(int64_t begin, int64_t end) {
    word_.store(static_cast<uint64_t>(end) << 32 | static_cast<uint64_t>(begin),
                std::memory_order_release);
  }
  // The next task, or -1. What was written before `reset` is seen by whoever gets one.
  int64_t take() {
    const uint64_t word = word_.fetch_add(1, std::memory_order_acq_rel);
    const uint64_t next = word & 0xffffffffu;
    return next < word >> 32 ? static_cast<int64_t>(next) : -1;
  }

 private:
  std::atomic<uint64_t> word_{0};
};

// A call is over when its tasks are done, whether or not every thread came to help: one that the
// system has put aside is not waited for, unless it was in the middle of a task.
struct Pool {
  std::vector<std::thread> workers;
  std::mutex mutex;  // guards sleeping
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> sleeping{0};
  std::atomic<bool> stop{false};

  // The current job; written before its ranges are, and not changed while a task of it is held.
  std::atomic<Task> fn{nullptr};
  std::atomic<void*> context{nullptr};
  std::vector<Range> ranges;  // one per thread
  alignas(64) std::atomic<int64_t> left{0};  // tasks that are not done yet

  explicit Pool(int threads) : ranges(static_cast<size_t>(threads)) {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      stop.store(true);
      generation.fetch_add(1);
    }
    wake.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void take(int thread) {
    const size_t count = ranges.size();
    for (size_t i = 0; i < count; ++i) {
      Range& range = ranges[(static_cast<size_t>(thread) + i) % count];
      for (int64_t task = range.take(); task >= 0; task = range.take()) {
        fn.load(std::memory_order_relaxed)(context.load(std::memory_order_relaxed), task, thread);
        left.fetch_sub(1, std::memory_order_release);
      }
    }
  }

  void work(int thread) {
    uint64_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen) {
        if (++spins < kSpins) {
          relax();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex);
        sleeping.fetch_add(1);
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
        sleeping.fetch_sub(1);
      }
      seen = generation.load(std::memory_order_acquire);
      if (stop.load()) return;
      take(thread);
    }
  }

  void run(int64_t count, Task task, void* with) {
    fn.store(task, std::memory_order_relaxed);
    context.store(with, std::memory_order_relaxed);
    left.store(count, std::memory_order_relaxed);
    const int64_t threads = static_cast<int64_t>(ranges.size());
    for (int64_t i = 0; i < threads; ++i)
      ranges[static_cast<size_t>(i)].reset(count * i / threads, count * (i + 1) / threads);
    generation.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex);
      wake.notify_all();
    }
    take(0);
    while (left.load(std::memory_order_acquire) != 0) relax();
  }
};

std::mutex callers;
std::unique_ptr<Pool> pool;
std::atomic<int> wanted{1};

}  // namespace

int thread_count() { return wanted.load(std::memory_order_relaxed); }

void set_thread_count(int threads) {
  std::lock_guard<std::mutex> lock(callers);
  wanted.store(threads < 1 ? 1 : threads);
  pool.reset();
}

void run(int64_t tasks, Task fn, void* context) {
  std::lock_guard<std::mutex> lock(callers);
  if (!pool) pool = std::make_unique<Pool>(thread_count());
  pool->run(tasks, fn, context);
}

}  // namespace dsv4

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

// Tasks that a thread begins with; others help it when theirs are done.
struct alignas(64) Range {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct Pool {
  std::vector<std::thread> workers;
  std::mutex mutex;  // guards sleeping
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<int> sleeping{0};
  std::atomic<bool> stop{false};

  // The current job; written before `generation` moves.
  Task fn = nullptr;
  void* context = nullptr;
  std::vector<Range> ranges;  // one per thread
  alignas(64) std::atomic<int> running{0};

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
      for (;;) {
        const int64_t task = range.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= range.end) break;
        fn(context, task, thread);
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
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void run(int64_t count, Task task, void* with) {
    fn = task;
    context = with;
    const int64_t threads = static_cast<int64_t>(ranges.size());
    for (int64_t i = 0; i < threads; ++i) {
      ranges[static_cast<size_t>(i)].next.store(count * i / threads, std::memory_order_relaxed);
      ranges[static_cast<size_t>(i)].end = count * (i + 1) / threads;
    }
    running.store(static_cast<int>(workers.size()), std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_seq_cst);
    if (sleeping.load(std::memory_order_seq_cst) > 0) {
      std::lock_guard<std::mutex> lock(mutex);
      wake.notify_all();
    }
    take(0);
    while (running.load(std::memory_order_acquire) != 0) relax();
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

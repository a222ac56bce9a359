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
  int64_t tasks = 0;
  alignas(64) std::atomic<int64_t> next{0};
  alignas(64) std::atomic<int> running{0};

  explicit Pool(int threads) {
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
    for (;;) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks) return;
      fn(context, task, thread);
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
    tasks = count;
    next.store(0, std::memory_order_relaxed);
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

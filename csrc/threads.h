// One pool of threads for all kernels. Threads spin for a short while between calls, since the
// gaps inside a decoding step are a few microseconds, then sleep.
#pragma once

#include <cstdint>

namespace dsv4 {

// Called as fn(context, task, thread): task in [0, tasks), thread in [0, thread_count()).
using Task = void (*)(void* context, int64_t task, int thread);

int thread_count();
void set_thread_count(int threads);  // >= 1; only between calls

// Runs every task once, on all threads (the caller is thread 0), and returns when all are done;
// `tasks` < 2^32.
// Every thread begins with a run of neighbouring tasks and takes over others' when it is done. Not
// reentrant; a lock serialises callers of several threads.
void run(int64_t tasks, Task fn, void* context);

// parallel(n, [&](int64_t task, int thread) { ... })
template <class F>
void parallel(int64_t tasks, const F& body) {
  if (tasks == 1 || thread_count() == 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  run(
      tasks,
      [](void* context, int64_t task, int thread) {
        (*static_cast<const F*>(context))(task, thread);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace dsv4

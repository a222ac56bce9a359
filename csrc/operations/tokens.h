// What operations do to every token.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "threads.h"

namespace dsv4 {

// Items from which all threads get a share, however small it is.
constexpr int64_t kWorthSharing = 4;

// body(item, thread) for every item, at most `block` of them to a task: very few stay on the calling
// thread while they are one block.
template <class F>
void each(int64_t items, int64_t block, const F& body) {
  if (items >= kWorthSharing)
    block = std::min(block, (items + thread_count() - 1) / thread_count());
  parallel((items + block - 1) / block, [&](int64_t task, int thread) {
    const int64_t end = std::min(items, (task + 1) * block);
    for (int64_t i = task * block; i < end; ++i) body(i, thread);
  });
}

// RMSNorm of x [n] with float32 weights; `out` may be x.
inline void normed(const float* x, int64_t n, const float* weight, float eps, float* out) {
  kernels().rms_norm(x, n, nullptr, eps, out);
  for (int64_t c = 0; c < n; ++c) out[c] *= weight[c];
}

}  // namespace dsv4

// What operations do to every token.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels.h"
#include "threads.h"

namespace dsv4 {

// body(item, thread) for every item, `block` of them to a task: on the calling thread alone while
// there is one block.
template <class F>
void each(int64_t items, int64_t block, const F& body) {
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

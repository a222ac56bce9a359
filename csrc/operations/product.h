// Matrix products over all threads.
#pragma once

#include <cstdint>
#include <vector>

#include "operations/workspace.h"
#include "types.h"

namespace dsv4 {

// y[i * ldy + n - begin] = sum_k x[token(i), k] * w[n, k] for n in [begin, end).
struct Product {
  const void* x;          // prepared input, `w.cols` wide
  const int32_t* tokens;  // rows of x, or null for 0, 1, ...
  int64_t count;
  Matrix w;
  int64_t begin;
  int64_t end;
  float* y;
  int64_t ldy;
};

// Every row of `w` for `count` tokens.
inline Product product(const void* x, int64_t count, const Matrix& w, float* y) {
  return {x, nullptr, count, w, 0, w.rows, y, w.rows};
}

// The prepared form of x [tokens, cols], in `buffer`; `whole`: for kFP4 weights too.
const void* prepare(Scratch& buffer, const float* x, int64_t tokens, int64_t cols, bool whole);

template <class... Matrices>
bool any_fp4(const Matrices&... w) {
  return ((w.format == Format::kFP4) || ...);
}

// The same for x as the input of some weights.
template <class... Matrices>
const void* prepare(Scratch& buffer, const float* x, int64_t tokens, const Matrix& w,
                    const Matrices&... others) {
  return prepare(buffer, x, tokens, w.cols, any_fp4(w, others...));
}

// Computes all products, which must not read what another of them writes.
void multiply(Workspace& w, const std::vector<Product>& products);

}  // namespace dsv4

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

// The prepared form of x [tokens, cols] (row stride ldx), in `buffer`.
const void* prepare(Scratch& buffer, const float* x, int64_t ldx, int64_t tokens, int64_t cols);

// Computes all products, which must not read what another of them writes.
void multiply(Workspace& w, const std::vector<Product>& products);

}  // namespace dsv4

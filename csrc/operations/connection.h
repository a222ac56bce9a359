// Hyper-connections around a sublayer (report 2.2): what it reads, and how its output is mixed in.
#pragma once

#include <cstdint>

namespace dsv4 {

// All pointers are float32 and must outlive this.
struct Connection {
  const float* fn;     // [streams * (streams + 2), streams * width]
  const float* base;   // [streams * (streams + 2)]
  const float* scale;  // [3]
  const float* norm;   // [width]
  int64_t streams;
  int64_t width;
  int64_t iterations;  // of Sinkhorn
  float hc_eps;
  float eps;

  // From x [tokens, streams, width]: the sublayer's normed input [tokens, width], the weights of
  // its output `post` [tokens, streams], the mixing matrix `comb` [tokens, streams, streams].
  void enter(const float* x, int64_t tokens, float* input, float* post, float* comb) const;
};

// out_b = post_b y + sum_a comb[a, b] x_a for every token; out may not overlap x.
void leave(const float* y, const float* x, const float* post, const float* comb, int64_t tokens,
           int64_t streams, int64_t width, float* out);

// The final collapse (no Sinkhorn, nothing mixed back): out [tokens, width], normed.
struct Collapse {
  const float* fn;     // [streams, streams * width]
  const float* base;   // [streams]
  const float* scale;  // [1]
  const float* norm;   // [width]
  int64_t streams;
  int64_t width;
  float hc_eps;
  float eps;

  void run(const float* x, int64_t tokens, float* out) const;
};

}  // namespace dsv4

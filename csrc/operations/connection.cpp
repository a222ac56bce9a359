#include "operations/connection.h"

#include <algorithm>
#include <cmath>

#include "operations/tokens.h"
#include "operations/workspace.h"

namespace dsv4 {
namespace {

constexpr int64_t kMostStreams = 16;
constexpr int64_t kBlock = 8;  // tokens of one task

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Softmax over rows, then columns and rows are normalised in turn; ends with columns.
void sinkhorn(float* m, int64_t n, int64_t iterations, float eps) {
  for (int64_t a = 0; a < n; ++a) {
    float* row = m + a * n;
    float peak = row[0], total = 0;
    for (int64_t b = 1; b < n; ++b) peak = row[b] > peak ? row[b] : peak;
    for (int64_t b = 0; b < n; ++b) total += row[b] = std::exp(row[b] - peak);
    for (int64_t b = 0; b < n; ++b) row[b] = row[b] / total + eps;
  }
  for (int64_t i = 0; i < iterations; ++i) {
    if (i > 0)
      for (int64_t a = 0; a < n; ++a) {
        float total = eps;
        for (int64_t b = 0; b < n; ++b) total += m[a * n + b];
        for (int64_t b = 0; b < n; ++b) m[a * n + b] /= total;
      }
    for (int64_t b = 0; b < n; ++b) {
      float total = eps;
      for (int64_t a = 0; a < n; ++a) total += m[a * n + b];
      for (int64_t a = 0; a < n; ++a) m[a * n + b] /= total;
    }
  }
}

}  // namespace

void Connection::enter(const float* x, int64_t tokens, float* input, float* post,
                       float* comb) const {
  Session session;
  Clock clock;
  const Kernels& k = kernels();
  const int64_t S = streams, flat = S * width, logits = S * S + 2 * S;
  float* mu = session.w.floats[0].get<float>(tokens * logits);
  if (tokens < 64) {
    // Few tokens have too little work per row for a task each: groups of rows, each read once.
    const int64_t group = 4, groups = (logits + group - 1) / group;
    parallel(groups, [&](int64_t task, int) {
      const int64_t first = task * group, last = std::min(logits, first + group);
      for (int64_t m = first; m < last; ++m)
        for (int64_t t = 0; t < tokens; ++t)
          mu[t * logits + m] = k.dot(x + t * flat, fn + m * flat, flat);
    });
  } else {
    each(tokens, kBlock, [&](int64_t t, int) {
      for (int64_t m = 0; m < logits; ++m)
        mu[t * logits + m] = k.dot(x + t * flat, fn + m * flat, flat);
    });
  }
  each(tokens, kBlock, [&](int64_t t, int) {
    const float* row = x + t * flat;
    const float* m = mu + t * logits;
    const float r = 1.0f / std::sqrt(k.square_sum(row, flat) / static_cast<float>(flat) + eps);
    float pre[kMostStreams];
    for (int64_t a = 0; a < S; ++a) {
      pre[a] = sigmoid(m[a] * r * scale[0] + base[a]) + hc_eps;
      post[t * S + a] = 2.0f * sigmoid(m[S + a] * r * scale[1] + base[S + a]);
    }
    float* mix = comb + t * S * S;
    for (int64_t i = 0; i < S * S; ++i) mix[i] = m[2 * S + i] * r * scale[2] + base[2 * S + i];
    sinkhorn(mix, S, iterations, hc_eps);
    float* out = input + t * width;
    k.weighted_sum(row, width, pre, S, width, out);
    normed(out, width, norm, eps, out);
  });
  clock.mark(kConnect);
}

void leave(const float* y, const float* x, const float* post, const float* comb, int64_t tokens,
           int64_t streams, int64_t width, float* out) {
  Session session;
  Clock clock;
  const Kernels& k = kernels();
  each(tokens, kBlock, [&](int64_t t, int) {
    const float* from = x + t * streams * width;
    const float* add = y + t * width;
    for (int64_t b = 0; b < streams; ++b) {
      float weights[kMostStreams];
      for (int64_t a = 0; a < streams; ++a)
        weights[a] = comb[(t * streams + a) * streams + b];
      float* to = out + (t * streams + b) * width;
      k.weighted_sum(from, width, weights, streams, width, to);
      const float p = post[t * streams + b];
      for (int64_t c = 0; c < width; ++c) to[c] += p * add[c];
    }
  });
  clock.mark(kConnect);
}

void Collapse::run(const float* x, int64_t tokens, float* out) const {
  Session session;
  Clock clock;
  const Kernels& k = kernels();
  const int64_t flat = streams * width;
  each(tokens, kBlock, [&](int64_t t, int) {
    const float* row = x + t * flat;
    const float r = 1.0f / std::sqrt(k.square_sum(row, flat) / static_cast<float>(flat) + eps);
    float pre[kMostStreams];
    for (int64_t a = 0; a < streams; ++a)
      pre[a] = sigmoid(k.dot(row, fn + a * flat, flat) * r * scale[0] + base[a]) + hc_eps;
    k.weighted_sum(row, width, pre, streams, width, out + t * width);
    normed(out + t * width, width, norm, eps, out + t * width);
  });
  clock.mark(kConnect);
}

}  // namespace dsv4

// Elementwise and small reductions: norms, rotation, activations, pooling.
// What does not fill a vector goes through the same vector operations, padded: a value does not
// depend on its place.
#pragma once

#include <cmath>

namespace dsv4 {
namespace DSV4_ISA {
namespace {

float dot(const float* a, const float* b, int64_t n) {
  F s0 = zero(), s1 = zero(), s2 = zero(), s3 = zero();
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    s0 = fma(load(a + i), load(b + i), s0);
    s1 = fma(load(a + i + kWidth), load(b + i + kWidth), s1);
    s2 = fma(load(a + i + 2 * kWidth), load(b + i + 2 * kWidth), s2);
    s3 = fma(load(a + i + 3 * kWidth), load(b + i + 3 * kWidth), s3);
  }
  for (; i + kWidth <= n; i += kWidth) s0 = fma(load(a + i), load(b + i), s0);
  if (i < n) s1 = fma(load_some(a + i, n - i), load_some(b + i, n - i), s1);
  return sum((s0 + s1) + (s2 + s3));
}

float square_sum(const float* x, int64_t n) { return dot(x, x, n); }

void rms_norm(const float* x, int64_t n, const uint16_t* weight, float eps, float* out) {
  const float scale = 1.0f / std::sqrt(square_sum(x, n) / static_cast<float>(n) + eps);
  const F s = set(scale);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const F y = load(x + i) * s;
    store(out + i, weight ? y * load_bf16(weight + i) : y);
  }
  for (; i < n; ++i) out[i] = x[i] * scale * (weight ? from_bf16(weight[i]) : 1.0f);
}

void rotate(float* x, const float* cos, const float* sin, int64_t pairs, float sign) {
  // (u, v) * (c, c) + (v, u) * (-s, s)
  const float signs[2] = {-sign, sign};
  float lanes[kWidth];
  for (int i = 0; i < kWidth; ++i) lanes[i] = signs[i % 2];
  const F turn = load(lanes);
  int64_t j = 0;
  for (; j + kWidth / 2 <= pairs; j += kWidth / 2) {
    const F pair = load(x + 2 * j);
    store(x + 2 * j, pair * load_twice(cos + j) + exchange<1>(pair) * (load_twice(sin + j) * turn));
  }
  for (; j < pairs; ++j) {
    const float u = x[2 * j], v = x[2 * j + 1], s = sign * sin[j];
    x[2 * j] = u * cos[j] - v * s;
    x[2 * j + 1] = v * cos[j] + u * s;
  }
}

inline F gated(F a, F b, float limit, float scale) {
  const F gate = min(set(limit), a);
  const F up = max(set(-limit), min(set(limit), b));
  return gate / (set(1.0f) + exp(zero() - gate)) * up * set(scale);
}

void swiglu(const float* a, const float* b, int64_t n, float limit, float scale, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth)
    store(out + i, gated(load(a + i), load(b + i), limit, scale));
  if (i < n)
    store_some(out + i, gated(load_some(a + i, n - i), load_some(b + i, n - i), limit, scale),
               n - i);
}

// Channels [c, c + lanes) of `pool`; get(p) loads them.
template <class Get>
inline F pooled(const float* const* values, const float* const* gates, const float* const* ape,
                int64_t rows, int64_t c, Get get) {
  F peak = get(gates[0] + c) + get(ape[0] + c);
  for (int64_t j = 1; j < rows; ++j) peak = max(peak, get(gates[j] + c) + get(ape[j] + c));
  F total = zero(), mixed = zero();
  for (int64_t j = 0; j < rows; ++j) {
    const F w = exp(get(gates[j] + c) + get(ape[j] + c) - peak);
    total = total + w;
    mixed = fma(w, get(values[j] + c), mixed);
  }
  return mixed / total;
}

void pool(const float* const* values, const float* const* gates, const float* const* ape,
          int64_t rows, int64_t n, float* out) {
  int64_t c = 0;
  for (; c + kWidth <= n; c += kWidth)
    store(out + c, pooled(values, gates, ape, rows, c, [](const float* p) { return load(p); }));
  const int64_t rest = n - c;
  if (rest > 0)
    store_some(out + c,
               pooled(values, gates, ape, rows, c,
                      [rest](const float* p) { return load_some(p, rest); }),
               rest);
}

void weighted_sum(const float* x, int64_t stride, const float* weights, int64_t count, int64_t n,
                  float* out) {
  int64_t c = 0;
  for (; c + kWidth <= n; c += kWidth) {
    F y = load(x + c) * set(weights[0]);
    for (int64_t a = 1; a < count; ++a) y = fma(load(x + a * stride + c), set(weights[a]), y);
    store(out + c, y);
  }
  const int64_t rest = n - c;
  if (rest > 0) {
    F y = load_some(x + c, rest) * set(weights[0]);
    for (int64_t a = 1; a < count; ++a)
      y = fma(load_some(x + a * stride + c, rest), set(weights[a]), y);
    store_some(out + c, y, rest);
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

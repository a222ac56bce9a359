// Elementwise and small reductions: norms, rotation, activations, pooling.
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
  float rest = 0;
  for (; i < n; ++i) rest += a[i] * b[i];
  return sum((s0 + s1) + (s2 + s3)) + rest;
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
  for (int64_t j = 0; j < pairs; ++j) {
    const float u = x[2 * j], v = x[2 * j + 1], s = sign * sin[j];
    x[2 * j] = u * cos[j] - v * s;
    x[2 * j + 1] = u * s + v * cos[j];
  }
}

void swiglu(const float* a, const float* b, int64_t n, float limit, float scale, float* out) {
  const F high = set(limit), low = set(-limit), one = set(1.0f), factor = set(scale);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    const F gate = min(load(a + i), high);
    const F up = max(min(load(b + i), high), low);
    store(out + i, gate / (one + exp(zero() - gate)) * up * factor);
  }
  for (; i < n; ++i) {
    const float gate = a[i] < limit ? a[i] : limit;
    const float up = b[i] > limit ? limit : b[i] < -limit ? -limit : b[i];
    out[i] = gate / (1.0f + std::exp(-gate)) * up * scale;
  }
}

void pool(const float* const* values, const float* const* gates, const float* const* ape,
          int64_t rows, int64_t n, float* out) {
  int64_t c = 0;
  for (; c + kWidth <= n; c += kWidth) {
    F peak = load(gates[0] + c) + load(ape[0] + c);
    for (int64_t j = 1; j < rows; ++j) peak = max(peak, load(gates[j] + c) + load(ape[j] + c));
    F total = zero(), mixed = zero();
    for (int64_t j = 0; j < rows; ++j) {
      const F w = exp(load(gates[j] + c) + load(ape[j] + c) - peak);
      total = total + w;
      mixed = fma(w, load(values[j] + c), mixed);
    }
    store(out + c, mixed / total);
  }
  for (; c < n; ++c) {
    float peak = gates[0][c] + ape[0][c];
    for (int64_t j = 1; j < rows; ++j) {
      const float gate = gates[j][c] + ape[j][c];
      peak = gate > peak ? gate : peak;
    }
    float total = 0, mixed = 0;
    for (int64_t j = 0; j < rows; ++j) {
      const float w = std::exp(gates[j][c] + ape[j][c] - peak);
      total += w;
      mixed += w * values[j][c];
    }
    out[c] = mixed / total;
  }
}

void weighted_sum(const float* x, int64_t stride, const float* weights, int64_t count, int64_t n,
                  float* out) {
  int64_t c = 0;
  for (; c + kWidth <= n; c += kWidth) {
    F y = load(x + c) * set(weights[0]);
    for (int64_t a = 1; a < count; ++a) y = fma(load(x + a * stride + c), set(weights[a]), y);
    store(out + c, y);
  }
  for (; c < n; ++c) {
    float y = x[c] * weights[0];
    for (int64_t a = 1; a < count; ++a) y += x[a * stride + c] * weights[a];
    out[c] = y;
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

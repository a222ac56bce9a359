// Elementwise kernels and small reductions.
#include <cmath>
#include <vector>

#include "selftest.h"

namespace selftest {
namespace {

void reductions(const Kernels& table, int64_t n, Random& random) {
  Block<float> a(n), b(n), out(n);
  fill(a, random);
  fill(b, random);
  double dot = 0, size = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    size += static_cast<double>(a[i]) * b[i] * a[i] * b[i];
    squares += static_cast<double>(a[i]) * a[i];
  }
  note(table, "dot", std::fabs(table.dot(a.get(), b.get(), n) - dot),
       sum_error(n, std::sqrt(size)));
  note(table, "square_sum", std::fabs(table.square_sum(a.get(), n) - squares),
       sum_error(n, squares));

  Block<uint16_t> weight(n);
  for (int64_t i = 0; i < n; ++i) weight[i] = to_bf16(random.normal());
  for (const bool weighted : {true, false}) {
    const float eps = 1e-6f;
    table.rms_norm(a.get(), n, weighted ? weight.get() : nullptr, eps, out.get());
    const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) {
      const double y = a[i] * scale * (weighted ? bf16(weight[i]) : 1.0);
      note(table, "rms_norm", std::fabs(out[i] - y), sum_error(n, std::fabs(y)));
    }
    exact(table, "vectors stay in bounds", !out.overrun());
  }
}

void rotation(const Kernels& table, int64_t pairs, Random& random) {
  Block<float> x(2 * pairs), before(2 * pairs), cos(pairs), sin(pairs);
  fill(x, random);
  std::memcpy(before.get(), x.get(), 2 * pairs * sizeof(float));
  for (int64_t j = 0; j < pairs; ++j) {
    const float angle = random.uniform(-3.0f, 3.0f);
    cos[j] = std::cos(angle);
    sin[j] = std::sin(angle);
  }
  const float sign = random.below(2) ? 1.0f : -1.0f;
  table.rotate(x.get(), cos.get(), sin.get(), pairs, sign);
  for (int64_t j = 0; j < pairs; ++j) {
    const double u = before[2 * j], v = before[2 * j + 1], c = cos[j], s = sign * sin[j];
    const double size = 4 * kUnit * (std::fabs(u) + std::fabs(v));
    note(table, "rotate", std::fabs(x[2 * j] - (u * c - v * s)), size);
    note(table, "rotate", std::fabs(x[2 * j + 1] - (u * s + v * c)), size);
  }
  exact(table, "vectors stay in bounds", !x.overrun());
}

void activation(const Kernels& table, int64_t n, float size, Random& random) {
  Block<float> a(n), b(n), out(n);
  fill(a, random, size);
  fill(b, random, size);
  const float limit = 7.0f, scale = 1.5f;
  table.swiglu(a.get(), b.get(), n, limit, scale, out.get());
  for (int64_t i = 0; i < n; ++i) {
    const double gate = std::fmin(a[i], limit), up = std::fmax(std::fmin(b[i], limit), -limit);
    const double y = gate / (1 + std::exp(-gate)) * up * scale;
    // Below -87, e^x is 0 in float32 kernels, and so is the result.
    note(table, "swiglu", std::fabs(out[i] - y), 12 * kUnit * std::fabs(y) + 1e-34);
  }
  exact(table, "vectors stay in bounds", !out.overrun());
}

void pooling(const Kernels& table, int64_t rows, int64_t n, Random& random) {
  Block<float> values(rows * n), gates(rows * n), ape(rows * n), out(n);
  fill(values, random);
  fill(gates, random, 3.0f);
  fill(ape, random);
  // Rows before the first token of a text are masked out.
  if (rows > 2)
    for (int64_t c = 0; c < n; ++c) gates[n + c] = -INFINITY;
  std::vector<const float*> v, g, p;
  for (int64_t j = 0; j < rows; ++j) {
    v.push_back(values.get() + j * n);
    g.push_back(gates.get() + j * n);
    p.push_back(ape.get() + j * n);
  }
  table.pool(v.data(), g.data(), p.data(), rows, n, out.get());
  for (int64_t c = 0; c < n; ++c) {
    double total = 0, mixed = 0, size = 0, highest = 0;
    for (int64_t j = 0; j < rows; ++j) {
      const double gate = static_cast<double>(g[j][c]) + p[j][c];
      if (std::isfinite(gate)) highest = std::fmax(highest, std::fabs(gate));
      total += std::exp(gate);
      mixed += std::exp(gate) * v[j][c];
      size += std::exp(gate) * std::fabs(v[j][c]);
    }
    // The gates are sums, rounded in float32 before e^x.
    const double allowed = (sum_error(rows, 1.0) + 4 * highest * kUnit) * size / total;
    note(table, "pool", std::fabs(out[c] - mixed / total), allowed);
  }
  exact(table, "vectors stay in bounds", !out.overrun());
}

void mixing(const Kernels& table, int64_t count, int64_t n, Random& random) {
  const int64_t stride = n + 3;
  Block<float> x((count - 1) * stride + n), weights(count), out(n);
  fill(x, random);
  fill(weights, random);
  table.weighted_sum(x.get(), stride, weights.get(), count, n, out.get());
  for (int64_t c = 0; c < n; ++c) {
    double sum = 0, squares = 0;
    for (int64_t a = 0; a < count; ++a) {
      const double term = static_cast<double>(weights[a]) * x[a * stride + c];
      sum += term;
      squares += term * term;
    }
    note(table, "weighted_sum", std::fabs(out[c] - sum), sum_error(count, std::sqrt(squares)));
  }
  exact(table, "vectors stay in bounds", !out.overrun());
}

}  // namespace

void vectors(const Kernels& table, Random random) {
  for (int64_t n : {1, 3, 4, 7, 15, 16, 31, 64, 67, 129, 512, 1000, 4096}) {
    reductions(table, n, random);
    rotation(table, n, random);
    for (float size : {1.0f, 10.0f, 60.0f}) activation(table, n, size, random);
    for (int64_t rows : {1, 2, 4, 8, 128}) pooling(table, rows, n, random);
    for (int64_t count : {1, 2, 4, 9}) mixing(table, count, n, random);
  }
}

}  // namespace selftest

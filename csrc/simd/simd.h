// A vector of floats, `kWidth` wide, and the few operations kernels are written in; + - * / are
// the compiler's own on vector types. Included inside a translation unit of one instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include "avx512.h"
#elif defined(__AVX2__)
#include "avx2.h"
#elif defined(__ARM_NEON)
#include "neon.h"
#else
#include "generic.h"
#endif

namespace dsv4 {
namespace DSV4_ISA {
namespace {

// bfloat16 bits of the nearest value, ties to even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

inline float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

// 2^(code - 127); 255 is NaN.
inline float from_e8m0(uint8_t code) {
  const uint32_t bits = code == 0 ? 1u << 22 : code == 255 ? 0x7fc00000u : uint32_t{code} << 23;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// e^x to about one unit in the last place; 0 below -86.98, infinity where e^x overflows; -infinity
// is welcome and NaN stays NaN.
inline F exp(F x) {
  const F low = set(-86.98f), high = set(88.8f), one = set(1.0f);
  const F clipped = min(high, max(low, x));
  const F n = round(clipped * set(1.44269504088896341f));
  F r = fma(n, set(-0.693359375f), clipped);
  r = fma(n, set(2.12194440e-4f), r);
  F p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = fma(p, r * r, r + one);
  // 2^128, which the largest results need, is no float: half of it, twice.
  return zero_below((p + p) * power_of_two(n - one), x, low);
}

// The first n of kWidth floats, and zeros behind them.
inline F load_some(const float* p, int64_t n) {
  float lanes[kWidth] = {};
  std::memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}

inline void store_some(float* p, F x, int64_t n) {
  float lanes[kWidth];
  store(lanes, x);
  std::memcpy(p, lanes, n * sizeof(float));
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

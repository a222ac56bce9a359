// Four floats in the compiler's own vector type: runs on any processor.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

typedef float F __attribute__((vector_size(16)));
typedef int32_t I __attribute__((vector_size(16)));
constexpr int kWidth = 4;

inline F load(const float* p) {
  F x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
inline F set(float x) { return F{x, x, x, x}; }
inline F zero() { return F{0, 0, 0, 0}; }
// Two roundings: there is no fused form to rely on.
inline F fma(F a, F b, F c) { return a * b + c; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F min(F a, F b) { return a < b ? a : b; }
// To the nearest integer for |x| < 2^22, ties to even.
inline F round(F x) {
  const F magic = set(12582912.0f);
  return (x + magic) - magic;
}
// 2^n for integral n in [-127, 127]; -127 gives 0.
inline F power_of_two(F n) {
  const I bits = (__builtin_convertvector(n, I) + 127) << 23;
  F x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
// 0 where x < low, else value. max and min give their second argument where one is NaN.
inline F zero_below(F value, F x, F low) { return x < low ? zero() : value; }
// Lane i and lane i ^ half change places.
template <int half>
inline F exchange(F x) {
  if constexpr (half == 1) return F{x[1], x[0], x[3], x[2]};
  if constexpr (half == 2) return F{x[2], x[3], x[0], x[1]};
}
// Each of kWidth / 2 floats twice, side by side.
inline F load_twice(const float* p) { return F{p[0], p[0], p[1], p[1]}; }
// Bit i: a[i] > b[i].
inline uint32_t above(F a, F b) {
  const I c = a > b;
  return (c[0] & 1u) | (c[1] & 2u) | (c[2] & 4u) | (c[3] & 8u);
}
inline F load_bf16(const uint16_t* p) {
  const I bits = {p[0] << 16, p[1] << 16, p[2] << 16, p[3] << 16};
  F x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline float sum(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float highest(F x) {
  const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

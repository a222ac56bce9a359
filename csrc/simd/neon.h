#pragma once

#include <arm_neon.h>

namespace dsv4 {
namespace DSV4_ISA {
namespace {

using F = float32x4_t;
constexpr int kWidth = 4;

inline F load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline F set(float x) { return vdupq_n_f32(x); }
inline F zero() { return vdupq_n_f32(0.0f); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
inline F max(F a, F b) { return vmaxq_f32(a, b); }
inline F min(F a, F b) { return vminq_f32(a, b); }
inline F round(F x) { return vrndnq_f32(x); }
// 2^n for integral n in [-127, 127]; -127 gives 0.
inline F power_of_two(F n) {
  const int32x4_t biased = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
  return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
}
// 0 where x < low, else value. max and min give NaN where one is NaN.
inline F zero_below(F value, F x, F low) {
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value), vcltq_f32(x, low)));
}
// Lane i and lane i ^ half change places.
template <int half>
inline F exchange(F x) {
  if constexpr (half == 1) return vrev64q_f32(x);
  if constexpr (half == 2) return vextq_f32(x, x, 2);
}
// Each of kWidth / 2 floats twice, side by side.
inline F load_twice(const float* p) {
  const float32x2_t pair = vld1_f32(p);
  return vcombine_f32(vdup_lane_f32(pair, 0), vdup_lane_f32(pair, 1));
}
// Bit i: a[i] > b[i].
inline uint32_t above(F a, F b) {
  const uint32x4_t bits = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), bits));
}
inline F load_bf16(const uint16_t* p) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline float sum(F x) {
  const float32x2_t pair = vadd_f32(vget_low_f32(x), vget_high_f32(x));
  return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}
inline float highest(F x) { return vmaxvq_f32(x); }

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

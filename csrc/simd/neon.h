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
// value where x >= low, else 0.
inline F zero_below(F value, F x, F low) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(value), vcgeq_f32(x, low)));
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

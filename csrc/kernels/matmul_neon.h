// Groups of 128 weights as NEON operands: made as 16 vectors of 8 bfloat16 ("words"), each split
// into two vectors of floats.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

using Operand = float32x4_t;
using Value = float;  // what an operand is made of
constexpr int kSteps = 32;
inline Value value_of(uint16_t bits) { return from_bf16(bits); }
inline float float_of(Value value) { return value; }
inline Operand load_operand(const Value* p) { return vld1q_f32(p); }
inline void store_operand(Value* p, Operand x) { vst1q_f32(p, x); }
inline F multiply(F sum, Operand a, Operand b) { return vfmaq_f32(sum, a, b); }

constexpr int64_t kPass = 4;
// Up to how many tokens it costs less to decode weights again than to decode them to memory.
constexpr int64_t kFewE4m3 = 4, kFewE2m1 = 16, kFewBf16 = 16;

// Words 2i are the low halves of 32 bits, words 2i + 1 the high halves.
template <class Use>
inline void give(int v, uint8x16_t bytes, Use& use) {
  const uint32x4_t words = vreinterpretq_u32_u8(bytes);
  use(2 * v, vreinterpretq_f32_u32(vshlq_n_u32(words, 16)));
  use(2 * v + 1, vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u))));
}

// Which element of the group is word `w` of vector `v`.
constexpr int byte_order(int v, int w) { return 8 * v + w; }

template <class Use>
inline void bf16_group(const uint8_t* p, Use use) {
  for (int v = 0; v < 16; ++v) give(v, vld1q_u8(p + 16 * v), use);
}

template <class Use>
inline void fp8_group(const uint8_t* p, Use use) {
  // The 8 sizes below the normal ones; a look-up past its table leaves what was there.
  const uint8_t small_low[16] = {0, 0, 128, 192, 0, 32, 64, 96};
  const uint8_t small_high[16] = {0, 59, 59, 59, 60, 60, 60, 60};
  const uint8x8_t table_low = vld1_u8(small_low), table_high = vld1_u8(small_high);
  for (int z = 0; z < 8; ++z) {
    const uint8x16_t codes = vld1q_u8(p + 16 * z);
    const uint8x16_t size = vandq_u8(codes, vdupq_n_u8(127));
    // A normal value's bits are (size << 4) + 0x3c00.
    const uint8x16_t low = vshlq_n_u8(codes, 4);
    uint8x16_t high = vaddq_u8(vshrq_n_u8(size, 4), vdupq_n_u8(0x3c));
    high = vorrq_u8(high, vceqq_u8(size, vdupq_n_u8(127)));  // NaN
    const uint8x16_t fixed_low =
        vcombine_u8(vtbx1_u8(vget_low_u8(low), table_low, vget_low_u8(size)),
                    vtbx1_u8(vget_high_u8(low), table_low, vget_high_u8(size)));
    const uint8x16_t fixed_high =
        vcombine_u8(vtbx1_u8(vget_low_u8(high), table_high, vget_low_u8(size)),
                    vtbx1_u8(vget_high_u8(high), table_high, vget_high_u8(size)));
    const uint8x16_t signed_high = vorrq_u8(fixed_high, veorq_u8(codes, size));
    give(2 * z, vzip1q_u8(fixed_low, signed_high), use);
    give(2 * z + 1, vzip2q_u8(fixed_low, signed_high), use);
  }
}

// --- e2m1, as whole numbers ---

using Whole = int32x4_t;
using Numbers = int8x16_t;  // four for every lane of a Whole
constexpr int kOffset = 0;
inline Whole load_whole(const int32_t* p) { return vld1q_s32(p); }
inline Numbers load_numbers(const uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }
inline void store_numbers(uint8_t* p, Numbers x) { vst1q_u8(p, vreinterpretq_u8_s8(x)); }
inline F to_float(Whole x) { return vcvtq_f32_s32(x); }
inline Whole multiply_numbers(Whole sum, Numbers w, Numbers x) {
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
  const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(w), vget_high_s8(x)));
  return vaddq_s32(sum, vpaddq_s32(low, high));
}

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  const int8_t numbers[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  const int8x16_t values = vld1q_s8(numbers);
  // Load i has a block; vector i of `turned` has dword i of every block.
  const uint32x4x4_t blocks = {vreinterpretq_u32_u8(vld1q_u8(p)),
                               vreinterpretq_u32_u8(vld1q_u8(p + 16)),
                               vreinterpretq_u32_u8(vld1q_u8(p + 32)),
                               vreinterpretq_u32_u8(vld1q_u8(p + 48))};
  const uint32x4x2_t ab = vtrnq_u32(blocks.val[0], blocks.val[1]);
  const uint32x4x2_t cd = vtrnq_u32(blocks.val[2], blocks.val[3]);
  const uint32x4_t turned[4] = {
      vcombine_u32(vget_low_u32(ab.val[0]), vget_low_u32(cd.val[0])),
      vcombine_u32(vget_low_u32(ab.val[1]), vget_low_u32(cd.val[1])),
      vcombine_u32(vget_high_u32(ab.val[0]), vget_high_u32(cd.val[0])),
      vcombine_u32(vget_high_u32(ab.val[1]), vget_high_u32(cd.val[1]))};
  for (int i = 0; i < 4; ++i) {
    const uint8x16_t codes = vreinterpretq_u8_u32(turned[i]);
    use(2 * i, vqtbl1q_s8(values, vandq_u8(codes, vdupq_n_u8(15))));
    use(2 * i + 1, vqtbl1q_s8(values, vshrq_n_u8(codes, 4)));
  }
}

// e8m0 codes of the group's blocks as floats, each in its block's lane.
inline F lane_scales(const uint8_t* codes) {
  const float scales[4] = {from_e8m0(codes[0]), from_e8m0(codes[1]), from_e8m0(codes[2]),
                           from_e8m0(codes[3])};
  return vld1q_f32(scales);
}

inline void sum_four(const F* x, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(x[i]);
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

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

constexpr int64_t kFewBytes = 4, kFewOthers = 16;  // see few_limit

// Words 2i are the low halves of 32 bits, words 2i + 1 the high halves.
template <class Use>
inline void give(int v, uint8x16_t bytes, Use& use) {
  const uint32x4_t words = vreinterpretq_u32_u8(bytes);
  use(2 * v, vreinterpretq_f32_u32(vshlq_n_u32(words, 16)));
  use(2 * v + 1, vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u))));
}

// Which element of the group is word `w` of vector `v`. For e2m1 the four blocks are interleaved
// by 2 bytes first, so that each float lane holds elements of one block only.
constexpr int byte_order(int v, int w) { return 8 * v + w; }
constexpr int nibble_order(int v, int w) {
  const int byte = 16 * (w / 2) + 4 * (v / 4) + 2 * (v % 2) + w % 2;
  return 2 * byte + v / 2 % 2;
}

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

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  const uint8_t low_bytes[16] = {0, 0, 128, 192, 0, 64, 128, 192, 0, 0, 128, 192, 0, 64, 128, 192};
  const uint8_t high_bytes[16] = {0,   63,  63,  63,  64,  64,  64,  64,
                                  128, 191, 191, 191, 192, 192, 192, 192};
  const uint8x16_t table_low = vld1q_u8(low_bytes), table_high = vld1q_u8(high_bytes);
  const uint16x8_t a = vreinterpretq_u16_u8(vld1q_u8(p));
  const uint16x8_t b = vreinterpretq_u16_u8(vld1q_u8(p + 16));
  const uint16x8_t c = vreinterpretq_u16_u8(vld1q_u8(p + 32));
  const uint16x8_t d = vreinterpretq_u16_u8(vld1q_u8(p + 48));
  const uint16x8_t ac[2] = {vzip1q_u16(a, c), vzip2q_u16(a, c)};
  const uint16x8_t bd[2] = {vzip1q_u16(b, d), vzip2q_u16(b, d)};
  for (int u = 0; u < 4; ++u) {
    const uint8x16_t mixed = vreinterpretq_u8_u16(u % 2 ? vzip2q_u16(ac[u / 2], bd[u / 2])
                                                        : vzip1q_u16(ac[u / 2], bd[u / 2]));
    for (int half = 0; half < 2; ++half) {
      const uint8x16_t codes = half ? vshrq_n_u8(mixed, 4) : vandq_u8(mixed, vdupq_n_u8(15));
      const uint8x16_t low = vqtbl1q_u8(table_low, codes), high = vqtbl1q_u8(table_high, codes);
      give(4 * u + 2 * half, vzip1q_u8(low, high), use);
      give(4 * u + 2 * half + 1, vzip2q_u8(low, high), use);
    }
  }
}

inline F spread(const float* four) { return vld1q_f32(four); }

inline void sum_four(const F* x, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(x[i]);
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

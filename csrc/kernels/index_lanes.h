// Integer products of index keys. Channels of stored keys are small integers (twice their e2m1
// values) times a scale per 32, so a product over one such block is exact.
//
// Keys lie across lanes: kWidth keys a vector, and in a lane the `unit` of one key: four channels
// as bytes, or one as a float where there are no byte products. A block of 32 channels is kUnits
// vectors. Unit 2 m + i of a block holds channels 8 m + i + {0, 2, 4, 6}: what masks and shifts
// leave of four stored bytes.
#pragma once

#include "stored.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__ARM_NEON)
constexpr int kUnits = 8;
inline int unit_channel(int unit, int i) { return unit / 2 * 8 + unit % 2 + 2 * i; }
#else
constexpr int kUnits = 32;
#endif

#if defined(__AVX512F__)

using KeyVector = __m512i;
constexpr int kScoreHeads = 4;
inline KeyVector load_keys(const void* p) { return _mm512_load_si512(p); }
inline KeyVector every_key(int32_t unit) { return _mm512_set1_epi32(unit); }

// Keys are stored + 12, as unsigned bytes; `start` takes the 12 back.
constexpr int kOffset = 12;
#if defined(__AVX512VNNI__)
using DotSum = __m512i;
inline DotSum start(int32_t correction) { return _mm512_set1_epi32(correction); }
inline DotSum multiply_unit(DotSum sum, KeyVector keys, KeyVector q) {
  return _mm512_dpbusd_epi32(sum, keys, q);
}
inline F finish(DotSum sum) { return _mm512_cvtepi32_ps(sum); }
#else
// Sums of pairs stay within 16 bits: 32 products of at most 24 * 12.
using DotSum = __m512i;
inline DotSum start(int32_t correction) { return _mm512_set1_epi32(correction & 0xffff); }
inline DotSum multiply_unit(DotSum sum, KeyVector keys, KeyVector q) {
  return _mm512_add_epi16(sum, _mm512_maddubs_epi16(keys, q));
}
inline F finish(DotSum sum) {
  return _mm512_cvtepi32_ps(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)));
}
#endif

// 32 channels (16 bytes) of kWidth keys, `stride` bytes apart, to kUnits vectors `apart` bytes
// apart. Lane group g of row[r] is key 4 g + r, so that transposing 4 x 4 words leaves the keys in
// order.
inline void lay_out_keys(const uint8_t* keys, int64_t stride, uint8_t* out, int64_t apart) {
  const __m512i low = _mm512_set1_epi8(15);
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  __m512i row[4];
  for (int r = 0; r < 4; ++r) {
    const auto part = [&](int g) {
      return _mm_loadu_si128((const __m128i*)(keys + (4 * g + r) * stride));
    };
    const __m512i x = _mm512_inserti32x4(_mm512_castsi128_si512(part(0)), part(1), 1);
    row[r] = _mm512_inserti32x4(_mm512_inserti32x4(x, part(2), 2), part(3), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(row[0], row[1]);
  const __m512i b = _mm512_unpacklo_epi32(row[2], row[3]);
  const __m512i c = _mm512_unpackhi_epi32(row[0], row[1]);
  const __m512i d = _mm512_unpackhi_epi32(row[2], row[3]);
  const __m512i words[4] = {_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b),
                            _mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d)};
  for (int m = 0; m < 4; ++m) {
    const __m512i even = _mm512_and_si512(words[m], low);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(words[m], 4), low);
    _mm512_store_si512(out + 2 * m * apart, _mm512_shuffle_epi8(table, even));
    _mm512_store_si512(out + (2 * m + 1) * apart, _mm512_shuffle_epi8(table, odd));
  }
}

#elif defined(__AVX2__)

using KeyVector = __m256i;
constexpr int kScoreHeads = 2;
inline KeyVector load_keys(const void* p) { return _mm256_load_si256((const __m256i*)p); }
inline KeyVector every_key(int32_t unit) { return _mm256_set1_epi32(unit); }

// Keys are stored + 12, as unsigned bytes; `start` takes the 12 back. Sums of pairs stay within
// 16 bits: 32 products of at most 24 * 12.
constexpr int kOffset = 12;
using DotSum = __m256i;
inline DotSum start(int32_t correction) { return _mm256_set1_epi32(correction & 0xffff); }
inline DotSum multiply_unit(DotSum sum, KeyVector keys, KeyVector q) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(keys, q));
}
inline F finish(DotSum sum) {
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
}

// As for AVX-512, with two lane groups.
inline void lay_out_keys(const uint8_t* keys, int64_t stride, uint8_t* out, int64_t apart) {
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  __m256i row[4];
  for (int r = 0; r < 4; ++r)
    row[r] = _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)(keys + r * stride))),
        _mm_loadu_si128((const __m128i*)(keys + (4 + r) * stride)), 1);
  const __m256i a = _mm256_unpacklo_epi32(row[0], row[1]);
  const __m256i b = _mm256_unpacklo_epi32(row[2], row[3]);
  const __m256i c = _mm256_unpackhi_epi32(row[0], row[1]);
  const __m256i d = _mm256_unpackhi_epi32(row[2], row[3]);
  const __m256i words[4] = {_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b),
                            _mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d)};
  for (int m = 0; m < 4; ++m) {
    const __m256i even = _mm256_and_si256(words[m], low);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(words[m], 4), low);
    _mm256_store_si256((__m256i*)(out + 2 * m * apart), _mm256_shuffle_epi8(table, even));
    _mm256_store_si256((__m256i*)(out + (2 * m + 1) * apart), _mm256_shuffle_epi8(table, odd));
  }
}

#elif defined(__ARM_NEON)

using KeyVector = int8x16_t;
constexpr int kScoreHeads = 4;
inline KeyVector load_keys(const void* p) { return vld1q_s8(static_cast<const int8_t*>(p)); }
inline KeyVector every_key(int32_t unit) { return vreinterpretq_s8_s32(vdupq_n_s32(unit)); }

constexpr int kOffset = 0;
// Keys 0 and 1, and 2 and 3; each lane sums 8 products of at most 144.
struct DotSum {
  int16x8_t low, high;
};
inline DotSum start(int32_t) { return {vdupq_n_s16(0), vdupq_n_s16(0)}; }
inline DotSum multiply_unit(DotSum sum, KeyVector keys, KeyVector q) {
  return {vmlal_s8(sum.low, vget_low_s8(keys), vget_low_s8(q)),
          vmlal_high_s8(sum.high, keys, q)};
}
inline F finish(DotSum sum) {
  return vcvtq_f32_s32(vpaddq_s32(vpaddlq_s16(sum.low), vpaddlq_s16(sum.high)));
}

inline void lay_out_keys(const uint8_t* keys, int64_t stride, uint8_t* out, int64_t apart) {
  const uint8x16_t low = vdupq_n_u8(15);
  const int8x16_t table = vld1q_s8(kTwiceE2m1);
  uint32x4_t row[4];
  for (int r = 0; r < 4; ++r) row[r] = vreinterpretq_u32_u8(vld1q_u8(keys + r * stride));
  const uint32x4_t a = vzip1q_u32(row[0], row[2]), b = vzip1q_u32(row[1], row[3]);
  const uint32x4_t c = vzip2q_u32(row[0], row[2]), d = vzip2q_u32(row[1], row[3]);
  const uint32x4_t words[4] = {vzip1q_u32(a, b), vzip2q_u32(a, b), vzip1q_u32(c, d),
                               vzip2q_u32(c, d)};
  for (int m = 0; m < 4; ++m) {
    const uint8x16_t word = vreinterpretq_u8_u32(words[m]);
    vst1q_s8((int8_t*)(out + 2 * m * apart), vqtbl1q_s8(table, vandq_u8(word, low)));
    vst1q_s8((int8_t*)(out + (2 * m + 1) * apart), vqtbl1q_s8(table, vshrq_n_u8(word, 4)));
  }
}

#else

using KeyVector = F;
constexpr int kScoreHeads = 2;
inline KeyVector load_keys(const void* p) { return load(static_cast<const float*>(p)); }
inline KeyVector every_key(int32_t unit) {
  float x;
  std::memcpy(&x, &unit, 4);
  return set(x);
}

constexpr int kOffset = 0;
using DotSum = F;
inline DotSum start(int32_t) { return zero(); }
inline DotSum multiply_unit(DotSum sum, KeyVector keys, KeyVector q) { return fma(keys, q, sum); }
inline F finish(DotSum sum) { return sum; }

inline void lay_out_keys(const uint8_t* keys, int64_t stride, uint8_t* out, int64_t apart) {
  for (int i = 0; i < 16; ++i)
    for (int half = 0; half < 2; ++half, out += apart) {
      float x[kWidth];
      for (int n = 0; n < kWidth; ++n) x[n] = kTwiceE2m1[keys[n * stride + i] >> (4 * half) & 15];
      std::memcpy(out, x, sizeof x);
    }
}

#endif

// A query head's block of 32 channels (16 stored bytes) to kUnits units, as the vectors of keys
// have them, and what `start` of that block takes.
inline int32_t lay_out_query(const uint8_t* stored, int32_t* units) {
  int32_t sum = 0;
  int8_t value[32];
  for (int c = 0; c < 32; ++c) {
    value[c] = kTwiceE2m1[stored[c / 2] >> (c % 2 * 4) & 15];
    sum += value[c];
  }
  for (int u = 0; u < kUnits; ++u) {
#if defined(__AVX512F__) || defined(__AVX2__) || defined(__ARM_NEON)
    int8_t four[4];
    for (int i = 0; i < 4; ++i) four[i] = value[unit_channel(u, i)];
    std::memcpy(units + u, four, 4);
#else
    const float x = value[u];
    std::memcpy(units + u, &x, 4);
#endif
  }
  return -kOffset * sum;
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

// Groups of 128 weights as AVX-512 operands: four vectors of 32 bfloat16 ("words"), taken as they
// are where the processor multiplies bfloat16, else split into eight vectors of floats.
//
// vdpbf16ps takes bfloat16 denormals as zero. No e4m3 or e2m1 value is one; bfloat16 weights and
// inputs below 2^-126 are, and are treated as zero on that path.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

#if defined(__AVX512BF16__)
// 32 values; denormals become zero, as they would in the product.
inline __m512i round_to_bf16(F low, F high) {
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}
using Operand = __m512i;
using Value = uint16_t;  // what an operand is made of
constexpr int kSteps = 4;
inline Value value_of(uint16_t bits) { return bits; }
inline float float_of(Value value) { return from_bf16(value); }
inline Operand load_operand(const Value* p) { return _mm512_loadu_si512(p); }
inline void store_operand(Value* p, Operand x) { _mm512_storeu_si512(p, x); }
inline F multiply(F sum, Operand a, Operand b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
template <class Use>
inline void give(int v, __m512i words, Use& use) {
  use(v, words);
}
#else
using Operand = __m512;
using Value = float;
constexpr int kSteps = 8;
inline Value value_of(uint16_t bits) { return from_bf16(bits); }
inline float float_of(Value value) { return value; }
inline Operand load_operand(const Value* p) { return _mm512_loadu_ps(p); }
inline void store_operand(Value* p, Operand x) { _mm512_storeu_ps(p, x); }
inline F multiply(F sum, Operand a, Operand b) { return _mm512_fmadd_ps(a, b, sum); }
// Words 2i are the low halves of 32 bits, words 2i + 1 the high halves.
template <class Use>
inline void give(int v, __m512i words, Use& use) {
  use(2 * v, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
  use(2 * v + 1, _mm512_castsi512_ps(
                     _mm512_and_si512(words, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))));
}
#endif

constexpr int64_t kPass = 8;
// Up to how many tokens it costs less to decode weights again than to decode them to memory.
constexpr int64_t kFewE4m3 = 16, kFewE2m1 = 16, kFewBf16 = 32;

// Which element of the group is word `w` of vector `v`: where e4m3 bytes land when they are
// unpacked to words within 128 bits.
constexpr int byte_order(int v, int w) { return 64 * (v / 2) + 16 * (w / 8) + 8 * (v % 2) + w % 8; }

template <class Use>
inline void bf16_group(const uint8_t* p, Use use) {
  for (int z = 0; z < 2; ++z) {
    const __m512i a = _mm512_loadu_si512(p + 128 * z), b = _mm512_loadu_si512(p + 128 * z + 64);
    give(2 * z, _mm512_shuffle_i64x2(a, b, 0x88), use);
    give(2 * z + 1, _mm512_shuffle_i64x2(a, b, 0xdd), use);
  }
}

template <class Use>
inline void fp8_group(const uint8_t* p, Use use) {
#if defined(__AVX512VBMI__)
  struct Halves {
    alignas(64) uint8_t low[128], high[128];
    constexpr Halves() : low(), high() {
      for (int code = 0; code < 128; ++code) {
        low[code] = static_cast<uint8_t>(e4m3_bits(code));
        high[code] = static_cast<uint8_t>(e4m3_bits(code) >> 8);
      }
    }
  };
  static constexpr Halves kHalves;
  const __m512i low0 = _mm512_load_si512(kHalves.low), low1 = _mm512_load_si512(kHalves.low + 64);
  const __m512i high0 = _mm512_load_si512(kHalves.high);
  const __m512i high1 = _mm512_load_si512(kHalves.high + 64);
#else
  // 8 sizes below the normal ones, for each 128 bits.
  const __m512i small_low = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 0, -128, -64, 0, 32, 64, 96, 0, 0, 0, 0, 0, 0, 0, 0));
  const __m512i small_high = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 59, 59, 59, 60, 60, 60, 60, 0, 0, 0, 0, 0, 0, 0, 0));
#endif
  for (int z = 0; z < 2; ++z) {
    const __m512i codes = _mm512_loadu_si512(p + 64 * z);
#if defined(__AVX512VBMI__)
    const __m512i low = _mm512_permutex2var_epi8(low0, codes, low1);
    __m512i high = _mm512_permutex2var_epi8(high0, codes, high1);
#else
    // A normal value's bits are (size << 4) + 0x3c00.
    const __m512i size = _mm512_and_si512(codes, _mm512_set1_epi8(127));
    __m512i low = _mm512_and_si512(_mm512_slli_epi16(codes, 4), _mm512_set1_epi8(-16));
    __m512i high = _mm512_and_si512(_mm512_srli_epi16(size, 4), _mm512_set1_epi8(15));
    high = _mm512_add_epi8(high, _mm512_set1_epi8(0x3c));
    const __mmask64 small = _mm512_cmplt_epu8_mask(size, _mm512_set1_epi8(8));
    low = _mm512_mask_shuffle_epi8(low, small, small_low, size);
    high = _mm512_mask_shuffle_epi8(high, small, small_high, size);
    const __mmask64 nan = _mm512_cmpeq_epi8_mask(size, _mm512_set1_epi8(127));
    high = _mm512_mask_mov_epi8(high, nan, size);
#endif
    // high | (codes & 0x80)
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(-128), 0xf8);
    give(2 * z, _mm512_unpacklo_epi8(low, high), use);
    give(2 * z + 1, _mm512_unpackhi_epi8(low, high), use);
  }
}

// --- e2m1, as whole numbers ---

using Whole = __m512i;    // int32
using Numbers = __m512i;  // int8: four for every lane of a Whole
constexpr int kOffset = 12;  // weights are stored with it, since one side of the product is unsigned
inline Whole load_whole(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Numbers load_numbers(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_numbers(uint8_t* p, Numbers x) { _mm512_storeu_si512(p, x); }
inline F to_float(Whole x) { return _mm512_cvtepi32_ps(x); }
inline Whole multiply_numbers(Whole sum, Numbers w, Numbers x) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(sum, w, x);
#else
  const __m512i pairs = _mm512_maddubs_epi16(w, x);
  return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  const __m512i values = _mm512_broadcast_i32x4(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64);
  const __m512i c = _mm512_loadu_si512(p + 128), d = _mm512_loadu_si512(p + 192);
  const __m512i ab0 = _mm512_unpacklo_epi32(a, b), ab2 = _mm512_unpackhi_epi32(a, b);
  const __m512i cd0 = _mm512_unpacklo_epi32(c, d), cd2 = _mm512_unpackhi_epi32(c, d);
  const __m512i turned[4] = {_mm512_unpacklo_epi64(ab0, cd0), _mm512_unpackhi_epi64(ab0, cd0),
                             _mm512_unpacklo_epi64(ab2, cd2), _mm512_unpackhi_epi64(ab2, cd2)};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low = turned[i], high = _mm512_srli_epi16(turned[i], 4);
#if defined(__AVX512VBMI__)
    // Looks at six bits of an index; the table repeats, so that the upper two do not matter.
    use(2 * i, _mm512_permutexvar_epi8(low, values));
    use(2 * i + 1, _mm512_permutexvar_epi8(high, values));
#else
    const __m512i nibble = _mm512_set1_epi8(15);
    use(2 * i, _mm512_shuffle_epi8(values, _mm512_and_si512(low, nibble)));
    use(2 * i + 1, _mm512_shuffle_epi8(values, _mm512_and_si512(high, nibble)));
#endif
  }
}

// e8m0 codes of the group's blocks as floats, each in its block's lane.
inline F lane_scales(const uint8_t* codes) {
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m128i own = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)codes), order);
  __m512i bits = _mm512_slli_epi32(_mm512_cvtepu8_epi32(own), 23);
  bits = _mm512_max_epu32(bits, _mm512_set1_epi32(1 << 22));  // code 0
  const __mmask16 nan = _mm512_cmpeq_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  return _mm512_castsi512_ps(_mm512_mask_set1_epi32(bits, nan, 0x7fc00000));
}

inline __m128 quarter_sum(F x) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

inline void sum_four(const F* x, float* out) {
  const __m128 a = quarter_sum(x[0]), b = quarter_sum(x[1]);
  const __m128 c = quarter_sum(x[2]), d = quarter_sum(x[3]);
  const __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
  const __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

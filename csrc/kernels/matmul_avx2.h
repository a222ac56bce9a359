// Groups of 128 weights as AVX2 operands: made as eight vectors of 16 bfloat16 ("words"), each
// split into two vectors of floats.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

using Operand = __m256;
using Value = float;  // what an operand is made of
constexpr int kSteps = 16;
inline Value value_of(uint16_t bits) { return from_bf16(bits); }
inline float float_of(Value value) { return value; }
inline Operand load_operand(const Value* p) { return _mm256_loadu_ps(p); }
inline void store_operand(Value* p, Operand x) { _mm256_storeu_ps(p, x); }
inline F multiply(F sum, Operand a, Operand b) { return _mm256_fmadd_ps(a, b, sum); }

constexpr int64_t kPass = 4;
// Up to how many tokens it costs less to decode weights again than to decode them to memory.
constexpr int64_t kFewE4m3 = 4, kFewE2m1 = 16, kFewBf16 = 16;

// Words 2i are the low halves of 32 bits, words 2i + 1 the high halves.
template <class Use>
inline void give(int v, __m256i words, Use& use) {
  use(2 * v, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
  use(2 * v + 1, _mm256_castsi256_ps(
                     _mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
}

// Which element of the group is word `w` of vector `v`: where bytes land when they are unpacked
// to words within 128 bits.
constexpr int byte_order(int v, int w) { return 32 * (v / 2) + 16 * (w / 8) + 8 * (v % 2) + w % 8; }

template <class Use>
inline void bf16_group(const uint8_t* p, Use use) {
  for (int z = 0; z < 4; ++z) {
    const __m256i a = _mm256_loadu_si256((const __m256i*)(p + 64 * z));
    const __m256i b = _mm256_loadu_si256((const __m256i*)(p + 64 * z + 32));
    give(2 * z, _mm256_permute2x128_si256(a, b, 0x20), use);
    give(2 * z + 1, _mm256_permute2x128_si256(a, b, 0x31), use);
  }
}

template <class Use>
inline void fp8_group(const uint8_t* p, Use use) {
  // What to flip in the 8 sizes below the normal ones. The look-up's index is size + 0x78: its
  // four low bits run from 8 to 15 there, and from size 8 its top bit is set, which gives 0.
  const __m256i flip_low = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, -0x60, -0x10, 0x40, 0x70, 0x20, 0x10));
  const __m256i flip_high = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 0x3c, 7, 7, 7, 0, 0, 0, 0));
  const __m256i size_bits = _mm256_set1_epi8(127);
  for (int z = 0; z < 4; ++z) {
    const __m256i codes = _mm256_loadu_si256((const __m256i*)(p + 32 * z));
    const __m256i size = _mm256_and_si256(codes, size_bits);
    const __m256i small = _mm256_add_epi8(size, _mm256_set1_epi8(0x78));
    // A normal value's bits are (size << 4) + 0x3c00.
    __m256i low = _mm256_and_si256(_mm256_slli_epi16(codes, 4), _mm256_set1_epi8(-16));
    __m256i high = _mm256_and_si256(_mm256_srli_epi16(size, 4), _mm256_set1_epi8(15));
    high = _mm256_add_epi8(high, _mm256_set1_epi8(0x3c));
    low = _mm256_xor_si256(low, _mm256_shuffle_epi8(flip_low, small));
    high = _mm256_xor_si256(high, _mm256_shuffle_epi8(flip_high, small));
    high = _mm256_or_si256(high, _mm256_cmpeq_epi8(size, size_bits));  // NaN
    high = _mm256_or_si256(high, _mm256_xor_si256(codes, size));       // sign
    give(2 * z, _mm256_unpacklo_epi8(low, high), use);
    give(2 * z + 1, _mm256_unpackhi_epi8(low, high), use);
  }
}

// --- e2m1, as whole numbers ---

using Whole = __m256i;    // int32
using Numbers = __m256i;  // int8: four for every lane of a Whole
constexpr int kOffset = 12;  // weights are stored with it, since one side of the product is unsigned
inline Whole load_whole(const int32_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline Numbers load_numbers(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline void store_numbers(uint8_t* p, Numbers x) { _mm256_storeu_si256((__m256i*)p, x); }
inline F to_float(Whole x) { return _mm256_cvtepi32_ps(x); }
inline Whole multiply_numbers(Whole sum, Numbers w, Numbers x) {
  const __m256i pairs = _mm256_maddubs_epi16(w, x);
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  const __m256i values = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i a = load_numbers(p), b = load_numbers(p + 32);
  const __m256i c = load_numbers(p + 64), d = load_numbers(p + 96);
  const __m256i ab0 = _mm256_unpacklo_epi32(a, b), ab2 = _mm256_unpackhi_epi32(a, b);
  const __m256i cd0 = _mm256_unpacklo_epi32(c, d), cd2 = _mm256_unpackhi_epi32(c, d);
  const __m256i turned[4] = {_mm256_unpacklo_epi64(ab0, cd0), _mm256_unpackhi_epi64(ab0, cd0),
                             _mm256_unpacklo_epi64(ab2, cd2), _mm256_unpackhi_epi64(ab2, cd2)};
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256i low = _mm256_and_si256(turned[i], nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(turned[i], 4), nibble);
    use(2 * i, _mm256_shuffle_epi8(values, low));
    use(2 * i + 1, _mm256_shuffle_epi8(values, high));
  }
}

// e8m0 codes of the group's blocks as floats, each in its block's lane.
inline F lane_scales(const uint8_t* codes) {
  const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m128i own = _mm_shuffle_epi8(_mm_loadl_epi64((const __m128i*)codes), order);
  __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(own), 23);
  bits = _mm256_max_epu32(bits, _mm256_set1_epi32(1 << 22));  // code 0
  const __m256i nan = _mm256_cmpeq_epi32(bits, _mm256_set1_epi32(0x7f800000));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_srli_epi32(nan, 9)));
}

inline __m128 half_sum(F x) {
  return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}

inline void sum_four(const F* x, float* out) {
  const __m128 a = half_sum(x[0]), b = half_sum(x[1]), c = half_sum(x[2]), d = half_sum(x[3]);
  const __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
  const __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
  _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

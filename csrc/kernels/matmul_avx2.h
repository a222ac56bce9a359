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

constexpr int64_t kFewBytes = 4, kFewOthers = 16;  // see few_limit

// Words 2i are the low halves of 32 bits, words 2i + 1 the high halves.
template <class Use>
inline void give(int v, __m256i words, Use& use) {
  use(2 * v, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
  use(2 * v + 1, _mm256_castsi256_ps(
                     _mm256_and_si256(words, _mm256_set1_epi32(static_cast<int>(0xffff0000u)))));
}

// Which element of the group is word `w` of vector `v`: where bytes land when they are unpacked
// to words within 128 bits. For e2m1, the two halves of the 64 bytes are interleaved first (by 4
// bytes), so that each pair of float lanes holds elements of one block of 32 only.
constexpr int byte_order(int v, int w) { return 32 * (v / 2) + 16 * (w / 8) + 8 * (v % 2) + w % 8; }
constexpr int nibble_order(int v, int w) {
  const int byte = 32 * (w % 8 / 4) + 16 * (w / 8) + 8 * (v / 4) + 4 * (v % 2) + w % 4;
  return 2 * byte + v / 2 % 2;
}

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

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  const __m256i low_bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(
      0, 0, -128, -64, 0, 64, -128, -64, 0, 0, -128, -64, 0, 64, -128, -64));
  const __m256i high_bytes = _mm256_broadcastsi128_si256(_mm_setr_epi8(
      0, 63, 63, 63, 64, 64, 64, 64, -128, -65, -65, -65, -64, -64, -64, -64));
  const __m256i a = _mm256_loadu_si256((const __m256i*)p);
  const __m256i b = _mm256_loadu_si256((const __m256i*)(p + 32));
  const __m256i mixed[2] = {_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)};
  for (int u = 0; u < 2; ++u)
    for (int half = 0; half < 2; ++half) {
      const __m256i codes =
          _mm256_and_si256(half ? _mm256_srli_epi16(mixed[u], 4) : mixed[u], _mm256_set1_epi8(15));
      const __m256i low = _mm256_shuffle_epi8(low_bytes, codes);
      const __m256i high = _mm256_shuffle_epi8(high_bytes, codes);
      give(4 * u + 2 * half, _mm256_unpacklo_epi8(low, high), use);
      give(4 * u + 2 * half + 1, _mm256_unpackhi_epi8(low, high), use);
    }
}

// The four scales of a group, each to the lanes that hold its 32 elements.
inline F spread(const float* four) {
  const __m256i lanes = _mm256_setr_epi32(0, 0, 2, 2, 1, 1, 3, 3);
  return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(four)), lanes);
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

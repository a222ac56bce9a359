#pragma once

#include <immintrin.h>

namespace dsv4 {
namespace DSV4_ISA {
namespace {

using F = __m512;
constexpr int kWidth = 16;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F set(float x) { return _mm512_set1_ps(x); }
inline F zero() { return _mm512_setzero_ps(); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F round(F x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F power_of_two(F n) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), n); }
// 0 where x < low, else value. max and min give their second argument where one is NaN.
inline F zero_below(F value, F x, F low) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ), value);
}
// Lane i and lane i ^ half change places.
template <int half>
inline F exchange(F x) {
  if constexpr (half == 1) return _mm512_permute_ps(x, 0xb1);
  if constexpr (half == 2) return _mm512_permute_ps(x, 0x4e);
  if constexpr (half == 4) return _mm512_shuffle_f32x4(x, x, 0xb1);
  if constexpr (half == 8) return _mm512_shuffle_f32x4(x, x, 0x4e);
}
// Each of kWidth / 2 floats twice, side by side.
inline F load_twice(const float* p) {
  const __m512i order = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return _mm512_permutexvar_ps(order, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
}
// Bit i: a[i] > b[i].
inline uint32_t above(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline F load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline float sum(F x) {
  // gcc 12 warns about the plain forms of these, which leave parts undefined in its header.
  const __m256 low = _mm512_maskz_extractf32x8_ps(0xff, x, 0);
  const __m256 half = _mm256_add_ps(low, _mm512_maskz_extractf32x8_ps(0xff, x, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
inline float highest(F x) { return _mm512_reduce_max_ps(x); }

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

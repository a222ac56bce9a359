// Stored numbers to floats, kWidth or any number at a time.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

// Twice the e2m1 values, by code.
constexpr int8_t kTwiceE2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__ARM_NEON)

// kWidth e4m3 codes. Seven bits to the left, a code is the float16 of its value / 2^8 (the biases
// differ by 8); NaN codes alone come out as 1.875 / 1, larger than all others.
#if defined(__AVX512F__)
inline F load_e4m3(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
  const __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(~0x4000));
  const F x = _mm512_cvtph_ps(half);
  const __mmask16 nan = _mm512_cmp_ps_mask(_mm512_abs_ps(x), set(1.8125f), _CMP_GT_OQ);
  return _mm512_mask_mov_ps(x * set(256.0f), nan, set(__builtin_nanf("")));
}
#elif defined(__AVX2__)
inline F load_e4m3(const uint8_t* p) {
  const __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i*)p));
  const __m128i half = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16(~0x4000));
  const F x = _mm256_cvtph_ps(half);
  const F size = _mm256_andnot_ps(set(-0.0f), x);
  // All bits set is a NaN.
  return _mm256_or_ps(x * set(256.0f), _mm256_cmp_ps(size, set(1.8125f), _CMP_GT_OQ));
}
#else
inline F load_e4m3(const uint8_t* p) {
  uint32_t four;
  std::memcpy(&four, p, 4);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)));
  const int16x4_t half = vand_s16(vshl_n_s16(vget_low_s16(wide), 7), vdup_n_s16(~0x4000));
  const F x = vcvt_f32_f16(vreinterpret_f16_s16(half));
  const uint32x4_t nan = vcgtq_f32(vabsq_f32(x), set(1.8125f));
  return vreinterpretq_f32_u32(vorrq_u32(vreinterpretq_u32_f32(x * set(256.0f)), nan));
}
#endif

#else

struct E4m3Floats {
  float value[256];
  constexpr E4m3Floats() : value() {
    for (int code = 0; code < 256; ++code) {
      const int exponent = (code >> 3) & 15, mantissa = code & 7;
      float size = exponent ? 8.0f + mantissa : mantissa;
      for (int e = exponent ? exponent : 1; e < 10; ++e) size /= 2;
      for (int e = exponent; e > 10; --e) size *= 2;
      if ((code & 127) == 127) size = __builtin_nanf("");
      value[code] = code & 128 ? -size : size;
    }
  }
};
constexpr E4m3Floats kE4m3Floats;

inline F load_e4m3(const uint8_t* p) {
  const float* v = kE4m3Floats.value;
  return F{v[p[0]], v[p[1]], v[p[2]], v[p[3]]};
}

#endif

// n e4m3 codes times a scale.
inline void widen_e4m3(const uint8_t* codes, int64_t n, float scale, float* out) {
  const F s = set(scale);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(out + i, load_e4m3(codes + i) * s);
  if (i == n) return;
  uint8_t rest[kWidth] = {};
  std::memcpy(rest, codes + i, n - i);
  store_some(out + i, load_e4m3(rest) * s, n - i);
}

// n bfloat16 values at any address.
inline void widen_bf16(const uint8_t* bytes, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = from_bf16(bits);
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

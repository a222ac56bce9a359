// A tile of KV rows as attention reads them, and the two products with it.
//
// A tile holds kRows rows in strips of 64 channels, strip by strip and in a strip row by row, so
// that both products read memory in order. It is made of units: one float, or, where bfloat16
// products exist, 32 bits with channels i and i + 16 of a group of 32; half a unit, moved to the
// upper end, is a float again, and a vector of units gives two vectors of channels in order.
//
// Scores are computed with heads across lanes: a key's unit goes to all lanes, so there is no sum
// over lanes, softmax works on whole vectors and any head's result is independent of its lane.
#pragma once

#include "stored.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {

constexpr int kRows = 64;   // rows of a tile: part of the meaning, as it orders the sums
constexpr int kStrip = 64;  // channels of a strip

#if defined(__AVX512BF16__)

using Unit = uint32_t;
constexpr int kStripUnits = kStrip / 2;

// acc += q . key for two channels of kWidth heads.
inline F add_unit(F acc, const Unit* q, Unit key) {
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(q),
                          (__m512bh)_mm512_set1_epi32(static_cast<int>(key)));
}

inline void units_from_floats(const float* x, Unit* out) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int group = 0; group < 2; ++group) {
    const __m512i low = _mm512_castps_si512(load(x + 32 * group));
    const __m512i high = _mm512_castps_si512(load(x + 32 * group + 16));
    const __m512i units =
        _mm512_or_si512(_mm512_srli_epi32(low, 16), _mm512_and_si512(high, upper));
    _mm512_storeu_si512(out + 16 * group, units);
  }
}

// Vector v (of kWidth channels) of a strip.
inline F channels(const Unit* strip, int v) {
  const __m512i units = _mm512_loadu_si512(strip + v / 2 * 16);
  return _mm512_castsi512_ps(
      v % 2 ? _mm512_and_si512(units, _mm512_set1_epi32(static_cast<int>(0xffff0000u)))
            : _mm512_slli_epi32(units, 16));
}

// Upper and lower bytes of the bfloat16 of e4m3 codes 0..127, and the order of units.
struct StripTables {
  uint8_t upper[128], lower[128], bytes[64];
  uint16_t words[32];
  constexpr StripTables() : upper(), lower(), bytes(), words() {
    for (int code = 0; code < 128; ++code) {
      int exponent = code >> 3, mantissa = code & 7;
      uint32_t bits = 0;
      if (exponent) {
        bits = static_cast<uint32_t>((exponent + 120) << 7 | mantissa << 4);
      } else if (mantissa) {
        for (exponent = 121; mantissa < 8; --exponent) mantissa *= 2;
        bits = static_cast<uint32_t>(exponent << 7 | (mantissa & 7) << 4);
      }
      if (code == 127) bits = 0x7fc0;
      upper[code] = static_cast<uint8_t>(bits >> 8);
      lower[code] = static_cast<uint8_t>(bits);
    }
    // Bytes are interleaved in 16-byte lanes: lane l takes channels 4l.., 16 + 4l.. of both groups.
    for (int i = 0; i < 64; ++i) {
      const int lane = i / 16, group = i / 8 % 2, pair = i % 8 / 2;
      bytes[i] = static_cast<uint8_t>(32 * group + 4 * lane + pair + 16 * (i % 2));
    }
    for (int i = 0; i < 32; ++i) words[i] = static_cast<uint16_t>(i / 2 + 16 * (i % 2));
  }
};
alignas(64) constexpr StripTables kStripTables;

// 64 codes with one scale; false where the exponents leave the range of plain addition.
inline bool strip_from_e4m3(const uint8_t* codes, uint8_t scale, Unit* out) {
  if (scale < 27 || scale > 227) return false;
  const StripTables& t = kStripTables;
  const __m512i code = _mm512_permutexvar_epi8(_mm512_loadu_si512(t.bytes),
                                               _mm512_loadu_si512(codes));
  const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_loadu_si512(t.upper), code,
                                                     _mm512_loadu_si512(t.upper + 64));
  const __m512i lower = _mm512_permutex2var_epi8(_mm512_loadu_si512(t.lower), code,
                                                 _mm512_loadu_si512(t.lower + 64));
  // magnitude | (code & 0x80)
  const __m512i upper =
      _mm512_ternarylogic_epi32(magnitude, code, _mm512_set1_epi8(-128), 0xf8);
  const __m512i shift = _mm512_set1_epi16(static_cast<int16_t>((scale - 127) * 128));
  const __m512i size = _mm512_set1_epi16(0x7fff);
  for (int group = 0; group < 2; ++group) {
    const __m512i x =
        group ? _mm512_unpackhi_epi8(lower, upper) : _mm512_unpacklo_epi8(lower, upper);
    const __mmask32 nonzero = _mm512_test_epi16_mask(x, size);
    _mm512_storeu_si512(out + 16 * group, _mm512_mask_add_epi16(x, nonzero, x, shift));
  }
  return true;
}

inline bool strip_from_bf16(const uint8_t* bytes, Unit* out) {
  const __m512i order = _mm512_loadu_si512(kStripTables.words);
  for (int group = 0; group < 2; ++group)
    _mm512_storeu_si512(out + 16 * group,
                        _mm512_permutexvar_epi16(order, _mm512_loadu_si512(bytes + 64 * group)));
  return true;
}

#else

using Unit = float;
constexpr int kStripUnits = kStrip;

inline F add_unit(F acc, const Unit* q, Unit key) { return fma(load(q), set(key), acc); }

inline void units_from_floats(const float* x, Unit* out) {
  std::memcpy(out, x, kStrip * sizeof(float));
}

inline F channels(const Unit* strip, int v) { return load(strip + v * kWidth); }

inline bool strip_from_e4m3(const uint8_t* codes, uint8_t scale, Unit* out) {
  widen_e4m3(codes, kStrip, from_e8m0(scale), out);
  return true;
}

inline bool strip_from_bf16(const uint8_t* bytes, Unit* out) {
  widen_bf16(bytes, kStrip, out);
  return true;
}

#endif

inline int64_t strips_of(const KvLayout& layout) { return (layout.width + kStrip - 1) / kStrip; }

// Channels [strip * 64, + 64) of a stored row, zeros behind the last one.
inline void decode_strip(const uint8_t* row, const KvLayout& layout, int64_t strip, Unit* out) {
  const int64_t begin = strip * kStrip, plain = layout.plain();
  const uint8_t* bf16 = row + plain;
  const uint8_t scale = begin < plain ? row[layout.scale_offset() + strip] : 0;
  if (begin + kStrip <= plain && strip_from_e4m3(row + begin, scale, out)) return;
  if (begin >= plain && begin + kStrip <= layout.width &&
      strip_from_bf16(bf16 + 2 * (begin - plain), out))
    return;
  float x[kStrip] = {};
  const int64_t end = begin + kStrip < layout.width ? begin + kStrip : layout.width;
  const int64_t turn = plain < begin ? begin : plain < end ? plain : end;
  widen_e4m3(row + begin, turn - begin, from_e8m0(scale), x);
  widen_bf16(bf16 + 2 * (turn - plain), end - turn, x + turn - begin);
  units_from_floats(x, out);
}

// Scores of kTake rows of a tile for kVectors vectors of heads: score[v * kRows * kWidth + row *
// kWidth + lane]. Each is one chain of sums over the channels in order.
template <int kTake, int kVectors>
inline void multiply_keys(const Unit* tile, const Unit* q, int64_t strips, float* score) {
  const int64_t next = strips * kStripUnits * kWidth;  // to the next vector of heads
  F acc[kTake][kVectors];
  for (int r = 0; r < kTake; ++r)
    for (int v = 0; v < kVectors; ++v) acc[r][v] = zero();
  for (int64_t s = 0; s < strips; ++s, tile += kRows * kStripUnits)
    for (int u = 0; u < kStripUnits; ++u, q += kWidth)
      for (int r = 0; r < kTake; ++r)
        for (int v = 0; v < kVectors; ++v)
          acc[r][v] = add_unit(acc[r][v], q + v * next, tile[r * kStripUnits + u]);
  for (int r = 0; r < kTake; ++r)
    for (int v = 0; v < kVectors; ++v) store(score + (v * kRows + r) * kWidth, acc[r][v]);
}

// sum[h * stride + c] = sum * keep[h] + sum over `count` rows of p[row * kWidth + h] * key[c], for
// kHeads heads and kVectors vectors of channels, beginning with vector `first` of a strip.
template <int kHeads, int kVectors>
inline void add_values(const Unit* strip, int first, int64_t count, const float* p,
                       const float* keep, float* sum, int64_t stride) {
  F acc[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h)
    for (int v = 0; v < kVectors; ++v) acc[h][v] = zero();
  for (int64_t j = 0; j < count; ++j, strip += kStripUnits, p += kWidth) {
    F value[kVectors];
    for (int v = 0; v < kVectors; ++v) value[v] = channels(strip, first + v);
    for (int h = 0; h < kHeads; ++h) {
      const F weight = set(p[h]);
      for (int v = 0; v < kVectors; ++v) acc[h][v] = fma(weight, value[v], acc[h][v]);
    }
  }
  // A tile is summed by itself first: thousands of rows in one chain would lose digits.
  for (int h = 0; h < kHeads; ++h)
    for (int v = 0; v < kVectors; ++v) {
      float* at = sum + h * stride + v * kWidth;
      store(at, fma(load(at), set(keep[h]), acc[h][v]));
    }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

// Stored KV entries and index keys: written once, by the rules of numerics/activation.py, and read
// back. A block that holds a NaN or an infinity becomes NaN, by its scale.
#pragma once

#include "stored.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {

constexpr uint8_t kNanScale = 255;

// The bits of the largest |x|; those of NaN and infinity are larger than any number's.
inline uint32_t largest_bits(const float* x, int64_t n, float floor) {
  int32_t largest;
  std::memcpy(&largest, &floor, 4);
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return static_cast<uint32_t>(largest);
}

// The e8m0 code of the smallest power of two >= largest * factor, and its inverse (a float: the
// codes of finite blocks stay away from both ends).
inline uint8_t scale_for(uint32_t largest, float factor, float* inverse) {
  if (largest >= 0x7f800000u) return kNanScale;
  float v;
  std::memcpy(&v, &largest, 4);
  v *= factor;
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint32_t code = (bits + 0x7fffffu) >> 23;
  const uint32_t flipped = (254 - code) << 23;
  std::memcpy(inverse, &flipped, 4);
  return static_cast<uint8_t>(code);
}

// The nearest code, ties to even, saturating, of a format with kMantissa bits whose smallest
// normal number is 2^kLowest; the sign goes to bit kSign.
template <int kMantissa, int kLowest, int32_t kTop, int kSign>
inline int32_t nearest_code(float x) {
  constexpr int kShift = 23 - kMantissa;
  constexpr int32_t kOneBelow = (127 + kLowest - 1) * (1 << kMantissa);
  // Added to a subnormal, its units are counted in the last bits of the sum.
  constexpr int32_t kMagic = (127 + 23 + kLowest - kMantissa) * (1 << 23);
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  const int32_t size = bits & 0x7fffffff;
  const int32_t half = (1 << (kShift - 1)) - 1;
  const int32_t normal = ((size + half + ((size >> kShift) & 1)) >> kShift) - kOneBelow;
  float magic, shifted;
  std::memcpy(&magic, &kMagic, 4);
  std::memcpy(&shifted, &size, 4);
  shifted += magic;
  int32_t tiny;
  std::memcpy(&tiny, &shifted, 4);
  // A mask, not a choice: compilers would make it a branch, and the loops around it scalar.
  const int32_t subnormal = (size - (127 + kLowest) * (1 << 23)) >> 31;
  int32_t code = ((tiny - kMagic) & subnormal) | (normal & ~subnormal);
  code = code > kTop ? kTop : code;
  return code | ((bits >> 31) & (1 << kSign));
}

void pack_kv(const float* x, const KvLayout& layout, uint8_t* out) {
  const int64_t plain = layout.plain();
  std::memset(out + layout.scale_offset(), 0, layout.stride() - layout.scale_offset());
  for (int64_t begin = 0; begin < plain; begin += 64) {
    const int64_t n = plain - begin < 64 ? plain - begin : 64;
    float inverse = 0;
    const uint8_t scale = scale_for(largest_bits(x + begin, n, 1e-4f), 1.0f / 448.0f, &inverse);
    out[layout.scale_offset() + begin / 64] = scale;
    if (scale == kNanScale) {
      std::memset(out + begin, 0x7f, n);
      continue;
    }
    for (int64_t i = 0; i < n; ++i)
      out[begin + i] = static_cast<uint8_t>(nearest_code<3, -6, 0x7e, 7>(x[begin + i] * inverse));
  }
  for (int64_t c = 0; c < layout.rotated; ++c) {
    const uint16_t bits = to_bf16(x[plain + c]);
    std::memcpy(out + plain + 2 * c, &bits, 2);
  }
}

void unpack_kv(const uint8_t* row, const KvLayout& layout, float* out) {
  const int64_t plain = layout.plain();
  for (int64_t begin = 0; begin < plain; begin += 64) {
    const int64_t n = plain - begin < 64 ? plain - begin : 64;
    widen_e4m3(row + begin, n, from_e8m0(row[layout.scale_offset() + begin / 64]), out + begin);
  }
  widen_bf16(row + plain, layout.rotated, out + plain);
}

// Butterflies between lanes i and i + half of each vector.
template <int half>
inline void turn_lanes(float* x, int64_t n) {
  if constexpr (half < kWidth) {
    float lanes[kWidth];
    for (int i = 0; i < kWidth; ++i) lanes[i] = i & half ? -1.0f : 1.0f;
    const F signs = load(lanes);
    for (int64_t c = 0; c < n; c += kWidth) {
      const F v = load(x + c);
      store(x + c, fma(v, signs, exchange<half>(v)));
    }
  }
}

// Walsh-Hadamard transform in place; n is a power of two.
inline void hadamard(float* x, int64_t n) {
  int64_t half = 1;
  if (n >= kWidth) {
    turn_lanes<1>(x, n);
    turn_lanes<2>(x, n);
    turn_lanes<4>(x, n);
    turn_lanes<8>(x, n);
    half = kWidth;
  }
  for (; half < n; half *= 2)
    for (int64_t base = 0; base < n; base += 2 * half) {
      int64_t c = base;
      for (; c + kWidth <= base + half; c += kWidth) {
        const F a = load(x + c), b = load(x + c + half);
        store(x + c, a + b);
        store(x + c + half, a - b);
      }
      for (; c < base + half; ++c) {
        const float a = x[c], b = x[c + half];
        x[c] = a + b;
        x[c + half] = a - b;
      }
    }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (int64_t c = 0; c < n; ++c) x[c] *= scale;
}

void pack_key(const float* x, const KeyLayout& layout, uint8_t* out) {
  float turned[1024];
  std::memcpy(turned, x, layout.width * sizeof(float));
  hadamard(turned, layout.width);
  for (int64_t begin = 0; begin < layout.width; begin += 32) {
    const int64_t n = layout.width - begin < 32 ? layout.width - begin : 32;
    float inverse = 0;
    const uint32_t largest = largest_bits(turned + begin, n, 6 * 0x1p-126f);
    const uint8_t scale = scale_for(largest, 1.0f / 6.0f, &inverse);
    out[layout.scale_offset() + begin / 32] = scale;
    uint8_t codes[32] = {};
    if (scale != kNanScale)
      for (int64_t i = 0; i < n; ++i)
        codes[i] = static_cast<uint8_t>(nearest_code<1, 0, 7, 3>(turned[begin + i] * inverse));
    for (int64_t i = 0; i < n / 2; ++i)
      out[begin / 2 + i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
  }
}

void unpack_key(const uint8_t* row, const KeyLayout& layout, float* out) {
  for (int64_t begin = 0; begin < layout.width; begin += 32) {
    const int64_t end = begin + 32 < layout.width ? begin + 32 : layout.width;
    const float scale = from_e8m0(row[layout.scale_offset() + begin / 32]);
    for (int64_t c = begin; c < end; c += 2) {
      // Minus zero has a code but no integer: the sign of a float is put on at the end.
      const uint8_t low = row[c / 2] & 15, high = row[c / 2] >> 4;
      out[c] = std::copysign(0.5f * kTwiceE2m1[low & 7], low & 8 ? -1.0f : 1.0f) * scale;
      out[c + 1] = std::copysign(0.5f * kTwiceE2m1[high & 7], high & 8 ? -1.0f : 1.0f) * scale;
    }
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

// Weight formats, plainly: their values, their scales, and whole rows as floats.
#pragma once

#include "stored.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {

// The bfloat16 bits of an e4m3 code; every e4m3 value is a normal bfloat16, zero or NaN.
constexpr uint16_t e4m3_bits(int code) {
  const int sign = (code & 128) << 8, size = code & 127;
  if (size == 127) return static_cast<uint16_t>(sign | 0x7fc0);
  if (size >= 8) return static_cast<uint16_t>(sign | ((size << 4) + 0x3c00));
  if (size == 0) return static_cast<uint16_t>(sign);
  int exponent = 121, mantissa = size;
  for (; mantissa < 8; mantissa *= 2) --exponent;
  return static_cast<uint16_t>(sign | exponent << 7 | (mantissa - 8) << 4);
}

struct E4m3Table {
  uint16_t bits[256];
  constexpr E4m3Table() : bits() {
    for (int code = 0; code < 256; ++code) bits[code] = e4m3_bits(code);
  }
};
constexpr E4m3Table kE4m3;

inline float e4m3(uint8_t code) { return from_bf16(kE4m3.bits[code]); }

constexpr float kE2m1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6};

namespace product {

// Inputs that share a scale.
constexpr int64_t kFloatGroup = 128;  // of e4m3
constexpr int64_t kBlock = 32;        // of e2m1

inline int64_t pieces(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Bytes that `count` elements of a row take.
template <Format kFormat>
constexpr int64_t bytes_of(int64_t count) {
  return kFormat == Format::kFP4 ? count / 2 : kFormat == Format::kBF16 ? count * 2 : count;
}

// Scale `i` of those that row n has: one per 128 columns, of kFP4 one per 32.
template <Format kFormat>
inline float scale_at(const Matrix& w, int64_t n, int64_t i) {
  if (kFormat == Format::kBF16) return 1.0f;
  if (kFormat == Format::kFP4) return from_e8m0(w.scale[n * pieces(w.cols, kBlock) + i]);
  const int64_t at = n / 128 * pieces(w.cols, kFloatGroup) + i;
  if (kFormat == Format::kFP8) return from_e8m0(w.scale[at]);
  float scale;
  std::memcpy(&scale, w.scale + 4 * at, 4);
  return scale;
}

template <Format kFormat>
void decode(const Matrix& w, int64_t n, float* out) {
  const uint8_t* row = w.data + n * bytes_of<kFormat>(w.cols);
  constexpr int64_t kShared = kFormat == Format::kFP4 ? kBlock : kFloatGroup;
  for (int64_t begin = 0; begin < w.cols; begin += kShared) {
    const int64_t end = begin + kShared < w.cols ? begin + kShared : w.cols;
    const float scale = scale_at<kFormat>(w, n, begin / kShared);
    for (int64_t k = begin; k < end; ++k) {
      if (kFormat == Format::kFP4) {
        out[k] = kE2m1[(row[k / 2] >> (k % 2 * 4)) & 15] * scale;
      } else if (kFormat == Format::kBF16) {
        uint16_t bits;
        std::memcpy(&bits, row + 2 * k, 2);
        out[k] = from_bf16(bits);
      } else {
        out[k] = e4m3(row[k]) * scale;
      }
    }
  }
}

}  // namespace product

// A row of a table: every 32 elements have a scale, and rows share none.
inline void decode_table_row(const Matrix& w, int64_t n, float* out) {
  const uint8_t* row = w.data + n * w.cols;
  const uint8_t* scales = w.scale + n * product::pieces(w.cols, product::kBlock);
  for (int64_t begin = 0; begin < w.cols; begin += product::kBlock) {
    const int64_t count = w.cols - begin < product::kBlock ? w.cols - begin : product::kBlock;
    widen_e4m3(row + begin, count, from_e8m0(scales[begin / product::kBlock]), out + begin);
  }
}

void decode_rows(const Matrix& w, int64_t begin, int64_t end, float* out) {
  for (int64_t n = begin; n < end; ++n, out += w.cols) switch (w.format) {
      case Format::kF32: std::memcpy(out, w.data + n * w.cols * 4, w.cols * 4); break;
      case Format::kBF16: product::decode<Format::kBF16>(w, n, out); break;
      case Format::kFP8: product::decode<Format::kFP8>(w, n, out); break;
      case Format::kFP8F32: product::decode<Format::kFP8F32>(w, n, out); break;
      case Format::kFP4: product::decode<Format::kFP4>(w, n, out); break;
      case Format::kFP8Rows: decode_table_row(w, n, out); break;
    }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

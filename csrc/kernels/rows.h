// Stored KV entries and index keys. (First version: plain loops.)
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

// Smallest power of two >= v (positive, finite), as its e8m0 code.
inline uint8_t ceiling_e8m0(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return static_cast<uint8_t>((bits + 0x7fffffu) >> 23);
}

// Nearest e4m3 code, ties to even, saturating.
inline uint8_t to_e4m3(float x) {
  const uint8_t sign = std::signbit(x) ? 128 : 0;
  float a = std::fabs(x);
  if (!(a <= 448.0f)) return sign | (a > 448.0f ? 0x7e : 0x7f);
  if (a < 0.015625f) return sign | static_cast<uint8_t>(std::nearbyint(a * 512.0f));
  uint32_t bits;
  std::memcpy(&bits, &a, 4);
  bits += 0x7ffffu + ((bits >> 20) & 1);
  const uint32_t code = (bits >> 20) - (120u << 3);
  return sign | static_cast<uint8_t>(code > 0x7e ? 0x7e : code);
}

// Nearest e2m1 code of a value within +-6, ties to the even code.
inline uint8_t to_e2m1(float x) {
  const float a = std::fabs(x);
  const float step = a < 2 ? 0.5f : a < 4 ? 1.0f : 2.0f;
  const float v = std::nearbyint(a / step) * step;
  const int code = v <= 2 ? static_cast<int>(v * 2) : v <= 4 ? static_cast<int>(v + 2) : 7;
  return static_cast<uint8_t>(code | (std::signbit(x) ? 8 : 0));
}

void pack_kv(const float* x, const KvLayout& layout, uint8_t* out) {
  std::memset(out, 0, layout.stride());
  for (int64_t block = 0; block < layout.scales(); ++block) {
    const int64_t begin = block * 64, end = begin + 64 < layout.plain() ? begin + 64 : layout.plain();
    float largest = 1e-4f;
    for (int64_t c = begin; c < end; ++c) largest = std::fmax(largest, std::fabs(x[c]));
    const uint8_t code = ceiling_e8m0(largest * (1.0f / 448.0f));
    const float scale = from_e8m0(code);
    for (int64_t c = begin; c < end; ++c) out[c] = to_e4m3(x[c] / scale);
    out[layout.scale_offset() + block] = code;
  }
  for (int64_t c = 0; c < layout.rotated; ++c) {
    const uint16_t bits = to_bf16(x[layout.plain() + c]);
    std::memcpy(out + layout.plain() + 2 * c, &bits, 2);
  }
}

void unpack_kv(const uint8_t* row, const KvLayout& layout, float* out) {
  for (int64_t c = 0; c < layout.plain(); ++c)
    out[c] = e4m3(row[c]) * from_e8m0(row[layout.scale_offset() + c / 64]);
  for (int64_t c = 0; c < layout.rotated; ++c) {
    uint16_t bits;
    std::memcpy(&bits, row + layout.plain() + 2 * c, 2);
    out[layout.plain() + c] = from_bf16(bits);
  }
}

void hadamard(const float* x, int64_t n, float* out) {
  for (int64_t c = 0; c < n; ++c) out[c] = x[c];
  for (int64_t half = 1; half < n; half *= 2)
    for (int64_t base = 0; base < n; base += 2 * half)
      for (int64_t c = base; c < base + half; ++c) {
        const float a = out[c], b = out[c + half];
        out[c] = a + b;
        out[c + half] = a - b;
      }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (int64_t c = 0; c < n; ++c) out[c] *= scale;
}

void pack_key(const float* x, const KeyLayout& layout, uint8_t* out) {
  float turned[1024];
  hadamard(x, layout.width, turned);
  for (int64_t block = 0; block < layout.scales(); ++block) {
    const int64_t begin = block * 32, end = begin + 32 < layout.width ? begin + 32 : layout.width;
    float largest = 7.052966e-38f;
    for (int64_t c = begin; c < end; ++c) largest = std::fmax(largest, std::fabs(turned[c]));
    const uint8_t code = ceiling_e8m0(largest * (1.0f / 6.0f));
    const float scale = from_e8m0(code);
    for (int64_t c = begin; c < end; c += 2)
      out[c / 2] = to_e2m1(turned[c] / scale) | to_e2m1(turned[c + 1] / scale) << 4;
    out[layout.scale_offset() + block] = code;
  }
}

void unpack_key(const uint8_t* row, const KeyLayout& layout, float* out) {
  for (int64_t c = 0; c < layout.width; ++c)
    out[c] = kE2m1[(row[c / 2] >> (c % 2 * 4)) & 15] * from_e8m0(row[layout.scale_offset() + c / 32]);
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

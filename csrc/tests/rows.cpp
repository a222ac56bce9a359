// Stored KV entries and index keys: pack_kv, unpack_kv, pack_key, unpack_key.
#include <cmath>

#include "selftest.h"

namespace selftest {
namespace {

void entry(const Kernels& table, const KvLayout& layout, float size, Random& random) {
  Block<float> x(layout.width), back(layout.width);
  fill(x, random, size);
  Block<uint8_t> row(layout.stride());
  table.pack_kv(x.get(), layout, row.get());
  table.unpack_kv(row.get(), layout, back.get());
  bool packed = !row.overrun(), unpacked = !back.overrun();
  for (int64_t block = 0; block < layout.scales(); ++block) {
    const int64_t begin = block * 64;
    const int64_t end = begin + 64 < layout.plain() ? begin + 64 : layout.plain();
    float largest = 1e-4f;
    for (int64_t c = begin; c < end; ++c) largest = std::fmax(largest, std::fabs(x[c]));
    // The quotient is a float32 product in the released code, which decides near powers of two.
    const float quotient = largest * (1.0f / 448.0f);
    uint8_t code = 0;
    while (e8m0(code) < quotient) ++code;
    packed = packed && row[layout.scale_offset() + block] == code;
    for (int64_t c = begin; c < end; ++c) {
      const double scaled = x[c] / e8m0(code);
      const uint8_t expected = nearest_e4m3(std::fmax(-448.0, std::fmin(448.0, scaled)));
      packed = packed && row[c] == expected;
      unpacked = unpacked && back[c] == static_cast<float>(e4m3(row[c]) * e8m0(code));
    }
  }
  for (int64_t c = 0; c < layout.rotated; ++c) {
    uint16_t bits;
    std::memcpy(&bits, row.get() + layout.plain() + 2 * c, 2);
    packed = packed && bits == to_bf16(x[layout.plain() + c]);
    unpacked = unpacked && back[layout.plain() + c] == bf16(bits);
  }
  exact(table, "pack_kv", packed);
  exact(table, "unpack_kv", unpacked);
}

void key(const Kernels& table, const KeyLayout& layout, float size, Random& random) {
  const int64_t width = layout.width;
  Block<float> x(width), back(width);
  fill(x, random, size);
  Block<double> turned(width);
  double norm = 0;
  for (int64_t c = 0; c < width; ++c) {
    norm += static_cast<double>(x[c]) * x[c];
    turned[c] = 0;
    for (int64_t i = 0; i < width; ++i)
      turned[c] += __builtin_popcountll(static_cast<uint64_t>(c & i)) % 2 ? -x[i] : x[i];
    turned[c] /= std::sqrt(static_cast<double>(width));
  }
  Block<uint8_t> row(layout.stride());
  table.pack_key(x.get(), layout, row.get());
  table.unpack_key(row.get(), layout, back.get());
  exact(table, "pack_key stays in bounds", !row.overrun());
  bool unpacked = !back.overrun();
  // The float32 Hadamard transform is this far from the true one at most.
  const double slack = 16 * kUnit * std::sqrt(norm);
  for (int64_t c = 0; c < width; ++c) {
    const uint8_t code = row[layout.scale_offset() + c / 32];
    const double scale = e8m0(code);
    unpacked = unpacked &&
               back[c] == static_cast<float>(e2m1(row[c / 2] >> c % 2 * 4 & 15) * scale);
    double largest = 6 * std::ldexp(1.0, -126);
    for (int64_t i = c / 32 * 32; i < width && i < c / 32 * 32 + 32; ++i)
      largest = std::fmax(largest, std::fabs(turned[i]));
    exact(table, "pack_key scale", 6 * scale >= (largest - slack) * (1 - 4 * kUnit) &&
                                       3 * scale < (largest + slack) * (1 + 4 * kUnit));
    // No value of the format is nearer than the stored one.
    double nearest = INFINITY;
    for (uint8_t other = 0; other < 16; ++other)
      nearest = std::fmin(nearest, std::fabs(turned[c] - e2m1(other) * scale));
    note(table, "pack_key value", std::fabs(turned[c] - back[c]) - nearest, 2 * slack);
  }
  exact(table, "unpack_key", unpacked);
}

}  // namespace

void rows(const Kernels& table, Random random) {
  for (const KvLayout& layout :
       {KvLayout{512, 64}, KvLayout{128, 32}, KvLayout{32, 8}, KvLayout{80, 16}, KvLayout{16, 16}})
    for (float size : {1.0f, 1e-6f, 300.0f, 1e6f})
      for (int i = 0; i < 8; ++i) entry(table, layout, size, random);
  for (int64_t width : {128, 64, 32, 16})
    for (float size : {1.0f, 1e-6f, 1e6f})
      for (int i = 0; i < 8; ++i) key(table, KeyLayout{width}, size, random);
}

}  // namespace selftest

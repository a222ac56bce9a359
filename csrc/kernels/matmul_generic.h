// Groups of 128 weights as vectors of four floats, by table.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

using Operand = F;
using Value = float;  // what an operand is made of
constexpr int kSteps = 32;
inline Value value_of(uint16_t bits) { return from_bf16(bits); }
inline float float_of(Value value) { return value; }
inline Operand load_operand(const Value* p) { return load(p); }
inline void store_operand(Value* p, Operand x) { store(p, x); }
inline F multiply(F sum, Operand a, Operand b) { return fma(a, b, sum); }

constexpr int64_t kFewBytes = 4, kFewOthers = 4;  // see few_limit

// Which element of the group is word `w` of vector `v` (words 2i and 2i + 1 are lane i of the two
// operands made of a vector). For e2m1 each lane holds one block of 32.
constexpr int byte_order(int v, int w) { return 8 * v + 4 * (w % 2) + w / 2; }
constexpr int nibble_order(int v, int w) { return 32 * (w / 2) + 2 * v + w % 2; }

template <class Use>
inline void bf16_group(const uint8_t* p, Use use) {
  for (int step = 0; step < kSteps; ++step) {
    uint16_t bits[4];
    std::memcpy(bits, p + 8 * step, 8);
    use(step, load_bf16(bits));
  }
}

template <class Use>
inline void fp8_group(const uint8_t* p, Use use) {
  for (int step = 0; step < kSteps; ++step, p += 4) {
    const uint16_t bits[4] = {kE4m3.bits[p[0]], kE4m3.bits[p[1]], kE4m3.bits[p[2]],
                              kE4m3.bits[p[3]]};
    use(step, load_bf16(bits));
  }
}

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  for (int byte = 0; byte < 16; ++byte) {
    const uint8_t codes[4] = {p[byte], p[byte + 16], p[byte + 32], p[byte + 48]};
    const float low[4] = {kE2m1[codes[0] & 15], kE2m1[codes[1] & 15], kE2m1[codes[2] & 15],
                          kE2m1[codes[3] & 15]};
    use(2 * byte, load(low));
    const float high[4] = {kE2m1[codes[0] >> 4], kE2m1[codes[1] >> 4], kE2m1[codes[2] >> 4],
                           kE2m1[codes[3] >> 4]};
    use(2 * byte + 1, load(high));
  }
}

inline F spread(const float* four) { return load(four); }

inline void sum_four(const F* x, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(x[i]);
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

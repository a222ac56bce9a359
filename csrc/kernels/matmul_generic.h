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

constexpr int64_t kPass = 4;
// Up to how many tokens it costs less to decode weights again than to decode them to memory.
constexpr int64_t kFewE4m3 = 4, kFewE2m1 = 4, kFewBf16 = 4;

// Which element of the group is word `w` of vector `v` (words 2i and 2i + 1 are lane i of the two
// operands made of a vector).
constexpr int byte_order(int v, int w) { return 8 * v + 4 * (w % 2) + w / 2; }

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

// --- e2m1, as whole numbers ---

using Whole = I;
struct Numbers {  // four for every lane of a Whole
  int8_t at[16];
};
constexpr int kOffset = 0;
inline Whole load_whole(const int32_t* p) {
  Whole x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
inline Numbers load_numbers(const uint8_t* p) {
  Numbers x;
  std::memcpy(x.at, p, sizeof x.at);
  return x;
}
inline void store_numbers(uint8_t* p, Numbers x) { std::memcpy(p, x.at, sizeof x.at); }
inline F to_float(Whole x) { return __builtin_convertvector(x, F); }
inline Whole multiply_numbers(Whole sum, Numbers w, Numbers x) {
  for (int lane = 0; lane < 4; ++lane)
    for (int i = 4 * lane; i < 4 * lane + 4; ++i) sum[lane] += w.at[i] * x.at[i];
  return sum;
}

template <class Use>
inline void fp4_group(const uint8_t* p, Use use) {
  constexpr int8_t kValues[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  for (int i = 0; i < 4; ++i) {
    Numbers low, high;
    for (int block = 0; block < 4; ++block)
      for (int j = 0; j < 4; ++j) {
        const uint8_t code = p[16 * block + 4 * i + j];
        low.at[4 * block + j] = kValues[code & 15];
        high.at[4 * block + j] = kValues[code >> 4];
      }
    use(2 * i, low);
    use(2 * i + 1, high);
  }
}

// e8m0 codes of the group's blocks as floats, each in its block's lane.
inline F lane_scales(const uint8_t* codes) {
  return F{from_e8m0(codes[0]), from_e8m0(codes[1]), from_e8m0(codes[2]), from_e8m0(codes[3])};
}

inline void sum_four(const F* x, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(x[i]);
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

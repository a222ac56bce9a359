// Inputs of products in the forms that kernels read. A prepared token has two of them, one after the
// other:
//
// - floats, for bf16 and e4m3 weights: values rounded to bfloat16, in the order in which weights are
//   decoded;
// - whole numbers, for e2m1 weights: int8 with a float scale for every 32 inputs (the largest of them
//   is 127), in groups of kWholeGroup that hold one block in every lane.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

constexpr int kLanes = kFloatGroup / kSteps;  // values per operand of floats

// Where the values of a group stand: place i holds element of[i].
struct Order {
  uint8_t of[kFloatGroup];
  constexpr Order() : of() {
    constexpr bool kWords = sizeof(Value) == 2;
    for (int step = 0; step < kSteps; ++step)
      for (int lane = 0; lane < kLanes; ++lane) {
        const int v = kWords ? step : step / 2, word = kWords ? lane : 2 * lane + step % 2;
        of[step * kLanes + lane] = static_cast<uint8_t>(byte_order(v, word));
      }
  }
};
constexpr Order kOrder;

// 128 values, rounded and put in order.
inline void prepare_group(const float* x, Value* out) {
#if defined(__AVX512BF16__)
  for (int z = 0; z < 2; ++z, x += 64, out += 64) {
    const __m512i a = round_to_bf16(load(x), load(x + 16));
    const __m512i b = round_to_bf16(load(x + 32), load(x + 48));
    store_operand(out, _mm512_shuffle_i64x2(a, b, 0x88));
    store_operand(out + 32, _mm512_shuffle_i64x2(a, b, 0xdd));
  }
#else
  uint16_t rounded[kFloatGroup];
  for (int64_t k = 0; k < kFloatGroup; ++k) rounded[k] = to_bf16(x[k]);
  for (int64_t p = 0; p < kFloatGroup; ++p) out[p] = value_of(rounded[kOrder.of[p]]);
#endif
}

constexpr int64_t kWholeGroup = kBlock * kWidth;
constexpr int kWholeSteps = 8;
constexpr int64_t kWholeNumbers = 4 * kWidth;  // int8 of a step

// One group of whole numbers. Lane l holds block `block_of(l)`; step 2i + h its elements 8i + h,
// 8i + h + 2, 8i + h + 4, 8i + h + 6, where nibbles of four bytes land.
struct WholeGroup {
  int8_t numbers[kWholeSteps * kWholeNumbers];
  int32_t start[kWidth];  // takes kOffset of the weights off the sums
  float scales[kWidth];   // halved, since weights are doubled
};
constexpr int block_of(int lane) { return kWidth / 4 * (lane % 4) + lane / 4; }

inline int64_t float_bytes(int64_t cols) {
  return pieces(cols, kFloatGroup) * kFloatGroup * static_cast<int64_t>(sizeof(Value));
}

// Bytes from one prepared token to the next: a little more where the distance would be a multiple of
// 4096, which would put all tokens into the same few cache sets.
inline int64_t token_stride(int64_t cols) {
  const int64_t whole = pieces(cols, kWholeGroup) * static_cast<int64_t>(sizeof(WholeGroup));
  const int64_t bytes = (float_bytes(cols) + whole + 63) / 64 * 64;
  return bytes % 4096 == 0 ? bytes + 512 : bytes;
}

inline void prepare_floats(const float* x, int64_t cols, Value* out) {
  const int64_t whole = cols / kFloatGroup * kFloatGroup;
  for (int64_t first = 0; first < whole; first += kFloatGroup, out += kFloatGroup)
    prepare_group(x + first, out);
  if (whole == cols) return;
  float last[kFloatGroup] = {};
  std::memcpy(last, x + whole, (cols - whole) * sizeof(float));
  prepare_group(last, out);
}

// One block of 32, `filled` of them given, into lane `lane` of a group.
inline void prepare_block(const float* x, int64_t filled, int lane, WholeGroup* group) {
  float values[kBlock];
  for (int64_t k = 0; k < filled; ++k) values[k] = x[k];
  for (int64_t k = filled; k < kBlock; ++k) values[k] = 0;
  float largest = 0, poison = 0;
  for (int64_t k = 0; k < kBlock; ++k) {
    const float size = values[k] < 0 ? -values[k] : values[k];
    largest = size > largest ? size : largest;
    poison += values[k] * 0.0f;  // NaN if a value is not finite
  }
  // Below that the inverse would overflow; such a block is taken as zero.
  const float inverse = largest > 1e-36f ? 127.0f / largest : 0.0f;
  int8_t numbers[kBlock];
  int32_t sum = 0;
  for (int64_t k = 0; k < kBlock; ++k) {
    // Nearest, ties to even, as long as the sum stays below 2^23.
    const float rounded = (values[k] * inverse + 12582912.0f) - 12582912.0f;
    const int32_t number = poison == 0 ? static_cast<int32_t>(rounded) : 0;
    numbers[k] = static_cast<int8_t>(number);
    sum += number;
  }
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t half = 0; half < 2; ++half) {
      int8_t* to = group->numbers + (2 * i + half) * kWholeNumbers + 4 * lane;
      for (int64_t j = 0; j < 4; ++j) to[j] = numbers[8 * i + 2 * j + half];
    }
  group->start[lane] = -kOffset * sum;
  group->scales[lane] = largest / 127.0f * 0.5f + poison;
}

inline void prepare_whole(const float* x, int64_t cols, WholeGroup* out) {
  for (int64_t first = 0; first < cols; first += kWholeGroup, ++out)
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t begin = first + block_of(lane) * kBlock, left = cols - begin;
      prepare_block(x + begin, left < 0 ? 0 : left < kBlock ? left : kBlock, lane, out);
    }
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

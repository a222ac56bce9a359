// Products with weights in the released formats, read where they lie.
#pragma once

#include "matmul_formats.h"

#if defined(__AVX512F__)
#include "matmul_avx512.h"
#elif defined(__AVX2__)
#include "matmul_avx2.h"
#elif defined(__ARM_NEON)
#include "matmul_neon.h"
#else
#include "matmul_generic.h"
#endif

#include "matmul_loops.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

// Where the values of a group stand in prepared inputs: place[i] holds element order[i]. Weights
// of bytes and of nibbles are read in different orders, so inputs are stored in both.
struct Orders {
  uint8_t bytes[kGroup], nibbles[kGroup];
  constexpr Orders() : bytes(), nibbles() {
    constexpr bool kWords = sizeof(Value) == 2;
    for (int step = 0; step < kSteps; ++step)
      for (int lane = 0; lane < kLanes; ++lane) {
        const int v = kWords ? step : step / 2, word = kWords ? lane : 2 * lane + step % 2;
        bytes[step * kLanes + lane] = static_cast<uint8_t>(byte_order(v, word));
        nibbles[step * kLanes + lane] = static_cast<uint8_t>(nibble_order(v, word));
      }
  }
};
constexpr Orders kOrders;

// Values from one prepared token to the next: both orders, and a little more where the distance
// would be a multiple of 4096 bytes, which would put all tokens into the same few cache sets.
inline int64_t token_stride(int64_t cols) {
  const int64_t values = 2 * groups_of(cols) * kGroup;
  const int64_t size = sizeof(Value);
  return values * size % 4096 == 0 ? values + 512 / size : values;
}

// kF32: whole rows, with inputs put back into their own order.
template <class Input>
void plain(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end, float* y,
           int64_t ldy, float* x) {
  const float* rows = reinterpret_cast<const float*>(w.data);
  for (int64_t i = 0; i < count; ++i) {
    const Value* stored = input(i);
    for (int64_t p = 0; p < groups_of(w.cols) * kGroup; ++p)
      x[p / kGroup * kGroup + kOrders.bytes[p % kGroup]] = float_of(stored[p]);
    for (int64_t n = begin; n < end; ++n)
      y[i * ldy + n - begin] = dot(x, rows + n * w.cols, w.cols);
  }
}

template <Format kFormat, class Input>
void multiply_rows(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end,
                   float* y, int64_t ldy, void* scratch) {
  if (count > few_limit<kFormat>())
    return many<kFormat>(input, count, w, begin, end, y, ldy, scratch);
  few<kFormat>(input, count, w, begin, end, y, ldy, scratch);
}

}  // namespace product

int64_t prepared_bytes(int64_t tokens, int64_t cols) {
  return tokens * product::token_stride(cols) * static_cast<int64_t>(sizeof(product::Value));
}

void prepare(const float* x, int64_t ldx, int64_t cols, int64_t begin, int64_t end,
             void* prepared) {
  using namespace product;
  const int64_t padded = groups_of(cols) * kGroup;
  for (int64_t i = begin; i < end; ++i) {
    Value* out = static_cast<Value*>(prepared) + i * token_stride(cols);
    for (int64_t first = 0; first < padded; first += kGroup, out += kGroup) {
      const float* from = x + i * ldx + first;
      const int64_t filled = cols - first < kGroup ? cols - first : kGroup;
      Value rounded[kGroup];
      for (int64_t k = 0; k < filled; ++k) rounded[k] = value_of(to_bf16(from[k]));
      for (int64_t k = filled; k < kGroup; ++k) rounded[k] = 0;
      for (int64_t p = 0; p < kGroup; ++p) out[p] = rounded[kOrders.bytes[p]];
      for (int64_t p = 0; p < kGroup; ++p) out[padded + p] = rounded[kOrders.nibbles[p]];
    }
  }
}

int64_t matmul_scratch_bytes(int64_t cols) {
  const int64_t values = product::groups_of(cols) * product::kGroup * 4;
  const int64_t bytes = product::Plan(cols).bytes();
  return bytes > values ? bytes : values;
}

void matmul(const void* prepared, const int32_t* tokens, int64_t count, const Matrix& w,
            int64_t begin, int64_t end, float* y, int64_t ldy, void* scratch) {
  using namespace product;
  const int64_t offset = w.format == Format::kFP4 ? groups_of(w.cols) * kGroup : 0;
  const Value* values = static_cast<const Value*>(prepared) + offset;
  const int64_t stride = token_stride(w.cols);
  const auto input = [=](int64_t i) { return values + (tokens ? tokens[i] : i) * stride; };
  switch (w.format) {
    case Format::kF32:
      return plain(input, count, w, begin, end, y, ldy, static_cast<float*>(scratch));
    case Format::kBF16:
      return multiply_rows<Format::kBF16>(input, count, w, begin, end, y, ldy, scratch);
    case Format::kFP8:
      return multiply_rows<Format::kFP8>(input, count, w, begin, end, y, ldy, scratch);
    case Format::kFP8F32:
      return multiply_rows<Format::kFP8F32>(input, count, w, begin, end, y, ldy, scratch);
    case Format::kFP4:
      return multiply_rows<Format::kFP4>(input, count, w, begin, end, y, ldy, scratch);
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

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

#include "matmul_inputs.h"

#include "matmul_kinds.h"

#include "matmul_loops.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

// kF32: whole rows, with inputs put back into their own order.
template <class Input>
void plain(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end, float* y,
           int64_t ldy, float* x) {
  const float* rows = reinterpret_cast<const float*>(w.data);
  for (int64_t i = 0; i < count; ++i) {
    const Value* stored = reinterpret_cast<const Value*>(input(i));
    for (int64_t p = 0; p < pieces(w.cols, kFloatGroup) * kFloatGroup; ++p)
      x[p / kFloatGroup * kFloatGroup + kOrder.of[p % kFloatGroup]] = float_of(stored[p]);
    for (int64_t n = begin; n < end; ++n)
      y[i * ldy + n - begin] = dot(x, rows + n * w.cols, w.cols);
  }
}

template <Format kFormat, class Input>
void multiply_rows(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end,
                   float* y, int64_t ldy, void* scratch) {
  if (count > Kind<kFormat>::kFew)
    return many<kFormat>(input, count, w, begin, end, y, ldy, scratch);
  few<kFormat>(input, count, w, begin, end, y, ldy, static_cast<float*>(scratch));
}

}  // namespace product

int64_t prepared_bytes(int64_t tokens, int64_t cols) {
  return tokens * product::token_stride(cols);
}

void prepare(const float* x, int64_t ldx, int64_t cols, int64_t begin, int64_t end, bool whole,
             void* prepared) {
  using namespace product;
  for (int64_t i = begin; i < end; ++i) {
    uint8_t* token = static_cast<uint8_t*>(prepared) + i * token_stride(cols);
    prepare_floats(x + i * ldx, cols, reinterpret_cast<Value*>(token));
    if (whole)
      prepare_whole(x + i * ldx, cols, reinterpret_cast<WholeGroup*>(token + float_bytes(cols)));
  }
}

int64_t matmul_scratch_bytes(int64_t cols) {
  using namespace product;
  const int64_t values = pieces(cols, kFloatGroup) * kFloatGroup * 4;
  const int64_t floats = Plan<Kind<Format::kBF16>>(cols).bytes();
  const int64_t whole = Plan<Kind<Format::kFP4>>(cols).bytes();
  const int64_t most = floats > whole ? floats : whole;
  return most > values ? most : values;
}

void matmul(const void* prepared, const int32_t* tokens, int64_t count, const Matrix& w,
            int64_t begin, int64_t end, float* y, int64_t ldy, void* scratch) {
  using namespace product;
  const uint8_t* first = static_cast<const uint8_t*>(prepared);
  if (w.format == Format::kFP4) first += float_bytes(w.cols);
  const int64_t stride = token_stride(w.cols);
  const auto input = [=](int64_t i) { return first + (tokens ? tokens[i] : i) * stride; };
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
    case Format::kFP8Rows:
      return;  // rows of a table are only looked up
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

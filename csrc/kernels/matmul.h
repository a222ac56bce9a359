// Products with weights in the released formats. (First version: plain loops.)
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

int64_t prepared_bytes(int64_t tokens, int64_t cols) { return tokens * cols * 4; }

void prepare(const float* x, int64_t ldx, int64_t cols, int64_t begin, int64_t end,
             void* prepared) {
  float* out = static_cast<float*>(prepared);
  for (int64_t i = begin; i < end; ++i)
    for (int64_t k = 0; k < cols; ++k) out[i * cols + k] = from_bf16(to_bf16(x[i * ldx + k]));
}

int64_t matmul_scratch_bytes(int64_t cols) { return cols * 4; }

inline float e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if ((code & 127) == 127) return from_bf16(0x7fc0);
  const float size = exponent ? std::ldexp(1.0f + mantissa / 8.0f, exponent - 7)
                              : std::ldexp(static_cast<float>(mantissa), -9);
  return code & 128 ? -size : size;
}

constexpr float kE2m1[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6};

void decode_rows(const Matrix& w, int64_t begin, int64_t end, float* out) {
  const int64_t across = (w.cols + 127) / 128;
  for (int64_t n = begin; n < end; ++n)
    for (int64_t k = 0; k < w.cols; ++k, ++out) switch (w.format) {
        case Format::kF32: *out = reinterpret_cast<const float*>(w.data)[n * w.cols + k]; break;
        case Format::kBF16:
          *out = from_bf16(reinterpret_cast<const uint16_t*>(w.data)[n * w.cols + k]);
          break;
        case Format::kFP8:
          *out = e4m3(w.data[n * w.cols + k]) * from_e8m0(w.scale[n / 128 * across + k / 128]);
          break;
        case Format::kFP8F32:
          *out = e4m3(w.data[n * w.cols + k]) *
                 reinterpret_cast<const float*>(w.scale)[n / 128 * across + k / 128];
          break;
        case Format::kFP4:
          *out = kE2m1[(w.data[(n * w.cols + k) / 2] >> (k % 2 * 4)) & 15] *
                 from_e8m0(w.scale[n * ((w.cols + 31) / 32) + k / 32]);
          break;
      }
}

void matmul(const void* prepared, const int32_t* tokens, int64_t count, const Matrix& w,
            int64_t begin, int64_t end, float* y, int64_t ldy, void* scratch) {
  float* row = static_cast<float*>(scratch);
  for (int64_t n = begin; n < end; ++n) {
    decode_rows(w, n, n + 1, row);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = tokens ? tokens[i] : i;
      y[i * ldy + n - begin] = dot(static_cast<const float*>(prepared) + token * w.cols, row, w.cols);
    }
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

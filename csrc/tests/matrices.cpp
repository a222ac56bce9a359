// prepare, matmul, decode_rows.
#include <cmath>

#include "selftest.h"

namespace selftest {
namespace {

struct Kind {
  Format format;
  const char* product;
  const char* decoded;
};

const Kind kKinds[] = {
    {Format::kF32, "matmul f32", "decode_rows f32"},
    {Format::kBF16, "matmul bf16", "decode_rows bf16"},
    {Format::kFP8, "matmul fp8", "decode_rows fp8"},
    {Format::kFP8F32, "matmul fp8, float scales", "decode_rows fp8, float s."},
    {Format::kFP4, "matmul fp4", "decode_rows fp4"},
};

// A random matrix in one format, and its values. The data begins 8 bytes past a 64-byte boundary,
// as it may in a mapped file.
struct Weight {
  Weight(Format format, int64_t rows, int64_t cols, Random& random)
      : bytes(8 + size(format, rows * cols)),
        scales(scale_bytes(format, rows, cols)),
        values(rows * cols),
        matrix{bytes.get() + 8, scales.size() ? scales.get() : nullptr, rows, cols, format} {
    const int64_t across = (cols + 127) / 128;
    for (int64_t i = 0; i < scales.size(); ++i)
      scales[i] = static_cast<uint8_t>(118 + random.below(8));
    if (format == Format::kFP8F32)
      for (int64_t i = 0; i < scales.size() / 4; ++i) {
        const float scale = random.uniform(0.001f, 0.02f);
        std::memcpy(scales.get() + 4 * i, &scale, 4);
      }
    uint8_t* data = bytes.get() + 8;
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t i = n * cols + k, block = n / 128 * across + k / 128;
        if (format == Format::kF32) {
          const float x = random.normal();
          std::memcpy(data + 4 * i, &x, 4);
          values[i] = x;
        } else if (format == Format::kBF16) {
          const uint16_t x = to_bf16(random.normal());
          std::memcpy(data + 2 * i, &x, 2);
          values[i] = bf16(x);
        } else if (format == Format::kFP4) {
          const uint8_t code = random.bits() & 15;
          data[i / 2] = i % 2 ? data[i / 2] | code << 4 : code;
          values[i] = e2m1(code) * e8m0(scales[n * ((cols + 31) / 32) + k / 32]);
        } else {
          uint8_t code = random.bits() & 255;
          if ((code & 127) == 127) code = 0;
          data[i] = code;
          float scale = 0;
          if (format == Format::kFP8F32) std::memcpy(&scale, scales.get() + 4 * block, 4);
          values[i] = e4m3(code) * (format == Format::kFP8 ? e8m0(scales[block]) : scale);
        }
      }
  }

  static int64_t size(Format format, int64_t n) {
    return format == Format::kF32    ? 4 * n
           : format == Format::kBF16 ? 2 * n
           : format == Format::kFP4  ? n / 2
                                     : n;
  }
  static int64_t scale_bytes(Format format, int64_t rows, int64_t cols) {
    const int64_t blocks = (rows + 127) / 128 * ((cols + 127) / 128);
    return format == Format::kFP8      ? blocks
           : format == Format::kFP8F32 ? 4 * blocks
           : format == Format::kFP4    ? rows * ((cols + 31) / 32)
                                       : 0;
  }

  Block<uint8_t> bytes, scales;
  Block<double> values;
  Matrix matrix;
};

// Every 32 values as whole multiples of the largest of them over 127.
void round_to_int8(const float* x, int64_t count, double* out) {
  for (int64_t first = 0; first < count; first += 32) {
    const int64_t end = first + 32 < count ? first + 32 : count;
    float largest = 0;
    for (int64_t k = first; k < end; ++k) largest = std::fmax(largest, std::fabs(x[k]));
    for (int64_t k = first; k < end; ++k)
      out[k] = std::nearbyint(x[k] * (127.0f / largest)) * static_cast<double>(largest / 127.0f);
  }
}

void product(const Kernels& table, const Kind& kind, int64_t rows, int64_t cols, int64_t tokens,
             Random& random) {
  Weight w(kind.format, rows, cols, random);
  const int64_t ldx = cols + 3;
  Block<float> x(tokens * ldx);
  fill(x, random);
  Block<uint8_t> prepared(table.prepared_bytes(tokens, cols));
  const int64_t middle = tokens / 2;
  const bool whole = kind.format == Format::kFP4;
  table.prepare(x.get(), ldx, cols, middle, tokens, whole, prepared.get());
  table.prepare(x.get(), ldx, cols, 0, middle, whole, prepared.get());
  Block<uint8_t> scratch(table.matmul_scratch_bytes(cols));

  // All rows and tokens at once.
  const int64_t ldy = rows + 5;
  Block<float> y((tokens - 1) * ldy + rows);
  table.matmul(prepared.get(), nullptr, tokens, w.matrix, 0, rows, y.get(), ldy, scratch.get());
  Block<double> rounded(cols);
  for (int64_t i = 0; i < tokens; ++i) {
    if (whole) round_to_int8(x.get() + i * ldx, cols, rounded.get());
    else
      for (int64_t k = 0; k < cols; ++k) rounded[k] = bf16(to_bf16(x[i * ldx + k]));
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0, squares = 0;
      for (int64_t k = 0; k < cols; ++k) {
        const double term = rounded[k] * w.values[n * cols + k];
        sum += term;
        squares += term * term;
      }
      note(table, kind.product, std::fabs(y[i * ldy + n] - sum),
           sum_error(cols, std::sqrt(squares)));
    }
  }

  // Some tokens, some rows: the same bits.
  const int64_t begin = random.below(rows), end = begin + 1 + random.below(rows - begin);
  const int64_t count = 1 + random.below(tokens);
  Block<int32_t> chosen(count);
  for (int64_t i = 0; i < count; ++i) chosen[i] = static_cast<int32_t>(random.below(tokens));
  Block<float> part(count * (end - begin));
  table.matmul(prepared.get(), chosen.get(), count, w.matrix, begin, end, part.get(), end - begin,
               scratch.get());
  bool same = true;
  for (int64_t i = 0; i < count; ++i)
    same = same && std::memcmp(part.get() + i * (end - begin), y.get() + chosen[i] * ldy + begin,
                               (end - begin) * sizeof(float)) == 0;
  // One token prepared alone, as in decoding.
  const int64_t token = random.below(tokens);
  Block<uint8_t> alone(table.prepared_bytes(1, cols));
  Block<float> single(rows);
  table.prepare(x.get() + token * ldx, ldx, cols, 0, 1, whole, alone.get());
  table.matmul(alone.get(), nullptr, 1, w.matrix, 0, rows, single.get(), rows, scratch.get());
  same = same && std::memcmp(single.get(), y.get() + token * ldy, rows * sizeof(float)) == 0;
  exact(table, "matmul of parts", same);
  exact(table, "matmul stays in bounds",
        !(prepared.overrun() || scratch.overrun() || y.overrun() || part.overrun() ||
          alone.overrun() || single.overrun()));

  Block<float> decoded((end - begin) * cols);
  table.decode_rows(w.matrix, begin, end, decoded.get());
  bool equal = !decoded.overrun();
  for (int64_t i = 0; i < decoded.size(); ++i)
    equal = equal && decoded[i] == static_cast<float>(w.values[begin * cols + i]);
  exact(table, kind.decoded, equal);
}

// A table of rows that have scales of their own; its rows are looked up, never multiplied.
void table_rows(const Kernels& table, int64_t rows, int64_t cols, Random& random) {
  const int64_t across = (cols + 31) / 32;
  Block<uint8_t> data(rows * cols), scales(rows * across);
  for (int64_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(random.below(127));
  for (int64_t i = 0; i < scales.size(); ++i)
    scales[i] = static_cast<uint8_t>(118 + random.below(8));
  const Matrix w{data.get(), scales.get(), rows, cols, Format::kFP8Rows};
  const int64_t begin = random.below(rows);
  Block<float> decoded((rows - begin) * cols);
  table.decode_rows(w, begin, rows, decoded.get());
  bool equal = !decoded.overrun();
  for (int64_t i = 0; i < decoded.size(); ++i) {
    const int64_t n = begin + i / cols, k = i % cols;
    const double value = e4m3(data[n * cols + k]) * e8m0(scales[n * across + k / 32]);
    equal = equal && decoded[i] == static_cast<float>(value);
  }
  exact(table, "decode_rows of a table", equal);
}

}  // namespace

void matrices(const Kernels& table, Random random) {
  const int64_t shapes[][3] = {{1, 32, 1},    {3, 64, 2},    {5, 96, 3},
                               {16, 128, 17}, {131, 160, 5}, {129, 384, 9},
                               {33, 512, 64}, {7, 1056, 4},  {40, 256, 150}};
  for (const Kind& kind : kKinds) {
    for (const auto& shape : shapes) product(table, kind, shape[0], shape[1], shape[2], random);
    // FP4 has whole blocks of 32 in the released files; the others may end anywhere.
    if (kind.format != Format::kFP4)
      for (int64_t cols : {1, 7, 31, 130, 203}) product(table, kind, 10, cols, 3, random);
  }
  for (int64_t cols : {1, 31, 32, 40, 256}) table_rows(table, 10, cols, random);
}

}  // namespace selftest

// The loops of products, for few and for many tokens. Both take the same sums in the same order:
// per token and row, lanes run along the inputs; each group of 128 is summed from zero, then
// scaled into the lanes' totals; at the end the lanes are added up.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

constexpr int kLanes = kGroup / kSteps;  // values per operand
constexpr int kRows = 4;                 // rows taken together
constexpr int kTile = 3;                 // tokens of one tile, when there are many
constexpr int kBlock = 4 * kTile;        // tokens whose inputs are to stay in the first cache
constexpr int64_t kChunk = sizeof(Value) == 2 ? 32 : 8;  // groups of them taken together
constexpr int64_t kPanelBytes = 256 * 1024;  // decoded rows that are to stay in the second cache
// How far ahead weights are asked for, into the second cache: about what memory delivers in its
// own latency. Processors stop looking ahead at the end of a page, and rows are often shorter.
constexpr int64_t kAhead = 8192;
constexpr int kMaxTiles = 16;                // times kRows: rows of a panel

// The parts of a thread's scratch memory, for `groups` groups of inputs.
struct Plan {
  int64_t groups;
  int tiles;  // of kRows rows, in a panel

  explicit Plan(int64_t cols) : groups(groups_of(cols)) {
    const int64_t fit = kPanelBytes / (tile_values() * static_cast<int64_t>(sizeof(Value)));
    tiles = static_cast<int>(fit < 1 ? 1 : fit > kMaxTiles ? kMaxTiles : fit);
  }
  int64_t tile_values() const { return groups * kGroup * kRows; }
  int64_t tile_scales() const { return groups * kGroupScales * kRows; }
  int64_t panel_bytes() const { return tiles * tile_values() * sizeof(Value); }
  int64_t scale_bytes() const { return (tiles * tile_scales() * 4 + 63) / 64 * 64; }
  int64_t total_bytes() const { return tiles * kBlock * kRows * static_cast<int64_t>(sizeof(F)); }
  int64_t bytes() const { return panel_bytes() + scale_bytes() + total_bytes(); }
};

// kRows rows of a matrix: where their whole groups lie, the rest padded with zeros, their scales.
// Past the last row the first one is taken again.
struct Tile {
  const uint8_t* data[kRows];
  const float* scale[kRows];
  alignas(64) uint8_t rest[kRows][2 * kGroup];

  template <Format kFormat>
  void open(const Matrix& w, int64_t begin, int64_t end, float* scales) {
    const int64_t groups = groups_of(w.cols), whole = w.cols / kGroup;
    for (int r = 0; r < kRows; ++r) {
      const int64_t n = begin + r < end ? begin + r : begin;
      data[r] = w.data + n * bytes_of<kFormat>(w.cols);
      const bool shared = kFormat != Format::kFP4 && r > 0 && n / 128 == begin / 128;
      scale[r] = shared ? scale[0] : scales + r * groups * kGroupScales;
      if (!shared) row_scales<kFormat>(w, n, scales + r * groups * kGroupScales);
      if (whole == groups) continue;
      const int64_t bytes = bytes_of<kFormat>(w.cols - whole * kGroup);
      std::memcpy(rest[r], data[r] + bytes_of<kFormat>(whole * kGroup), bytes);
      std::memset(rest[r] + bytes, 0, sizeof rest[r] - bytes);
    }
  }
};

template <Format kFormat, class Use>
inline __attribute__((always_inline)) void decode_group(const uint8_t* p, Use use) {
  if constexpr (kFormat == Format::kFP4) fp4_group(p, use);
  else if constexpr (kFormat == Format::kBF16) bf16_group(p, use);
  else fp8_group(p, use);
}

// Groups [begin, end) of a tile for kTokens tokens, decoded as they are multiplied; data[r] is
// where group 0 of row r would be.
template <Format kFormat, int kTokens>
inline __attribute__((always_inline)) void multiply_groups(const uint8_t* const* data,
                                                           const float* const* scale,
                                                           int64_t ahead, const Value* const* x,
                                                           int64_t begin, int64_t end,
                                                           F (&total)[kTokens][kRows]) {
  constexpr int64_t kBytes = bytes_of<kFormat>(kGroup);
  for (int64_t g = begin; g < end; ++g) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = data[r] + g * kBytes;
      for (int64_t line = 0; line < kBytes; line += 64) __builtin_prefetch(p + ahead + line, 0, 2);
      F sum[kTokens];
      for (int t = 0; t < kTokens; ++t) sum[t] = zero();
      decode_group<kFormat>(p, [&](int step, Operand w) __attribute__((always_inline)) {
        for (int t = 0; t < kTokens; ++t)
          sum[t] = multiply(sum[t], w, load_operand(x[t] + g * kGroup + step * kLanes));
      });
      const F s = spread(scale[r] + g * kGroupScales);
      for (int t = 0; t < kTokens; ++t) total[t][r] = fma(sum[t], s, total[t][r]);
    }
  }
}

inline void write_sums(const F* total, int64_t rows, float* y) {
  if (rows >= kRows) return sum_four(total, y);
  float four[kRows];
  sum_four(total, four);
  for (int64_t r = 0; r < rows; ++r) y[r] = four[r];
}

// The rows of an open tile for kTokens tokens, straight from the stored weights.
template <Format kFormat, int kTokens>
void multiply_stored(const Tile& tile, const Value* const* x, const Matrix& w, int64_t rows,
                     float* y, int64_t ldy) {
  const int64_t groups = groups_of(w.cols), whole = w.cols / kGroup;
  const int64_t tile_bytes = kRows * bytes_of<kFormat>(w.cols);
  const int64_t ahead = (kAhead + tile_bytes - 1) / tile_bytes * tile_bytes;
  F total[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) total[t][r] = zero();
  multiply_groups<kFormat, kTokens>(tile.data, tile.scale, ahead, x, 0, whole, total);
  if (whole < groups) {
    const uint8_t* rest[kRows];
    const float* scale[kRows];
    const Value* last[kTokens];
    for (int r = 0; r < kRows; ++r) rest[r] = tile.rest[r];
    for (int r = 0; r < kRows; ++r) scale[r] = tile.scale[r] + whole * kGroupScales;
    for (int t = 0; t < kTokens; ++t) last[t] = x[t] + whole * kGroup;
    multiply_groups<kFormat, kTokens>(rest, scale, 0, last, 0, 1, total);
  }
  for (int t = 0; t < kTokens; ++t) write_sums(total[t], rows, y + t * ldy);
}

// Up to how many tokens it costs less to decode again than to decode to memory.
template <Format kFormat>
constexpr int64_t few_limit() {
  return kFormat == Format::kFP8 || kFormat == Format::kFP8F32 ? kFewBytes : kFewOthers;
}

// All rows for up to few_limit tokens, a tile at a time: it stays in a cache while up to four
// tokens after the other are multiplied.
template <Format kFormat, class Input>
void few(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end, float* y,
         int64_t ldy, void* scratch) {
  const Value* x[few_limit<kFormat>()];
  for (int64_t i = 0; i < count; ++i) x[i] = input(i);
  const int64_t passes = (count + 3) / 4;
  for (int64_t n = begin; n < end; n += kRows, y += kRows) {
    Tile tile;
    tile.open<kFormat>(w, n, end, static_cast<float*>(scratch));
    for (int64_t pass = 0, i = 0; pass < passes; ++pass) {
      const int64_t tokens = (count - i + passes - pass - 1) / (passes - pass);
      float* to = y + i * ldy;
      switch (tokens) {
        case 1: multiply_stored<kFormat, 1>(tile, x + i, w, end - n, to, ldy); break;
        case 2: multiply_stored<kFormat, 2>(tile, x + i, w, end - n, to, ldy); break;
        case 3: multiply_stored<kFormat, 3>(tile, x + i, w, end - n, to, ldy); break;
        case 4: multiply_stored<kFormat, 4>(tile, x + i, w, end - n, to, ldy); break;
      }
      i += tokens;
    }
  }
}

// Decodes a tile to out[group][step][row].
template <Format kFormat>
void decode_tile(const Tile& tile, int64_t cols, Value* out) {
  const int64_t groups = groups_of(cols), whole = cols / kGroup;
  for (int64_t g = 0; g < groups; ++g)
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = g < whole ? tile.data[r] + g * bytes_of<kFormat>(kGroup) : tile.rest[r];
      Value* to = out + g * kGroup * kRows + r * kLanes;
      decode_group<kFormat>(p, [&](int step, Operand w) __attribute__((always_inline)) {
        store_operand(to + step * kRows * kLanes, w);
      });
    }
}

// total[t][r] += groups [begin, end) of a decoded tile, for kTokens tokens.
template <int kTokens>
void multiply_tile(const Value* w, const float* const* scale, const Value* const* x, int64_t begin,
                   int64_t end, F* total) {
  F sums[kTokens][kRows];
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) sums[t][r] = begin ? total[t * kRows + r] : zero();
  for (int64_t g = begin; g < end; ++g) {
    F part[kTokens][kRows];
    for (int t = 0; t < kTokens; ++t)
      for (int r = 0; r < kRows; ++r) part[t][r] = zero();
    const Value* wg = w + g * kGroup * kRows;
#pragma GCC unroll 4
    for (int step = 0; step < kSteps; ++step) {
      Operand xs[kTokens];
      for (int t = 0; t < kTokens; ++t) xs[t] = load_operand(x[t] + g * kGroup + step * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Operand row = load_operand(wg + (step * kRows + r) * kLanes);
        for (int t = 0; t < kTokens; ++t) part[t][r] = multiply(part[t][r], row, xs[t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const F s = spread(scale[r] + g * kGroupScales);
      for (int t = 0; t < kTokens; ++t) sums[t][r] = fma(part[t][r], s, sums[t][r]);
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int r = 0; r < kRows; ++r) total[t * kRows + r] = sums[t][r];
}

// All rows for many tokens: rows are decoded once, a panel at a time, and multiplied by blocks of
// tokens, a chunk of inputs at a time.
template <Format kFormat, class Input>
void many(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end, float* y,
          int64_t ldy, void* scratch) {
  const Plan plan(w.cols);
  Value* panel = static_cast<Value*>(scratch);
  float* scales = reinterpret_cast<float*>(static_cast<char*>(scratch) + plan.panel_bytes());
  F* total = reinterpret_cast<F*>(reinterpret_cast<char*>(scales) + plan.scale_bytes());
  const float* scale[kMaxTiles][kRows];
  for (int64_t n = begin; n < end; n += plan.tiles * kRows) {
    int tiles = 0;
    for (; tiles < plan.tiles && n + tiles * kRows < end; ++tiles) {
      Tile tile;
      tile.open<kFormat>(w, n + tiles * kRows, end, scales + tiles * plan.tile_scales());
      decode_tile<kFormat>(tile, w.cols, panel + tiles * plan.tile_values());
      for (int r = 0; r < kRows; ++r) scale[tiles][r] = tile.scale[r];
    }
    for (int64_t first = 0; first < count; first += kBlock) {
      const int block = static_cast<int>(count - first < kBlock ? count - first : kBlock);
      const Value* x[kBlock];
      for (int t = 0; t < block; ++t) x[t] = input(first + t);
      for (int64_t g = 0; g < plan.groups; g += kChunk) {
        const int64_t stop = g + kChunk < plan.groups ? g + kChunk : plan.groups;
        for (int i = 0; i < tiles; ++i) {
          const Value* rows = panel + i * plan.tile_values();
          for (int t = 0; t < block; t += kTile) {
            F* to = total + (i * kBlock + t) * kRows;
            if (block - t >= kTile) multiply_tile<kTile>(rows, scale[i], x + t, g, stop, to);
            else if (block - t == 2) multiply_tile<2>(rows, scale[i], x + t, g, stop, to);
            else multiply_tile<1>(rows, scale[i], x + t, g, stop, to);
          }
        }
      }
      for (int i = 0; i < tiles; ++i)
        for (int t = 0; t < block; ++t) {
          const int64_t row = n + i * kRows;
          write_sums(total + (i * kBlock + t) * kRows, end - row,
                     y + (first + t) * ldy + row - begin);
        }
    }
  }
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

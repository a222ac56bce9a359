// The loops of products, for few and for many tokens. Both take the same sums in the same order:
// per token and row, lanes run along the inputs; each group of inputs is summed by itself, then
// scaled into the lanes' totals; at the end the lanes are added up.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

constexpr int kRows = 4;                 // rows taken together
constexpr int kTile = 3;                 // tokens of one tile, when there are many
constexpr int kTokens = 4 * kTile;       // tokens whose inputs are to stay in the first cache
constexpr int64_t kChunkBytes = 8192;    // of a token's prepared inputs taken together
constexpr int64_t kPanelBytes = 256 * 1024;  // decoded rows that are to stay in the second cache
constexpr int kMaxTiles = 16;                // times kRows: rows of a panel

// The parts of a thread's scratch memory for products with many tokens.
template <class Kind>
struct Plan {
  int64_t groups;
  int tiles;  // of kRows rows, in a panel

  explicit Plan(int64_t cols) : groups(pieces(cols, Kind::kInputs)) {
    const int64_t fit = kPanelBytes / tile_bytes();
    tiles = static_cast<int>(fit < 1 ? 1 : fit > kMaxTiles ? kMaxTiles : fit);
  }
  int64_t group_bytes() const { return Kind::kSteps * kRows * Kind::kOperand; }
  int64_t tile_bytes() const { return groups * group_bytes(); }
  int64_t row_scales() const { return (groups * Kind::kScales + 15) / 16 * 16; }
  int64_t panel_bytes() const { return tiles * tile_bytes(); }
  int64_t scale_bytes() const { return tiles * kRows * row_scales() * 4; }
  int64_t total_bytes() const { return tiles * kTokens * kRows * static_cast<int64_t>(sizeof(F)); }
  int64_t bytes() const { return panel_bytes() + scale_bytes() + total_bytes(); }
};

// kRows rows of a matrix: where their whole groups lie, the rest padded with zeros. Past the last row
// the first one is taken again.
template <Format kFormat>
struct Tile {
  static constexpr int64_t kStored = Kind<kFormat>::kStored;
  int64_t row[kRows];
  const uint8_t* data[kRows];
  alignas(64) uint8_t rest[kRows][kStored];

  Tile(const Matrix& w, int64_t begin, int64_t end) {
    const int64_t stored = bytes_of<kFormat>(w.cols), left = stored % kStored;
    for (int r = 0; r < kRows; ++r) {
      row[r] = begin + r < end ? begin + r : begin;
      data[r] = w.data + row[r] * stored;
      if (left == 0) continue;
      std::memcpy(rest[r], data[r] + stored - left, left);
      std::memset(rest[r] + left, 0, kStored - left);
    }
  }
};

inline void write_sums(const F* total, int64_t rows, float* y) {
  if (rows >= kRows) return sum_four(total, y);
  float four[kRows];
  sum_four(total, four);
  for (int64_t r = 0; r < rows; ++r) y[r] = four[r];
}

// total[t] += groups [begin, end) of one row for kCount tokens, decoded as they are multiplied; data
// is where group 0 would be. Weights are asked for ahead, into the second cache: processors stop
// looking ahead at the end of a page.
template <Format kFormat, int kCount>
inline __attribute__((always_inline)) void multiply_row(const uint8_t* data,
                                                        const typename Kind<kFormat>::Scales& scales,
                                                        const uint8_t* const* x, int64_t begin,
                                                        int64_t end, F* total) {
  using K = Kind<kFormat>;
  for (int64_t g = begin; g < end; ++g) {
    const uint8_t* p = data + g * K::kStored;
    const int64_t at = g * K::kPrepared;
    if constexpr (K::kAhead > 0)
      for (int64_t line = 0; line < K::kStored; line += 64)
        __builtin_prefetch(p + K::kAhead + line, 0, 2);
    typename K::Sum sum[kCount];
    for (int t = 0; t < kCount; ++t) sum[t] = K::start(x[t] + at);
    K::decode(p, [&](int step, auto w) __attribute__((always_inline)) {
      for (int t = 0; t < kCount; ++t)
        sum[t] = K::multiply(sum[t], w, K::operand(x[t] + at + step * K::kOperand));
    });
    const F scale = scales.of(g);
    for (int t = 0; t < kCount; ++t) total[t] = K::add(sum[t], scale, x[t] + at, total[t]);
  }
}

// The rows of a tile for kCount tokens, straight from the stored weights. One row after the other:
// memory is read from one place onwards, which is what processors do best.
template <Format kFormat, int kCount>
void multiply_stored(const Tile<kFormat>& tile, typename Kind<kFormat>::Scales& scales,
                     float* buffer, const uint8_t* const* x, const Matrix& w, int64_t rows,
                     float* y, int64_t ldy) {
  using K = Kind<kFormat>;
  const int64_t groups = pieces(w.cols, K::kInputs), whole = bytes_of<kFormat>(w.cols) / K::kStored;
  F total[kCount][kRows];
  for (int r = 0; r < kRows; ++r) {
    F sum[kCount];
    for (int t = 0; t < kCount; ++t) sum[t] = zero();
    scales.open(w, tile.row[r], buffer);
    multiply_row<kFormat, kCount>(tile.data[r], scales, x, 0, whole, sum);
    if (whole < groups)
      multiply_row<kFormat, kCount>(tile.rest[r] - whole * K::kStored, scales, x, whole, groups,
                                    sum);
    for (int t = 0; t < kCount; ++t) total[t][r] = sum[t];
  }
  for (int t = 0; t < kCount; ++t) write_sums(total[t], rows, y + t * ldy);
}

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// All rows for up to kFew tokens, a tile at a time: it stays in a cache while up to four tokens after
// the other are multiplied.
template <Format kFormat, class Input>
void few(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end, float* y,
         int64_t ldy, float* buffer) {
  const uint8_t* x[Kind<kFormat>::kFew];
  for (int64_t i = 0; i < count; ++i) x[i] = input(i);
  const int64_t passes = (count + kPass - 1) / kPass;
  typename Kind<kFormat>::Scales scales;
  for (int64_t n = begin; n < end; n += kRows, y += kRows) {
    const Tile<kFormat> tile(w, n, end);
    for (int64_t pass = 0, i = 0; pass < passes; ++pass) {
      const int64_t tokens = (count - i + passes - pass - 1) / (passes - pass);
      const auto multiply = [&](auto some) {
        multiply_stored<kFormat, decltype(some)::value>(tile, scales, buffer, x + i, w, end - n,
                                                        y + i * ldy, ldy);
      };
      switch (tokens) {
        case 1: multiply(Count<1>()); break;
        case 2: multiply(Count<2>()); break;
        case 3: multiply(Count<3>()); break;
        case 4: multiply(Count<4>()); break;
        case 5: multiply(Count<5>()); break;
        case 6: multiply(Count<6>()); break;
        case 7: multiply(Count<7>()); break;
        case 8: multiply(Count<8>()); break;
      }
      i += tokens;
    }
  }
}

// Decodes a tile to out[group][step][row].
template <Format kFormat>
void decode_tile(const Tile<kFormat>& tile, int64_t cols, uint8_t* out) {
  using K = Kind<kFormat>;
  const int64_t groups = pieces(cols, K::kInputs), whole = bytes_of<kFormat>(cols) / K::kStored;
  for (int64_t g = 0; g < groups; ++g)
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* p = g < whole ? tile.data[r] + g * K::kStored : tile.rest[r];
      uint8_t* to = out + (g * K::kSteps * kRows + r) * K::kOperand;
      K::decode(p, [&](int step, auto w) __attribute__((always_inline)) {
        K::keep(to + step * kRows * K::kOperand, w);
      });
    }
}

// total[t][r] += groups [begin, end) of a decoded tile, for kCount tokens.
template <class K, int kCount>
void multiply_tile(const uint8_t* w, const float* scales, int64_t row_scales,
                   const uint8_t* const* x, int64_t begin, int64_t end, F* total) {
  F sums[kCount][kRows];
  for (int t = 0; t < kCount; ++t)
    for (int r = 0; r < kRows; ++r) sums[t][r] = begin ? total[t * kRows + r] : zero();
  for (int64_t g = begin; g < end; ++g) {
    const int64_t at = g * K::kPrepared;
    typename K::Sum part[kCount][kRows];
    for (int t = 0; t < kCount; ++t)
      for (int r = 0; r < kRows; ++r) part[t][r] = K::start(x[t] + at);
    const uint8_t* wg = w + g * K::kSteps * kRows * K::kOperand;
#pragma GCC unroll 4
    for (int step = 0; step < K::kSteps; ++step) {
      decltype(K::operand(w)) xs[kCount];
      for (int t = 0; t < kCount; ++t) xs[t] = K::operand(x[t] + at + step * K::kOperand);
      for (int r = 0; r < kRows; ++r) {
        const auto row = K::operand(wg + (step * kRows + r) * K::kOperand);
        for (int t = 0; t < kCount; ++t) part[t][r] = K::multiply(part[t][r], row, xs[t]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      const F scale = K::load_scale(scales + r * row_scales + g * K::kScales);
      for (int t = 0; t < kCount; ++t)
        sums[t][r] = K::add(part[t][r], scale, x[t] + at, sums[t][r]);
    }
  }
  for (int t = 0; t < kCount; ++t)
    for (int r = 0; r < kRows; ++r) total[t * kRows + r] = sums[t][r];
}

// All rows for many tokens: rows are decoded once, a panel at a time, and multiplied by blocks of
// tokens, a chunk of inputs at a time.
template <Format kFormat, class Input>
void many(Input input, int64_t count, const Matrix& w, int64_t begin, int64_t end, float* y,
          int64_t ldy, void* scratch) {
  using K = Kind<kFormat>;
  const Plan<K> plan(w.cols);
  uint8_t* panel = static_cast<uint8_t*>(scratch);
  float* scales = static_cast<float*>(static_cast<void*>(panel + plan.panel_bytes()));
  F* total = static_cast<F*>(static_cast<void*>(panel + plan.panel_bytes() + plan.scale_bytes()));
  const int64_t chunk = kChunkBytes / K::kPrepared;
  for (int64_t n = begin; n < end; n += plan.tiles * kRows) {
    int tiles = 0;
    for (; tiles < plan.tiles && n + tiles * kRows < end; ++tiles) {
      const Tile<kFormat> tile(w, n + tiles * kRows, end);
      decode_tile<kFormat>(tile, w.cols, panel + tiles * plan.tile_bytes());
      for (int r = 0; r < kRows; ++r)
        K::decode_scales(w, tile.row[r], scales + (tiles * kRows + r) * plan.row_scales());
    }
    for (int64_t first = 0; first < count; first += kTokens) {
      const int block = static_cast<int>(count - first < kTokens ? count - first : kTokens);
      const uint8_t* x[kTokens];
      for (int t = 0; t < block; ++t) x[t] = input(first + t);
      for (int64_t g = 0; g < plan.groups; g += chunk) {
        const int64_t stop = g + chunk < plan.groups ? g + chunk : plan.groups;
        for (int i = 0; i < tiles; ++i) {
          const uint8_t* rows = panel + i * plan.tile_bytes();
          const float* scale = scales + i * kRows * plan.row_scales();
          const auto multiply = [&](auto some, int t) {
            multiply_tile<K, decltype(some)::value>(rows, scale, plan.row_scales(), x + t, g, stop,
                                                    total + (i * kTokens + t) * kRows);
          };
          for (int t = 0; t < block; t += kTile) {
            if (block - t >= kTile) multiply(Count<kTile>(), t);
            else if (block - t == 2) multiply(Count<2>(), t);
            else multiply(Count<1>(), t);
          }
        }
      }
      for (int i = 0; i < tiles; ++i)
        for (int t = 0; t < block; ++t) {
          const int64_t row = n + i * kRows;
          write_sums(total + (i * kTokens + t) * kRows, end - row,
                     y + (first + t) * ldy + row - begin);
        }
    }
  }
}

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

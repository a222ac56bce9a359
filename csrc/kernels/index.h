// The lightning indexer's scoring and choice: a tile of keys is decoded once, scored with all
// heads in order, and offered to the k best so far.
#pragma once

#include "best.h"
#include "index_lanes.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {

constexpr int kKeyVectors = 2;
constexpr int kTileKeys = kKeyVectors * kWidth;
constexpr int64_t kTileUnitBytes = kTileKeys * 4;  // one unit of all keys of a tile

// The parts of the scratch memory; heads are padded to full groups with heads of weight 0.
struct SelectParts {
  int64_t heads, blocks;
  uint8_t* tile;     // [blocks][kUnits][kTileKeys] units
  float* scales;     // [blocks][kTileKeys]
  int32_t* q;        // [heads][blocks][kUnits]
  int32_t* corrections;  // [heads][blocks]
  float* q_scales;   // [heads][blocks], a quarter of the stored ones: both integers are doubled
  float* weights;    // [heads]
  uint8_t* rest;     // the last keys, as many as make a tile
  void* best;

  SelectParts(const KeyLayout& layout, int64_t count_of_heads, void* scratch)
      : heads((count_of_heads + kScoreHeads - 1) / kScoreHeads * kScoreHeads),
        blocks(layout.scales()) {
    tile = static_cast<uint8_t*>(scratch);
    scales = reinterpret_cast<float*>(tile + blocks * kUnits * kTileUnitBytes);
    q = reinterpret_cast<int32_t*>(scales + blocks * kTileKeys);
    corrections = q + heads * blocks * kUnits;
    q_scales = reinterpret_cast<float*>(corrections + heads * blocks);
    weights = q_scales + heads * blocks;
    best = weights + heads;
    rest = nullptr;
  }
};

int64_t select_scratch_bytes(const KeyLayout& layout, int64_t heads, int64_t k) {
  const int64_t padded = (heads + kScoreHeads - 1) / kScoreHeads * kScoreHeads;
  const int64_t blocks = layout.scales();
  return blocks * (kUnits * kTileUnitBytes + kTileKeys * 4) + padded * blocks * (kUnits + 2) * 4 +
         padded * 4 + Best::bytes(k) + kTileKeys * layout.stride();
}

inline void lay_out_heads(const uint8_t* q, const float* weights, int64_t heads,
                          const KeyLayout& layout, const SelectParts& parts) {
  for (int64_t h = 0; h < parts.heads; ++h) {
    parts.weights[h] = h < heads ? weights[h] : 0.0f;
    for (int64_t b = 0; b < parts.blocks; ++b) {
      const int64_t at = h * parts.blocks + b;
      int32_t* units = parts.q + at * kUnits;
      if (h < heads) {
        const uint8_t* stored = q + h * layout.stride();
        parts.corrections[at] = lay_out_query(stored + 16 * b, units);
        parts.q_scales[at] = from_e8m0(stored[layout.scale_offset() + b]) * 0.25f;
      } else {
        std::memset(units, 0, kUnits * 4);
        parts.corrections[at] = 0;
        parts.q_scales[at] = 0;
      }
    }
  }
}

// The highest scale (of a key) with which no product of scales overflows.
inline float safe_scale(const SelectParts& parts) {
  float highest = 1;
  for (int64_t i = 0; i < parts.heads * parts.blocks; ++i)
    if (parts.q_scales[i] > highest) highest = parts.q_scales[i];
  return 0x1p127f / highest;
}

inline void lay_out_tile(const uint8_t* keys, const KeyLayout& layout, const SelectParts& parts) {
  for (int64_t b = 0; b < parts.blocks; ++b) {
    for (int v = 0; v < kKeyVectors; ++v)
      lay_out_keys(keys + v * kWidth * layout.stride() + 16 * b, layout.stride(),
                   parts.tile + b * kUnits * kTileUnitBytes + v * kWidth * 4, kTileUnitBytes);
    uint32_t codes[kTileKeys];
    const uint8_t* stored = keys + layout.scale_offset() + b;
    for (int n = 0; n < kTileKeys; ++n) codes[n] = stored[n * layout.stride()];
    for (int n = 0; n < kTileKeys; ++n) {
      uint32_t bits = codes[n] << 23;
      bits = codes[n] == 0 ? 1u << 22 : bits;
      bits = codes[n] == 255 ? 0x7fc00000u : bits;
      std::memcpy(parts.scales + b * kTileKeys + n, &bits, 4);
    }
  }
}

// Scores of a tile. kGuarded: products of scales may overflow, and must not meet a zero then.
template <bool kGuarded>
inline void score_tile(const SelectParts& parts, F* score) {
  for (int v = 0; v < kKeyVectors; ++v) score[v] = zero();
  for (int64_t h = 0; h < parts.heads; h += kScoreHeads) {
    F dot[kScoreHeads][kKeyVectors];
    for (int i = 0; i < kScoreHeads; ++i)
      for (int v = 0; v < kKeyVectors; ++v) dot[i][v] = zero();
    for (int64_t b = 0; b < parts.blocks; ++b) {
      const uint8_t* keys = parts.tile + b * kUnits * kTileUnitBytes;
      const int32_t* q = parts.q + (h * parts.blocks + b) * kUnits;
      DotSum sum[kScoreHeads][kKeyVectors];
      for (int i = 0; i < kScoreHeads; ++i)
        for (int v = 0; v < kKeyVectors; ++v)
          sum[i][v] = start(parts.corrections[(h + i) * parts.blocks + b]);
      for (int u = 0; u < kUnits; ++u) {
        KeyVector key[kKeyVectors];
        for (int v = 0; v < kKeyVectors; ++v)
          key[v] = load_keys(keys + u * kTileUnitBytes + v * kWidth * 4);
        for (int i = 0; i < kScoreHeads; ++i) {
          const KeyVector unit = every_key(q[i * parts.blocks * kUnits + u]);
          for (int v = 0; v < kKeyVectors; ++v) sum[i][v] = multiply_unit(sum[i][v], key[v], unit);
        }
      }
      for (int i = 0; i < kScoreHeads; ++i)
        for (int v = 0; v < kKeyVectors; ++v) {
          F scale = load(parts.scales + b * kTileKeys + v * kWidth) *
                    set(parts.q_scales[(h + i) * parts.blocks + b]);
          if constexpr (kGuarded) scale = min(set(0x1p127f), scale);
          dot[i][v] = fma(finish(sum[i][v]), scale, dot[i][v]);
        }
    }
    for (int i = 0; i < kScoreHeads; ++i)
      for (int v = 0; v < kKeyVectors; ++v)
        score[v] = fma(set(parts.weights[h + i]), max(zero(), dot[i][v]), score[v]);
  }
}

int64_t select(const uint8_t* q, const float* weights, int64_t heads, const PagedRows& keys,
               int64_t first, int64_t last, const KeyLayout& layout, int64_t k, float* scores,
               int32_t* entries, void* scratch) {
  SelectParts parts(layout, heads, scratch);
  parts.rest = static_cast<uint8_t*>(parts.best) + Best::bytes(k);
  lay_out_heads(q, weights, heads, layout, parts);
  const float safe = safe_scale(parts);
  Best best(k, parts.best);
  const int64_t per_block = keys.per_block();
  for (int64_t begin = first, n = 0; begin < last; begin += n) {
    // A tile ends with its block: what lies behind it is elsewhere.
    const int64_t rest_of_block = per_block - begin % per_block;
    n = last - begin < kTileKeys ? last - begin : kTileKeys;
    n = n < rest_of_block ? n : rest_of_block;
    const uint8_t* from = keys.at(begin);
    if (begin + n < last) {
      const uint8_t* ahead = keys.at(begin + n);
      for (int64_t b = 0; b < kTileKeys * layout.stride(); b += 64)
        __builtin_prefetch(ahead + b, 0, 2);
    }
    if (n < kTileKeys) {
      std::memset(parts.rest, 0, kTileKeys * layout.stride());
      std::memcpy(parts.rest, from, n * layout.stride());
      from = parts.rest;
    }
    lay_out_tile(from, layout, parts);
    uint32_t unsafe = 0;
    for (int64_t i = 0; i < parts.blocks * kTileKeys; i += kWidth)
      unsafe |= above(load(parts.scales + i), set(safe));
    F score[kKeyVectors];
    if (unsafe)
      score_tile<true>(parts, score);
    else
      score_tile<false>(parts, score);
    for (int v = 0; v < kKeyVectors && v * kWidth < n; ++v) {
      const int64_t rest = n - v * kWidth;
      best.take(score[v], begin + v * kWidth, rest < kWidth ? rest : kWidth);
    }
  }
  return best.give(scores, entries);
}

int64_t merge_scratch_bytes(int64_t k) { return Best::bytes(k); }

void merge(const float* scores, const int32_t* entries, int64_t count, int64_t k, int32_t* out,
           void* scratch) {
  int64_t held = count;
  if (count <= k) {
    std::memcpy(out, entries, count * sizeof(int32_t));
  } else {
    Best best(k, scratch);
    for (int64_t i = 0; i < count; ++i) best.take_one(scores[i], entries[i]);
    held = best.give(nullptr, out);
  }
  for (int64_t i = held; i < k; ++i) out[i] = -1;
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

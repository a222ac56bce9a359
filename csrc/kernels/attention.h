// Core attention of one token over stored rows: online softmax over tiles of rows, all heads of
// the call against each tile, which is decoded once.
#pragma once

#include "attention_tile.h"

namespace dsv4 {
namespace DSV4_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kKeyRows = 16;      // rows whose scores are in registers, for a vector of heads
constexpr int kValueVectors = 4;  // vectors of channels held in registers, with four heads
#elif defined(__ARM_NEON)
constexpr int kKeyRows = 16;
constexpr int kValueVectors = 4;
#else
constexpr int kKeyRows = 8;
constexpr int kValueVectors = 2;
#endif
constexpr int kValueHeads = 4;
constexpr int kPrefetchRows = 8;  // rows fetched ahead: chosen entries lie anywhere

// The parts of the scratch memory, for head vectors of kWidth heads.
struct AttendParts {
  int64_t vectors, strips;
  Unit* tile;    // [strips][kRows][kStripUnits]
  Unit* q;       // [vectors][strips * kStripUnits][kWidth]
  float* p;      // [vectors][kRows][kWidth], scores first
  float* sum;    // [vectors * kWidth][strips * kStrip]
  float* peak;   // [vectors * kWidth], as the next two
  float* total;
  float* keep;

  AttendParts(const KvLayout& layout, int64_t heads, void* scratch)
      : vectors((heads + kWidth - 1) / kWidth), strips(strips_of(layout)) {
    const int64_t lanes = vectors * kWidth;
    tile = static_cast<Unit*>(scratch);
    q = tile + strips * kRows * kStripUnits;
    p = reinterpret_cast<float*>(q + strips * kStripUnits * lanes);
    sum = p + kRows * lanes;
    peak = sum + strips * kStrip * lanes;
    total = peak + lanes;
    keep = total + lanes;
  }
};

int64_t attend_scratch_bytes(const KvLayout& layout, int64_t heads) {
  const int64_t lanes = (heads + kWidth - 1) / kWidth * kWidth, strips = strips_of(layout);
  const int64_t floats = lanes * (kRows + strips * kStrip + 3);
  return strips * kStripUnits * (kRows + lanes) * sizeof(Unit) + floats * sizeof(float);
}

// Queries as units, heads across lanes; lanes without a head and channels past the width are 0.
inline void lay_out_queries(const float* q, int64_t heads, const KvLayout& layout,
                            const AttendParts& parts) {
  const int64_t units = parts.strips * kStripUnits;
  std::memset(parts.q, 0, units * parts.vectors * kWidth * sizeof(Unit));
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t s = 0; s < parts.strips; ++s) {
      const int64_t begin = s * kStrip, rest = layout.width - begin;
      const int64_t n = rest < kStrip ? rest : kStrip;
      float x[kStrip] = {};
      for (int64_t c = 0; c < n; ++c) x[c] = from_bf16(to_bf16(q[h * layout.width + begin + c]));
      Unit strip[kStripUnits];
      units_from_floats(x, strip);
      Unit* out = parts.q + ((h / kWidth) * units + s * kStripUnits) * kWidth + h % kWidth;
      for (int u = 0; u < kStripUnits; ++u) out[u * kWidth] = strip[u];
    }
}

// Scores of one vector of heads to probabilities against the new peak.
inline void softmax_tile(float* p, int64_t count, F scale, float* peak, float* total,
                         float* keep) {
  F next = load(peak);
  for (int64_t j = 0; j < count; ++j) {
    const F z = load(p + j * kWidth) * scale;
    store(p + j * kWidth, z);
    next = max(next, z);
  }
  const F kept = exp(load(peak) - next);
  F sum = zero();
  for (int64_t j = 0; j < count; ++j) {
    const F w = exp(load(p + j * kWidth) - next);
    store(p + j * kWidth, w);
    sum = sum + w;
  }
  store(peak, next);
  store(total, fma(load(total), kept, sum));
  store(keep, kept);
}

void attend(const float* q, const uint8_t* const* rows, int64_t count, const KvLayout& layout,
            const float* sinks, int64_t head_begin, int64_t head_end, float* out, void* scratch) {
  const int64_t heads = head_end - head_begin, width = layout.width;
  out += head_begin * width;
  if (count == 0) {
    std::memset(out, 0, heads * width * sizeof(float));
    return;
  }
  const AttendParts parts(layout, heads, scratch);
  const int64_t units = parts.strips * kStripUnits, stride = parts.strips * kStrip;
  const F scale = set(1.0f / std::sqrt(static_cast<float>(width)));
  lay_out_queries(q + head_begin * width, heads, layout, parts);
  std::memset(parts.sum, 0, stride * parts.vectors * kWidth * sizeof(float));
  for (int64_t h = 0; h < parts.vectors * kWidth; ++h) {
    parts.peak[h] = -__builtin_inff();
    parts.total[h] = 0;
  }
  for (int64_t begin = 0; begin < count; begin += kRows) {
    const int64_t n = count - begin < kRows ? count - begin : kRows;
    for (int64_t j = 0; j < n; ++j) {
      if (begin + j + kPrefetchRows < count) {
        const uint8_t* ahead = rows[begin + j + kPrefetchRows];
        for (int64_t b = 0; b < layout.stride(); b += 64) __builtin_prefetch(ahead + b, 0, 2);
      }
      for (int64_t s = 0; s < parts.strips; ++s)
        decode_strip(rows[begin + j], layout, s, parts.tile + (s * kRows + j) * kStripUnits);
    }
    // Rows behind the last one are those of an earlier tile or never written; their scores are
    // not read.
    int64_t v = 0;
    for (; v + 2 <= parts.vectors; v += 2)
      for (int64_t j = 0; j < n; j += kKeyRows / 2)
        multiply_keys<kKeyRows / 2, 2>(parts.tile + j * kStripUnits, parts.q + v * units * kWidth,
                                       parts.strips, parts.p + (v * kRows + j) * kWidth);
    if (v < parts.vectors)
      for (int64_t j = 0; j < n; j += kKeyRows)
        multiply_keys<kKeyRows, 1>(parts.tile + j * kStripUnits, parts.q + v * units * kWidth,
                                   parts.strips, parts.p + (v * kRows + j) * kWidth);
    for (v = 0; v < parts.vectors; ++v)
      softmax_tile(parts.p + v * kRows * kWidth, n, scale, parts.peak + v * kWidth,
                   parts.total + v * kWidth, parts.keep + v * kWidth);
    for (int64_t s = 0; s < parts.strips; ++s)
      for (int first = 0; first < kStrip / kWidth; first += kValueVectors)
        for (int64_t h = 0; h < heads; h += kValueHeads)
          add_values<kValueHeads, kValueVectors>(
              parts.tile + s * kRows * kStripUnits, first, n,
              parts.p + h / kWidth * kRows * kWidth + h % kWidth, parts.keep + h,
              parts.sum + h * stride + s * kStrip + first * kWidth, stride);
  }
  for (int64_t h = 0; h < heads; ++h) {
    float total[kWidth];
    store(total, exp(set(sinks[head_begin + h]) - set(parts.peak[h])));
    const F whole = set(parts.total[h] + total[0]);
    const float* sum = parts.sum + h * stride;
    int64_t c = 0;
    for (; c + kWidth <= width; c += kWidth) store(out + h * width + c, load(sum + c) / whole);
    if (c < width) store_some(out + h * width + c, load(sum + c) / whole, width - c);
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

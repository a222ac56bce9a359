// One layer's attention (report 2.3): projections, compression, the indexer's choice, the core.
#pragma once

#include <cstdint>
#include <vector>

#include "types.h"

namespace dsv4 {

// Rows of the last `capacity` positions; position p lies in slot p % capacity.
struct RingView {
  uint8_t* rows;
  int64_t capacity;
  int64_t stride;  // bytes

  uint8_t* at(int64_t position) const { return rows + position % capacity * stride; }
};

// Token rows of unfinished blocks, and the entries of finished ones.
struct CompressorView {
  RingView values;
  RingView gates;
  PagedRows entries;
};

// Pools `ratio` tokens into one entry; with overlap, of this block and the one before.
struct Compressor {
  Matrix wkv;
  Matrix wgate;
  const float* ape;   // [ratio, row]
  const float* norm;  // [width]
  int64_t ratio;
  int64_t width;
  bool overlaps;

  int64_t row() const { return overlaps ? 2 * width : width; }
};

struct Indexer {
  Matrix wq_b;
  Matrix weights_proj;
  Compressor compressor;
  int64_t heads;
  int64_t topk;
  float scale;

  KeyLayout layout() const { return {compressor.width}; }
};

// What one sequence remembers in this layer.
struct LayerView {
  RingView window;
  CompressorView compressor;
  CompressorView indexer;
};

// The new tokens of one sequence: rows [row, row + tokens) of a call, at positions start, start + 1,
// ... Entries of positions below `sealed` are final and are not written again.
struct Run {
  int64_t row;
  int64_t tokens;
  int64_t start;
  int64_t sealed;
  LayerView state;

  int64_t end() const { return start + tokens; }
};

struct Attention {
  Matrix wq_a, wq_b, wkv, wo_a, wo_b;
  const float* q_norm;
  const float* kv_norm;
  const float* sinks;  // [heads]
  const float* omega;  // [rotated / 2] radians per position
  int64_t heads;
  int64_t width;
  int64_t rotated;
  int64_t groups;
  int64_t window;
  int64_t ratio;  // 0: window only
  float eps;
  bool has_indexer;
  Compressor compressor;
  Indexer indexer;

  KvLayout layout() const { return {width, rotated}; }

  // While every entry may be read, nothing has to be chosen.
  bool chooses(const Run& run) const { return has_indexer && run.end() / ratio > indexer.topk; }

  // x [tokens, hidden] of several sequences, one behind the other: y [tokens, hidden]. Extends
  // their states, whose blocks have room for every entry that these tokens complete.
  void run(const float* x, const std::vector<Run>& runs, float* y) const;
};

}  // namespace dsv4

// Mixture of experts (report 2.1): routing, the gated feed-forward of the chosen, one shared.
#pragma once

#include <cstdint>
#include <vector>

#include "types.h"

namespace dsv4 {

struct Expert {
  Matrix w1, w3, w2;  // gate, up, down
};

struct Mixture {
  Matrix gate;                  // [experts, hidden]
  const float* bias;            // [experts], or null in hash-routed layers
  const int64_t* table;         // [vocabulary, chosen] experts of a token id, or null
  Expert shared;
  std::vector<Expert> experts;  // `data` of an expert that is not at hand may be null
  int64_t chosen;               // experts per token
  float scale;                  // of the routing weights
  float limit;                  // of the gated activation

  // Affinities scores [tokens, experts], experts picked [tokens, chosen] (lower number first among
  // equals) and their weights [tokens, chosen].
  void route(const float* x, const int64_t* ids, int64_t tokens, float* scores, int64_t* picked,
             float* weights) const;

  // y [tokens, hidden] = shared expert + weighted routed experts. They come in groups when not all
  // are at hand at once: `group` are those to compute now, the shared one under the number that
  // follows the routed, null for all; `parts` [tokens * (chosen + 1), hidden] keeps their outputs
  // until the last group, which writes y.
  void run(const float* x, int64_t tokens, const int64_t* picked, const float* weights,
           const std::vector<int64_t>* group, bool last, float* parts, float* y) const;
};

}  // namespace dsv4

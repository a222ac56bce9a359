// A whole forward pass: embedding, layers, final collapse, head.
#pragma once

#include <cstdint>
#include <vector>

#include "operations/attention.h"
#include "operations/connection.h"
#include "operations/engram.h"
#include "operations/experts.h"

namespace dsv4 {

// The parts of a layer; they belong to the caller and must outlive this.
struct Layer {
  const Connection* attention_connection;
  const Attention* attention;
  const Connection* experts_connection;
  const Mixture* experts;
  const Engram* engram;  // null in most layers
};

// What a pass leaves behind besides the states: `streams` [tokens, streams, hidden] after the last
// layer; the routers' affinities `scores` [layers, tokens, experts] and choices `picked` [..., chosen];
// `logits` [count, vocabulary] of the `count` tokens whose numbers `wanted` lists.
struct Results {
  float* streams;
  float* scores;
  int64_t* picked;
  float* logits;
  const int64_t* wanted;
  int64_t count;
};

struct Model {
  Matrix embedding;  // [vocabulary, hidden], plain
  std::vector<Layer> layers;
  const Collapse* collapse;
  Matrix head;
  const Ngrams* ngrams;  // null: no layer has an Engram

  // ids [tokens] of the vocabulary, of several sequences one behind the other; runs [layers][sequences]
  // say whose they are, and their states are extended. `past`: the last ids of every sequence, as
  // `Ngrams` wants them.
  void run(const int64_t* ids, int64_t tokens, const std::vector<std::vector<Run>>& runs,
           const std::vector<RingView>& past, const Results& results) const;
};

}  // namespace dsv4

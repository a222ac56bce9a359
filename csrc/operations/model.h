// A whole forward pass: embedding, layers, final collapse, head.
#pragma once

#include <cstdint>
#include <vector>

#include "operations/attention.h"
#include "operations/connection.h"
#include "operations/experts.h"

namespace dsv4 {

// The parts of a layer; they belong to the caller and must outlive this.
struct Layer {
  const Connection* attention_connection;
  const Attention* attention;
  const Connection* experts_connection;
  const Mixture* experts;
};

// What a pass leaves behind besides the states: `streams` [batch, tokens, streams, hidden] after the
// last layer; the routers' affinities `scores` [layers, batch * tokens, experts] and choices `picked`
// [..., chosen]; `logits` [batch, tokens, vocabulary], or [batch, 1, vocabulary] of the last tokens.
struct Results {
  float* streams;
  float* scores;
  int64_t* picked;
  float* logits;
  bool last_only;
};

struct Model {
  Matrix embedding;  // [vocabulary, hidden], plain
  std::vector<Layer> layers;
  const Collapse* collapse;
  Matrix head;

  // ids [batch, tokens] of the vocabulary, at positions start, start + 1, ... of every sequence;
  // states [layers][batch] are extended.
  void run(const int64_t* ids, int64_t tokens, int64_t start,
           const std::vector<std::vector<LayerView>>& states, const Results& results) const;
};

}  // namespace dsv4

// Whole layers, one after the other: attention and experts, each inside its hyper-connection.
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

struct Stack {
  std::vector<Layer> layers;

  // x, out [batch, tokens, streams, hidden]: positions start, start + 1, ... of every sequence before
  // and after the layers; ids [batch, tokens]. states [layers][batch] are extended. scores [layers,
  // batch * tokens, experts] and picked [..., chosen] are what the routers did. out may not be x.
  void run(const float* x, const int64_t* ids, int64_t tokens, int64_t start,
           const std::vector<std::vector<LayerView>>& states, float* scores, int64_t* picked,
           float* out) const;
};

}  // namespace dsv4

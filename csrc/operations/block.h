// A whole layer: attention and experts, each inside its hyper-connection.
#pragma once

#include <cstdint>
#include <vector>

#include "operations/attention.h"
#include "operations/connection.h"
#include "operations/experts.h"

namespace dsv4 {

// The parts belong to the caller and must outlive this.
struct Block {
  const Connection* attention_connection;
  const Attention* attention;
  const Connection* experts_connection;
  const Mixture* experts;

  // x, out [batch, tokens, streams, hidden], positions start, start + 1, ... of as many sequences as
  // there are `states`, which are extended; ids [batch * tokens]; `scores`, `picked` and `weights` as
  // in Mixture::route. out may not overlap x.
  void run(const float* x, const int64_t* ids, int64_t tokens, int64_t start,
           const std::vector<LayerView>& states, float* scores, int64_t* picked, float* weights,
           float* out) const;
};

}  // namespace dsv4

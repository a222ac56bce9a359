#include "operations/stack.h"

#include "operations/workspace.h"

namespace dsv4 {

void Stack::run(const float* x, const int64_t* ids, int64_t tokens, int64_t start,
                const std::vector<std::vector<LayerView>>& states, float* scores, int64_t* picked,
                float* out) const {
  Session session;
  const Connection& shape = *layers.front().attention_connection;
  const int64_t S = shape.streams, width = shape.width;
  const int64_t batch = static_cast<int64_t>(states.front().size()), rows = batch * tokens;
  const int64_t chosen = layers.front().experts->chosen;
  Scratch* own = session.w.stack;
  float* input = own[0].get<float>(rows * width);
  float* output = own[1].get<float>(rows * width);
  float* post = own[2].get<float>(rows * S * (S + 1));
  float* comb = post + rows * S;
  float* between = own[3].get<float>(rows * S * width);
  float* weights = own[4].get<float>(rows * chosen);

  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    layer.attention_connection->enter(x, rows, input, post, comb);
    for (int64_t b = 0; b < batch; ++b)
      layer.attention->run(input + b * tokens * width, tokens, start,
                           states[i][static_cast<size_t>(b)], output + b * tokens * width);
    leave(output, x, post, comb, rows, S, width, between);

    layer.experts_connection->enter(between, rows, input, post, comb);
    layer.experts->route(input, ids, rows, scores, picked, weights);
    layer.experts->run(input, rows, picked, weights, nullptr, true, nullptr, output);
    leave(output, between, post, comb, rows, S, width, out);
    x = out;
    scores += rows * layer.experts->gate.rows;
    picked += rows * chosen;
  }
}

}  // namespace dsv4

#include "operations/block.h"

#include "operations/workspace.h"

namespace dsv4 {

void Block::run(const float* x, const int64_t* ids, int64_t tokens, int64_t start,
                const std::vector<LayerView>& states, float* scores, int64_t* picked,
                float* weights, float* out) const {
  Session session;
  const int64_t S = attention_connection->streams, width = attention_connection->width;
  const int64_t batch = static_cast<int64_t>(states.size()), rows = batch * tokens;
  Scratch* own = session.w.layer;
  float* input = own[0].get<float>(rows * width);
  float* output = own[1].get<float>(rows * width);
  float* post = own[2].get<float>(rows * S * (S + 1));
  float* comb = post + rows * S;
  float* between = own[3].get<float>(rows * S * width);

  attention_connection->enter(x, rows, input, post, comb);
  for (int64_t b = 0; b < batch; ++b)
    attention->run(input + b * tokens * width, tokens, start, states[static_cast<size_t>(b)],
                   output + b * tokens * width);
  leave(output, x, post, comb, rows, S, width, between);

  experts_connection->enter(between, rows, input, post, comb);
  experts->route(input, ids, rows, scores, picked, weights);
  experts->run(input, rows, picked, weights, nullptr, true, nullptr, output);
  leave(output, between, post, comb, rows, S, width, out);
}

}  // namespace dsv4

#include "operations/model.h"

#include <cstring>

#include "operations/product.h"
#include "operations/tokens.h"
#include "operations/workspace.h"

namespace dsv4 {

void Model::run(const int64_t* ids, int64_t tokens, int64_t start,
                const std::vector<std::vector<LayerView>>& states, const Results& results) const {
  Session session;
  Workspace& w = session.w;
  const int64_t S = collapse->streams, width = collapse->width;
  const int64_t batch = static_cast<int64_t>(states.front().size()), rows = batch * tokens;
  const int64_t chosen = layers.front().experts->chosen, experts = layers.front().experts->gate.rows;
  float* input = w.model[0].get<float>(rows * width);
  float* output = w.model[1].get<float>(rows * width);
  float* post = w.model[2].get<float>(rows * S * (S + 1));
  float* comb = post + rows * S;
  float* between = w.model[3].get<float>(rows * S * width);
  float* weights = w.model[4].get<float>(rows * chosen);
  float* x = results.streams;

  Clock clock;
  each(rows, 16, [&](int64_t t, int) {
    float* own = x + t * S * width;
    kernels().decode_rows(embedding, ids[t], ids[t] + 1, own);
    for (int64_t a = 1; a < S; ++a) std::memcpy(own + a * width, own, width * sizeof(float));
  });
  clock.mark(kEmbed);

  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    const int64_t l = static_cast<int64_t>(i);
    layer.attention_connection->enter(x, rows, input, post, comb);
    for (int64_t b = 0; b < batch; ++b)
      layer.attention->run(input + b * tokens * width, tokens, start,
                           states[i][static_cast<size_t>(b)], output + b * tokens * width);
    leave(output, x, post, comb, rows, S, width, between);

    layer.experts_connection->enter(between, rows, input, post, comb);
    int64_t* picked = results.picked + l * rows * chosen;
    layer.experts->route(input, ids, rows, results.scores + l * rows * experts, picked, weights);
    layer.experts->run(input, rows, picked, weights, nullptr, true, nullptr, output);
    leave(output, between, post, comb, rows, S, width, x);
  }

  const int64_t wanted = results.last_only ? batch : rows;
  if (results.last_only) {
    for (int64_t b = 0; b < batch; ++b)
      collapse->run(x + ((b + 1) * tokens - 1) * S * width, 1, input + b * width);
  } else {
    collapse->run(x, rows, input);
  }
  Clock last;
  const void* ready = prepare(w.prepared[0], input, wanted, head);
  multiply(w, {product(ready, wanted, head, results.logits)});
  last.mark(kHead);
}

}  // namespace dsv4

#include "operations/model.h"

#include <cstring>

#include "operations/product.h"
#include "operations/tokens.h"
#include "operations/workspace.h"

namespace dsv4 {

void Model::run(const int64_t* ids, int64_t rows, const std::vector<std::vector<Run>>& runs,
                const std::vector<RingView>& past, const Results& results) const {
  Session session;
  Workspace& w = session.w;
  const int64_t S = collapse->streams, width = collapse->width;
  const int64_t chosen = layers.front().experts->chosen, experts = layers.front().experts->gate.rows;
  float* input = w.model[0].get<float>(rows * width);
  float* output = w.model[1].get<float>(rows * width);
  float* post = w.model[2].get<float>(rows * S * (S + 1));
  float* comb = post + rows * S;
  float* between = w.model[3].get<float>(rows * S * width);
  float* weights = w.model[4].get<float>(rows * chosen);
  float* x = results.streams;
  const int64_t* memories = nullptr;  // rows that the next layer with an Engram reads
  if (ngrams != nullptr) {
    const int64_t tables = static_cast<int64_t>(ngrams->tables.size());
    int64_t* found = w.model[5].get<int64_t>(tables * rows * ngrams->reads);
    ngrams->look_up(ids, rows, runs.front(), past, found);
    memories = found;
  }

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
    if (layer.engram != nullptr) {
      layer.engram->run(memories, rows, x);
      memories += rows * ngrams->reads;
    }
    layer.attention_connection->enter(x, rows, input, post, comb);
    layer.attention->run(input, runs[i], output);
    leave(output, x, post, comb, rows, S, width, between);

    layer.experts_connection->enter(between, rows, input, post, comb);
    int64_t* picked = results.picked + l * rows * chosen;
    layer.experts->route(input, ids, rows, results.scores + l * rows * experts, picked, weights);
    layer.experts->run(input, rows, picked, weights, nullptr, true, nullptr, output);
    leave(output, between, post, comb, rows, S, width, x);
  }

  if (results.count == 0) return;
  for (int64_t i = 0; i < results.count; ++i)
    std::memcpy(between + i * S * width, x + results.wanted[i] * S * width,
                S * width * sizeof(float));
  collapse->run(between, results.count, input);
  Clock last;
  const void* ready = prepare(w.prepared[0], input, results.count, head);
  multiply(w, {product(ready, results.count, head, results.logits)});
  last.mark(kHead);
}

}  // namespace dsv4

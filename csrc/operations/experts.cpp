#include "operations/experts.h"

#include <algorithm>
#include <cmath>

#include "operations/product.h"
#include "operations/tokens.h"
#include "operations/workspace.h"

namespace dsv4 {

void Mixture::route(const float* x, const int64_t* ids, int64_t tokens, float* scores,
                    int64_t* picked, float* weights) const {
  Session session;
  Clock clock;
  const int64_t E = gate.rows;
  const void* input = prepare(session.w.prepared[0], x, tokens, gate);
  multiply(session.w, {product(input, tokens, gate, scores)});
  each(tokens, 8, [&](int64_t t, int) {
    float* s = scores + t * E;
    // softplus: log(1 + e^x), which is x itself above 20.
    for (int64_t e = 0; e < E; ++e)
      s[e] = std::sqrt(s[e] > 20.0f ? s[e] : std::log1p(std::exp(s[e])));
    int64_t* p = picked + t * chosen;
    if (table != nullptr) {
      for (int64_t j = 0; j < chosen; ++j) p[j] = table[ids[t] * chosen + j];
    } else {
      int64_t held = 0;
      float best[256];
      for (int64_t e = 0; e < E; ++e) {
        const float value = s[e] + bias[e];
        if (held == chosen && !(value > best[chosen - 1])) continue;
        int64_t at = held < chosen ? held++ : chosen - 1;
        for (; at > 0 && best[at - 1] < value; --at) {
          best[at] = best[at - 1];
          p[at] = p[at - 1];
        }
        best[at] = value;
        p[at] = e;
      }
    }
    float total = 1e-20f;
    for (int64_t j = 0; j < chosen; ++j) total += s[p[j]];
    for (int64_t j = 0; j < chosen; ++j) weights[t * chosen + j] = s[p[j]] / total * scale;
  });
  clock.mark(kRoute);
}

void Mixture::run(const float* x, int64_t tokens, const int64_t* picked, const float* weights,
                  const std::vector<int64_t>* group, bool last, float* parts, float* y) const {
  Session session;
  Workspace& w = session.w;
  Clock clock;
  const Kernels& k = kernels();
  const int64_t hidden = gate.cols, inner = shared.w1.rows, E = gate.rows;
  const int64_t routed = tokens * chosen, all = routed + tokens;

  // Pairs (token, expert) sorted by expert; the shared expert's tokens stand at the end.
  int32_t* token_of = w.numbers[1].get<int32_t>(all);
  int32_t* place = w.numbers[2].get<int32_t>(routed);
  std::vector<int64_t> first(static_cast<size_t>(E) + 1, 0);
  for (int64_t i = 0; i < routed; ++i) ++first[static_cast<size_t>(picked[i]) + 1];
  for (int64_t e = 0; e < E; ++e) first[e + 1] += first[e];
  std::vector<int64_t> next(first.begin(), first.end() - 1);
  float* weight_of = w.floats[1].get<float>(all);
  for (int64_t i = 0; i < routed; ++i) {
    const int64_t at = next[static_cast<size_t>(picked[i])]++;
    place[i] = static_cast<int32_t>(at);
    token_of[at] = static_cast<int32_t>(i / chosen);
    weight_of[at] = weights[i];
  }
  for (int64_t t = 0; t < tokens; ++t) {
    token_of[routed + t] = static_cast<int32_t>(t);
    weight_of[routed + t] = 1.0f;
  }

  struct Segment {
    const Expert* expert;
    int64_t begin, end;
  };
  std::vector<Segment> segments;
  const auto add = [&](int64_t e) {
    if (first[e + 1] > first[e]) segments.push_back({&experts[e], first[e], first[e + 1]});
  };
  if (group == nullptr) {
    for (int64_t e = 0; e < E; ++e) add(e);
    segments.push_back({&shared, routed, all});
  } else {
    for (const int64_t e : *group) {
      if (e < E)
        add(e);
      else
        segments.push_back({&shared, routed, all});
    }
  }

  bool whole_inputs = false, whole_hidden = false;
  for (const Segment& s : segments) {
    whole_inputs = whole_inputs || any_fp4(s.expert->w1, s.expert->w3);
    whole_hidden = whole_hidden || any_fp4(s.expert->w2);
  }
  const void* input = prepare(w.prepared[0], x, tokens, hidden, whole_inputs);
  // The buffers that hold queries and outputs of heads while an attention runs are free here.
  float* gates = w.floats[2].get<float>(all * inner);
  float* ups = w.floats[4].get<float>(all * inner);
  std::vector<Product> products;
  for (const Segment& s : segments) {
    const int64_t count = s.end - s.begin;
    for (const auto& [matrix, out] : {std::pair(s.expert->w1, gates), std::pair(s.expert->w3, ups)})
      products.push_back({input, token_of + s.begin, count, matrix, 0, inner,
                          out + s.begin * inner, inner});
  }
  multiply(w, products);

  // The activation, in place, and its form as an input of the down-projection. Rows of experts
  // outside this group are not touched.
  const int64_t bytes = k.prepared_bytes(all, inner);
  uint8_t* ready = w.prepared[1].get<uint8_t>(bytes);
  std::vector<int64_t> live;
  for (const Segment& s : segments)
    for (int64_t i = s.begin; i < s.end; ++i) live.push_back(i);
  each(static_cast<int64_t>(live.size()), 4, [&](int64_t j, int) {
    const int64_t i = live[static_cast<size_t>(j)];
    float* row = gates + i * inner;
    k.swiglu(row, ups + i * inner, inner, limit, weight_of[i], row);
    k.prepare(gates, inner, inner, i, i + 1, whole_hidden, ready);
  });
  clock.mark(kGateUp);

  if (parts == nullptr) parts = w.floats[4].get<float>(all * hidden);  // `ups` is not needed now
  int32_t* numbers = w.numbers[3].get<int32_t>(all);
  for (int64_t i = 0; i < all; ++i) numbers[i] = static_cast<int32_t>(i);
  products.clear();
  for (const Segment& s : segments) {
    products.push_back({ready, numbers + s.begin, s.end - s.begin, s.expert->w2, 0, hidden,
                        parts + s.begin * hidden, hidden});
  }
  multiply(w, products);
  if (last)
    each(tokens, 4, [&](int64_t t, int) {
      float* out = y + t * hidden;
      const float* extra = parts + (routed + t) * hidden;
      const float* own = parts + place[t * chosen] * hidden;
      for (int64_t c = 0; c < hidden; ++c) out[c] = own[c];
      for (int64_t j = 1; j < chosen; ++j) {
        own = parts + place[t * chosen + j] * hidden;
        for (int64_t c = 0; c < hidden; ++c) out[c] += own[c];
      }
      for (int64_t c = 0; c < hidden; ++c) out[c] += extra[c];
    });
  clock.mark(kDown);
}

}  // namespace dsv4

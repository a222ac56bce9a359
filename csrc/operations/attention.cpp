#include "operations/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "operations/product.h"
#include "operations/tokens.h"
#include "operations/workspace.h"

namespace dsv4 {
namespace {

// Heads that one task attends for: decoding a stored row is shared by them.
constexpr int64_t kHeadsPerTask = 32;

// cos and sin [pairs] of the angles at a position.
void angles(const float* omega, int64_t pairs, int64_t position, float* cos, float* sin) {
  for (int64_t j = 0; j < pairs; ++j) {
    const float phi = static_cast<float>(position) * omega[j];
    cos[j] = std::cos(phi);
    sin[j] = std::sin(phi);
  }
}

// The entries of the blocks that a sequence's new tokens complete, and the new rows into the rings.
// values, gates [tokens, row] of the run's positions.
template <class Store>
void compress(const Compressor& c, const Run& run, const CompressorView& state, const float* values,
              const float* gates, const float* omega, int64_t rotated, float eps,
              const Store& store) {
  const Kernels& k = kernels();
  const int64_t m = c.ratio, row = c.row(), start = run.start;
  const int64_t first = std::max(start, run.sealed) / m, last = run.end() / m;
  const auto value_at = [&](int64_t p) {
    return p >= start ? values + (p - start) * row
                      : reinterpret_cast<const float*>(state.values.at(p));
  };
  const auto gate_at = [&](int64_t p) {
    return p >= start ? gates + (p - start) * row
                      : reinterpret_cast<const float*>(state.gates.at(p));
  };
  each(std::max<int64_t>(0, last - first), 2, [&](int64_t i, int) {
    const int64_t block = first + i;
    const float *v[256], *g[256], *a[256];
    int64_t rows = 0;
    // Channels [0, width) of a row belong to the next block's entry, the others to its own.
    if (c.overlaps && block > 0)
      for (int64_t j = 0; j < m; ++j, ++rows) {
        v[rows] = value_at((block - 1) * m + j);
        g[rows] = gate_at((block - 1) * m + j);
        a[rows] = c.ape + j * row;
      }
    const int64_t own = c.overlaps ? c.width : 0;
    for (int64_t j = 0; j < m; ++j, ++rows) {
      v[rows] = value_at(block * m + j) + own;
      g[rows] = gate_at(block * m + j) + own;
      a[rows] = c.ape + j * row + own;
    }
    float entry[1024], cos[512], sin[512];
    k.pool(v, g, a, rows, c.width, entry);
    normed(entry, c.width, c.norm, eps, entry);
    angles(omega, rotated / 2, block * m, cos, sin);
    k.rotate(entry + c.width - rotated, cos, sin, rotated / 2, 1.0f);
    store(entry, state.entries.at(block));
  });
  const int64_t kept = std::max(start, run.end() - state.values.capacity);
  for (int64_t p = kept; p < run.end(); ++p) {
    std::memcpy(state.values.at(p), values + (p - start) * row, row * sizeof(float));
    std::memcpy(state.gates.at(p), gates + (p - start) * row, row * sizeof(float));
  }
}

// Where a row of a call belongs.
struct Token {
  const Run* run;
  int64_t row;  // of the call
  int64_t position;

  // Entries of the blocks that are complete with this token.
  int64_t entries(int64_t ratio) const { return (position + 1) / ratio; }
};

// Entries from which it pays to let another thread help with the choice of one token.
constexpr int64_t kEntriesPerPart = 1024;

// The entries that every one of `tokens` attends to: chosen [rows of the call, topk]. q: the
// indexer's queries as keys.
void choose_entries(Workspace& w, const Indexer& indexer, const std::vector<Token>& tokens,
                    const uint8_t* q, const float* weights, int32_t* chosen) {
  const Kernels& k = kernels();
  const KeyLayout layout = indexer.layout();
  const int64_t ratio = indexer.compressor.ratio, topk = indexer.topk, heads = indexer.heads;
  const int64_t total = static_cast<int64_t>(tokens.size());
  int64_t most = 0;
  for (const Token& t : tokens) most = std::max(most, t.entries(ratio));
  // With fewer tokens than threads the entries are shared out, by blocks.
  const int64_t shares = (thread_count() + total - 1) / total;
  const int64_t parts = std::clamp<int64_t>(most / kEntriesPerPart, 1, shares);
  float* scores = w.floats[6].get<float>(total * parts * topk);
  int32_t* entries = w.numbers[1].get<int32_t>(total * parts * topk);
  int64_t* held = w.numbers[2].get<int64_t>(total * parts);
  const int64_t scratch = k.select_scratch_bytes(layout, heads, topk);
  each(total * parts, 1, [&](int64_t i, int thread) {
    const Token& t = tokens[static_cast<size_t>(i / parts)];
    const PagedRows& keys = t.run->state.indexer.entries;
    const int64_t part = i % parts, count = t.entries(ratio);
    const auto bound = [&](int64_t p) {
      return p == parts ? count : count * p / parts / keys.per_block() * keys.per_block();
    };
    held[i] = k.select(q + t.row * heads * layout.stride(), weights + t.row * heads, heads, keys,
                       bound(part), bound(part + 1), layout, topk, scores + i * topk,
                       entries + i * topk, w.thread_bytes(thread, scratch));
  });
  const int64_t merging = k.merge_scratch_bytes(topk);
  each(total, 8, [&](int64_t t, int thread) {
    float* own_scores = scores + t * parts * topk;
    int32_t* own = entries + t * parts * topk;
    int64_t sum = held[t * parts];
    for (int64_t part = 1; part < parts; ++part) {
      const int64_t count = held[t * parts + part];
      std::memmove(own_scores + sum, own_scores + part * topk, count * sizeof(float));
      std::memmove(own + sum, own + part * topk, count * sizeof(int32_t));
      sum += count;
    }
    k.merge(own_scores, own, sum, topk, chosen + tokens[static_cast<size_t>(t)].row * topk,
            w.thread_bytes(thread, merging));
  });
}

}  // namespace

void Attention::run(const float* x, const std::vector<Run>& runs, float* y) const {
  Session session;
  Workspace& w = session.w;
  Clock clock;
  const Kernels& k = kernels();
  const int64_t hidden = wq_a.cols, rank = wq_a.rows, pairs = rotated / 2;
  const KvLayout kv_layout = layout();
  const KeyLayout key_layout = indexer.layout();
  std::vector<Token> every, choosing;
  int64_t most = 0;  // rows that a token attends to
  for (const Run& run : runs) {
    const bool choose = chooses(run);
    for (int64_t t = 0; t < run.tokens; ++t) {
      every.push_back({&run, run.row + t, run.start + t});
      if (choose) choosing.push_back(every.back());
    }
    most = std::max(most, window + (choose ? indexer.topk : ratio ? run.end() / ratio : 0));
  }
  const int64_t tokens = static_cast<int64_t>(every.size());
  const bool choose = !choosing.empty();

  // All products of x.
  const int64_t row = ratio ? compressor.row() : 0;
  const int64_t index_row = has_indexer ? indexer.compressor.row() : 0;
  const int64_t weights = choose ? indexer.heads : 0;
  float* latent =
      w.floats[0].get<float>(tokens * (rank + width + 2 * row + 2 * index_row + weights));
  float* kv = latent + tokens * rank;
  float* values = kv + tokens * width;
  float* gates = values + tokens * row;
  float* index_values = gates + tokens * row;
  float* index_gates = index_values + tokens * index_row;
  float* head_weights = index_gates + tokens * index_row;
  const void* input = prepare(
      w.prepared[0], x, tokens, wq_a, wkv, compressor.wkv, compressor.wgate,
      indexer.compressor.wkv, indexer.compressor.wgate, indexer.weights_proj);
  std::vector<Product> products{product(input, tokens, wq_a, latent),
                                product(input, tokens, wkv, kv)};
  if (ratio) {
    products.push_back(product(input, tokens, compressor.wkv, values));
    products.push_back(product(input, tokens, compressor.wgate, gates));
  }
  if (has_indexer) {
    products.push_back(product(input, tokens, indexer.compressor.wkv, index_values));
    products.push_back(product(input, tokens, indexer.compressor.wgate, index_gates));
  }
  if (choose) products.push_back(product(input, tokens, indexer.weights_proj, head_weights));
  multiply(w, products);
  clock.mark(kProject);

  // Norms and rotation; the new rows of the window as they are stored.
  float* turns = w.floats[1].get<float>(tokens * rotated);  // per token: cosines, sines
  uint8_t* rows = w.bytes[0].get<uint8_t>(tokens * kv_layout.stride());
  each(tokens, 8, [&](int64_t t, int) {
    float* cos = turns + t * rotated;
    angles(omega, pairs, every[static_cast<size_t>(t)].position, cos, cos + pairs);
    normed(latent + t * rank, rank, q_norm, eps, latent + t * rank);
    float* own = kv + t * width;
    normed(own, width, kv_norm, eps, own);
    k.rotate(own + width - rotated, cos, cos + pairs, pairs, 1.0f);
    k.pack_kv(own, kv_layout, rows + t * kv_layout.stride());
  });
  for (const Run& run : runs) {
    if (ratio)
      compress(compressor, run, run.state.compressor, values + run.row * row,
               gates + run.row * row, omega, rotated, eps,
               [&](const float* entry, uint8_t* out) { k.pack_kv(entry, kv_layout, out); });
    if (has_indexer)
      compress(indexer.compressor, run, run.state.indexer, index_values + run.row * index_row,
               index_gates + run.row * index_row, omega, rotated, eps,
               [&](const float* entry, uint8_t* out) { k.pack_key(entry, key_layout, out); });
  }
  clock.mark(kCompress);

  // Queries of the core and of the indexer.
  const int64_t head_row = heads * width;
  const int64_t index_heads = choose ? indexer.heads : 0;
  const int64_t index_width = index_heads * key_layout.width;
  float* q = w.floats[2].get<float>(tokens * head_row);
  float* index_q = w.floats[3].get<float>(tokens * index_width);
  uint8_t* index_rows = w.bytes[1].get<uint8_t>(tokens * index_heads * key_layout.stride());
  const void* ready = prepare(w.prepared[1], latent, tokens, wq_b, indexer.wq_b);
  products = {product(ready, tokens, wq_b, q)};
  if (choose) products.push_back(product(ready, tokens, indexer.wq_b, index_q));
  multiply(w, products);
  const int64_t all_heads = heads + index_heads;
  each(tokens * all_heads, 16, [&](int64_t i, int) {
    const int64_t t = i / all_heads, h = i % all_heads;
    const float* cos = turns + t * rotated;
    if (h < heads) {
      float* own = q + t * head_row + h * width;
      k.rms_norm(own, width, nullptr, eps, own);
      k.rotate(own + width - rotated, cos, cos + pairs, pairs, 1.0f);
    } else {
      float* own = index_q + t * index_width + (h - heads) * key_layout.width;
      k.rotate(own + key_layout.width - rotated, cos, cos + pairs, pairs, 1.0f);
      k.pack_key(own, key_layout,
                 index_rows + (t * index_heads + h - heads) * key_layout.stride());
    }
  });
  clock.mark(kQuery);

  int32_t* chosen = nullptr;
  if (choose) {
    chosen = w.numbers[0].get<int32_t>(tokens * indexer.topk);
    for (int64_t i = 0; i < tokens * index_heads; ++i) head_weights[i] *= indexer.scale;
    choose_entries(w, indexer, choosing, index_rows, head_weights, chosen);
    clock.mark(kSelect);
  }

  // The core: every query reads its window, then its entries.
  float* o = w.floats[4].get<float>(tokens * head_row);
  const int64_t pointers = (most * static_cast<int64_t>(sizeof(uint8_t*)) + 63) / 64 * 64;
  const int64_t scratch = pointers + k.attend_scratch_bytes(kv_layout, heads);
  // With fewer tokens than threads the heads are shared out.
  const int64_t shares = (thread_count() + tokens - 1) / tokens;
  const int64_t per_task = std::clamp<int64_t>((heads + shares - 1) / shares, 1, kHeadsPerTask);
  const int64_t parts = (heads + per_task - 1) / per_task;
  each(tokens * parts, 1, [&](int64_t i, int thread) {
    const int64_t t = i / parts, head = i % parts * per_task;
    const Token& token = every[static_cast<size_t>(t)];
    const Run& run = *token.run;
    const LayerView& state = run.state;
    const int64_t position = token.position;
    uint8_t* own = w.thread_bytes(thread, scratch);
    const uint8_t** list = reinterpret_cast<const uint8_t**>(own);
    int64_t count = 0;
    for (int64_t p = std::max<int64_t>(0, position - window + 1); p <= position; ++p)
      list[count++] = p < run.start ? state.window.at(p)
                                    : rows + (run.row + p - run.start) * kv_layout.stride();
    if (chooses(run)) {
      const int32_t* picks = chosen + t * indexer.topk;
      for (int64_t j = 0; j < indexer.topk && picks[j] >= 0; ++j)
        list[count++] = state.compressor.entries.at(picks[j]);
    } else if (ratio) {
      for (int64_t j = 0; j < (position + 1) / ratio; ++j)
        list[count++] = state.compressor.entries.at(j);
    }
    const int64_t stop = std::min(heads, head + per_task);
    k.attend(q + t * head_row, list, count, kv_layout, sinks, head, stop, o + t * head_row,
             own + pointers);
    // Keys double as values, so the sum still carries each source's absolute phase.
    const float* cos = turns + t * rotated;
    for (int64_t h = head; h < stop; ++h)
      k.rotate(o + t * head_row + (h + 1) * width - rotated, cos, cos + pairs, pairs, -1.0f);
  });
  for (const Run& run : runs) {
    const RingView& ring = run.state.window;
    for (int64_t p = std::max(run.start, run.end() - ring.capacity); p < run.end(); ++p)
      std::memcpy(ring.at(p), rows + (run.row + p - run.start) * kv_layout.stride(),
                  kv_layout.stride());
  }
  clock.mark(kAttend);

  // Each group of heads has its own down-projection; then one over all groups.
  const int64_t columns = wo_a.cols, group_rows = wo_a.rows / groups;
  float* u = w.floats[5].get<float>(tokens * wo_a.rows);
  const int64_t bytes = (k.prepared_bytes(tokens, columns) + 63) / 64 * 64;
  uint8_t* parts_of_o = w.prepared[2].get<uint8_t>(groups * bytes);
  each(tokens * groups, 4, [&](int64_t i, int) {
    const int64_t g = i / tokens, t = i % tokens;
    k.prepare(o + g * columns, head_row, columns, t, t + 1, any_fp4(wo_a), parts_of_o + g * bytes);
  });
  products.clear();
  for (int64_t g = 0; g < groups; ++g)
    products.push_back({parts_of_o + g * bytes, nullptr, tokens, wo_a, g * group_rows,
                        (g + 1) * group_rows, u + g * group_rows, wo_a.rows});
  multiply(w, products);
  const void* mixed = prepare(w.prepared[3], u, tokens, wo_b);
  multiply(w, {product(mixed, tokens, wo_b, y)});
  clock.mark(kOutput);
}

}  // namespace dsv4

#include "operations/engram.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "operations/product.h"
#include "operations/tokens.h"
#include "operations/workspace.h"

namespace dsv4 {
namespace {

constexpr int64_t kBlock = 8;  // tokens of one task
constexpr float kSmallestScore = 1e-6f;

// The canonical ids of a sequence's new tokens and of the `back` before them; `own` [back + tokens].
void canonical_ids(const Ngrams& ngrams, const int64_t* ids, const Run& run, const RingView& past,
                   int64_t* own) {
  const int64_t back = ngrams.longest - 1;
  for (int64_t i = 0; i < back; ++i) {
    const int64_t position = run.start - back + i;
    int64_t id = ngrams.padding;
    if (position >= 0) {
      float known;
      std::memcpy(&known, past.at(position), sizeof known);
      id = static_cast<int64_t>(known);
    }
    own[i] = ngrams.canonical[id];
  }
  for (int64_t t = 0; t < run.tokens; ++t) own[back + t] = ngrams.canonical[ids[run.row + t]];
}

void remember(const int64_t* ids, const Run& run, const RingView& past) {
  for (int64_t t = std::max<int64_t>(0, run.tokens - past.capacity); t < run.tokens; ++t) {
    const float id = static_cast<float>(ids[run.row + t]);
    std::memcpy(past.at(run.start + t), &id, sizeof id);
  }
}

}  // namespace

void Ngrams::look_up(const int64_t* ids, int64_t tokens, const std::vector<Run>& runs,
                     const std::vector<RingView>& past, int64_t* rows) const {
  Session session;
  Clock clock;
  const int64_t back = longest - 1, heads = reads / back;
  const int64_t sequences = static_cast<int64_t>(runs.size());
  int64_t* known = session.w.numbers[0].get<int64_t>(tokens + sequences * back);
  const int64_t** own = session.w.numbers[1].get<const int64_t*>(tokens);  // a token's own id
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    int64_t* first = known + run.row + static_cast<int64_t>(i) * back;
    canonical_ids(*this, ids, run, past[i], first);
    remember(ids, run, past[i]);
    for (int64_t t = 0; t < run.tokens; ++t) own[run.row + t] = first + back + t;
  }
  each(tokens, 64, [&](int64_t t, int) {
    const int64_t* id = own[t];
    for (size_t l = 0; l < tables.size(); ++l) {
      const Hashes& h = tables[l];
      int64_t* out = rows + (static_cast<int64_t>(l) * tokens + t) * reads;
      uint64_t mixed = static_cast<uint64_t>(id[0] * h.multipliers[0]);
      for (int64_t n = 1; n < longest; ++n) {
        mixed ^= static_cast<uint64_t>(id[-n] * h.multipliers[n]);
        for (int64_t r = (n - 1) * heads; r < n * heads; ++r)
          out[r] = h.offsets[r] + static_cast<int64_t>(mixed % static_cast<uint64_t>(h.primes[r]));
      }
    }
  });
  clock.mark(kMemory);
}

void gather(const Matrix& table, const int64_t* rows, int64_t tokens, int64_t reads, float* read) {
  Session session;
  Clock clock;
  const Kernels& k = kernels();
  each(tokens, 2 * kBlock, [&](int64_t t, int) {
    float* out = read + t * reads * table.cols;
    for (int64_t r = 0; r < reads; ++r, out += table.cols) {
      const int64_t row = rows[t * reads + r];
      k.decode_rows(table, row, row + 1, out);
    }
  });
  clock.mark(kMemory);
}

void Engram::add(const float* read, int64_t tokens, float* x) const {
  Session session;
  Clock clock;
  Workspace& w = session.w;
  const Kernels& k = kernels();
  float* kv = w.floats[0].get<float>(tokens * wkv.rows);
  const void* ready = prepare(w.prepared[0], read, tokens, wkv);
  multiply(w, {product(ready, tokens, wkv, kv)});
  const float n = static_cast<float>(width), root = 1.0f / std::sqrt(n);
  each(tokens, kBlock, [&](int64_t t, int) {
    float* key = kv + t * wkv.rows;
    const float* value = key + streams * width;
    for (int64_t a = 0; a < streams; ++a, key += width) {
      float* stream = x + (t * streams + a) * width;
      const float* q = q_weight + a * width;
      const float* u = k_weight + a * width;
      const float of_stream = 1.0f / std::sqrt(k.square_sum(stream, width) / n + eps);
      const float of_key = 1.0f / std::sqrt(k.square_sum(key, width) / n + eps);
      for (int64_t c = 0; c < width; ++c) key[c] *= q[c] * u[c];
      const float score = k.dot(stream, key, width) * of_stream * of_key * root;
      // sign(score) sqrt(|score|), and 0 only for a score that is.
      const float size = std::sqrt(std::max(std::fabs(score), kSmallestScore));
      const float turned = score == 0.0f ? 0.0f : std::copysign(size, score);
      const float alpha = 1.0f / (1.0f + std::exp(-turned));
      for (int64_t c = 0; c < width; ++c) stream[c] += alpha * value[c];
    }
  });
  clock.mark(kMemory);
}

void Engram::run(const int64_t* rows, int64_t tokens, float* x) const {
  Session session;
  float* read = session.w.floats[1].get<float>(tokens * wkv.cols);
  gather(table, rows, tokens, reads, read);
  add(read, tokens, x);
}

}  // namespace dsv4

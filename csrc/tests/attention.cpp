// attend and select: what a query token reads.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "selftest.h"

namespace selftest {
namespace {

void attend(const Kernels& table, const KvLayout& layout, int64_t heads, int64_t count,
            Random& random) {
  const int64_t width = layout.width;
  Block<uint8_t> stored((count + 1) * layout.stride());
  std::memset(stored.get(), 0, stored.size());
  std::vector<double> keys(count * width);
  std::vector<const uint8_t*> where(count);
  for (int64_t j = 0; j < count; ++j) {
    // Entries lie in the cache in any order.
    uint8_t* row = stored.get() + (j * 7 % std::max<int64_t>(count, 1)) * layout.stride();
    if (count % 7 == 0) row = stored.get() + j * layout.stride();
    where[j] = row;
    for (int64_t b = 0; b < layout.scales(); ++b)
      row[layout.scale_offset() + b] = static_cast<uint8_t>(125 + random.below(2));
    for (int64_t c = 0; c < layout.plain(); ++c) {
      row[c] = static_cast<uint8_t>((random.bits() & 128) | (24 + random.below(56)));
      keys[j * width + c] = e4m3(row[c]) * e8m0(row[layout.scale_offset() + c / 64]);
    }
    for (int64_t c = 0; c < layout.rotated; ++c) {
      const uint16_t bits = to_bf16(random.normal());
      std::memcpy(row + layout.plain() + 2 * c, &bits, 2);
      keys[j * width + layout.plain() + c] = bf16(bits);
    }
  }
  Block<float> q(heads * width), sinks(heads), out(heads * width), part(heads * width);
  fill(q, random, 3.0f);
  fill(sinks, random, 2.0f);
  Block<uint8_t> scratch(table.attend_scratch_bytes(layout, heads));
  table.attend(q.get(), where.data(), count, layout, sinks.get(), 0, heads, out.get(),
               scratch.get());

  const double scale = 1 / std::sqrt(static_cast<double>(width));
  std::vector<double> p(count), query(width);
  for (int64_t h = 0; h < heads; ++h) {
    double peak = sinks[h], doubt = 0;
    for (int64_t c = 0; c < width; ++c) query[c] = bf16(to_bf16(q[h * width + c]));
    for (int64_t j = 0; j < count; ++j) {
      double squares = 0;
      p[j] = 0;
      for (int64_t c = 0; c < width; ++c) {
        const double term = query[c] * keys[j * width + c];
        p[j] += term;
        squares += term * term;
      }
      p[j] *= scale;
      peak = std::max(peak, p[j]);
      doubt = std::max(doubt, sum_error(width, std::sqrt(squares)) * scale);
    }
    double total = std::exp(sinks[h] - peak);
    for (int64_t j = 0; j < count; ++j) total += p[j] = std::exp(p[j] - peak);
    for (int64_t c = 0; c < width; ++c) {
      double sum = 0, size = 0;
      for (int64_t j = 0; j < count; ++j) {
        sum += p[j] / total * keys[j * width + c];
        size += p[j] / total * std::fabs(keys[j * width + c]);
      }
      // A score off by `doubt` moves its probability by that share; so does the rounding of a
      // score, of e^x and of the sums.
      const double share = 2 * doubt + (8 + std::fabs(peak)) * 2 * kUnit + sum_error(count, 1.0);
      note(table, "attend", std::fabs(out[h * width + c] - sum), share * size + 1e-30);
    }
  }

  // Heads in parts: the same bits, and nothing else written.
  const int64_t middle = heads / 2;
  table.attend(q.get(), where.data(), count, layout, sinks.get(), middle, heads, part.get(),
               scratch.get());
  bool same = true;
  for (int64_t i = 0; i < middle * width; ++i) same = same && std::isnan(part[i]);
  table.attend(q.get(), where.data(), count, layout, sinks.get(), 0, middle, part.get(),
               scratch.get());
  same = same && std::memcmp(part.get(), out.get(), heads * width * sizeof(float)) == 0;
  exact(table, "attend by parts", same);
  exact(table, "attend stays in bounds", !(scratch.overrun() || out.overrun() || part.overrun()));
}

// With `plain`, every score is exact in float32 and many are equal.
void select(const Kernels& table, const KeyLayout& layout, int64_t heads, int64_t count, int64_t k,
            bool plain, Random& random) {
  const int64_t width = layout.width, stride = layout.stride();
  Block<uint8_t> q(heads * stride), keys(std::max<int64_t>(count, 1) * stride);
  for (Block<uint8_t>* rows : {&q, &keys})
    for (int64_t n = 0; n < rows->size() / stride; ++n)
      for (int64_t i = 0; i < stride; ++i)
        (*rows)[n * stride + i] = static_cast<uint8_t>(
            i < layout.scale_offset() ? random.bits() : plain ? 127 : 125 + random.below(5));
  const auto values = [&](const Block<uint8_t>& rows) {
    std::vector<double> out;
    for (int64_t n = 0; n < rows.size() / stride; ++n)
      for (int64_t c = 0; c < width; ++c)
        out.push_back(e2m1(rows[n * stride + c / 2] >> c % 2 * 4 & 15) *
                      e8m0(rows[n * stride + layout.scale_offset() + c / 32]));
    return out;
  };
  const std::vector<double> queries = values(q), entries = values(keys);
  Block<float> weights(heads);
  for (int64_t h = 0; h < heads; ++h)
    weights[h] = plain ? static_cast<float>(random.below(4)) - 1.0f : random.normal();

  std::vector<double> scores(count), doubts(count);
  for (int64_t n = 0; n < count; ++n) {
    double total = 0, size = 0;
    for (int64_t h = 0; h < heads; ++h) {
      double z = 0, squares = 0;
      for (int64_t c = 0; c < width; ++c) {
        const double term = queries[h * width + c] * entries[n * width + c];
        z += term;
        squares += term * term;
      }
      total += weights[h] * std::max(z, 0.0);
      size += std::fabs(weights[h]) * (std::sqrt(squares) + std::max(z, 0.0));
    }
    scores[n] = total;
    doubts[n] = plain ? 0 : sum_error(width + heads, size);
  }

  Block<int32_t> out(k);
  Block<uint8_t> scratch(table.select_scratch_bytes(layout, heads, k));
  Block<uint8_t> merging(table.merge_scratch_bytes(k));
  std::vector<uint8_t*> blocks;
  for (int64_t n = 0; n < count; n += 32) blocks.push_back(keys.get() + n * stride);
  const dsv4::PagedRows rows{blocks.data(), 0, 5, stride};
  // From three parts, so that merging is tried too.
  Block<float> found(3 * k);
  Block<int32_t> numbers(3 * k);
  int64_t held = 0;
  for (int64_t i = 0; i < 3; ++i)
    held += table.select(q.get(), weights.get(), heads, rows, count * i / 3,
                         count * (i + 1) / 3, layout, k, found.get() + held, numbers.get() + held,
                         scratch.get());
  table.merge(found.get(), numbers.get(), held, k, out.get(), merging.get());
  exact(table, "select stays in bounds",
        !(out.overrun() || scratch.overrun() || merging.overrun() || found.overrun() ||
          numbers.overrun()));

  held = std::min(k, count);
  std::vector<bool> taken(count, false);
  bool shape = true;
  for (int64_t i = 0; i < k; ++i) {
    if (i >= held) {
      shape = shape && out[i] == -1;
    } else if (out[i] < 0 || out[i] >= count || (i > 0 && out[i] <= out[i - 1])) {
      shape = false;
    } else {
      taken[out[i]] = true;
    }
  }
  exact(table, "select form", shape);
  if (!shape) return;
  if (plain) {
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
    bool best = true;
    for (int64_t i = 0; i < held; ++i) best = best && taken[order[i]];
    exact(table, "select with equal scores", best);
    return;
  }
  // No entry that was left out beats one that was taken by more than float32 can tell.
  double worst = 0;
  for (int64_t in = 0; in < count; ++in)
    for (int64_t left = 0; taken[in] && left < count; ++left)
      if (!taken[left])
        worst = std::max(worst, (scores[left] - scores[in]) / (doubts[left] + doubts[in]));
  note(table, "select", worst, 1.0);
}

}  // namespace

void attention(const Kernels& table, Random random) {
  for (int64_t count : {0, 1, 2, 7, 33, 130, 640}) {
    attend(table, KvLayout{512, 64}, 5, count, random);
    attend(table, KvLayout{64, 16}, 4, count, random);
    attend(table, KvLayout{80, 16}, 17, count, random);
  }
}

void choice(const Kernels& table, Random random) {
  for (const bool plain : {true, false})
    for (int64_t count : {0, 1, 5, 16, 63, 257, 1000})
      for (int64_t k : {1, 8, 64, 512}) {
        select(table, KeyLayout{128}, 64, count, k, plain, random);
        select(table, KeyLayout{32}, 4, count, k, plain, random);
        select(table, KeyLayout{64}, 3, count, k, plain, random);
      }
}

}  // namespace selftest

// The lightning indexer's scoring and choice. (First version: plain loops.)
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

int64_t select_scratch_bytes(const KeyLayout& layout, int64_t heads, int64_t k) {
  return (heads + 1) * layout.width * 4 + k * 8;
}

void select(const uint8_t* q, const float* weights, int64_t heads, const uint8_t* keys,
            int64_t count, const KeyLayout& layout, int64_t k, int32_t* out, void* scratch) {
  float* query = static_cast<float*>(scratch);
  float* key = query + heads * layout.width;
  float* best = key + layout.width;
  int32_t* which = reinterpret_cast<int32_t*>(best + k);
  for (int64_t h = 0; h < heads; ++h)
    unpack_key(q + h * layout.stride(), layout, query + h * layout.width);
  int64_t held = 0;
  for (int64_t n = 0; n < count; ++n) {
    unpack_key(keys + n * layout.stride(), layout, key);
    float score = 0;
    for (int64_t h = 0; h < heads; ++h) {
      const float z = dot(query + h * layout.width, key, layout.width);
      score += weights[h] * (z > 0 ? z : 0);
    }
    if (held == k && !(score > best[k - 1])) continue;
    int64_t at = held < k ? held++ : k - 1;
    for (; at > 0 && best[at - 1] < score; --at) {
      best[at] = best[at - 1];
      which[at] = which[at - 1];
    }
    best[at] = score;
    which[at] = static_cast<int32_t>(n);
  }
  for (int64_t i = 0; i < k; ++i) out[i] = i < held ? which[i] : -1;
  for (int64_t i = 1; i < held; ++i)
    for (int64_t j = i; j > 0 && out[j - 1] > out[j]; --j) {
      const int32_t swap = out[j];
      out[j] = out[j - 1];
      out[j - 1] = swap;
    }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

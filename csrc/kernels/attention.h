// Core attention over stored rows. (First version: plain loops.)
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

int64_t attend_scratch_bytes(const KvLayout& layout, int64_t) { return 2 * layout.width * 4; }

void attend(const float* q, const uint8_t* const* rows, int64_t count, const KvLayout& layout,
            const float* sinks, int64_t head_begin, int64_t head_end, float* out, void* scratch) {
  const int64_t width = layout.width;
  float* key = static_cast<float*>(scratch);
  float* query = key + width;
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for (int64_t h = head_begin; h < head_end; ++h) {
    for (int64_t c = 0; c < width; ++c) query[c] = from_bf16(to_bf16(q[h * width + c]));
    float* o = out + h * width;
    for (int64_t c = 0; c < width; ++c) o[c] = 0;
    float peak = -__builtin_inff(), total = 0;
    for (int64_t j = 0; j < count; ++j) {
      unpack_kv(rows[j], layout, key);
      const float z = dot(query, key, width) * scale;
      const float next = z > peak ? z : peak;
      const float keep = std::exp(peak - next), p = std::exp(z - next);
      total = total * keep + p;
      for (int64_t c = 0; c < width; ++c) o[c] = o[c] * keep + p * key[c];
      peak = next;
    }
    total += std::exp(sinks[h] - peak);
    for (int64_t c = 0; c < width; ++c) o[c] /= total;
  }
}

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

// The table of kernels of one instruction set. Every function here runs on one thread and works
// on a part of its operation; splitting into parts is done by the operations that call them.
//
// Rules for all of them:
// - A token's result is the same to the bit whatever other tokens are computed with it, however
//   the work is split, and whether one token or many are computed: prefill == decode.
// - Inputs of products with a matrix are rounded first: to bfloat16 (nearest even), or to int8 with a
//   float scale per 32 where the matrix is kFP4; weights are used exactly as stored; sums are float32
//   (those of a block of int8 exact).
#pragma once

#include <cstddef>
#include <cstdint>

#include "types.h"

namespace dsv4 {

struct Kernels {
  const char* name;  // "generic", "avx2", "avx512", "avx512bf16", "neon"

  // --- matmul.h -------------------------------------------------------------------------------
  // Products read their input in a prepared form (rounded values in the order that the kernels read
  // them), so that it is made once for all matrices and threads.

  // Bytes of the prepared form of `tokens` rows of `cols` values; 64-byte alignment is expected.
  int64_t (*prepared_bytes)(int64_t tokens, int64_t cols);
  // Prepares rows [begin, end) of x [tokens, cols] (row stride ldx floats); `whole`: for kFP4 too.
  void (*prepare)(const float* x, int64_t ldx, int64_t cols, int64_t begin, int64_t end, bool whole,
                  void* prepared);
  // Bytes of scratch (64-byte aligned, one per thread) that `matmul` needs for `cols` inputs.
  int64_t (*matmul_scratch_bytes)(int64_t cols);
  // y[i * ldy + n - begin] = sum_k x[token(i), k] * w[n, k] for i in [0, count), n in [begin, end).
  // token(i) = tokens ? tokens[i] : i, an index of rows of the prepared input.
  void (*matmul)(const void* prepared, const int32_t* tokens, int64_t count, const Matrix& w,
                 int64_t begin, int64_t end, float* y, int64_t ldy, void* scratch);
  // Rows [begin, end) of a matrix as floats: out[(n - begin) * cols + k].
  void (*decode_rows)(const Matrix& w, int64_t begin, int64_t end, float* out);

  // --- rows.h ---------------------------------------------------------------------------------
  // x [width] floats (already rotated) to one stored KV entry; e4m3 with a power-of-two scale per
  // 64 plain channels (floor 1e-4, as the released code), bfloat16 for the rotated ones.
  void (*pack_kv)(const float* x, const KvLayout& layout, uint8_t* out);
  void (*unpack_kv)(const uint8_t* row, const KvLayout& layout, float* out);
  // x [width] floats (already rotated) to one index key: orthonormal Hadamard, then e2m1 with a
  // power-of-two scale per 32 channels (floor 6 * 2^-126).
  void (*pack_key)(const float* x, const KeyLayout& layout, uint8_t* out);
  void (*unpack_key)(const uint8_t* row, const KeyLayout& layout, float* out);

  // --- attention.h ----------------------------------------------------------------------------
  // One query token, heads [head_begin, head_end): out[h * width + c] = sum_j p_hj k_j, with one
  // softmax over all `count` rows and the sink of each head (which adds nothing to the sum).
  // q [heads, width] is rounded to bfloat16; probabilities and sums are float32.
  // rows[j] points at stored KV entries. scratch: attend_scratch_bytes.
  int64_t (*attend_scratch_bytes)(const KvLayout& layout, int64_t heads);
  void (*attend)(const float* q, const uint8_t* const* rows, int64_t count, const KvLayout& layout,
                 const float* sinks, int64_t head_begin, int64_t head_end, float* out,
                 void* scratch);

  // --- index.h --------------------------------------------------------------------------------
  // One query token: the k entries of [first, last) with the highest score
  //   sum_h weights[h] * relu(q_h . key_n),
  // equal scores: the lower entry. q [heads, width] holds stored keys of the query heads
  // (pack_key form). keys: stored index keys. Writes the chosen entries and
  // their scores in ascending order of entries and returns their number, which is k or, if there are
  // fewer entries, all. No array of all scores is made.
  int64_t (*select_scratch_bytes)(const KeyLayout& layout, int64_t heads, int64_t k);
  int64_t (*select)(const uint8_t* q, const float* weights, int64_t heads, const PagedRows& keys,
                    int64_t first, int64_t last, const KeyLayout& layout, int64_t k, float* scores,
                    int32_t* entries, void* scratch);
  // The k best of `count` that were chosen from successive parts of the entries: ascending, then -1
  // up to k. The same as choosing from all at once.
  int64_t (*merge_scratch_bytes)(int64_t k);
  void (*merge)(const float* scores, const int32_t* entries, int64_t count, int64_t k,
                int32_t* out, void* scratch);

  // --- vector.h -------------------------------------------------------------------------------
  // x * rsqrt(mean(x^2) + eps) * weight (bfloat16 bits; null: 1), float32.
  void (*rms_norm)(const float* x, int64_t n, const uint16_t* weight, float eps, float* out);
  // RoPE on adjacent pairs of x [2 * pairs] in place; sign -1 turns back.
  void (*rotate)(float* x, const float* cos, const float* sin, int64_t pairs, float sign);
  // silu(min(a, limit)) * clip(b, +-limit) * scale
  void (*swiglu)(const float* a, const float* b, int64_t n, float limit, float scale, float* out);
  // Per channel c in [0, n): softmax over rows j of gates[j][c] + ape[j][c]; out = sum w * values.
  void (*pool)(const float* const* values, const float* const* gates, const float* const* ape,
               int64_t rows, int64_t n, float* out);
  float (*dot)(const float* a, const float* b, int64_t n);
  float (*square_sum)(const float* x, int64_t n);
  // out[c] = sum_a weights[a] * x[a * stride + c], in the order of a.
  void (*weighted_sum)(const float* x, int64_t stride, const float* weights, int64_t count,
                       int64_t n, float* out);
};

// The table chosen for this processor, or by name (`use_kernels`); names in order of preference.
const Kernels& kernels();
const Kernels* kernels_by_name(const char* name);  // null if this processor or build lacks it
bool use_kernels(const char* name);                // false if there is none of that name

}  // namespace dsv4

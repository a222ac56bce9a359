// Engram (arXiv 2601.07372): a memory that the last tokens address, added to the streams before a
// layer's attention; the form without convolution.
#pragma once

#include <cstdint>
#include <vector>

#include "operations/attention.h"
#include "types.h"

namespace dsv4 {

// The hashes of one table: hash r is a mix of n-gram ids modulo primes[r], and names row
// offsets[r] + hash.
struct Hashes {
  const int64_t* multipliers;  // [longest]
  const int64_t* primes;       // [reads]
  const int64_t* offsets;      // [reads]
};

// Which rows of every table the tokens read. All pointers must outlive this.
struct Ngrams {
  const int64_t* canonical;  // [vocabulary] ids that count as one for the hashes
  int64_t padding;           // token that stands before the first one
  int64_t longest;           // tokens of the longest n-gram
  int64_t reads;             // rows that a token reads of a table
  std::vector<Hashes> tables;

  // rows [tables, tokens, reads] of ids [tokens], whose sequences `runs` names. `past` holds the ids
  // of each one's last positions as floats, and takes these.
  void look_up(const int64_t* ids, int64_t tokens, const std::vector<Run>& runs,
               const std::vector<RingView>& past, int64_t* rows) const;
};

// read [tokens, reads, table.cols]: the rows of a table with these numbers [tokens, reads].
void gather(const Matrix& table, const int64_t* rows, int64_t tokens, int64_t reads, float* read);

// The memory of one layer.
struct Engram {
  Matrix table;           // [rows, channels]
  Matrix wkv;             // [(streams + 1) * width, reads * channels]: keys, then the value
  const float* q_weight;  // [streams, width]
  const float* k_weight;  // [streams, width]
  int64_t reads;
  int64_t streams;
  int64_t width;
  float eps;

  // x [tokens, streams, width] += what was read [tokens, wkv.cols], as far as each key fits its
  // stream.
  void add(const float* read, int64_t tokens, float* x) const;

  // The same for the rows with these numbers.
  void run(const int64_t* rows, int64_t tokens, float* x) const;
};

}  // namespace dsv4

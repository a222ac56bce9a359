// Plain descriptions of what kernels work on. Nothing here owns memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsv4 {

enum class Format : int {
  kF32 = 0,    // float
  kBF16 = 1,   // bfloat16, no scales
  kFP8 = 2,    // e4m3, one e8m0 scale per 128 x 128 elements
  kFP8F32 = 3, // e4m3, one float scale per 128 x 128 elements
  kFP4 = 4,    // e2m1, two per byte (even element low), one e8m0 scale per 32 elements of a row
  kFP8Rows = 5,  // e4m3, one e8m0 scale per 32 elements of a row: tables, which are not multiplied
};

// A weight [rows, cols] in one of the released formats, used where it lies (mapped file).
struct Matrix {
  const uint8_t* data;
  const uint8_t* scale;  // null for kF32 and kBF16
  int64_t rows;
  int64_t cols;
  Format format;
};

// How a KV entry is stored: `plain` e4m3 channels, then `rotated` bfloat16 channels, then one
// e8m0 scale per started 64 plain channels, padded to a multiple of 8 bytes.
struct KvLayout {
  int64_t width;    // channels: plain + rotated
  int64_t rotated;  // channels kept in bfloat16
  int64_t plain() const { return width - rotated; }
  int64_t scales() const { return (plain() + 63) / 64; }
  int64_t scale_offset() const { return plain() + 2 * rotated; }
  int64_t stride() const { return scale_offset() + (scales() + 7) / 8 * 8; }
};

// Rows of one layer that are spread over blocks of memory, 2^shift of them in each, one behind the
// other from `offset` bytes on.
struct PagedRows {
  uint8_t* const* blocks;
  int64_t offset;
  int64_t shift;
  int64_t stride;  // bytes of a row

  int64_t per_block() const { return int64_t{1} << shift; }
  uint8_t* at(int64_t row) const {
    return blocks[row >> shift] + offset + (row & (per_block() - 1)) * stride;
  }
};

// How an index key is stored: e2m1 pairs (even channel low), then one e8m0 scale per started 32.
struct KeyLayout {
  int64_t width;
  int64_t scale_offset() const { return width / 2; }
  int64_t scales() const { return (width + 31) / 32; }
  int64_t stride() const { return scale_offset() + scales(); }
};

}  // namespace dsv4

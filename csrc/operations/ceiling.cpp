#include "operations/ceiling.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "threads.h"

namespace dsv4 {
namespace {

constexpr int64_t kPiece = 1 << 20;  // bytes of one task
constexpr int64_t kLine = 64;
constexpr int64_t kStreams = 4;  // places of a piece that are read in turn

#if defined(__GNUC__)
typedef uint64_t Lane __attribute__((vector_size(16)));
#else
using Lane = uint64_t;
#endif
constexpr int64_t kLanes = kLine / static_cast<int64_t>(sizeof(Lane));

// One cache line into as many sums, which do not wait for each other.
inline void add_line(const uint8_t* at, Lane* sums) {
  for (int64_t j = 0; j < kLanes; ++j) {
    Lane value;
    std::memcpy(&value, at + j * static_cast<int64_t>(sizeof(Lane)), sizeof(Lane));
    sums[j] += value;
  }
}

uint64_t sum_piece(const uint8_t* data, int64_t lines) {
  Lane sums[kLanes] = {};
  // Several streams keep more reads under way than the prefetcher starts for one.
  const int64_t part = lines / kStreams;
  for (int64_t i = 0; i < part; ++i)
    for (int64_t s = 0; s < kStreams; ++s) add_line(data + (s * part + i) * kLine, sums);
  for (int64_t i = part * kStreams; i < lines; ++i) add_line(data + i * kLine, sums);
  uint64_t words[kLine / 8], total = 0;
  std::memcpy(words, sums, sizeof(words));
  for (const uint64_t word : words) total += word;
  return total;
}

}  // namespace

uint64_t read_pass(const uint8_t* data, int64_t bytes) {
  std::atomic<uint64_t> total{0};
  parallel((bytes + kPiece - 1) / kPiece, [&](int64_t task, int) {
    const int64_t begin = task * kPiece, end = std::min(bytes, begin + kPiece);
    total.fetch_add(sum_piece(data + begin, (end - begin) / kLine), std::memory_order_relaxed);
  });
  return total.load();
}

}  // namespace dsv4

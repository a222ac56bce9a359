// How fast memory can be read: what a decoding step is compared with.
#pragma once

#include <cstdint>

namespace dsv4 {

// Reads all of `data` once, on all threads, and returns a sum that depends on every byte (so that
// no read is left out). `bytes` beyond the last whole 64 are not read.
uint64_t read_pass(const uint8_t* data, int64_t bytes);

}  // namespace dsv4

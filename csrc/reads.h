// Many small pieces of a file, read at once.
#pragma once

#include <cstdint>

namespace dsv4 {

// Fills out [count, size] with the `size` bytes of a file that begin at each of `places`. The system is
// told about all of them before the first is waited for. Returns how many are there, less than
// `count` if one cannot be read; `error` says why (0: the file ends before).
int64_t read_places(int file, const int64_t* places, int64_t count, int64_t size, uint8_t* out,
                    int* error);

}  // namespace dsv4

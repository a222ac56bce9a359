#include "reads.h"

#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace dsv4 {

int64_t read_places(int file, const int64_t* places, int64_t count, int64_t size, uint8_t* out,
                    int* error) {
#if defined(POSIX_FADV_WILLNEED)
  for (int64_t i = 0; i < count; ++i) posix_fadvise(file, places[i], size, POSIX_FADV_WILLNEED);
#endif
  for (int64_t i = 0; i < count; ++i) {
    int64_t done = 0;
    while (done < size) {
      const ssize_t got = pread(file, out + i * size + done, static_cast<size_t>(size - done),
                                static_cast<off_t>(places[i] + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        *error = got < 0 ? errno : 0;
        return i;
      }
      done += got;
    }
  }
  *error = 0;
  return count;
}

}  // namespace dsv4

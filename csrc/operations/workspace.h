// What operations share: intermediate memory kept between calls, one caller at a time, and the
// clock that says where a step's time goes.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

#include "kernels.h"
#include "scratch.h"
#include "threads.h"

namespace dsv4 {

// Stages of a forward pass, as `dsv4 bench --explain` lists them.
enum Stage : int {
  kConnect,
  kProject,
  kCompress,
  kQuery,
  kSelect,
  kAttend,
  kOutput,
  kRoute,
  kGateUp,
  kDown,
  kHead,
  kEmbed,
  kMemory,
  kStages
};
extern const char* const kStageNames[kStages];

struct StageTime {
  int64_t nanoseconds = 0;
  int64_t calls = 0;
};
extern StageTime stage_times[kStages];

// Adds the time since the last mark (or since it was made) to a stage.
class Clock {
 public:
  Clock() : last_(std::chrono::steady_clock::now()) {}
  void mark(Stage stage) {
    const auto now = std::chrono::steady_clock::now();
    stage_times[stage].nanoseconds +=
        std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
    ++stage_times[stage].calls;
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_;
};

// Buffers by use; a buffer lives until the same one is asked for again.
struct Workspace {
  std::recursive_mutex busy;  // a whole pass holds it while its parts take it again
  Scratch prepared[4];
  Scratch floats[10];
  Scratch bytes[4];
  Scratch numbers[4];
  Scratch model[6];              // what a pass keeps between the parts of its layers
  std::vector<Scratch> threads;  // one per thread

  uint8_t* thread_bytes(int thread, int64_t count) {
    return threads[static_cast<size_t>(thread)].get<uint8_t>(count);
  }
};

// The one workspace, locked for the caller while `lock` lives.
Workspace& workspace();
struct Session {
  Workspace& w;
  std::lock_guard<std::recursive_mutex> lock;
  Session();
};

}  // namespace dsv4

#include "operations/workspace.h"

namespace dsv4 {

const char* const kStageNames[kStages] = {"connect", "project", "compress", "query",
                                          "select",  "attend",  "output",   "route",
                                          "gate_up", "down",    "head",     "embed",   "memory"};
StageTime stage_times[kStages];

Workspace& workspace() {
  static Workspace shared;
  return shared;
}

Session::Session() : w(workspace()), lock(w.busy) {
  const auto threads = static_cast<size_t>(thread_count());
  // Scratch cannot move, so a vector of another size is a new one.
  if (w.threads.size() != threads) w.threads = std::vector<Scratch>(threads);
}

}  // namespace dsv4

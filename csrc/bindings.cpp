// The Python side of the kernels: addresses and sizes in, nothing allocated here is handed out.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "kernels.h"
#include "operations/workspace.h"
#include "threads.h"

namespace nb = nanobind;

namespace dsv4 {
void bind_kernels(nb::module_& m);
void bind_operations(nb::module_& m);
}  // namespace dsv4

NB_MODULE(_native, m) {
  using namespace dsv4;
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const char* name : {"avx512bf16", "avx512", "avx2", "neon", "generic"})
      if (kernels_by_name(name) != nullptr) names.emplace_back(name);
    return names;
  });
  m.def("instruction_set", [] { return std::string(kernels().name); });
  m.def("use_instruction_set", [](const std::string& name) { return use_kernels(name.c_str()); });
  m.def("thread_count", &thread_count);
  m.def("set_thread_count", [](int threads) {
    // Operations size their memory by the number of threads: none may be under way.
    std::lock_guard<std::recursive_mutex> idle(workspace().busy);
    set_thread_count(threads);
  });
  bind_kernels(m);
  bind_operations(m);
}

// Which instruction set runs: asked of the processor once, changeable for tests.
#include <atomic>
#include <cstring>

#include "kernels.h"

namespace dsv4 {

namespace generic {
const Kernels& table();
}
#if defined(DSV4_X86)
namespace avx2 {
const Kernels& table();
}
namespace avx512 {
const Kernels& table();
}
namespace avx512bf16 {
const Kernels& table();
}
#endif
#if defined(DSV4_ARM)
namespace neon {
const Kernels& table();
}
#endif

namespace {

struct Choice {
  const char* name;
  const Kernels& (*table)();
  bool (*usable)();
};

bool always() { return true; }

#if defined(DSV4_X86)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
#endif

// Best first.
const Choice kChoices[] = {
#if defined(DSV4_X86)
    {"avx512bf16", avx512bf16::table, has_avx512bf16},
    {"avx512", avx512::table, has_avx512},
    {"avx2", avx2::table, has_avx2},
#endif
#if defined(DSV4_ARM)
    {"neon", neon::table, always},
#endif
    {"generic", generic::table, always},
};

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels* kernels_by_name(const char* name) {
  for (const Choice& choice : kChoices)
    if (std::strcmp(choice.name, name) == 0) return choice.usable() ? &choice.table() : nullptr;
  return nullptr;
}

bool use_kernels(const char* name) {
  const Kernels* table = kernels_by_name(name);
  if (table != nullptr) chosen.store(table);
  return table != nullptr;
}

const Kernels& kernels() {
  const Kernels* table = chosen.load(std::memory_order_relaxed);
  if (table == nullptr) {
    for (const Choice& choice : kChoices)
      if (choice.usable()) {
        table = &choice.table();
        break;
      }
    chosen.store(table);
  }
  return *table;
}

}  // namespace dsv4

// Every kernel table that this processor can run against plain loops in double precision. Needs
// neither Python nor torch, so it runs wherever a compiler's output runs, emulators included:
//   selftest [seed]
#include "selftest.h"

#include <cmath>
#include <cstdio>
#include <map>
#include <string>
#include <utility>

namespace selftest {
namespace {

// By address: looked up a million times.
std::map<std::pair<const char*, const char*>, double> worst;

}  // namespace

void note(const Kernels& table, const char* what, double error, double allowed) {
  const double ratio = error <= allowed ? error / allowed : error > allowed ? error / allowed : 1e9;
  double& kept = worst[{table.name, what}];
  if (ratio > kept) kept = ratio;
}

void exact(const Kernels& table, const char* what, bool equal) {
  note(table, what, equal ? 0.0 : 1e9, 1.0);
}

bool report() {
  std::map<std::pair<std::string, std::string>, double> sorted;
  for (const auto& [key, ratio] : worst) {
    double& kept = sorted[{key.first, key.second}];
    if (ratio > kept) kept = ratio;
  }
  bool good = true;
  for (const auto& [key, ratio] : sorted) {
    const bool fits = ratio <= 1.0;
    good = good && fits;
    std::printf("%-11s %-26s ", key.first.c_str(), key.second.c_str());
    if (ratio == 0.0)
      std::printf("exact\n");
    else if (ratio >= 1e9)
      std::printf("FAIL: not equal, or not a number\n");
    else
      std::printf("%s%.3g of the error allowed\n", fits ? "" : "FAIL: ", ratio);
  }
  return good;
}

float bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

uint16_t to_bf16(float x) {
  // The two neighbours of a finite x, and the nearer one.
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint16_t down = static_cast<uint16_t>(bits >> 16), up = static_cast<uint16_t>(down + 1);
  const double below = std::fabs(static_cast<double>(x) - bf16(down));
  const double above = std::fabs(static_cast<double>(bf16(up)) - x);
  if (below == above) return down & 1 ? up : down;
  return below < above ? down : up;
}

double e4m3(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 127) == 127) return NAN;
  const double size = exponent == 0 ? std::ldexp(mantissa, -9)
                                    : std::ldexp(8 + mantissa, exponent - 10);
  return code & 128 ? -size : size;
}

double e2m1(uint8_t code) {
  const int exponent = code >> 1 & 3, mantissa = code & 1;
  const double size = exponent == 0 ? mantissa * 0.5 : std::ldexp(2 + mantissa, exponent - 2);
  return code & 8 ? -size : size;
}

double e8m0(uint8_t code) { return std::ldexp(1.0, code - 127); }

uint8_t nearest_e4m3(double x) {
  const double size = std::fabs(x);
  uint8_t best = 0;
  for (uint8_t code = 1; code < 127; ++code) {
    const double gain = std::fabs(size - e4m3(best)) - std::fabs(size - e4m3(code));
    if (gain < 0) break;
    if (gain > 0 || code % 2 == 0) best = code;
  }
  return best | (std::signbit(x) ? 128 : 0);
}

}  // namespace selftest

int main(int count, char** arguments) {
  using namespace selftest;
  const uint64_t seed = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  int tables = 0;
  for (const char* name : {"generic", "neon", "avx2", "avx512", "avx512bf16"}) {
    const Kernels* table = dsv4::kernels_by_name(name);
    if (table == nullptr) continue;
    ++tables;
    exact(*table, "name", std::string(table->name) == name);
    matrices(*table, Random(seed));
    rows(*table, Random(seed + 1));
    attention(*table, Random(seed + 2));
    choice(*table, Random(seed + 3));
    vectors(*table, Random(seed + 4));
  }
  const bool good = report();
  std::printf("%d kernel tables, seed %llu: %s\n", tables,
              static_cast<unsigned long long>(seed), good ? "good" : "FAILED");
  return good ? 0 : 1;
}

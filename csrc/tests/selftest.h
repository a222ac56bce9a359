// What the parts of the self-test share: random numbers, guarded memory, the formats once more
// (written from their definitions, in double), and the list of results.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#include "kernels.h"

namespace selftest {

using dsv4::Format;
using dsv4::Kernels;
using dsv4::KeyLayout;
using dsv4::KvLayout;
using dsv4::Matrix;

constexpr double kUnit = 1.0 / (1 << 24);  // relative error of one float32 rounding

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return static_cast<uint32_t>(x >> 32);
  }
  int64_t below(int64_t n) { return bits() % static_cast<uint64_t>(n); }
  float uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(bits() >> 8) * (1.0f / (1 << 24));
  }
  // Roughly normal, mean 0, deviation 1.
  float normal() {
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += uniform(-0.5f, 0.5f);
    return sum;
  }

 private:
  uint64_t state_;
};

// Memory of exactly `count` values, 64-byte aligned, so that a sanitizer sees the first byte read
// or written behind it; without one, a written byte behind it is seen when it is freed.
template <class T>
class Block {
 public:
  explicit Block(int64_t count) : count_(count) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, bytes() + kGuard) != 0) throw std::bad_alloc();
    data_ = static_cast<T*>(memory);
    std::memset(memory, 0xff, bytes() + kGuard);  // floats: NaN
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { std::free(data_); }

  T* get() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }
  bool overrun() const {
    const uint8_t* end = reinterpret_cast<const uint8_t*>(data_) + bytes();
    for (size_t i = 0; i < kGuard; ++i)
      if (end[i] != 0xff) return true;
    return false;
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kGuard = 0;
#else
  static constexpr size_t kGuard = 64;
#endif
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }
  int64_t count_;
  T* data_;
};

inline Block<float>& fill(Block<float>& block, Random& random, float scale = 1.0f) {
  for (int64_t i = 0; i < block.size(); ++i) block[i] = random.normal() * scale;
  return block;
}

// --- results -------------------------------------------------------------------------------------

// `what` of `table` was off by `error` where `allowed` is; the worst of each is kept and printed.
void note(const Kernels& table, const char* what, double error, double allowed);
// The same where nothing is allowed.
void exact(const Kernels& table, const char* what, bool equal);
// Prints the list; true if nothing failed.
bool report();

// What n roundings in a row may come to: they have random signs and add up like a random walk.
// `size` is that of the partial sums: the sum itself where all terms are positive, else the root
// of the sum of squares.
inline double sum_error(int64_t n, double size) {
  return (8.0 + 4.0 * __builtin_sqrt(static_cast<double>(n))) * kUnit * size + 1e-37;
}

// --- formats -------------------------------------------------------------------------------------

float bf16(uint16_t bits);
uint16_t to_bf16(float x);      // nearest, ties to even
double e4m3(uint8_t code);      // NaN for the two NaN codes
double e2m1(uint8_t code);
double e8m0(uint8_t code);      // 2^(code - 127)
uint8_t nearest_e4m3(double x); // within +-448, ties to even

// The parts; each tests one table against double loops, `random` is the same for all tables.
void matrices(const Kernels& table, Random random);
void rows(const Kernels& table, Random random);
void attention(const Kernels& table, Random random);
void choice(const Kernels& table, Random random);
void vectors(const Kernels& table, Random random);

}  // namespace selftest

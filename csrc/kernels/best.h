// The k best of a stream of scored entries, in memory that does not grow with the stream.
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {

// Entries come in ascending order and stay so. Once there have been more than fit, those that
// cannot be among the k best are thrown out, and from then on an entry has to beat the k-th best
// score so far; an equal score loses to the k lower entries held.
class Best {
 public:
  static int64_t capacity(int64_t k) { return k < 512 ? 2048 : 4 * k; }
  static int64_t bytes(int64_t k) { return 8 * capacity(k) + 4 * kBins; }

  Best(int64_t k, void* memory) : k_(k) {
    score_ = static_cast<float*>(memory);
    entry_ = reinterpret_cast<int32_t*>(score_ + capacity(k));
    bins_ = reinterpret_cast<uint32_t*>(entry_ + capacity(k));
  }

  // Entries first .. first + n - 1; n <= kWidth. NaN counts as the lowest score.
  void take(F scores, int64_t first, int64_t n) {
    uint32_t chosen = open_ ? ~0u : above(scores, set(bar_));
    chosen &= (1u << n) - 1;
    if (chosen == 0) return;
    if (held_ + kWidth > capacity(k_)) {
      prune();
      chosen &= above(scores, set(bar_));
    }
    float lanes[kWidth];
    store(lanes, scores);
    for (; chosen; chosen &= chosen - 1) {
      const int lane = __builtin_ctz(chosen);
      const float score = lanes[lane];
      score_[held_] = score == score ? score : -__builtin_inff();
      entry_[held_++] = static_cast<int32_t>(first + lane);
    }
  }

  // One entry, as `take`.
  void take_one(float score, int32_t entry) {
    if (!open_ && !(score > bar_)) return;
    if (held_ + kWidth > capacity(k_)) {
      prune();
      if (!(score > bar_)) return;
    }
    score_[held_] = score;
    entry_[held_++] = entry;
  }

  // The best, at most k, ascending by entry; returns how many. `scores` may be null.
  int64_t give(float* scores, int32_t* entries) {
    if (held_ > k_) prune();
    if (scores != nullptr) std::memcpy(scores, score_, held_ * sizeof(float));
    std::memcpy(entries, entry_, held_ * sizeof(int32_t));
    return held_;
  }

 private:
  static constexpr int kBins = 1 << 11;

  // Unsigned integers in the order of the scores; both zeros are one.
  static uint32_t ordered(float score) {
    const float x = score + 0.0f;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
  }

  // The k-th largest of the scores held: digit by digit, from the top.
  uint32_t threshold() {
    constexpr int kShifts[3] = {21, 10, 0};
    uint32_t prefix = 0, known = 0;
    int64_t wanted = k_;
    for (int pass = 0; pass < 3; ++pass) {
      const int shift = kShifts[pass];
      const uint32_t digits = pass == 2 ? 1023 : 2047;
      std::memset(bins_, 0, kBins * sizeof(uint32_t));
      for (int64_t i = 0; i < held_; ++i) {
        const uint32_t key = ordered(score_[i]);
        bins_[key >> shift & digits] += (key & known) == prefix;
      }
      int64_t digit = digits;
      for (; wanted > bins_[digit]; --digit) wanted -= bins_[digit];
      prefix |= static_cast<uint32_t>(digit) << shift;
      known |= digits << shift;
    }
    return prefix;
  }

  void prune() {
    const uint32_t bar = threshold();
    int64_t higher = 0;
    for (int64_t i = 0; i < held_; ++i) higher += ordered(score_[i]) > bar;
    int64_t equal = k_ - higher, kept = 0;
    for (int64_t i = 0; i < held_; ++i) {
      const uint32_t key = ordered(score_[i]);
      if (key < bar || (key == bar && equal-- <= 0)) continue;
      if (key == bar) bar_ = score_[i];
      score_[kept] = score_[i];
      entry_[kept++] = entry_[i];
    }
    held_ = kept;
    open_ = false;
  }

  int64_t k_;
  float* score_;
  int32_t* entry_;
  uint32_t* bins_;
  int64_t held_ = 0;
  bool open_ = true;  // nothing has been thrown out yet
  float bar_ = 0;
};

}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

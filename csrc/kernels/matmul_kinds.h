// How weights of a format are multiplied: in groups of inputs whose sum is taken by itself, then
// scaled and added to the row's total. The loops are written in terms of these.
//
//   kInputs, kStored, kPrepared  inputs of a group; their bytes as weights and as prepared inputs
//   kSteps                       operands that a group is decoded to, each `kOperand` bytes
//   kScales                      floats of a decoded scale
//   kFew                         most tokens for which weights are decoded again and again
//   kAhead                       how far ahead weights are asked for when they are read once; 0: the
//                                processor's own look-ahead is better, as decoding costs little
#pragma once

namespace dsv4 {
namespace DSV4_ISA {
namespace {
namespace product {

template <Format kFormat>
struct Kind {
  static constexpr bool kScaled = kFormat != Format::kBF16;
  static constexpr int64_t kInputs = kFloatGroup;
  static constexpr int64_t kStored = bytes_of<kFormat>(kInputs);
  static constexpr int64_t kPrepared = kInputs * static_cast<int64_t>(sizeof(Value));
  static constexpr int kSteps = product::kSteps;
  static constexpr int64_t kOperand = kPrepared / kSteps;
  static constexpr int64_t kScales = 1;
  static constexpr int64_t kFew = kScaled ? kFewE4m3 : kFewBf16;
  static constexpr int64_t kAhead = kScaled ? 8192 : 0;
  using Sum = F;

  static auto operand(const uint8_t* p) {
    return load_operand(static_cast<const Value*>(static_cast<const void*>(p)));
  }
  static void keep(uint8_t* p, Operand x) {
    store_operand(static_cast<Value*>(static_cast<void*>(p)), x);
  }
  template <class Use>
  static inline __attribute__((always_inline)) void decode(const uint8_t* p, Use use) {
    if constexpr (kScaled) fp8_group(p, use);
    else bf16_group(p, use);
  }
  static Sum start(const uint8_t*) { return zero(); }
  static Sum multiply(Sum sum, Operand w, Operand x) { return product::multiply(sum, w, x); }
  static F add(Sum sum, F scale, const uint8_t*, F total) {
    if constexpr (kScaled) return fma(sum, scale, total);
    else return sum + total;
  }
  static F load_scale(const float* scale) { return set(*scale); }
  static void decode_scales(const Matrix& w, int64_t n, float* out) {
    for (int64_t g = 0; g < pieces(w.cols, kInputs); ++g) out[g] = scale_at<kFormat>(w, n, g);
  }

  // The scales of one row after the other, for rows that are read once. `buffer` [groups].
  class Scales {
   public:
    void open(const Matrix& w, int64_t n, float* buffer) {
      floats_ = buffer;
      if (!kScaled || n / 128 == block_) return;
      block_ = n / 128;
      decode_scales(w, n, buffer);
    }
    F of(int64_t g) const {
      if constexpr (kScaled) return set(floats_[g]);
      else return zero();
    }

   private:
    int64_t block_ = -1;
    const float* floats_ = nullptr;
  };
};

template <>
struct Kind<Format::kFP4> {
  static constexpr int64_t kInputs = kWholeGroup;
  static constexpr int64_t kStored = kInputs / 2;
  static constexpr int64_t kPrepared = sizeof(WholeGroup);
  static constexpr int kSteps = kWholeSteps;
  static constexpr int64_t kOperand = kWholeNumbers;
  static constexpr int64_t kScales = kWidth;
  static constexpr int64_t kFew = kFewE2m1;
  static constexpr int64_t kAhead = 8192;
  using Sum = Whole;

  static Numbers operand(const uint8_t* p) { return load_numbers(p); }
  static void keep(uint8_t* p, Numbers x) { store_numbers(p, x); }
  template <class Use>
  static inline __attribute__((always_inline)) void decode(const uint8_t* p, Use use) {
    fp4_group(p, use);
  }
  static const WholeGroup* group(const uint8_t* x) {
    return static_cast<const WholeGroup*>(static_cast<const void*>(x));
  }
  static Sum start(const uint8_t* x) { return load_whole(group(x)->start); }
  static Sum multiply(Sum sum, Numbers w, Numbers x) { return multiply_numbers(sum, w, x); }
  static F add(Sum sum, F scale, const uint8_t* x, F total) {
    return fma(to_float(sum), scale * load(group(x)->scales), total);
  }
  static F load_scale(const float* scale) { return load(scale); }
  static void decode_scales(const Matrix& w, int64_t n, float* out) {
    Scales scales;
    scales.open(w, n, nullptr);
    for (int64_t g = 0; g < pieces(w.cols, kInputs); ++g) store(out + g * kWidth, scales.of(g));
  }

  class Scales {
   public:
    void open(const Matrix& w, int64_t n, float*) {
      const int64_t count = pieces(w.cols, kBlock), left = count % kWidth;
      whole_ = count / kWidth;
      codes_ = w.scale + n * count;
      for (int64_t i = 0; i < left; ++i) rest_[i] = codes_[count - left + i];
      for (int64_t i = left; i < kWidth; ++i) rest_[i] = 0;
    }
    F of(int64_t g) const { return lane_scales(g < whole_ ? codes_ + g * kWidth : rest_); }

   private:
    int64_t whole_ = 0;
    const uint8_t* codes_ = nullptr;
    uint8_t rest_[kWidth];
  };
};

}  // namespace product
}  // namespace
}  // namespace DSV4_ISA
}  // namespace dsv4

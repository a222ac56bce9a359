// Single kernels for the tests: each call runs one kernel on the calling thread.
#include <nanobind/nanobind.h>

#include <cstdlib>
#include <vector>

#include "kernels.h"
#include "scratch.h"

namespace nb = nanobind;
using Address = uintptr_t;

namespace dsv4 {
namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

void matmul(Address x, int64_t tokens, Address data, Address scale, int format, int64_t rows,
            int64_t cols, Address chosen, int64_t count, int64_t begin, int64_t end, Address y) {
  const Kernels& k = kernels();
  Scratch prepared, scratch;
  void* ready = prepared.get<uint8_t>(k.prepared_bytes(tokens, cols));
  const Matrix w{at<uint8_t>(data), at<uint8_t>(scale), rows, cols, static_cast<Format>(format)};
  k.prepare(at<float>(x), cols, cols, 0, tokens, w.format == Format::kFP4, ready);
  k.matmul(ready, at<int32_t>(chosen), count, w, begin, end, at<float>(y), end - begin,
           scratch.get<uint8_t>(k.matmul_scratch_bytes(cols)));
}

void decode_rows(Address data, Address scale, int format, int64_t rows, int64_t cols, int64_t begin,
                 int64_t end, Address out) {
  const Matrix w{at<uint8_t>(data), at<uint8_t>(scale), rows, cols, static_cast<Format>(format)};
  kernels().decode_rows(w, begin, end, at<float>(out));
}

void pack_kv(Address x, int64_t count, int64_t width, int64_t rotated, Address out) {
  const KvLayout layout{width, rotated};
  for (int64_t i = 0; i < count; ++i)
    kernels().pack_kv(at<float>(x) + i * width, layout, at<uint8_t>(out) + i * layout.stride());
}

void unpack_kv(Address rows, int64_t count, int64_t width, int64_t rotated, Address out) {
  const KvLayout layout{width, rotated};
  for (int64_t i = 0; i < count; ++i)
    kernels().unpack_kv(at<uint8_t>(rows) + i * layout.stride(), layout,
                        at<float>(out) + i * width);
}

void pack_key(Address x, int64_t count, int64_t width, Address out) {
  const KeyLayout layout{width};
  for (int64_t i = 0; i < count; ++i)
    kernels().pack_key(at<float>(x) + i * width, layout, at<uint8_t>(out) + i * layout.stride());
}

void unpack_key(Address rows, int64_t count, int64_t width, Address out) {
  const KeyLayout layout{width};
  for (int64_t i = 0; i < count; ++i)
    kernels().unpack_key(at<uint8_t>(rows) + i * layout.stride(), layout,
                         at<float>(out) + i * width);
}

void attend(Address q, Address rows, Address chosen, int64_t count, int64_t width, int64_t rotated,
            Address sinks, int64_t heads, int64_t head_begin, int64_t head_end, Address out) {
  const KvLayout layout{width, rotated};
  std::vector<const uint8_t*> pointers(count);
  for (int64_t j = 0; j < count; ++j)
    pointers[j] = at<uint8_t>(rows) + at<int32_t>(chosen)[j] * layout.stride();
  Scratch scratch;
  kernels().attend(at<float>(q), pointers.data(), count, layout, at<float>(sinks), head_begin,
                   head_end, at<float>(out),
                   scratch.get<uint8_t>(kernels().attend_scratch_bytes(layout, heads)));
}

// Chosen from `parts` parts of the entries one by one, then merged. `keys`: rows behind each other,
// looked at as blocks of 2^shift rows.
void select(Address q, Address weights, int64_t heads, Address keys, int64_t count, int64_t width,
            int64_t k, int64_t parts, int64_t shift, Address out) {
  const Kernels& table = kernels();
  const KeyLayout layout{width};
  Scratch scratch, merging;
  std::vector<float> scores(parts * k);
  std::vector<int32_t> entries(parts * k);
  std::vector<uint8_t*> blocks;
  for (int64_t i = 0; i < count; i += int64_t{1} << shift)
    blocks.push_back(at<uint8_t>(keys) + i * layout.stride());
  const PagedRows rows{blocks.data(), 0, shift, layout.stride()};
  int64_t held = 0;
  for (int64_t i = 0; i < parts; ++i)
    held += table.select(at<uint8_t>(q), at<float>(weights), heads, rows,
                         count * i / parts, count * (i + 1) / parts, layout, k,
                         scores.data() + held, entries.data() + held,
                         scratch.get<uint8_t>(table.select_scratch_bytes(layout, heads, k)));
  table.merge(scores.data(), entries.data(), held, k, at<int32_t>(out),
              merging.get<uint8_t>(table.merge_scratch_bytes(k)));
}

void rms_norm(Address x, int64_t n, Address weight, float eps, Address out) {
  kernels().rms_norm(at<float>(x), n, at<uint16_t>(weight), eps, at<float>(out));
}

void swiglu(Address a, Address b, int64_t n, float limit, float scale, Address out) {
  kernels().swiglu(at<float>(a), at<float>(b), n, limit, scale, at<float>(out));
}

void rotate(Address x, Address cos, Address sin, int64_t pairs, float sign) {
  kernels().rotate(at<float>(x), at<float>(cos), at<float>(sin), pairs, sign);
}

void pool(Address values, Address gates, Address ape, int64_t rows, int64_t n, Address out) {
  std::vector<const float*> v(rows), g(rows), a(rows);
  for (int64_t j = 0; j < rows; ++j) {
    v[j] = at<float>(values) + j * n;
    g[j] = at<float>(gates) + j * n;
    a[j] = at<float>(ape) + j * n;
  }
  kernels().pool(v.data(), g.data(), a.data(), rows, n, at<float>(out));
}

float dot(Address a, Address b, int64_t n) { return kernels().dot(at<float>(a), at<float>(b), n); }

float square_sum(Address x, int64_t n) { return kernels().square_sum(at<float>(x), n); }

void weighted_sum(Address x, int64_t stride, Address weights, int64_t count, int64_t n,
                  Address out) {
  kernels().weighted_sum(at<float>(x), stride, at<float>(weights), count, n, at<float>(out));
}

}  // namespace

void bind_kernels(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("kernels", "single kernels, for tests");
  m.def("matmul", &matmul);
  m.def("decode_rows", &decode_rows);
  m.def("pack_kv", &pack_kv);
  m.def("unpack_kv", &unpack_kv);
  m.def("pack_key", &pack_key);
  m.def("unpack_key", &unpack_key);
  m.def("attend", &attend);
  m.def("select", &select);
  m.def("rms_norm", &rms_norm);
  m.def("swiglu", &swiglu);
  m.def("rotate", &rotate);
  m.def("pool", &pool);
  m.def("dot", &dot);
  m.def("square_sum", &square_sum);
  m.def("weighted_sum", &weighted_sum);
}

}  // namespace dsv4

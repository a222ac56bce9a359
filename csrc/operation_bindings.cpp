// Operations for Python: built once per layer from addresses, then called with addresses. Whoever
// builds one keeps the memory behind the addresses alive.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "operations/attention.h"
#include "operations/ceiling.h"
#include "operations/connection.h"
#include "operations/engram.h"
#include "operations/experts.h"
#include "operations/model.h"
#include "operations/product.h"
#include "operations/workspace.h"
#include "reads.h"

namespace nb = nanobind;
using namespace nb::literals;
using Address = uintptr_t;
using NoGil = nb::call_guard<nb::gil_scoped_release>;

namespace dsv4 {
namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

RingView ring(const std::tuple<Address, int64_t, int64_t>& view) {
  return {at<uint8_t>(std::get<0>(view)), std::get<1>(view), std::get<2>(view)};
}

using Ring = std::tuple<Address, int64_t, int64_t>;          // address, capacity, stride in bytes
using Paged = std::tuple<Address, int64_t, int64_t, int64_t>;  // blocks, offset, shift, stride
using Rows = std::tuple<Ring, Ring, Paged>;                  // values, gates, entries

// Tokens, their first position, the length up to which entries are final.
using Extent = std::tuple<int64_t, int64_t, int64_t>;

PagedRows paged(const Paged& view) {
  return {at<uint8_t*>(std::get<0>(view)), std::get<1>(view), std::get<2>(view),
          std::get<3>(view)};
}

CompressorView rows(const std::optional<Rows>& view) {
  if (!view) return {};
  return {ring(std::get<0>(*view)), ring(std::get<1>(*view)), paged(std::get<2>(*view))};
}

// The sequences of one layer, whose rows lie behind each other.
std::vector<Run> runs_of(const std::vector<Extent>& extents,
                         const std::vector<const LayerView*>& states) {
  std::vector<Run> runs;
  int64_t row = 0;
  for (size_t i = 0; i < extents.size(); ++i) {
    const auto& [tokens, start, sealed] = extents[i];
    runs.push_back({row, tokens, start, sealed, *states.at(i)});
    row += tokens;
  }
  return runs;
}

void bind_connection(nb::module_& m) {
  nb::class_<Connection>(m, "Connection")
      .def(
          "__init__",
          [](Connection* self, Address fn, Address base, Address scale, Address norm,
             int64_t streams, int64_t width, int64_t iterations, float hc_eps, float eps) {
            new (self) Connection{at<float>(fn), at<float>(base), at<float>(scale),
                                  at<float>(norm), streams, width, iterations, hc_eps, eps};
          },
          nb::kw_only(), "fn"_a, "base"_a, "scale"_a, "norm"_a, "streams"_a, "width"_a,
          "iterations"_a, "hc_eps"_a, "eps"_a)
      .def(
          "enter",
          [](const Connection& self, Address x, int64_t tokens, Address input, Address post,
             Address comb) {
            self.enter(at<float>(x), tokens, at<float>(input), at<float>(post), at<float>(comb));
          },
          NoGil())
      .def(
          "leave",
          [](const Connection& self, Address y, Address x, Address post, Address comb,
             int64_t tokens, Address out) {
            leave(at<float>(y), at<float>(x), at<float>(post), at<float>(comb), tokens,
                  self.streams, self.width, at<float>(out));
          },
          NoGil());
  nb::class_<Collapse>(m, "Collapse")
      .def(
          "__init__",
          [](Collapse* self, Address fn, Address base, Address scale, Address norm,
             int64_t streams, int64_t width, float hc_eps, float eps) {
            new (self) Collapse{at<float>(fn), at<float>(base), at<float>(scale), at<float>(norm),
                                streams, width, hc_eps, eps};
          },
          nb::kw_only(), "fn"_a, "base"_a, "scale"_a, "norm"_a, "streams"_a, "width"_a, "hc_eps"_a,
          "eps"_a)
      .def(
          "run",
          [](const Collapse& self, Address x, int64_t tokens, Address out) {
            self.run(at<float>(x), tokens, at<float>(out));
          },
          NoGil());
}

void bind_attention(nb::module_& m) {
  // The window, and the rows of the compressor and of the indexer, where there are any.
  nb::class_<LayerView>(m, "LayerView")
      .def(
          "__init__",
          [](LayerView* self, const Ring& window, const std::optional<Rows>& compressor,
             const std::optional<Rows>& indexer) {
            new (self) LayerView{ring(window), rows(compressor), rows(indexer)};
          },
          "window"_a, "compressor"_a.none(), "indexer"_a.none());
  nb::class_<Compressor>(m, "Compressor")
      .def(
          "__init__",
          [](Compressor* self, const Matrix& wkv, const Matrix& wgate, Address ape, Address norm,
             int64_t ratio, int64_t width, bool overlaps) {
            new (self) Compressor{wkv, wgate, at<float>(ape), at<float>(norm),
                                  ratio, width, overlaps};
          },
          nb::kw_only(), "wkv"_a, "wgate"_a, "ape"_a, "norm"_a, "ratio"_a, "width"_a, "overlaps"_a);
  nb::class_<Indexer>(m, "Indexer")
      .def(
          "__init__",
          [](Indexer* self, const Matrix& wq_b, const Matrix& weights_proj,
             const Compressor& compressor, int64_t heads, int64_t topk, float scale) {
            new (self) Indexer{wq_b, weights_proj, compressor, heads, topk, scale};
          },
          nb::kw_only(), "wq_b"_a, "weights_proj"_a, "compressor"_a, "heads"_a, "topk"_a,
          "scale"_a);
  nb::class_<Attention>(m, "Attention")
      .def(
          "__init__",
          [](Attention* self, const Matrix& wq_a, const Matrix& wq_b, const Matrix& wkv,
             const Matrix& wo_a, const Matrix& wo_b, Address q_norm, Address kv_norm,
             Address sinks, Address omega, int64_t heads, int64_t width, int64_t rotated,
             int64_t groups, int64_t window, int64_t ratio, float eps,
             std::optional<Compressor> compressor, std::optional<Indexer> indexer) {
            new (self) Attention{wq_a,
                                 wq_b,
                                 wkv,
                                 wo_a,
                                 wo_b,
                                 at<float>(q_norm),
                                 at<float>(kv_norm),
                                 at<float>(sinks),
                                 at<float>(omega),
                                 heads,
                                 width,
                                 rotated,
                                 groups,
                                 window,
                                 ratio,
                                 eps,
                                 indexer.has_value(),
                                 compressor.value_or(Compressor{}),
                                 indexer.value_or(Indexer{})};
          },
          nb::kw_only(), "wq_a"_a, "wq_b"_a, "wkv"_a, "wo_a"_a, "wo_b"_a, "q_norm"_a, "kv_norm"_a,
          "sinks"_a, "omega"_a, "heads"_a, "width"_a, "rotated"_a, "groups"_a, "window"_a,
          "ratio"_a, "eps"_a, "compressor"_a.none(), "indexer"_a.none())
      .def(
          "run",
          [](const Attention& self, Address x, const std::vector<Extent>& extents,
             const std::vector<const LayerView*>& states, Address y) {
            const std::vector<Run> runs = runs_of(extents, states);
            nb::gil_scoped_release release;
            self.run(at<float>(x), runs, at<float>(y));
          });
}

void bind_mixture(nb::module_& m) {
  nb::class_<Expert>(m, "Expert")
      .def("__init__", [](Expert* self, const Matrix& w1, const Matrix& w3, const Matrix& w2) {
        new (self) Expert{w1, w3, w2};
      });
  nb::class_<Mixture>(m, "Mixture")
      .def(
          "__init__",
          [](Mixture* self, const Matrix& gate, Address bias, Address table, const Expert& shared,
             std::vector<Expert> experts, int64_t chosen, float scale, float limit) {
            new (self) Mixture{gate,   at<float>(bias), at<int64_t>(table), shared,
                               std::move(experts), chosen, scale, limit};
          },
          nb::kw_only(), "gate"_a, "bias"_a, "table"_a, "shared"_a, "experts"_a, "chosen"_a,
          "scale"_a, "limit"_a)
      .def("set_expert",
           [](Mixture& self, int64_t number, const Expert& expert) {
             self.experts.at(static_cast<size_t>(number)) = expert;
           })
      .def(
          "route",
          [](const Mixture& self, Address x, Address ids, int64_t tokens, Address scores,
             Address picked, Address weights) {
            self.route(at<float>(x), at<int64_t>(ids), tokens, at<float>(scores),
                       at<int64_t>(picked), at<float>(weights));
          },
          NoGil())
      .def(
          "run",
          [](const Mixture& self, Address x, int64_t tokens, Address picked, Address weights,
             const std::optional<std::vector<int64_t>>& group, bool last, Address parts,
             Address y) {
            nb::gil_scoped_release release;
            self.run(at<float>(x), tokens, at<int64_t>(picked), at<float>(weights),
                     group ? &*group : nullptr, last, at<float>(parts), at<float>(y));
          },
          "x"_a, "tokens"_a, "picked"_a, "weights"_a, "group"_a.none(), "last"_a, "parts"_a,
          "y"_a);
}

void bind_engram(nb::module_& m) {
  using Constants = std::tuple<Address, Address, Address>;  // multipliers, primes, offsets
  nb::class_<Ngrams>(m, "Ngrams")
      .def(
          "__init__",
          [](Ngrams* self, Address canonical, int64_t padding, int64_t longest, int64_t reads,
             const std::vector<Constants>& tables) {
            new (self) Ngrams{at<int64_t>(canonical), padding, longest, reads, {}};
            for (const auto& [multipliers, primes, offsets] : tables)
              self->tables.push_back(
                  {at<int64_t>(multipliers), at<int64_t>(primes), at<int64_t>(offsets)});
          },
          nb::kw_only(), "canonical"_a, "padding"_a, "longest"_a, "reads"_a, "tables"_a);
  nb::class_<Engram>(m, "Engram")
      .def(
          "__init__",
          [](Engram* self, const Matrix& table, const Matrix& wkv, Address q_weight,
             Address k_weight, int64_t reads, int64_t streams, int64_t width, float eps) {
            new (self) Engram{table, wkv,     at<float>(q_weight), at<float>(k_weight),
                              reads, streams, width,               eps};
          },
          nb::kw_only(), "table"_a, "wkv"_a, "q_weight"_a, "k_weight"_a, "reads"_a, "streams"_a,
          "width"_a, "eps"_a)
      .def(
          "add",
          [](const Engram& self, Address read, int64_t tokens, Address x) {
            self.add(at<float>(read), tokens, at<float>(x));
          },
          NoGil());
}

void bind_model(nb::module_& m) {
  using Parts = std::tuple<const Connection*, const Attention*, const Connection*, const Mixture*,
                           const Engram*>;
  nb::class_<Model>(m, "Model")
      .def(
          "__init__",
          [](Model* self, const Matrix& embedding, const std::vector<Parts>& layers,
             const Collapse* collapse, const Matrix& head, const Ngrams* ngrams) {
            new (self) Model{embedding, {}, collapse, head, ngrams};
            for (const auto& [first, attention, second, experts, engram] : layers)
              self->layers.push_back({first, attention, second, experts, engram});
          },
          nb::kw_only(), "embedding"_a, "layers"_a, "collapse"_a, "head"_a, "ngrams"_a.none())
      .def(
          "run",
          [](const Model& self, Address ids, int64_t tokens, const std::vector<Extent>& extents,
             const std::vector<std::vector<const LayerView*>>& states,
             const std::vector<Ring>& rings, Address streams, Address scores, Address picked,
             Address logits, Address wanted, int64_t count) {
            std::vector<std::vector<Run>> runs;
            for (const std::vector<const LayerView*>& sequences : states)
              runs.push_back(runs_of(extents, sequences));
            std::vector<RingView> past;
            for (const Ring& view : rings) past.push_back(ring(view));
            const Results results{at<float>(streams), at<float>(scores),   at<int64_t>(picked),
                                  at<float>(logits),  at<int64_t>(wanted), count};
            nb::gil_scoped_release release;
            self.run(at<int64_t>(ids), tokens, runs, past, results);
          });
}

// y [tokens, rows] = x [tokens, cols] times a weight.
void multiply_matrix(Address x, int64_t tokens, const Matrix& w, Address y) {
  Session session;
  Clock clock;
  const void* input = prepare(session.w.prepared[0], at<float>(x), tokens, w);
  multiply(session.w, {product(input, tokens, w, at<float>(y))});
  clock.mark(kHead);
}

}  // namespace

void bind_operations(nb::module_& m) {
  nb::class_<Matrix>(m, "Matrix")
      .def("__init__", [](Matrix* self, Address data, Address scale, int64_t rows, int64_t cols,
                          int format) {
        new (self) Matrix{at<uint8_t>(data), at<uint8_t>(scale), rows, cols,
                          static_cast<Format>(format)};
      })
      .def_ro("cols", &Matrix::cols);
  bind_connection(m);
  bind_attention(m);
  bind_mixture(m);
  bind_engram(m);
  bind_model(m);
  m.def("multiply", &multiply_matrix, NoGil());
  m.def(
      "gather",
      [](const Matrix& table, Address rows, int64_t tokens, int64_t reads, Address read) {
        gather(table, at<int64_t>(rows), tokens, reads, at<float>(read));
      },
      NoGil());
  m.def(
      "read_pass",
      [](Address data, int64_t bytes) { return read_pass(at<uint8_t>(data), bytes); }, NoGil());
  m.def(
      "read_places",
      [](int file, Address places, int64_t count, int64_t size, Address out) {
        int error = 0;
        const int64_t there =
            read_places(file, at<int64_t>(places), count, size, at<uint8_t>(out), &error);
        return std::make_pair(there, error);
      },
      NoGil());
  m.def("stage_times", [] {
    std::vector<std::tuple<std::string, int64_t, int64_t>> rows;
    for (int i = 0; i < kStages; ++i)
      rows.emplace_back(kStageNames[i], stage_times[i].nanoseconds, stage_times[i].calls);
    return rows;
  });
  m.def("reset_stage_times", [] {
    for (StageTime& time : stage_times) time = {};
  });
}

}  // namespace dsv4

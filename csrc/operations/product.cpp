#include "operations/product.h"

#include <algorithm>

namespace dsv4 {
namespace {

// Rows of a weight that one task computes: enough work to be worth handing out, few enough that
// threads finish together. Multiples of 16 keep the kernels' row tiles whole.
int64_t rows_per_task(const Product& p, int64_t all_work) {
  const int64_t threads = thread_count();
  const int64_t work = all_work / (threads * 16) + 1;
  const int64_t per_row = p.w.cols * std::max<int64_t>(p.count, 1);
  const int64_t rows = (work / per_row + 15) / 16 * 16;
  return std::clamp<int64_t>(rows, 16, p.count > 4 ? 64 : 1024);
}

struct Piece {
  const Product* product;
  int64_t begin;
  int64_t end;
};

}  // namespace

const void* prepare(Scratch& buffer, const float* x, int64_t tokens, int64_t cols, bool whole) {
  const Kernels& k = kernels();
  void* out = buffer.get<uint8_t>(k.prepared_bytes(tokens, cols));
  const int64_t block = 16;
  parallel((tokens + block - 1) / block, [&](int64_t task, int) {
    k.prepare(x, cols, cols, task * block, std::min(tokens, (task + 1) * block), whole, out);
  });
  return out;
}

void multiply(Workspace& w, const std::vector<Product>& products) {
  const Kernels& k = kernels();
  static thread_local std::vector<Piece> pieces;
  pieces.clear();
  int64_t work = 0, widest = 1;
  for (const Product& p : products) {
    work += (p.end - p.begin) * p.w.cols * p.count;
    widest = std::max(widest, p.w.cols);
  }
  for (const Product& p : products) {
    if (p.count == 0) continue;
    const int64_t step = rows_per_task(p, work);
    for (int64_t n = p.begin; n < p.end; n += step)
      pieces.push_back({&p, n, std::min(p.end, n + step)});
  }
  const int64_t scratch = k.matmul_scratch_bytes(widest);
  const std::vector<Piece>& all = pieces;
  parallel(static_cast<int64_t>(all.size()), [&](int64_t task, int thread) {
    const Piece& piece = all[static_cast<size_t>(task)];
    const Product& p = *piece.product;
    k.matmul(p.x, p.tokens, p.count, p.w, piece.begin, piece.end, p.y + (piece.begin - p.begin),
             p.ldy, w.thread_bytes(thread, scratch));
  });
}

}  // namespace dsv4

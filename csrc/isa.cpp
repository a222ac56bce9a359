// Compiled once per instruction set, with DSV4_ISA (the namespace) and the flags that allow it.
// What is included below may use nothing inline from the standard library: a function compiled
// here for AVX-512 could be linked into code that runs everywhere.
#include "kernels.h"

#define DSV4_STRING_(x) #x
#define DSV4_STRING(x) DSV4_STRING_(x)

#include "simd/simd.h"

#include "kernels/vector.h"

#include "kernels/matmul.h"

#include "kernels/rows.h"

#include "kernels/attention.h"
#include "kernels/index.h"

namespace dsv4 {
namespace DSV4_ISA {

const Kernels& table() {
  static const Kernels kTable = {
      DSV4_STRING(DSV4_ISA),
      prepared_bytes,
      prepare,
      matmul_scratch_bytes,
      matmul,
      decode_rows,
      pack_kv,
      unpack_kv,
      pack_key,
      unpack_key,
      attend_scratch_bytes,
      attend,
      select_scratch_bytes,
      select,
      merge_scratch_bytes,
      merge,
      rms_norm,
      rotate,
      swiglu,
      pool,
      dot,
      square_sum,
      weighted_sum,
  };
  return kTable;
}

}  // namespace DSV4_ISA
}  // namespace dsv4

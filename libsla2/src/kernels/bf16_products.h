// SPDX-License-Identifier: Apache-2.0
// Inner part of packed_linear: bf16 weights in oneDNN's blocked layout, cut in panels of kColumnPanel output channels,
// and one primitive per shape of a tile. Used only where has_fast_bf16().
#pragma once
#include <cstdint>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "kernels/packed_linear.h"

namespace sla2::kernels {

class PackedLinear::Bf16Products {
 public:
  Bf16Products(int64_t in, int64_t out, const bf16_t* weight);
  /// Make the primitives for row tiles of `rows` and `last_rows`; ldy <= 0 means a dense tile. Call before running in parallel.
  void prepare(int64_t rows, int64_t last_rows, int64_t ldy);
  /// y [rows, panel's columns] = x [rows, in] · panelᵀ, leading dimension as prepared. On the calling thread alone.
  void run(const bf16_t* x, int64_t rows, int64_t panel, float* y, int64_t ldy) const;

 private:
  struct Key {
    int64_t rows, columns, ldy;
    auto operator<=>(const Key&) const = default;
  };
  struct Product {
    dnnl::matmul primitive;
    dnnl::memory::desc x, y, scratch;
  };
  [[nodiscard]] int64_t columns_of(int64_t panel) const;
  [[nodiscard]] dnnl::matmul::primitive_desc describe(int64_t rows, int64_t columns, int64_t ldy,
                                                      const dnnl::memory::desc& w) const;

  int64_t in_, out_;
  dnnl::engine engine_;
  std::vector<dnnl::memory> panels_;
  std::map<Key, Product> products_;
};

}  // namespace sla2::kernels

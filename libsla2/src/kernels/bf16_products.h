// SPDX-License-Identifier: Apache-2.0
// Inner part of packed_linear: bf16 weights in oneDNN's blocked layout, cut in panels of kColumnPanel output channels,
// and one primitive per shape of a tile. Used only where has_fast_bf16().
// Results are dense tiles: for a strided one oneDNN 2.6 falls back to products 60 to 2,000 times slower.
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
  /// Make the primitives for row tiles of `rows` and `last_rows`. Call before running in parallel.
  void prepare(int64_t rows, int64_t last_rows);
  /// y [rows, panel's columns] = x [rows, in] · panelᵀ, both dense. On the calling thread alone.
  void run(const bf16_t* x, int64_t rows, int64_t panel, float* y) const;

 private:
  struct Key {
    int64_t rows, columns;
    auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees the 0 of (a <=> b) < 0
  };
  struct Product {
    dnnl::matmul primitive;
    dnnl::memory::desc x, y, scratch;
  };
  [[nodiscard]] int64_t columns_of(int64_t panel) const;
  [[nodiscard]] dnnl::matmul::primitive_desc describe(int64_t rows, int64_t columns, const dnnl::memory::desc& w) const;

  int64_t in_, out_;
  dnnl::engine engine_;
  std::vector<dnnl::memory> panels_;
  std::map<Key, Product> products_;
};

}  // namespace sla2::kernels

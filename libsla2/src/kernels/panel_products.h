// SPDX-License-Identifier: Apache-2.0
// Inner part of packed_linear: narrow weights in oneDNN's blocked layout, cut in panels of kColumnPanel output channels,
// and one primitive per shape of a tile. bf16 · bf16 with fp32 sums, or unsigned · signed bytes with int32 sums.
// Results are dense tiles: for a strided one oneDNN 2.6 falls back to products 60 to 2,000 times slower.
#pragma once
#include <cstdint>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

#include "kernels/dnnl_buffer.h"
#include "kernels/packed_linear.h"

namespace sla2::kernels {

class PackedLinear::PanelProducts {
 public:
  using Type = dnnl::memory::data_type;
  /// Element types of x, of the weight and of the result.
  struct Types {
    Type x, weight, y;
  };
  static constexpr Types kBf16{Type::bf16, Type::bf16, Type::f32}, kInt8{Type::u8, Type::s8, Type::s32};

  /// @param weight [out, in], dense, of types.weight; not needed afterwards
  PanelProducts(int64_t in, int64_t out, const Types& types, const void* weight);
  /// Make the primitives for row tiles of `rows` and `last_rows`. Call before running in parallel.
  void prepare(int64_t rows, int64_t last_rows);
  /// y [rows, panel's columns] = x [rows, in] · panelᵀ, both dense. On the calling thread alone.
  void run(const void* x, int64_t rows, int64_t panel, void* y) const;

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
  Types types_;
  dnnl::engine engine_;
  std::vector<DnnlBuffer> panels_;
  std::map<Key, Product> products_;
};

}  // namespace sla2::kernels

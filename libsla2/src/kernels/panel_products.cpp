// SPDX-License-Identifier: Apache-2.0
#include "kernels/panel_products.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/gemm.h"

namespace sla2::kernels {

namespace {

using Dims = dnnl::memory::dims;
using Desc = dnnl::memory::desc;

/// oneDNN fixes the number of threads when a primitive is made; tiles run on one thread each.
template <typename Make>
auto for_one_thread(const Make& make) {
  const ThreadCountScope one(1);
  return make();
}

}  // namespace

int activation_levels() {
  constexpr int kAll = 255, kWithoutVnni = 127;
  static const bool vnni = [] {
    constexpr auto kNeeded = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_vnni);
    return active_isa() >= Isa::kAvx512 && (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kNeeded) == kNeeded;
  }();
  return vnni ? kAll : kWithoutVnni;
}

int64_t PackedLinear::PanelProducts::columns_of(int64_t panel) const {
  return std::min(kColumnPanel, out_ - panel * kColumnPanel);
}

dnnl::matmul::primitive_desc PackedLinear::PanelProducts::describe(int64_t rows, int64_t columns, const Desc& w) const {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const Desc x({rows, in_}, types_.x, Dims{in_, 1}), y({rows, columns}, types_.y, Dims{columns, 1});
  return {dnnl::matmul::desc(x, w, y), attributes, engine_};
}

PackedLinear::PanelProducts::PanelProducts(int64_t in, int64_t out, const Types& types, const void* weight)
    : in_(in), out_(out), types_(types), engine_(dnnl::engine::kind::cpu, 0) {
  const auto* bytes = static_cast<const std::byte*>(weight);
  const auto row_bytes = static_cast<size_t>(in) * dnnl::memory::data_type_size(types.weight);
  try {
    dnnl::stream stream(engine_);
    for (int64_t column = 0; column < out; column += kColumnPanel) {
      const int64_t columns = columns_of(column / kColumnPanel);
      const Desc any({in, columns}, types.weight, dnnl::memory::format_tag::any), plain({in, columns}, types.weight, Dims{1, in});
      const auto chosen = for_one_thread([&] { return describe(kMaxRowTile, columns, any); }).weights_desc();
      // oneDNN's memory takes a mutable pointer; the reorder only reads it.
      dnnl::memory source(plain, engine_, const_cast<std::byte*>(bytes + static_cast<size_t>(column) * row_bytes));
      DnnlBuffer target(chosen, engine_);
      dnnl::reorder(source, target.memory).execute(stream, source, target.memory);
      stream.wait();
      panels_.push_back(std::move(target));
    }
  } catch (const dnnl::error& error) {
    fail(SLA2_E_INTERNAL, "oneDNN: packing a weight [{}, {}]: {}", out, in, error.what());
  }
}

void PackedLinear::PanelProducts::prepare(int64_t rows, int64_t last_rows) {
  try {
    for (const size_t panel : {size_t{0}, panels_.size() - 1}) {
      const int64_t columns = columns_of(static_cast<int64_t>(panel));
      for (const int64_t count : {rows, last_rows}) {
        const Key key{count, columns};
        if (products_.contains(key)) continue;
        products_.emplace(key, for_one_thread([&] {
                            const auto made = describe(count, columns, panels_[panel].memory.get_desc());
                            return Product{dnnl::matmul(made), made.src_desc(), made.dst_desc(), made.scratchpad_desc()};
                          }));
      }
    }
  } catch (const dnnl::error& error) {
    fail(SLA2_E_INTERNAL, "oneDNN: product [{}, {}] x [{}, {}]: {}", rows, in_, in_, out_, error.what());
  }
}

void PackedLinear::PanelProducts::run(const void* x, int64_t rows, int64_t panel, void* y) const {
  const Product& product = products_.at({rows, columns_of(panel)});
  dnnl::stream stream(engine_);
  dnnl::memory source(product.x, engine_, const_cast<void*>(x)), target(product.y, engine_, y);
  dnnl::memory scratch(product.scratch, engine_);
  product.primitive.execute(stream, {{DNNL_ARG_SRC, source},
                                     {DNNL_ARG_WEIGHTS, panels_[static_cast<size_t>(panel)].memory},
                                     {DNNL_ARG_DST, target},
                                     {DNNL_ARG_SCRATCHPAD, scratch}});
  stream.wait();
}

}  // namespace sla2::kernels

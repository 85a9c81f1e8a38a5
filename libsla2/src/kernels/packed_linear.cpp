// SPDX-License-Identifier: Apache-2.0
#include "kernels/packed_linear.h"

#include <algorithm>

#include "kernels/bf16_products.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"

namespace sla2::kernels {

namespace {

constexpr uint64_t kLine = 64;
constexpr int64_t kConvertGrain = 16;  // rows

uint64_t whole_lines(uint64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

bool native_bf16(Compute compute) { return compute == Compute::kBf16 && has_fast_bf16(); }

}  // namespace

/// Where things lie in the workspace: x rounded to bf16, then per worker a widened panel and a product tile.
struct PackedLinear::Scratch {
  uint64_t rounded = 0, panel = 0, tile = 0;
  Scratch(int64_t in, int64_t out, int64_t rows, DType held, Compute compute) {
    const auto columns = static_cast<uint64_t>(std::min(out, kColumnPanel));
    const bool native = native_bf16(compute);
    if (compute == Compute::kBf16)
      rounded = whole_lines(static_cast<uint64_t>(rows * in) * (native ? sizeof(bf16_t) : sizeof(float)));
    if (held != DType::kF32 && !native) panel = whole_lines(columns * static_cast<uint64_t>(in) * sizeof(float));
    tile = whole_lines(columns * static_cast<uint64_t>(std::min(row_tile(rows), rows)) * sizeof(float));
  }
  [[nodiscard]] uint64_t per_worker() const { return panel + tile; }
};

PackedLinear::PackedLinear(int64_t in, int64_t out, DType held, Compute compute)
    : in_(in),
      out_(out),
      held_(held),
      compute_(compute),
      weight_(static_cast<size_t>(in * out) * dtype_size(held)),
      bias_(static_cast<size_t>(out)),
      ones_(static_cast<size_t>(out)) {
  SLA2_CHECK(held == DType::kF32 || held == DType::kBF16 || held == DType::kF16, SLA2_E_INTERNAL,
             "linear layer: weights held as {}", dtype_name(held));
  std::fill_n(bias_.data(), out, 0.0F);
  std::fill_n(ones_.data(), out, 1.0F);
}
PackedLinear::PackedLinear() = default;
PackedLinear::~PackedLinear() = default;
PackedLinear::PackedLinear(PackedLinear&&) noexcept = default;
PackedLinear& PackedLinear::operator=(PackedLinear&&) noexcept = default;

uint64_t PackedLinear::held_bytes(int64_t in, int64_t out, DType held) noexcept {
  return static_cast<uint64_t>(in * out) * dtype_size(held) + 2 * static_cast<uint64_t>(out) * sizeof(float);
}

uint64_t PackedLinear::workspace_bytes(int64_t in, int64_t out, int64_t rows, DType held, Compute compute) noexcept {
  const Scratch scratch(in, out, rows, held, compute);
  return scratch.rounded + scratch.per_worker() * static_cast<uint64_t>(thread_count());
}

void PackedLinear::pack() {
  if (compute_ != Compute::kBf16) return;
  if (native_bf16(compute_)) {
    SLA2_CHECK(held_ == DType::kBF16, SLA2_E_INTERNAL, "linear layer: bf16 products need weights held as bf16");
    bf16_ = std::make_unique<Bf16Products>(in_, out_, reinterpret_cast<const bf16_t*>(weight_.data()));
    weight_ = {};
    return;
  }
  if (held_ == DType::kF32) {  // round once what the product would read as bf16
    auto* values = reinterpret_cast<float*>(weight_.data());
    elementwise().round_to_bf16(values, values, static_cast<size_t>(in_ * out_));
  }
}

const float* PackedLinear::panel_weights(int64_t column, int64_t columns, float* scratch) const {
  const size_t first = static_cast<size_t>(column * in_), count = static_cast<size_t>(columns * in_);
  if (held_ == DType::kF32) return reinterpret_cast<const float*>(weight_.data()) + first;
  const uint16_t* narrow = reinterpret_cast<const uint16_t*>(weight_.data()) + first;
  if (held_ == DType::kBF16) {
    elementwise().widen_bf16(narrow, scratch, count);
  } else {
    elementwise().widen_f16(narrow, scratch, count);
    if (compute_ == Compute::kBf16) elementwise().round_to_bf16(scratch, scratch, count);
  }
  return scratch;
}

void PackedLinear::finish(const float* product, int64_t ld_product, int64_t row, int64_t rows, int64_t column, int64_t columns,
                          float* y, int64_t ldy, const Epilogue& epilogue) const {
  const ElementwiseTable& run = elementwise();
  const auto count = static_cast<size_t>(columns);
  const float* bias = bias_.data() + column;
  const float* gate = (epilogue.gate != nullptr ? epilogue.gate : ones_.data()) + column;
  for (int64_t i = 0; i < rows; ++i) {
    const float* source = product + i * ld_product;
    float* target = y + (row + i) * ldy + column;
    switch (epilogue.kind) {
      case Epilogue::Kind::kStore: run.add_bias(source, bias, target, count); break;
      case Epilogue::Kind::kGeluTanh: run.bias_gelu_tanh(source, bias, target, count); break;
      case Epilogue::Kind::kSilu: run.bias_silu(source, bias, target, count); break;
      case Epilogue::Kind::kAddGated: run.add_gated(source, bias, gate, target, count); break;
    }
  }
}

void PackedLinear::forward(const float* x, int64_t rows, int64_t ldx, float* y, int64_t ldy, const Epilogue& epilogue,
                           void* workspace) const {
  if (rows == 0) return;
  const Scratch scratch(in_, out_, rows, held_, compute_);
  auto* const bytes = static_cast<std::byte*>(workspace);
  auto* const rounded = reinterpret_cast<float*>(bytes);
  auto* const narrow = reinterpret_cast<bf16_t*>(bytes);
  if (compute_ == Compute::kBf16) {
    parallel_ranges(rows, kConvertGrain, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) {
        if (bf16_) {
          elementwise().narrow_bf16(x + row * ldx, narrow + row * in_, static_cast<size_t>(in_));
        } else {
          elementwise().round_to_bf16(x + row * ldx, rounded + row * in_, static_cast<size_t>(in_));
        }
      }
    });
    x = rounded;
    ldx = in_;
  }
  // Products that are added to y need a tile of their own; oneDNN's fast bf16 products write dense tiles only.
  const bool tiled = epilogue.kind == Epilogue::Kind::kAddGated || bf16_ != nullptr;
  const int64_t tile = row_tile(rows), row_tiles = (rows + tile - 1) / tile, panels = (out_ + kColumnPanel - 1) / kColumnPanel;
  if (bf16_) bf16_->prepare(std::min(tile, rows), rows - (row_tiles - 1) * tile);
  parallel_for(row_tiles * panels, [&](int64_t task, int worker) {
    const int64_t row = task % row_tiles * tile, column = task / row_tiles * kColumnPanel;
    const int64_t tile_rows = std::min(tile, rows - row), columns = std::min(kColumnPanel, out_ - column);
    std::byte* own = bytes + scratch.rounded + scratch.per_worker() * static_cast<uint64_t>(worker);
    auto* const product_tile = reinterpret_cast<float*>(own + scratch.panel);
    float* product = tiled ? product_tile : y + row * ldy + column;
    const int64_t ld_product = tiled ? columns : ldy;
    if (bf16_) {
      bf16_->run(narrow + row * in_, tile_rows, column / kColumnPanel, product);
    } else {
      const float* weights = panel_weights(column, columns, reinterpret_cast<float*>(own));
      gemm_f32_serial(tile_rows, columns, in_, x + row * ldx, ldx, false, weights, in_, true, product, ld_product);
    }
    finish(product, ld_product, row, tile_rows, column, columns, y, ldy, epilogue);
  });
}

}  // namespace sla2::kernels

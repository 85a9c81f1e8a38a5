// SPDX-License-Identifier: Apache-2.0
#include "kernels/packed_linear.h"

#include <algorithm>
#include <numeric>

#include "kernels/byte_rows.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/panel_products.h"

namespace sla2::kernels {

namespace {

constexpr uint64_t kLine = 64;
constexpr int64_t kConvertGrain = 16;   // rows
constexpr int64_t kMostInputs = 65536;  // of 8-bit products: 255 · 127 · 65,536 is below 2^31

uint64_t whole_lines(uint64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

bool native_bf16(Compute compute) { return compute == Compute::kBf16 && has_fast_bf16(); }

/// Bytes of an element of weight() before pack().
size_t filled_size(DType held) { return held == DType::kI8 ? sizeof(float) : dtype_size(held); }

}  // namespace

/// Where things lie in the workspace: x as bf16, rounded to bf16 or as bytes, the codes of its rows, then per worker a widened
/// panel and a tile of products.
struct PackedLinear::Scratch {
  uint64_t narrow = 0, codes = 0, panel = 0, tile = 0;
  Scratch(int64_t in, int64_t out, int64_t rows, DType held, Compute compute) {
    const auto columns = static_cast<uint64_t>(std::min(out, kColumnPanel));
    const bool native = native_bf16(compute) || compute == Compute::kInt8;
    const size_t element = compute == Compute::kInt8 ? sizeof(uint8_t) : native ? sizeof(bf16_t) : sizeof(float);
    if (compute != Compute::kF32) narrow = whole_lines(static_cast<uint64_t>(rows * in) * element);
    if (compute == Compute::kInt8) codes = whole_lines(static_cast<uint64_t>(rows) * sizeof(RowCode));
    if (held != DType::kF32 && !native) panel = whole_lines(columns * static_cast<uint64_t>(in) * sizeof(float));
    static_assert(sizeof(float) == sizeof(int32_t));  // products of bytes become fp32 where they lie
    tile = whole_lines(columns * static_cast<uint64_t>(std::min(row_tile(rows), rows)) * sizeof(float));
  }
  [[nodiscard]] uint64_t shared() const { return narrow + codes; }
  [[nodiscard]] uint64_t per_worker() const { return panel + tile; }
  [[nodiscard]] RowCode* codes_at(std::byte* workspace) const { return reinterpret_cast<RowCode*>(workspace + narrow); }
};

PackedLinear::PackedLinear(int64_t in, int64_t out, DType held, Compute compute)
    : in_(in),
      out_(out),
      held_(held),
      compute_(compute),
      weight_(static_cast<size_t>(in * out) * filled_size(held)),
      bias_(static_cast<size_t>(out)),
      ones_(static_cast<size_t>(out)) {
  SLA2_CHECK(held == DType::kF32 || held == DType::kBF16 || held == DType::kF16 || held == DType::kI8, SLA2_E_INTERNAL,
             "linear layer: weights held as {}", dtype_name(held));
  SLA2_CHECK((held == DType::kI8) == (compute == Compute::kInt8), SLA2_E_INTERNAL, "linear layer: {} weights for other products",
             dtype_name(held));
  SLA2_CHECK(compute != Compute::kInt8 || in <= kMostInputs, SLA2_E_UNSUPPORTED,
             "linear layer: {} inputs, 8-bit products take at most {}; use 16 bits", in, kMostInputs);
  std::fill_n(bias_.data(), out, 0.0F);
  std::fill_n(ones_.data(), out, 1.0F);
}
PackedLinear::PackedLinear() = default;
PackedLinear::~PackedLinear() = default;
PackedLinear::PackedLinear(PackedLinear&&) noexcept = default;
PackedLinear& PackedLinear::operator=(PackedLinear&&) noexcept = default;

uint64_t PackedLinear::held_bytes(int64_t in, int64_t out, DType held) noexcept {
  const uint64_t vectors = held == DType::kI8 ? 4 : 2;  // bias, ones; scales and sums of the channels
  return static_cast<uint64_t>(in * out) * dtype_size(held) + vectors * static_cast<uint64_t>(out) * sizeof(float);
}

uint64_t PackedLinear::workspace_bytes(int64_t in, int64_t out, int64_t rows, DType held, Compute compute) noexcept {
  const Scratch scratch(in, out, rows, held, compute);
  return scratch.shared() + scratch.per_worker() * static_cast<uint64_t>(thread_count());
}

void PackedLinear::pack_bytes() {
  const auto* weight = reinterpret_cast<const float*>(weight_.data());
  AlignedBuffer<int8_t> bytes(static_cast<size_t>(in_ * out_));
  column_scales_ = AlignedBuffer<float>(static_cast<size_t>(out_));
  column_sums_ = AlignedBuffer<int32_t>(static_cast<size_t>(out_));
  parallel_ranges(out_, kConvertGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t channel = begin; channel < end; ++channel) {
      int8_t* row = bytes.data() + channel * in_;
      column_scales_[static_cast<size_t>(channel)] = encode_weights(weight + channel * in_, static_cast<size_t>(in_), row).scale;
      column_sums_[static_cast<size_t>(channel)] = std::accumulate(row, row + in_, int32_t{0});
    }
  });
  weight_ = {};  // before oneDNN's copy is made
  products_ = std::make_unique<PanelProducts>(in_, out_, PanelProducts::kInt8, bytes.data());
}

void PackedLinear::pack() {
  if (compute_ == Compute::kInt8) return pack_bytes();
  if (compute_ == Compute::kF32) return;
  if (native_bf16(compute_)) {
    SLA2_CHECK(held_ == DType::kBF16, SLA2_E_INTERNAL, "linear layer: bf16 products need weights held as bf16");
    products_ = std::make_unique<PanelProducts>(in_, out_, PanelProducts::kBf16, weight_.data());
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

void PackedLinear::convert(const float* x, int64_t rows, int64_t ldx, const Scratch& scratch, std::byte* workspace) const {
  const auto count = static_cast<size_t>(in_);
  parallel_ranges(rows, kConvertGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = x + row * ldx;
      const int64_t to = row * in_;
      if (compute_ == Compute::kInt8) {
        auto* bytes = reinterpret_cast<uint8_t*>(workspace);
        scratch.codes_at(workspace)[row] = encode_activations(from, count, activation_levels(), bytes + to);
      } else if (products_) {
        elementwise().narrow_bf16(from, reinterpret_cast<bf16_t*>(workspace) + to, count);
      } else {
        elementwise().round_to_bf16(from, reinterpret_cast<float*>(workspace) + to, count);
      }
    }
  });
}

void PackedLinear::forward(const float* x, int64_t rows, int64_t ldx, float* y, int64_t ldy, const Epilogue& epilogue,
                           void* workspace) const {
  if (rows == 0) return;
  const Scratch scratch(in_, out_, rows, held_, compute_);
  auto* const bytes = static_cast<std::byte*>(workspace);
  if (compute_ != Compute::kF32) {
    convert(x, rows, ldx, scratch, bytes);
    x = reinterpret_cast<const float*>(bytes);
    ldx = in_;
  }
  const auto input_row = static_cast<uint64_t>(in_) * (compute_ == Compute::kInt8 ? sizeof(uint8_t) : sizeof(bf16_t));
  const RowCode* codes = scratch.codes_at(bytes);
  // Products that are added to y need a tile of their own; oneDNN's fast narrow products write dense tiles only.
  const bool tiled = epilogue.kind == Epilogue::Kind::kAddGated || products_ != nullptr;
  const int64_t tile = row_tile(rows), row_tiles = (rows + tile - 1) / tile, panels = (out_ + kColumnPanel - 1) / kColumnPanel;
  if (products_) products_->prepare(std::min(tile, rows), rows - (row_tiles - 1) * tile);
  parallel_for(row_tiles * panels, [&](int64_t task, int worker) {
    const int64_t row = task % row_tiles * tile, column = task / row_tiles * kColumnPanel;
    const int64_t tile_rows = std::min(tile, rows - row), columns = std::min(kColumnPanel, out_ - column);
    std::byte* own = bytes + scratch.shared() + scratch.per_worker() * static_cast<uint64_t>(worker);
    auto* const product_tile = reinterpret_cast<float*>(own + scratch.panel);
    float* product = tiled ? product_tile : y + row * ldy + column;
    const int64_t ld_product = tiled ? columns : ldy;
    if (products_) {
      products_->run(bytes + static_cast<uint64_t>(row) * input_row, tile_rows, column / kColumnPanel, product);
    } else {
      const float* weights = panel_weights(column, columns, reinterpret_cast<float*>(own));
      gemm_f32_serial(tile_rows, columns, in_, x + row * ldx, ldx, false, weights, in_, true, product, ld_product);
    }
    if (compute_ != Compute::kInt8) {
      finish(product, ld_product, row, tile_rows, column, columns, y, ldy, epilogue);
      return;
    }
    for (int64_t i = 0; i < tile_rows; ++i) {  // row by row: what is restored is still in L1 when it is finished
      const RowCode& code = codes[row + i];
      float* values = product + i * columns;
      byte_rows().restore(reinterpret_cast<const int32_t*>(values), static_cast<size_t>(columns), code.scale, code.zero,
                          column_scales_.data() + column, column_sums_.data() + column, values);
      finish(values, columns, row + i, 1, column, columns, y, ldy, epilogue);
    }
  });
}

}  // namespace sla2::kernels

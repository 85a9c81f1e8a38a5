// SPDX-License-Identifier: Apache-2.0
// A Linear layer whose weight is prepared once: y[rows, out] = epilogue(x[rows, in] · Wᵀ + bias), fp32 in and out.
// Weights are held as fp32, bf16 or fp16. Held narrow, a panel of kColumnPanel output channels at a time is widened into
// scratch right before its product (1/row_tile of the product's work), so that a narrow model never doubles in memory.
// Compute::kInt8 multiplies bytes and sums in int32, exactly: x ≈ scale·(q − zero) for each row, found on the fly, W ≈ scale·q
// for each output channel, found by pack(); see byte_rows.h. The bias and the epilogue stay fp32.
// Compute::kBf16 rounds x (and the weights) to bf16 and accumulates in fp32: oneDNN's bf16 products where the CPU has
// fast ones, elsewhere the same numbers through fp32 products (a product of two bf16 numbers is exact in fp32).
// Results are bit-identical for any number of threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/core.h"

namespace sla2::kernels {

enum class Compute : uint8_t { kF32, kBf16, kInt8 };

/// Steps of an activation in Compute::kInt8. 255 where the CPU multiplies bytes into int32 (VNNI); 127 elsewhere, because there
/// oneDNN adds two products in 16 bits, and 2 · 127 · 127 is the largest such sum that fits: exact too, and still fast.
[[nodiscard]] int activation_levels();

struct Epilogue {
  enum class Kind : uint8_t {
    kStore,     ///< y = v
    kGeluTanh,  ///< y = gelu_tanh(v)
    kSilu,      ///< y = silu(v)
    kAddGated,  ///< y = y + gate · v
  };
  Kind kind = Kind::kStore;
  const float* gate = nullptr;  ///< [out], for kAddGated; null: ones
};

class PackedLinear {
 public:
  PackedLinear();
  /// @param held kF32, kBF16 or kF16; kI8 if and only if compute is kInt8. Fill weight() and bias(), then call pack().
  PackedLinear(int64_t in, int64_t out, DType held, Compute compute);
  ~PackedLinear();
  PackedLinear(PackedLinear&&) noexcept;
  PackedLinear& operator=(PackedLinear&&) noexcept;

  [[nodiscard]] int64_t in() const noexcept { return in_; }
  [[nodiscard]] int64_t out() const noexcept { return out_; }
  [[nodiscard]] DType held() const noexcept { return held_; }
  [[nodiscard]] std::span<std::byte> weight() noexcept { return weight_.span(); }  ///< [out, in] in the held type; fp32 for kI8
  [[nodiscard]] std::span<float> bias() noexcept { return bias_.span(); }          ///< [out], zero at first
  /// Bring the weight into the layout of the products. No calls to weight() afterwards.
  void pack();

  /// @param workspace workspace_bytes() bytes, 64-byte aligned. x and y must not overlap.
  void forward(const float* x, int64_t rows, int64_t ldx, float* y, int64_t ldy, const Epilogue& epilogue, void* workspace) const;

  /// Scratch for at most `rows` rows with today's thread_count().
  [[nodiscard]] uint64_t workspace_bytes(int64_t rows) const noexcept {
    return workspace_bytes(in_, out_, rows, held_, compute_);
  }
  [[nodiscard]] uint64_t bytes() const noexcept { return held_bytes(in_, out_, held_); }
  [[nodiscard]] static uint64_t held_bytes(int64_t in, int64_t out, DType held) noexcept;
  [[nodiscard]] static uint64_t workspace_bytes(int64_t in, int64_t out, int64_t rows, DType held, Compute compute) noexcept;

 private:
  struct Scratch;
  class PanelProducts;
  void pack_bytes();
  /// x in the form the products take, into the workspace.
  void convert(const float* x, int64_t rows, int64_t ldx, const Scratch& scratch, std::byte* workspace) const;
  const float* panel_weights(int64_t column, int64_t columns, float* scratch) const;
  void finish(const float* product, int64_t ld_product, int64_t row, int64_t rows, int64_t column, int64_t columns, float* y,
              int64_t ldy, const Epilogue& epilogue) const;

  int64_t in_ = 0, out_ = 0;
  DType held_ = DType::kF32;
  Compute compute_ = Compute::kF32;
  AlignedBuffer<std::byte> weight_;
  AlignedBuffer<float> bias_, ones_;
  AlignedBuffer<float> column_scales_;       ///< [out], for kInt8
  AlignedBuffer<int32_t> column_sums_;       ///< [out], for kInt8: of the weight's bytes, what one step of `zero` adds to a sum
  std::unique_ptr<PanelProducts> products_;  ///< for narrow inputs; null: fp32 products
};

}  // namespace sla2::kernels

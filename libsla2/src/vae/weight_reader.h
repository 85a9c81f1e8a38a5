// SPDX-License-Identifier: Apache-2.0
// Tensors of one block out of a checkpoint, as the packed forms of kernels/conv.h and kernels/winograd.h.
#pragma once
#include <array>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/core.h"
#include "kernels/conv.h"
#include "kernels/winograd.h"
#include "weights/weights.h"

namespace sla2::vae {

/// The three time taps of a causal convolution, oldest frame first; the newest carries the bias.
using CausalTaps = std::array<kernels::PackedConv, 3>;

/// How frames and products of a network are made.
struct Format {
  int64_t block = kernels::preferred_block();  ///< channels per block of a frame
  DType products = DType::kF32;                ///< kF32 or kBF16
  /// bf16 where it was asked for and the CPU has fast products of them.
  static Format of(bool bf16) { return {kernels::preferred_block(), bf16 && has_fast_bf16() ? DType::kBF16 : DType::kF32}; }
  [[nodiscard]] bool narrow() const noexcept { return products == DType::kBF16; }
};

class WeightReader {
 public:
  /// `fetch(name, shape, target)` fills fp32 and throws if the tensor is missing or shaped otherwise.
  using Fetch = std::function<void(std::string_view, std::span<const int64_t>, std::span<float>)>;
  /// bf16: weights are rounded to bf16, whatever the products.
  WeightReader(Fetch fetch, bool bf16, const Format& format);
  static WeightReader from(const weights::Checkpoint& checkpoint, bool bf16);

  [[nodiscard]] std::vector<float> read(const std::string& name, const std::vector<int64_t>& shape) const;
  /// Conv2d with [out,in,kh,kw] weights, or Conv3d 1x1x1 where `rank` is 5.
  [[nodiscard]] kernels::PackedConv conv(const std::string& name, const kernels::ConvGeometry& geometry, int rank = 4) const;
  /// Conv3d [out,in,3,k,k]; rows [first_out, first_out + out) of a tensor with `all_out` rows.
  [[nodiscard]] CausalTaps causal(const std::string& name, int64_t in, int64_t out, int64_t kernel, int64_t first_out = 0,
                                  int64_t all_out = 0) const;
  /// Conv3d [out,in,frames,3,3], or Conv2d [out,in,3,3] after a doubling; the bias beside. Rounded once, after the transform.
  [[nodiscard]] kernels::PackedWinograd winograd(const std::string& name, const kernels::WinogradGeometry& geometry) const;
  /// RMS_norm's gamma [C,1,1,1] or [C,1,1], filled up with zeros to whole blocks.
  [[nodiscard]] std::vector<float> gamma(const std::string& name, int64_t channels, int rank) const;
  [[nodiscard]] const Format& format() const noexcept { return format_; }

 private:
  [[nodiscard]] std::vector<float> read_exact(const std::string& name, const std::vector<int64_t>& shape) const;
  Fetch fetch_;
  bool round_;
  Format format_;
};

constexpr int kCausalTaps = 3;

}  // namespace sla2::vae

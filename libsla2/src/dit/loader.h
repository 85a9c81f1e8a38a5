// SPDX-License-Identifier: Apache-2.0
// Tensors of a checkpoint in; Linears and vectors in the form in which this model holds them out.
#pragma once
#include <string>
#include <vector>

#include "config/model_config.h"
#include "dit/dit.h"
#include "kernels/packed_linear.h"
#include "weights/weights.h"

namespace sla2::dit {

/// How the Linears of a model are held in memory and multiplied; one choice for the whole model.
struct Holding {
  DType held = DType::kF32;
  kernels::Compute compute = kernels::Compute::kF32;
};
Holding choose_holding(const config::DitConfig& config, DType stored, Precision precision);

/// A Linear by its tensors' common name ("blocks.0.ffn.0": .weight [out, in], .bias [out]). Several names are stacked
/// along the output, so that q, k and v are one product.
struct LinearSpec {
  std::vector<std::string> names;
  int64_t in = 0, out_each = 0;
  [[nodiscard]] int64_t out() const noexcept { return out_each * static_cast<int64_t>(names.size()); }
};

LinearSpec spec_patch(const config::DitConfig& c);
LinearSpec spec_time_in(const config::DitConfig& c);
LinearSpec spec_time_out(const config::DitConfig& c);
LinearSpec spec_time_projection(const config::DitConfig& c);
LinearSpec spec_text_in(const config::DitConfig& c);
LinearSpec spec_text_out(const config::DitConfig& c);
LinearSpec spec_head(const config::DitConfig& c);
LinearSpec spec_qkv(const config::DitConfig& c, int64_t layer);
LinearSpec spec_self_out(const config::DitConfig& c, int64_t layer);
LinearSpec spec_cross(const config::DitConfig& c, int64_t layer, const char* which);  ///< which: q, k, v or o
LinearSpec spec_ffn_in(const config::DitConfig& c, int64_t layer);
LinearSpec spec_ffn_out(const config::DitConfig& c, int64_t layer);

/// Linears that stay in memory: all but the text MLP and cross k, v, which are needed once per prompt.
std::vector<LinearSpec> resident_linears(const config::DitConfig& c);

std::string block_name(int64_t layer, const char* tensor);

class Loader {
 public:
  Loader(const weights::Checkpoint& checkpoint, Holding holding) : checkpoint_(checkpoint), holding_(holding) {}
  /// Throws FILE_FORMAT naming every tensor the configuration asks for and the checkpoint lacks.
  void check_complete(const config::DitConfig& c) const;
  [[nodiscard]] kernels::PackedLinear linear(const LinearSpec& spec) const;
  /// Scratch that `linear.forward` needs for so many rows.
  [[nodiscard]] uint64_t workspace_bytes(const kernels::PackedLinear& linear, int64_t rows) const noexcept {
    return kernels::PackedLinear::workspace_bytes(linear.in(), linear.out(), rows, holding_.held, holding_.compute);
  }
  [[nodiscard]] AlignedBuffer<float> vector(const std::string& name, const std::vector<int64_t>& shape) const;

 private:
  void read_weight(const std::string& name, int64_t out, int64_t in, std::span<std::byte> target) const;
  const weights::Checkpoint& checkpoint_;
  Holding holding_;
};

}  // namespace sla2::dit

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

/// How a Linear is held in memory and multiplied.
struct LinearForm {
  DType held = DType::kF32;
  kernels::Compute compute = kernels::Compute::kF32;
};
/// The same for a whole model: the form of its Linears, and whether those that bear it are 8-bit instead.
struct Holding : LinearForm {
  bool eight_bits = false;
};
Holding choose_holding(const config::DitConfig& config, DType stored, const Options& options);

/// A Linear by its tensors' common name ("blocks.0.ffn.0": .weight [out, in], .bias [out]). Several names are stacked
/// along the output, so that q, k and v are one product.
struct LinearSpec {
  std::vector<std::string> names;
  int64_t in = 0, out_each = 0;
  bool bears_eight_bits = false;  ///< a block's own Linear: nearly all of the work; the few others shape every number after them
  [[nodiscard]] int64_t out() const noexcept { return out_each * static_cast<int64_t>(names.size()); }
};

/// The form of one Linear of a model held so.
LinearForm form_of(const LinearSpec& spec, const Holding& holding);

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
  [[nodiscard]] AlignedBuffer<float> vector(const std::string& name, const std::vector<int64_t>& shape) const;
  /// A matrix [out, in] as `held` says (fp32, bf16 or fp16).
  void read_weight(const std::string& name, int64_t out, int64_t in, DType held, std::span<std::byte> target) const;
  [[nodiscard]] const weights::Checkpoint& checkpoint() const noexcept { return checkpoint_; }
  [[nodiscard]] const Holding& holding() const noexcept { return holding_; }

 private:
  const weights::Checkpoint& checkpoint_;
  Holding holding_;
};

}  // namespace sla2::dit

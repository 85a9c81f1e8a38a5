// SPDX-License-Identifier: Apache-2.0
// Tensor names in the wild → canonical names (original Wan2.1 for DiT and VAE, Hugging Face for UMT5), and what kind of
// model a list of names is. Pure text; no file is touched.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "weights/weights.h"

namespace sla2::weights {

struct NameScheme {
  Kind kind = Kind::kUnknown;
  Naming naming = Naming::kUnknown;
  std::string prefix;          ///< stripped from every name that has it
  int64_t vae_res_blocks = 0;  ///< diffusers VAE only: residual blocks per encoder level
};

/// Look at all names of a checkpoint.
NameScheme recognise(const std::vector<std::string>& names);

/// The canonical name; "" for tensors that belong to the storage, not to the model (quantisation markers), and for
/// names outside the scheme's prefix the name itself.
std::string canonical_name(std::string_view name, const NameScheme& scheme);

/// What may stand before a model's own names: "model.diffusion_model.", "transformer." …, and nothing.
std::span<const std::string_view> known_prefixes() noexcept;

/// What a tensor is in a LoRA or weight-difference file, and the module it belongs to.
enum class LoraPart : uint8_t { kNone, kDown, kUp, kAlpha, kDiff, kBiasDiff };
struct LoraName {
  LoraPart part = LoraPart::kNone;
  std::string_view module;
};
LoraName lora_name(std::string_view tensor) noexcept;

/// Names that carry scales and markers of quantised storage: ".scale_weight", ".weight_scale", "scaled_fp8" …
bool is_storage_name(std::string_view name) noexcept;

}  // namespace sla2::weights

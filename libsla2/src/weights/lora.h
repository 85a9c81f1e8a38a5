// SPDX-License-Identifier: Apache-2.0
// LoRA and weight-difference files: which tensors of a model they change and by how much. W' = W + strength · (α/r · up·down +
// diff). Names: original, ComfyUI's and diffusers' with their prefixes, and the underscored ones of kohya's trainers
// (lora_unet_…).
#pragma once
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sla2::weights {

class Checkpoint;
class SafetensorsFile;
struct TensorInfo;

/// A file and how strongly it counts.
struct LoraSource {
  std::string path;
  double strength = 1;
};
/// "a.safetensors; b.safetensors@0.8": several separated by semicolons, a number behind the last @ is the strength.
/// Throws ARGUMENT for an empty path or a strength that is not finite.
std::vector<LoraSource> parse_lora_list(std::string_view text);
std::string lora_list_text(const std::vector<LoraSource>& sources);

/// What one file does to one tensor: a product, a difference, or both.
struct LoraChange {
  const TensorInfo *down = nullptr, *up = nullptr;  ///< [r, in…], [out, r]
  const TensorInfo* diff = nullptr;                 ///< of the tensor's shape
  int64_t rank = 0;
  double scale = 1;  ///< strength · α/r of the product; of the difference it is the strength alone
};

struct LoraFile {
  LoraSource source;
  std::string digest;  ///< SHA-256 of the file
  std::shared_ptr<const SafetensorsFile> file;
  std::map<std::string, LoraChange, std::less<>> changes;  ///< by canonical name of the base
  std::vector<std::string> unused;                         ///< tensors for layers that the base lacks, as the file names them
};

/// Open a file and find what of `base` it changes. Throws FILE_*, UNSUPPORTED (DoRA, LoKr, LoHa), and MODEL_MISMATCH where
/// nothing fits or a shape does not.
LoraFile open_lora(const LoraSource& source, const Checkpoint& base);

/// Values of one of the file's tensors. Throws FILE_FORMAT where one is not finite.
std::vector<float> read_lora(const LoraFile& lora, const TensorInfo& tensor);

}  // namespace sla2::weights

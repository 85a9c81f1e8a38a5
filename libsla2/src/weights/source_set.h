// SPDX-License-Identifier: Apache-2.0
// One checkpoint's files and its table canonical name → tensor. Shared by Checkpoint and identify(); reads headers only.
#pragma once
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "weights/names.h"
#include "weights/weights.h"

namespace sla2::weights {

/// A tensor of the model and, for scaled storage, its scale.
struct Entry {
  const SafetensorsFile* file = nullptr;
  const TensorInfo* info = nullptr;
  const SafetensorsFile* scale_file = nullptr;
  const TensorInfo* scale = nullptr;  ///< value = stored · scale; one number, or one per row
  std::string unsupported;            ///< not "": why the numbers cannot be read
};

struct SourceSet {
  std::string path;  ///< as given
  std::vector<std::shared_ptr<const SafetensorsFile>> files;
  std::string config_json;
  NameScheme scheme;
  std::map<std::string, Entry, std::less<>> entries;  ///< by canonical name
  bool scaled = false;                                ///< some tensor has a scale

  [[nodiscard]] const Entry* find(std::string_view canonical) const noexcept;
  /// First metadata value under `key` of any file, "" if none.
  [[nodiscard]] std::string metadata(const std::string& key) const;
};

/// Open a file, an index.json, one shard of an index, or a folder with one model.
SourceSet open_sources(const std::string& path);

/// What an opened checkpoint is.
Identity identify(const SourceSet& set);

/// Shapes agree but for extents of 1: [C] and [C, 1, 1, 1] hold the same numbers in the same order.
bool same_shape(std::span<const int64_t> a, std::span<const int64_t> b) noexcept;

/// Parts of a diffusers pipeline folder: "transformer", "vae", "text_encoder" that hold weights; empty for anything else.
std::vector<std::string> pipeline_parts(const std::string& path);

}  // namespace sla2::weights

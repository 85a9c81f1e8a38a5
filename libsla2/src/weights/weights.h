// SPDX-License-Identifier: Apache-2.0
// The door of weights: safetensors files in, tensors under canonical names out; and what a file is, from its header.
// Canonical names: original Wan2.1 names for the DiT and the VAE, Hugging Face names for the UMT5 encoder.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/core.h"
#include "weights/lora.h"
#include "weights/router_pack.h"

namespace sla2::weights {

struct TensorInfo {
  std::string name;  ///< as in the file
  DType dtype = DType::kUnset;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  ///< bytes, from the start of the data section
  [[nodiscard]] int64_t element_count() const noexcept;
};

/// One safetensors file, its header fully checked before any data is touched. Immutable; share freely.
/// Bytes come through pread, not through a mapping: a file that shrinks under us gives SLA2_E_FILE_READ, never SIGBUS,
/// and no reader here needs a pointer into the file (file_io.h has the measurement).
class SafetensorsFile {
 public:
  static std::shared_ptr<const SafetensorsFile> open(const std::string& path);
  virtual ~SafetensorsFile() = default;
  [[nodiscard]] virtual const std::string& path() const noexcept = 0;
  [[nodiscard]] virtual const std::vector<TensorInfo>& tensors() const noexcept = 0;  ///< in file order
  [[nodiscard]] virtual const std::map<std::string, std::string>& metadata() const noexcept = 0;
  [[nodiscard]] virtual const TensorInfo* find(std::string_view name) const noexcept = 0;
  /// Copy target.size() bytes from `byte_offset` of the tensor. Throws FILE_READ if the bytes are not there any more.
  virtual void read_bytes(const TensorInfo& tensor, uint64_t byte_offset, std::span<std::byte> target) const = 0;
  [[nodiscard]] virtual uint64_t file_bytes() const noexcept = 0;
  [[nodiscard]] virtual const std::string& header() const noexcept = 0;  ///< the JSON text, checked
  /// Start reading this tensor ahead; a hint, never fails.
  virtual void will_need(const TensorInfo& tensor) const noexcept = 0;
};

/// Parse and check only a header (also the fuzzing entrance). `header` excludes the 8 length bytes.
std::vector<TensorInfo> parse_header(std::string_view header, uint64_t data_bytes, const std::string& where,
                                     std::map<std::string, std::string>* metadata);

enum class Kind : uint8_t {
  kUnknown,
  kWanDit,
  kWanVae,
  kUmt5,
  kClip,
  kLora,
  kRouterPack,
  kCheckpoint,
  kLatent,
  kT5,
  kTaehv,
  kOther
};
enum class Naming : uint8_t { kUnknown, kOriginal, kComfy, kDiffusers, kHuggingFace };

struct Identity {
  Kind kind = Kind::kUnknown;
  Naming naming = Naming::kUnknown;
  std::string summary;  ///< one sentence for people: what it is, sizes, storage type
  std::string fits;     ///< what goes with it
  std::string variant;  ///< "t2v", "i2v", "flf2v", "vace" …
  std::string json;     ///< everything, for sla2_file_info()
};

/// Identify a file, a sharded index.json or a diffusers folder from headers only; a few milliseconds.
Identity identify(const std::string& path);

/// The part of a diffusers pipeline folder that holds this kind of network ("folder/vae"); `path` itself where it is no
/// such folder.
std::string part_path(const std::string& path, Kind kind);

/// One checkpoint: a file, a sharded *.index.json, or a folder with one of them; names mapped to canonical ones.
class Checkpoint {
 public:
  static std::shared_ptr<const Checkpoint> open(const std::string& path);
  virtual ~Checkpoint() = default;
  [[nodiscard]] virtual const std::string& path() const noexcept = 0;
  [[nodiscard]] virtual const Identity& identity() const noexcept = 0;
  [[nodiscard]] virtual bool has(std::string_view canonical) const noexcept = 0;
  /// Shape and storage type under the canonical name. Throws FILE_FORMAT naming the tensor and the file if it is missing.
  [[nodiscard]] virtual const TensorInfo& info(std::string_view canonical) const = 0;
  [[nodiscard]] virtual std::vector<std::string> names() const = 0;  ///< canonical, sorted
  /// Convert to fp32, scaled fp8 included (weight · scale). Shape is checked against `shape` (empty: no check; extents of 1
  /// are not compared).
  virtual void read_f32(std::string_view canonical, std::span<const int64_t> shape, std::span<float> target) const = 0;
  /// Rows [first_row, first_row + rows) of a tensor, converted to fp32 (embedding tables are never read whole).
  virtual void read_rows_f32(std::string_view canonical, int64_t first_row, int64_t rows, std::span<float> target) const = 0;
  /// Convert to bf16 (a plain copy where stored so).
  virtual void read_bf16(std::string_view canonical, std::span<const int64_t> shape, std::span<bf16_t> target) const = 0;
  virtual void read_raw(std::string_view canonical, std::span<std::byte> target) const = 0;
  /// Configuration that shapes cannot tell: JSON text of metadata "config", or of config.json beside it; "" if none.
  [[nodiscard]] virtual const std::string& config_json() const noexcept = 0;
  /// Hex digest (xxh3-128 is not needed; a stable 64-bit FNV of header and sampled data) to recognise the same weights again.
  [[nodiscard]] virtual std::string digest() const = 0;
};

/// One tensor a network needs.
struct ExpectedTensor {
  std::string name;            ///< canonical
  std::vector<int64_t> shape;  ///< extents of 1 are not compared: [C] equals [C, 1, 1, 1]
  bool required = true;
};
/// Every required tensor is there in its shape, or FILE_FORMAT listing names (the first few).
/// Tensors that nobody expects are listed in a warning. `what` names the network in the text.
void check_tensors(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected, std::string_view what);

struct OutputTensor {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  const void* data;
};
/// Write atomically: ".NAME.part" beside it, fsync, rename. Throws FILE_WRITE and leaves nothing behind on failure. Writers of
/// one file, in any process, wait for each other.
void write_safetensors(const std::string& path, std::span<const OutputTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});
/// Remove what a killed process left of its write_safetensors(path), unless somebody is writing it now.
void discard_partial(const std::string& path) noexcept;

}  // namespace sla2::weights

// SPDX-License-Identifier: Apache-2.0
// The door of text: a prompt in, UMT5 context rows out.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/core.h"
#include "weights/weights.h"

namespace sla2::device {
class Gpu;
}

namespace sla2::text {

/// Wan's prompt cleaning: UTF-8 repair, NFC, straight quotes, full-width to ASCII, control characters out, HTML entities
/// twice, white space collapsed. Never throws on bad UTF-8.
std::string clean_prompt(std::string_view prompt);
/// True if `text` is well-formed UTF-8.
bool is_valid_utf8(std::string_view text) noexcept;

/// SentencePiece model of a UMT5 encoder. Immutable; share freely.
class Tokenizer {
 public:
  static std::shared_ptr<const Tokenizer> from_file(const std::string& path);
  static std::shared_ptr<const Tokenizer> from_bytes(std::string_view bytes, const std::string& where);
  /// `spiece_model` tensor of the checkpoint, else spiece.model / ../tokenizer/spiece.model beside it.
  static std::shared_ptr<const Tokenizer> beside(const weights::Checkpoint& encoder, const std::string& explicit_path);
  virtual ~Tokenizer() = default;
  /// Ids of cleaned text with </s> appended, at most max_tokens (</s> kept). `dropped` (may be null) counts pieces cut off.
  virtual std::vector<int32_t> encode(std::string_view cleaned, int max_tokens, int* dropped) const = 0;
  [[nodiscard]] virtual int vocabulary_size() const noexcept = 0;
};

/// Context of one prompt: `tokens` rows of `width` fp32 numbers; only real tokens, </s> included.
struct Embedding {
  int64_t tokens = 0, width = 0;
  std::vector<float> rows;  ///< [tokens, width]
};

struct EncoderConfig {
  int64_t d_model = 0, d_kv = 0, d_ff = 0, layers = 0, heads = 0, vocabulary = 0, buckets = 32, max_distance = 128;
};

/// UMT5 encoder. Streams its weights layer by layer from the checkpoint, so memory stays at a layer or two.
class Umt5Encoder {
 public:
  /// On the CPU, in fp32. Throws MODEL_MISMATCH where the checkpoint is no UMT5 encoder.
  static std::unique_ptr<Umt5Encoder> create(std::shared_ptr<const weights::Checkpoint> checkpoint);
  /// On a GPU: weights in bf16, all else fp32 or as exact as its last digits but one. Takes memory while it encodes, not before;
  /// `gpu` outlives it. Throws UNSUPPORTED where the kernels do not do.
  static std::unique_ptr<Umt5Encoder> create_on(device::Gpu& gpu, std::shared_ptr<const weights::Checkpoint> checkpoint);
  virtual ~Umt5Encoder() = default;
  [[nodiscard]] virtual const EncoderConfig& config() const noexcept = 0;
  /// The context of each prompt, given by its ids. All prompts go through a layer while it is there, so that it is read once; the
  /// bits of one do not depend on the others. `on_progress` (may be empty) is told the part that is done, in (0, 1]. Throws
  /// ARGUMENT, MODEL_MISMATCH for ids, NUMERIC, CANCELLED; on a GPU MEMORY and DEVICE too.
  virtual std::vector<Embedding> encode_all(std::span<const std::vector<int32_t>> prompts, const CancelToken& cancel,
                                            const std::function<void(double part)>& on_progress) const = 0;
  /// The same for one.
  [[nodiscard]] Embedding encode(const std::vector<int32_t>& ids, const CancelToken& cancel) const;
  /// Bytes of this machine's memory for prompts of that many tokens each, encoded at once.
  [[nodiscard]] virtual uint64_t working_bytes(std::span<const int64_t> tokens) const noexcept = 0;
};

/// What encoding on a GPU takes, from sizes alone.
struct GpuEncoderPlan {
  uint64_t device_bytes = 0;
  uint64_t pinned_bytes = 0;  ///< of this machine
  std::string text;           ///< one line per buffer, for people
};
/// `tokens`: of each prompt that is encoded at once. Throws UNSUPPORTED as create_on and encode_all would.
GpuEncoderPlan plan_on(device::Gpu& gpu, const EncoderConfig& config, std::span<const int64_t> tokens);

/// Digest for EmbeddingCache: `digest` is the checkpoint's own. A GPU holds weights as bf16. Where they are stored so its
/// embeddings are the CPU's but for the last digits of fp32, as those of two CPUs are, and share the entry; else they have
/// theirs.
std::string embedding_digest(const weights::Checkpoint& checkpoint, const std::string& digest, bool on_gpu);

/// Disk cache of embeddings keyed by (cleaned text, encoder digest); "" as folder turns it off. Failures to read or write it
/// are logged and otherwise ignored.
class EmbeddingCache {
 public:
  explicit EmbeddingCache(std::string folder) : folder_(std::move(folder)) {}
  [[nodiscard]] bool load(const std::string& cleaned, const std::string& encoder_digest, Embedding* embedding) const;
  void store(const std::string& cleaned, const std::string& encoder_digest, const Embedding& embedding) const;

 private:
  std::string folder_;
};

}  // namespace sla2::text

// SPDX-License-Identifier: Apache-2.0
// The tokenizer of a UMT5 encoder on libsentencepiece. In: cleaned UTF-8. Out: piece ids with </s> at the end.
#include <sentencepiece_processor.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "text/spiece_check.h"
#include "text/text.h"

namespace sentencepiece::logging {
// Exported by the library but in none of its installed headers; weak, so that a build without it still links.
__attribute__((weak)) void SetMinLogLevel(int level);
}  // namespace sentencepiece::logging

namespace sla2::text {
namespace {

constexpr std::string_view kEmbeddedModel = "spiece_model";  // ComfyUI packs the model into the weight file under this name
constexpr size_t kMaxTextBytes = size_t{1} << 20;

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string_view bytes, const std::string& where) {
    check_sentencepiece_model(bytes, where);
    constexpr int kFatalOnly = 3;  // errors come back as a status; the library must not write to stderr
    if (sentencepiece::logging::SetMinLogLevel != nullptr) sentencepiece::logging::SetMinLogLevel(kFatalOnly);
    const auto status = processor_.LoadFromSerializedProto(absl::string_view(bytes.data(), bytes.size()));
    SLA2_CHECK(status.ok(), SLA2_E_FILE_FORMAT, "{}: libsentencepiece refuses the model: {}", where, status.ToString());
    SLA2_CHECK(
        processor_.eos_id() >= 0, SLA2_E_MODEL_MISMATCH,
        "{}: the SentencePiece model has no end piece </s>, so it is not the one of a UMT5 encoder; use spiece.model of UMT5",
        where);
  }

  std::vector<int32_t> encode(std::string_view cleaned, int max_tokens, int* dropped) const override {
    SLA2_CHECK(max_tokens >= 1, SLA2_E_ARGUMENT, "max_tokens: expected at least 1 (for </s>), got {}", max_tokens);
    SLA2_CHECK(cleaned.size() <= kMaxTextBytes, SLA2_E_ARGUMENT, "prompt: expected at most {} bytes, got {}; shorten it",
               kMaxTextBytes, cleaned.size());
    SLA2_CHECK(is_valid_utf8(cleaned), SLA2_E_ARGUMENT, "prompt: not valid UTF-8; pass it through clean_prompt()");
    std::vector<int> pieces;
    const auto status = processor_.Encode(absl::string_view(cleaned.data(), cleaned.size()), &pieces);
    SLA2_CHECK(status.ok(), SLA2_E_INTERNAL, "libsentencepiece cannot encode the prompt: {}", status.ToString());
    const size_t kept = std::min(pieces.size(), static_cast<size_t>(max_tokens) - 1);
    if (dropped != nullptr) *dropped = static_cast<int>(pieces.size() - kept);
    std::vector<int32_t> ids(pieces.begin(), pieces.begin() + static_cast<std::ptrdiff_t>(kept));
    ids.push_back(processor_.eos_id());
    return ids;
  }

  [[nodiscard]] int vocabulary_size() const noexcept override { return processor_.GetPieceSize(); }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_bytes(std::string_view bytes, const std::string& where) {
  return std::make_shared<const SentencePieceTokenizer>(bytes, where);
}

std::shared_ptr<const Tokenizer> Tokenizer::from_file(const std::string& path) {
  std::error_code problem;
  const std::filesystem::file_status status = std::filesystem::status(path, problem);
  SLA2_CHECK(std::filesystem::exists(status), SLA2_E_FILE_NOT_FOUND, "{}: no such file; expected the spiece.model of UMT5", path);
  SLA2_CHECK(std::filesystem::is_regular_file(status), SLA2_E_FILE_READ,
             "{}: expected a file (spiece.model), this is something else", path);
  const uintmax_t bytes = std::filesystem::file_size(path, problem);
  SLA2_CHECK(!problem, SLA2_E_FILE_READ, "{}: cannot be read: {}", path, problem.message());
  SLA2_CHECK(bytes <= kMaxModelBytes, SLA2_E_FILE_FORMAT, "{}: {} bytes is too much for a SentencePiece model (limit {})", path,
             bytes, kMaxModelBytes);
  std::ifstream stream(path, std::ios::binary);
  std::string content(bytes, '\0');
  SLA2_CHECK(stream.read(content.data(), static_cast<std::streamsize>(bytes)), SLA2_E_FILE_READ,
             "{}: cannot be read: check its permissions", path);
  return from_bytes(content, path);
}

std::shared_ptr<const Tokenizer> Tokenizer::beside(const weights::Checkpoint& encoder, const std::string& explicit_path) {
  namespace fs = std::filesystem;
  if (!explicit_path.empty()) return from_file(explicit_path);
  if (encoder.has(kEmbeddedModel)) {
    const weights::TensorInfo& info = encoder.info(kEmbeddedModel);
    SLA2_CHECK(info.dtype == DType::kU8 && info.end - info.begin <= kMaxModelBytes, SLA2_E_FILE_FORMAT,
               "{}: tensor '{}' must hold at most {} bytes (U8), it is {} with {} bytes", encoder.path(), kEmbeddedModel,
               kMaxModelBytes, dtype_name(info.dtype), info.end - info.begin);
    std::string content(info.end - info.begin, '\0');
    encoder.read_raw(kEmbeddedModel, std::as_writable_bytes(std::span(content)));
    return from_bytes(content, encoder.path() + " (" + std::string(kEmbeddedModel) + ")");
  }
  const fs::path path(encoder.path());
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  const fs::path places[] = {folder / "spiece.model", folder / ".." / "tokenizer" / "spiece.model"};
  for (const fs::path& place : places) {
    std::error_code problem;
    if (fs::is_regular_file(place, problem)) return from_file(place.string());
  }
  fail(SLA2_E_FILE_NOT_FOUND,
       "{}: no tokenizer: the file embeds none, and there is neither {} nor {}; put spiece.model there or name its path",
       encoder.path(), places[0].string(), places[1].lexically_normal().string());
}

}  // namespace sla2::text

// SPDX-License-Identifier: Apache-2.0
// Prompt embeddings on disk: one safetensors file per (cleaned text, encoder digest), named by a hash and holding both in
// its metadata, so that a collision is a miss and not a wrong picture. Written atomically by weights.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "text/text.h"

namespace sla2::text {
namespace {

constexpr std::string_view kFormat = "sla2-embedding-1";
constexpr uint64_t kFnvOffset = 0xcbf29ce484222325u, kFnvPrime = 0x100000001b3u;  // FNV-1a, 64 bits
constexpr int64_t kMaxElements = int64_t{1} << 26;                                // 256 MB; Wan's largest is 512 x 4096

uint64_t fnv1a(std::string_view text, uint64_t hash) {
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * kFnvPrime;
  return hash;
}

std::string entry_path(const std::string& folder, const std::string& cleaned, const std::string& digest) {
  const uint64_t hash = fnv1a(cleaned, fnv1a(std::string_view("\0", 1), fnv1a(digest, kFnvOffset)));
  return (std::filesystem::path(folder) / fmt::format("{:016x}.safetensors", hash)).string();
}

bool read_entry(const std::string& path, const std::string& cleaned, const std::string& digest, Embedding* embedding) {
  const auto file = weights::SafetensorsFile::open(path);
  const auto says = [&](const char* key, std::string_view expected) {
    const auto found = file->metadata().find(key);
    return found != file->metadata().end() && found->second == expected;
  };
  if (!says("format", kFormat) || !says("text", cleaned) || !says("encoder", digest)) return false;
  const weights::TensorInfo* rows = file->find("rows");
  if (rows == nullptr || rows->dtype != DType::kF32 || rows->shape.size() != 2 || rows->element_count() <= 0 ||
      rows->element_count() > kMaxElements) {
    return false;
  }
  Embedding read{rows->shape[0], rows->shape[1], std::vector<float>(rows->element_count())};
  file->read_bytes(*rows, 0, std::as_writable_bytes(std::span(read.rows)));
  if (!std::all_of(read.rows.begin(), read.rows.end(), [](float value) { return std::isfinite(value); })) return false;
  *embedding = std::move(read);
  return true;
}

}  // namespace

bool EmbeddingCache::load(const std::string& cleaned, const std::string& encoder_digest, Embedding* embedding) const {
  if (folder_.empty()) return false;
  const std::string path = entry_path(folder_, cleaned, encoder_digest);
  std::error_code problem;
  if (!std::filesystem::exists(path, problem)) return false;
  try {
    if (read_entry(path, cleaned, encoder_digest, embedding)) {
      std::filesystem::last_write_time(path, std::filesystem::file_time_type::clock::now(),
                                       problem);  // for who prunes the folder
      return true;
    }
    log(SLA2_LOG_INFO, "embedding cache: {} is of another prompt or damaged; encoding anew", path);
  } catch (const Error& error) {
    log(SLA2_LOG_WARNING, "embedding cache: {}; encoding anew", error.what());
  }
  return false;
}

void EmbeddingCache::store(const std::string& cleaned, const std::string& encoder_digest, const Embedding& embedding) const {
  if (folder_.empty()) return;
  std::error_code problem;
  std::filesystem::create_directories(folder_, problem);
  if (problem) {
    log(SLA2_LOG_WARNING, "embedding cache: cannot make folder {}: {}", folder_, problem.message());
    return;
  }
  const std::array<weights::OutputTensor, 1> tensors = {
      {{"rows", DType::kF32, {embedding.tokens, embedding.width}, embedding.rows.data()}}};
  try {
    weights::write_safetensors(entry_path(folder_, cleaned, encoder_digest), tensors,
                               {{"format", std::string(kFormat)}, {"text", cleaned}, {"encoder", encoder_digest}});
  } catch (const Error& error) {
    log(SLA2_LOG_WARNING, "embedding cache: {}", error.what());
  }
}

}  // namespace sla2::text

// SPDX-License-Identifier: Apache-2.0
#include "embedding_folder.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "handles.h"

namespace sla2::cli {

namespace {

/// Prompts are nobody else's business.
bool make_private_folder(const fs::path& folder) {
  std::error_code error;
  if (fs::is_directory(folder, error)) return true;
  fs::create_directories(folder.parent_path(), error);
  return !error && (::mkdir(folder.c_str(), S_IRWXU) == 0 || fs::is_directory(folder, error));
}

void prune(const fs::path& folder) {
  struct Entry {
    fs::file_time_type used;
    fs::path path;
    uint64_t bytes;
  };
  std::vector<Entry> entries;
  uint64_t bytes = 0;
  std::error_code error;
  for (const auto& file : fs::directory_iterator(folder, error)) {
    if (file.path().extension() != ".safetensors" || !file.is_regular_file(error)) continue;
    Entry entry{file.last_write_time(error), file.path(), 0};
    if (error) continue;
    entry.bytes = file.file_size(error);
    if (error) continue;
    bytes += entry.bytes;
    entries.push_back(std::move(entry));
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (bytes <= kMostEmbeddingBytes) return;
    if (fs::remove(entry.path, error)) bytes -= entry.bytes;
  }
}

}  // namespace

fs::path default_embedding_folder() {
  constexpr const char* kFolder = "embeddings";
  if (const char* own = std::getenv(kCacheVariable); own != nullptr) return *own == '\0' ? fs::path() : fs::path(own) / kFolder;
  // The specification: a relative XDG_CACHE_HOME is to be ignored.
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && fs::path(cache).is_absolute())
    return fs::path(cache) / "sla2" / kFolder;
  const char* home = std::getenv("HOME");
  if (home == nullptr || !fs::path(home).is_absolute()) return {};
  return fs::path(home) / ".cache" / "sla2" / kFolder;
}

void choose_embedding_folder(sla2_params* params, bool off) {
  if (off) return require(sla2_params_set_text(params, "embedding_cache", ""));
  if (param_is_set(params, "embedding_cache")) return;
  const fs::path folder = default_embedding_folder();
  if (folder.empty() || !make_private_folder(folder)) return;
  prune(folder);
  require(sla2_params_set_text(params, "embedding_cache", fs::absolute(folder).string().c_str()));
}

}  // namespace sla2::cli

// SPDX-License-Identifier: Apache-2.0
// Files the tool reads whole and files it writes so that a final name never shows a partial content.
#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace sla2::cli {

namespace fs = std::filesystem;

/// Whole text of a file no larger than `limit` bytes. Throws FILE_NOT_FOUND, FILE_READ, FILE_FORMAT (too large).
std::string read_text(const fs::path& path, uint64_t limit);

/// A file under a temporary name beside its target; commit() syncs and renames it, otherwise it vanishes.
/// The name is fixed (".NAME.sla2tmp"), so a killed run's remains are overwritten by the next; a lock keeps two runs apart.
class TempFile {
 public:
  /// Throws FILE_WRITE when the folder cannot be written, the target is a folder, or another run holds the file.
  explicit TempFile(fs::path target);
  ~TempFile();
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;

  void write(std::span<const uint8_t> bytes);  ///< throws FILE_WRITE
  void commit();                               ///< throws FILE_WRITE; at most once
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
  [[nodiscard]] const fs::path& target() const noexcept { return target_; }
  [[nodiscard]] const fs::path& temporary() const noexcept { return temporary_; }

 private:
  fs::path target_, temporary_;
  int descriptor_ = -1;
};

/// write + commit.
void write_file(const fs::path& target, std::string_view text);
/// Make renames in this folder survive a power cut; silently without effect where the file system cannot.
void sync_folder(const fs::path& folder);
/// ".NAME.sla2tmp" beside the target.
fs::path temporary_name(const fs::path& target);

}  // namespace sla2::cli

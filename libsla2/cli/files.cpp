// SPDX-License-Identifier: Apache-2.0
#include "files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "errors.h"

namespace sla2::cli {

namespace {

constexpr mode_t kFileMode = 0666;  // the umask decides
constexpr size_t kReadChunk = 65536;

[[noreturn]] void fail_write(const fs::path& target, int error) {
  fail(status_of_errno(error, true), "cannot write {}: {}", target.string(), errno_text(error));
}

}  // namespace

std::string read_text(const fs::path& path, uint64_t limit) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(status_of_errno(errno, false), "cannot read {}: {}", path.string(), errno_text(errno));
  std::string text;
  for (;;) {
    const size_t had = text.size();
    text.resize(had + kReadChunk);
    const ssize_t got = ::read(descriptor, text.data() + had, kReadChunk);
    if (got < 0 && errno == EINTR) {
      text.resize(had);
      continue;
    }
    const int error = errno;
    text.resize(had + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got <= 0 || text.size() > limit) {
      ::close(descriptor);
      if (got < 0) fail(status_of_errno(error, false), "cannot read {}: {}", path.string(), errno_text(error));
      break;
    }
  }
  if (text.size() > limit)
    fail(SLA2_E_FILE_FORMAT, "{} is larger than {} bytes: not a text file of this kind", path.string(), limit);
  return text;
}

fs::path temporary_name(const fs::path& target) { return target.parent_path() / ("." + target.filename().string() + ".sla2tmp"); }

TempFile::TempFile(fs::path target) : target_(std::move(target)), temporary_(temporary_name(target_)) {
  if (target_.filename().empty() || fs::is_directory(target_)) {
    fail(SLA2_E_FILE_WRITE, "cannot write {}: it is a folder; give a file name", target_.string());
  }
  // Not truncated before the lock is held: another run may be writing it. After the lock the name is looked at again,
  // because that run may have renamed the file we opened.
  for (;;) {
    descriptor_ = ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode);
    if (descriptor_ < 0) fail_write(target_, errno);
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::close(descriptor_);
      descriptor_ = -1;
      if (error == EWOULDBLOCK) fail(SLA2_E_FILE_WRITE, "cannot write {}: another sla2 is writing it now", target_.string());
      fail_write(target_, error);
    }
    struct stat opened {
    }, named{};
    if (::fstat(descriptor_, &opened) == 0 && ::stat(temporary_.c_str(), &named) == 0 && opened.st_ino == named.st_ino) break;
    ::close(descriptor_);
  }
  if (::ftruncate(descriptor_, 0) != 0) {
    const int error = errno;
    ::close(descriptor_);
    fail_write(target_, error);
  }
}

TempFile::~TempFile() {
  if (descriptor_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(descriptor_);
}

void TempFile::write(std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(descriptor_, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_write(target_, errno);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void TempFile::commit() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) fail_write(target_, errno);  // EINVAL: cannot be synced
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) fail_write(target_, errno);
  ::close(descriptor_);
  descriptor_ = -1;
  sync_folder(target_.parent_path());
}

void write_file(const fs::path& target, std::string_view text) {
  TempFile file(target);
  file.write({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  file.commit();
}

void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace sla2::cli

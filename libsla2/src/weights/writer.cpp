// SPDX-License-Identifier: Apache-2.0
// write_safetensors: tensors in, one file out, whole or not at all.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "weights/file_io.h"
#include "weights/weights.h"

namespace sla2::weights {
namespace {

constexpr size_t kHeaderAlignment = 8;  // so that the data section is aligned for every element type
constexpr size_t kMaxWrite = size_t{1} << 30;

std::string_view stored_name(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "F32";
    case DType::kF16: return "F16";
    case DType::kBF16: return "BF16";
    case DType::kF8E4M3: return "F8_E4M3";
    case DType::kF8E5M2: return "F8_E5M2";
    case DType::kF64: return "F64";
    case DType::kI8: return "I8";
    case DType::kU8: return "U8";
    case DType::kI16: return "I16";
    case DType::kI32: return "I32";
    case DType::kI64: return "I64";
    case DType::kBool: return "BOOL";
    case DType::kUnset: break;
  }
  return "";
}

/// The header text, and where each tensor's bytes go.
std::string make_header(const std::string& path, std::span<const OutputTensor> tensors,
                        const std::map<std::string, std::string>& metadata, std::vector<uint64_t>& sizes) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  for (const OutputTensor& tensor : tensors) {
    SLA2_CHECK(!header.contains(tensor.name), SLA2_E_ARGUMENT, "{}: two tensors are named '{}'", path, tensor.name);
    uint64_t bytes = dtype_size(tensor.dtype);
    for (const int64_t extent : tensor.shape) bytes *= static_cast<uint64_t>(extent);
    header[tensor.name] = {{"dtype", stored_name(tensor.dtype)}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    sizes.push_back(bytes);
    at += bytes;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& error) {  // names or metadata that are not UTF-8
    fail(SLA2_E_ARGUMENT, "{}: a tensor name or metadata text is not UTF-8: {}", path, error.what());
  }
  text.resize((text.size() + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment, ' ');
  parse_header(text, at, path, nullptr);  // what we write, our own reader must accept
  return text;
}

std::string partial_name(const std::string& target) {
  const std::filesystem::path path(target);
  return (path.parent_path() / fmt::format(".{}.part", path.filename().string())).string();
}

/// Whether the descriptor's file still has this name: whoever held the lock before us may have renamed or removed it.
bool is_named(int descriptor, const std::string& name) {
  struct stat opened {
  }, named{};
  return ::fstat(descriptor, &opened) == 0 && ::stat(name.c_str(), &named) == 0 && opened.st_ino == named.st_ino &&
         opened.st_dev == named.st_dev;
}

/// A file under a temporary name that vanishes unless published. The name is fixed, so that what a killed process left is
/// overwritten by the next; a lock makes writers of one target wait for each other.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target) : target_(target), name_(partial_name(target)) {
    for (;;) {
      descriptor_ = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);  // the umask narrows it
      if (descriptor_ < 0) give_up("cannot be created", errno);
      while (::flock(descriptor_, LOCK_EX) != 0 && errno == EINTR) {
      }
      if (is_named(descriptor_, name_)) break;
      ::close(descriptor_);
    }
    if (::ftruncate(descriptor_, 0) != 0) {
      const int code = errno;
      ::close(descriptor_);
      give_up("cannot be emptied", code);
    }
  }
  ~TemporaryFile() {
    if (descriptor_ < 0) return;
    ::unlink(name_.c_str());  // before the lock goes
    ::close(descriptor_);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  /// Ask for the room now, so that a full disk is noticed before the work of writing.
  void reserve(uint64_t bytes) const {
    if (::fallocate(descriptor_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) != 0 &&
        (errno == ENOSPC || errno == EDQUOT)) {
      give_up(fmt::format("needs {}", size_text(bytes)), errno);
    }
  }
  void write(const void* data, uint64_t bytes) const {
    const auto* at = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t done = ::write(descriptor_, at, static_cast<size_t>(std::min<uint64_t>(bytes, kMaxWrite)));
      if (done < 0) {
        if (errno == EINTR) continue;
        give_up("cannot be written", errno);
      }
      at += done;
      bytes -= static_cast<uint64_t>(done);
    }
  }
  void publish() {
    if (::fsync(descriptor_) != 0) give_up("cannot be flushed to disk", errno);
    if (::rename(name_.c_str(), target_.c_str()) != 0) give_up("cannot be renamed into place", errno);
    ::close(std::exchange(descriptor_, -1));  // after the rename: the lock keeps the name ours; all is on disk already
    // The rename itself must survive a power cut; a folder that cannot be flushed is no reason to fail.
    const std::string parent = std::filesystem::path(target_).parent_path().string();
    const int folder = ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
      ::fsync(folder);
      ::close(folder);
    }
  }

 private:
  [[noreturn]] void give_up(const std::string& what, int code) const {
    fail(SLA2_E_FILE_WRITE, "{}: {}: {}; choose another folder or free some space", target_, what,
         std::generic_category().message(code));
  }
  std::string target_, name_;
  int descriptor_ = -1;
};

}  // namespace

void write_safetensors(const std::string& path, std::span<const OutputTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<uint64_t> sizes;
  const std::string header = make_header(path, tensors, metadata, sizes);
  const uint64_t header_bytes = header.size();
  uint64_t total = sizeof(header_bytes) + header_bytes;
  for (const uint64_t bytes : sizes) total += bytes;

  TemporaryFile file(path);
  file.reserve(total);
  file.write(&header_bytes, sizeof(header_bytes));
  file.write(header.data(), header_bytes);
  for (size_t i = 0; i < tensors.size(); ++i) file.write(tensors[i].data, sizes[i]);
  file.publish();
}

void discard_partial(const std::string& path) noexcept {
  try {
    const std::string name = partial_name(path);
    const int descriptor = ::open(name.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (descriptor < 0) return;
    if (::flock(descriptor, LOCK_EX | LOCK_NB) == 0 && is_named(descriptor, name)) ::unlink(name.c_str());
    ::close(descriptor);
  } catch (...) {  // no memory for the name: what is left stays
  }
}

}  // namespace sla2::weights

// SPDX-License-Identifier: Apache-2.0
// SafetensorsFile::open: a path in, a checked header and a way to its bytes out.
// Layout: 8 bytes little-endian header length, the JSON header, the data section.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "weights/file_io.h"
#include "weights/foreign.h"
#include "weights/weights.h"

namespace sla2::weights {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian, and so is every supported CPU");

class File final : public SafetensorsFile {
 public:
  explicit File(const std::string& path) : file_(path) {
    std::array<std::byte, kForeignProbeBytes> head{};
    const size_t probed = static_cast<size_t>(std::min<uint64_t>(head.size(), file_.size()));
    file_.read(0, std::span(head).first(probed));
    const std::string foreign = describe_foreign(std::span<const std::byte>(head).first(probed), file_.size());
    SLA2_CHECK(foreign.empty(), SLA2_E_FILE_FORMAT, "{}: expected a safetensors file, got {}", path, foreign);

    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, head.data(), sizeof(header_bytes));
    SLA2_CHECK(
        header_bytes <= kMaxHeaderBytes, SLA2_E_FILE_FORMAT,
        "{}: not a safetensors file: its first eight bytes, the length of the header there, say {}, and at most {} is allowed; "
        "`sla2 info` says what files are",
        path, header_bytes, kMaxHeaderBytes);
    SLA2_CHECK(header_bytes <= file_.size() - kLengthBytes, SLA2_E_FILE_FORMAT,
               "{}: the file has {} bytes, its header alone needs {}: incomplete download? Fetch the file again", path,
               file_.size(), header_bytes + kLengthBytes);
    data_begin_ = kLengthBytes + header_bytes;
    header_.resize(header_bytes);
    file_.read(kLengthBytes, std::as_writable_bytes(std::span(header_)));
    tensors_ = parse_header(header_, file_.size() - data_begin_, path, &metadata_);
    index_.reserve(tensors_.size());
    for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
  }

  const std::string& path() const noexcept override { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const noexcept override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const noexcept override { return metadata_; }
  const std::string& header() const noexcept override { return header_; }
  uint64_t file_bytes() const noexcept override { return file_.size(); }

  const TensorInfo* find(std::string_view name) const noexcept override {
    const auto found = index_.find(name);
    return found == index_.end() ? nullptr : &tensors_[found->second];
  }
  void read_bytes(const TensorInfo& tensor, uint64_t byte_offset, std::span<std::byte> target) const override {
    const uint64_t bytes = tensor.end - tensor.begin;
    SLA2_CHECK(byte_offset <= bytes && target.size() <= bytes - byte_offset, SLA2_E_INTERNAL,
               "{}: tensor '{}': {} bytes at {} asked of {}", path(), tensor.name, target.size(), byte_offset, bytes);
    file_.read(data_begin_ + tensor.begin + byte_offset, target);
  }
  void will_need(const TensorInfo& tensor) const noexcept override {
    file_.will_need(data_begin_ + tensor.begin, tensor.end - tensor.begin);
  }

 private:
  InputFile file_;
  uint64_t data_begin_ = 0;
  std::string header_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::unordered_map<std::string_view, size_t> index_;  // views into tensors_, which never changes
};

}  // namespace

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  return std::make_shared<const File>(path);
}

}  // namespace sla2::weights

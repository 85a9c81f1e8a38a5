// SPDX-License-Identifier: Apache-2.0
// Checkpoint: canonical names in, converted numbers out. Reading, conversion and scaling run chunk by chunk in a buffer that
// stays in the second-level cache, on all threads; each element is computed alone, so threads cannot change a bit.
#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "weights/convert.h"
#include "weights/file_io.h"
#include "weights/source_set.h"

namespace sla2::weights {
namespace {

constexpr int64_t kChunkElements = 16384;               // 64 KiB of fp32: stays in L2 with its source
constexpr int64_t kPartElements = 32 * kChunkElements;  // one thread's turn
constexpr size_t kMaxElementBytes = 8;

/// Errors of parallel bodies, which must not throw: the first in file order wins.
class ErrorSlot {
 public:
  template <typename Body>
  void run(int64_t position, Body&& body) noexcept {
    try {
      body();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_ || position < position_) {
        error_ = std::current_exception();
        position_ = position;
      }
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr error_;
  int64_t position_ = 0;
};

/// Call body(begin, end) over parts of [0, count), on all threads where that pays; its errors come out here.
template <typename Body>
void in_parts(int64_t count, Body&& body) {
  if (count <= kPartElements) {
    body(int64_t{0}, count);
    return;
  }
  ErrorSlot errors;
  parallel_ranges(count, kPartElements, [&](int64_t begin, int64_t end, int) { errors.run(begin, [&] { body(begin, end); }); });
  errors.rethrow();
}

/// The scale of an entry: one number, or one per row of `row` elements.
struct Scale {
  std::vector<float> values;
  int64_t row = 1;
  void apply(int64_t first, std::span<float> numbers) const {
    if (values.empty()) return;
    if (values.size() == 1) {
      for (float& number : numbers) number *= values[0];
      return;
    }
    for (size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] *= values[static_cast<size_t>((first + static_cast<int64_t>(i)) / row)];
    }
  }
};

class SourceCheckpoint final : public Checkpoint {
 public:
  explicit SourceCheckpoint(const std::string& path) : set_(open_sources(path)), identity_(identify(set_)) {}

  const std::string& path() const noexcept override { return set_.path; }
  const Identity& identity() const noexcept override { return identity_; }
  bool has(std::string_view canonical) const noexcept override { return set_.find(canonical) != nullptr; }
  const TensorInfo& info(std::string_view canonical) const override { return *entry(canonical).info; }
  const std::string& config_json() const noexcept override { return set_.config_json; }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    names.reserve(set_.entries.size());
    for (const auto& [name, ignored] : set_.entries) names.push_back(name);
    return names;
  }

  void read_f32(std::string_view canonical, std::span<const int64_t> shape, std::span<float> target) const override {
    const Entry& source = checked(canonical, shape, target.size());
    read_range_f32(source, 0, target);
  }
  void read_rows_f32(std::string_view canonical, int64_t first_row, int64_t rows, std::span<float> target) const override {
    const Entry& source = entry(canonical);
    const auto& shape = source.info->shape;
    const int64_t all = shape.empty() ? 1 : shape.front();
    SLA2_CHECK(first_row >= 0 && rows >= 0 && first_row <= all && rows <= all - first_row, SLA2_E_ARGUMENT,
               "{}: rows {} to {} of tensor '{}', which has {}", path(), first_row, first_row + rows, canonical, all);
    const int64_t row = all == 0 ? 0 : source.info->element_count() / all;
    SLA2_CHECK(target.size() == static_cast<size_t>(rows * row), SLA2_E_INTERNAL,
               "tensor '{}': {} rows of {} into room for {} numbers", canonical, rows, row, target.size());
    read_range_f32(source, first_row * row, target);
  }
  void read_bf16(std::string_view canonical, std::span<const int64_t> shape, std::span<bf16_t> target) const override {
    const Entry& source = checked(canonical, shape, target.size());
    if (source.info->dtype == DType::kBF16 && source.scale == nullptr) {
      copy_range(source, std::as_writable_bytes(target));
      return;
    }
    const Scale scale = scale_of(source);
    for_chunks(source, 0, static_cast<int64_t>(target.size()), [&](int64_t at, const std::byte* stored, int64_t count) {
      alignas(64) std::array<float, kChunkElements> numbers;
      to_f32(source.info->dtype, stored, numbers.data(), static_cast<size_t>(count));
      scale.apply(at, std::span(numbers).first(static_cast<size_t>(count)));
      convert_to_bf16(numbers.data(), target.data() + at, static_cast<size_t>(count));
    });
  }
  void read_raw(std::string_view canonical, std::span<std::byte> target) const override {
    const Entry& source = entry(canonical);
    const uint64_t bytes = source.info->end - source.info->begin;
    SLA2_CHECK(target.size() == bytes, SLA2_E_INTERNAL, "tensor '{}': {} bytes into room for {}", canonical, bytes,
               target.size());
    copy_range(source, target);
  }
  std::string digest() const override {
    std::call_once(digest_once_, [&] { digest_ = compute_digest(); });
    return digest_;
  }

 private:
  const Entry& entry(std::string_view canonical) const {
    const Entry* found = set_.find(canonical);
    SLA2_CHECK(found != nullptr, SLA2_E_FILE_FORMAT, "{}: tensor '{}' is missing; the file is {}", path(), canonical,
               identity_.summary);
    return *found;
  }
  const Entry& checked(std::string_view canonical, std::span<const int64_t> shape, size_t room) const {
    const Entry& source = entry(canonical);
    const auto& got = source.info->shape;
    SLA2_CHECK(shape.empty() || same_shape(shape, got), SLA2_E_MODEL_MISMATCH, "{}: tensor '{}': expected shape [{}], got [{}]",
               path(), canonical, fmt::join(shape, ", "), fmt::join(got, ", "));
    SLA2_CHECK(static_cast<size_t>(source.info->element_count()) == room, SLA2_E_INTERNAL,
               "tensor '{}': {} numbers into room for {}", canonical, source.info->element_count(), room);
    return source;
  }

  /// Call body(element index from `first`, stored bytes, count) for every chunk of [first, first + count).
  template <typename Body>
  void for_chunks(const Entry& source, int64_t first, int64_t count, Body&& body) const {
    SLA2_CHECK(source.unsupported.empty(), SLA2_E_UNSUPPORTED,
               "{}: tensor '{}' is stored with {}, which this version does not "
               "read; use the bf16, fp16 or fp8-e4m3 edition of the model",
               path(), source.info->name, source.unsupported);
    const size_t size = dtype_size(source.info->dtype);
    source.file->will_need(*source.info);
    in_parts(count, [&](int64_t begin, int64_t end) {
      alignas(64) std::array<std::byte, kChunkElements * kMaxElementBytes> stored;
      for (int64_t at = begin; at < end; at += kChunkElements) {
        const int64_t part = std::min(kChunkElements, end - at);
        source.file->read_bytes(*source.info, static_cast<uint64_t>(first + at) * size,
                                std::span(stored).first(static_cast<size_t>(part) * size));
        body(at, stored.data(), part);
      }
    });
  }
  void read_range_f32(const Entry& source, int64_t first, std::span<float> target) const {
    const Scale scale = scale_of(source);
    for_chunks(source, first, static_cast<int64_t>(target.size()), [&](int64_t at, const std::byte* stored, int64_t count) {
      to_f32(source.info->dtype, stored, target.data() + at, static_cast<size_t>(count));
      scale.apply(first + at, target.subspan(static_cast<size_t>(at), static_cast<size_t>(count)));
    });
  }
  void copy_range(const Entry& source, std::span<std::byte> target) const {
    source.file->will_need(*source.info);
    in_parts(static_cast<int64_t>(target.size()), [&](int64_t begin, int64_t end) {
      source.file->read_bytes(*source.info, static_cast<uint64_t>(begin),
                              target.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    });
  }
  Scale scale_of(const Entry& source) const {
    Scale scale;
    if (source.scale == nullptr || !source.unsupported.empty()) return scale;
    const size_t count = static_cast<size_t>(source.scale->element_count());
    std::vector<std::byte> stored(count * dtype_size(source.scale->dtype));
    source.scale_file->read_bytes(*source.scale, 0, stored);
    scale.values.resize(count);
    to_f32(source.scale->dtype, stored.data(), scale.values.data(), count);
    const bool finite = std::all_of(scale.values.begin(), scale.values.end(), [](float value) { return std::isfinite(value); });
    SLA2_CHECK(finite, SLA2_E_FILE_FORMAT, "{}: scale '{}' is not finite; the file is damaged", path(), source.scale->name);
    const int64_t rows = source.info->shape.empty() ? 1 : source.info->shape.front();
    scale.row = rows == 0 ? 1 : std::max<int64_t>(1, source.info->element_count() / rows);
    return scale;
  }

  /// Small files whole, large ones by samples of every tensor, so that any retraining shows.
  std::string compute_digest() const {
    constexpr uint64_t kWholeBelow = 16'000'000;
    constexpr uint64_t kSampleBytes = 1024;
    uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a, 64 bits
    const auto mix = [&](std::span<const std::byte> bytes) {
      for (const std::byte byte : bytes) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3ULL;
    };
    std::vector<std::byte> sample;
    for (const auto& file : set_.files) {
      mix(std::as_bytes(std::span(file->header())));
      for (const TensorInfo& tensor : file->tensors()) {
        const uint64_t bytes = tensor.end - tensor.begin;
        const auto take = [&](uint64_t at, uint64_t count) {
          sample.resize(count);
          file->read_bytes(tensor, at, sample);
          mix(sample);
        };
        if (file->file_bytes() < kWholeBelow || bytes <= 3 * kSampleBytes) {
          take(0, bytes);
        } else {
          take(0, kSampleBytes);
          take(bytes / 2, kSampleBytes);
          take(bytes - kSampleBytes, kSampleBytes);
        }
      }
    }
    return fmt::format("{:016x}", hash);
  }

  SourceSet set_;
  Identity identity_;
  mutable std::once_flag digest_once_;
  mutable std::string digest_;
};

/// "a, b, c and 12 more".
std::string list_names(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  const size_t shown = std::min(names.size(), kShown);
  std::string text = fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

}  // namespace

std::shared_ptr<const Checkpoint> Checkpoint::open(const std::string& path) {
  return std::make_shared<const SourceCheckpoint>(path);
}

void check_tensors(const Checkpoint& checkpoint, std::span<const ExpectedTensor> expected, std::string_view what) {
  std::vector<std::string> missing, wrong, unexpected;
  std::unordered_set<std::string_view> known;
  for (const ExpectedTensor& tensor : expected) {
    known.insert(tensor.name);
    if (!checkpoint.has(tensor.name)) {
      if (tensor.required) missing.push_back(tensor.name);
      continue;
    }
    const TensorInfo& info = checkpoint.info(tensor.name);
    if (!same_shape(info.shape, tensor.shape)) {
      wrong.push_back(
          fmt::format("{} [{}] instead of [{}]", tensor.name, fmt::join(info.shape, ", "), fmt::join(tensor.shape, ", ")));
    }
  }
  for (const std::string& name : checkpoint.names()) {
    if (!known.contains(name)) unexpected.push_back(name);
  }
  std::string problems;
  if (!missing.empty()) problems += fmt::format("; missing ({}): {}", missing.size(), list_names(missing));
  if (!wrong.empty()) problems += fmt::format("; of other shape ({}): {}", wrong.size(), list_names(wrong));
  if (problems.empty()) {
    if (!unexpected.empty()) {
      log(SLA2_LOG_WARNING, "{}: {}: {} tensors are not used: {}", checkpoint.path(), what, unexpected.size(),
          list_names(unexpected));
    }
    return;
  }
  if (!unexpected.empty()) problems += fmt::format("; not used ({}): {}", unexpected.size(), list_names(unexpected));
  fail(SLA2_E_FILE_FORMAT, "{}: not a whole {}{}; the file is {}", checkpoint.path(), what, problems,
       checkpoint.identity().summary);
}

}  // namespace sla2::weights

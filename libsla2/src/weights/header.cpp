// SPDX-License-Identifier: Apache-2.0
// parse_header: safetensors header text in, checked tensor table out. Nothing about the file is believed before it is
// checked, and every check happens before any allocation that the file's numbers could inflate.
//
// A SAX parser because nlohmann::json keeps the last of two equal keys silently, and because its DOM recurses.
#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "weights/file_io.h"
#include "weights/weights.h"

namespace sla2::weights {
namespace {

constexpr size_t kMaxDims = 8;
constexpr size_t kMaxNameBytes = 1024;
constexpr std::string_view kMetadataKey = "__metadata__";

struct StoredType {
  std::string_view name;
  DType dtype;  ///< kUnset: in the format, but nothing here computes with it
};
constexpr std::array<StoredType, 15> kStoredTypes{{{"F32", DType::kF32},
                                                   {"F16", DType::kF16},
                                                   {"BF16", DType::kBF16},
                                                   {"F8_E4M3", DType::kF8E4M3},
                                                   {"F8_E5M2", DType::kF8E5M2},
                                                   {"F64", DType::kF64},
                                                   {"I8", DType::kI8},
                                                   {"U8", DType::kU8},
                                                   {"I16", DType::kI16},
                                                   {"I32", DType::kI32},
                                                   {"I64", DType::kI64},
                                                   {"BOOL", DType::kBool},
                                                   {"U16", DType::kUnset},
                                                   {"U32", DType::kUnset},
                                                   {"U64", DType::kUnset}}};

// Names go into messages and paths of thought; control characters have no business there.
bool is_printable(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7f;
  });
}

std::string shorten(std::string_view text) {
  constexpr size_t kShown = 80;
  return text.size() <= kShown ? std::string(text) : fmt::format("{}… ({} bytes)", text.substr(0, kShown), text.size());
}

/// Receives the JSON events; the stack of places is the whole grammar of the header.
class HeaderSax final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderSax(const std::string& where, std::map<std::string, std::string>* metadata) : where_(where), metadata_(metadata) {}
  std::vector<TensorInfo> take() { return std::move(tensors_); }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart: place_ = Place::kTop; return true;
      case Place::kTop:
        if (key_ == kMetadataKey) {
          place_ = Place::kMetadata;
        } else {
          place_ = Place::kTensor;
          tensors_.push_back({key_, DType::kUnset, {}, 0, 0});
          seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        }
        return true;
      default: bad("an object where none belongs");
    }
  }
  bool key(string_t& name) override {
    if (place_ == Place::kTop) {
      check_name(name);
      if (!names_.insert(name).second) bad(fmt::format("tensor name '{}' appears twice", shorten(name)));
    } else if (place_ == Place::kMetadata && !metadata_keys_.insert(name).second) {
      bad(fmt::format("metadata key '{}' appears twice", shorten(name)));
    }
    (place_ == Place::kTop ? key_ : field_) = name;
    return true;
  }
  bool end_object() override {
    if (place_ == Place::kTensor && !(seen_dtype_ && seen_shape_ && seen_offsets_)) {
      bad(fmt::format("tensor '{}' lacks {}", shorten(key_), !seen_dtype_ ? "dtype" : !seen_shape_ ? "shape" : "data_offsets"));
    }
    place_ = place_ == Place::kTop ? Place::kDone : Place::kTop;
    return true;
  }
  bool start_array(size_t) override {
    if (place_ != Place::kTensor || (field_ != "shape" && field_ != "data_offsets")) bad("an array where none belongs");
    bool& seen = field_ == "shape" ? seen_shape_ : seen_offsets_;
    if (seen) bad_field("appears twice");
    seen = true;
    place_ = field_ == "shape" ? Place::kShape : Place::kOffsets;
    offsets_seen_ = 0;
    return true;
  }
  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_seen_ != 2) bad_field("needs two numbers");
    place_ = Place::kTensor;
    return true;
  }
  bool string(string_t& text) override {
    if (place_ == Place::kMetadata) {
      if (metadata_ != nullptr) (*metadata_)[field_] = text;
      return true;
    }
    if (place_ != Place::kTensor || field_ != "dtype") bad("a string where none belongs");
    if (seen_dtype_) bad_field("appears twice");
    seen_dtype_ = true;
    const auto known = std::find_if(kStoredTypes.begin(), kStoredTypes.end(), [&](const auto& t) { return t.name == text; });
    if (known == kStoredTypes.end()) bad_field(fmt::format("'{}' is not a known element type", shorten(text)));
    if (known->dtype == DType::kUnset) {
      fail(SLA2_E_UNSUPPORTED, "{}: tensor '{}' has element type {}, which this version does not read", where_, shorten(key_),
           text);
    }
    tensors_.back().dtype = known->dtype;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    TensorInfo* tensor = tensors_.empty() ? nullptr : &tensors_.back();
    if (place_ == Place::kShape) {
      if (tensor->shape.size() == kMaxDims) bad_field(fmt::format("has more than {} dimensions", kMaxDims));
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) bad_field("has a dimension beyond 2^63");
      tensor->shape.push_back(static_cast<int64_t>(value));
    } else if (place_ == Place::kOffsets) {
      if (offsets_seen_ == 2) bad_field("needs two numbers");
      (offsets_seen_++ == 0 ? tensor->begin : tensor->end) = value;
    } else {
      bad("a number where none belongs");
    }
    return true;
  }
  bool number_integer(number_integer_t) override { bad("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { bad("a fractional number"); }
  bool null() override { bad("null"); }
  bool boolean(bool) override { bad("a boolean"); }
  bool binary(binary_t&) override { bad("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    fail(SLA2_E_FILE_FORMAT, "{}: header is not valid JSON at byte {}: {}; the file is damaged or not safetensors", where_,
         position, error.what());
  }

 private:
  enum class Place { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kDone };

  [[noreturn]] void bad(const std::string& what) const {
    fail(SLA2_E_FILE_FORMAT, "{}: safetensors header: {}{}; the file is damaged or not safetensors", where_, what,
         place_ == Place::kTensor || place_ == Place::kShape || place_ == Place::kOffsets
             ? fmt::format(" (in tensor '{}')", shorten(key_))
             : "");
  }
  [[noreturn]] void bad_field(const std::string& what) const { bad(fmt::format("{} {}", shorten(field_), what)); }
  void check_name(const std::string& name) const {
    if (name.empty()) bad("a tensor without a name");
    if (name.size() > kMaxNameBytes) bad(fmt::format("a tensor name of {} bytes, {} allowed", name.size(), kMaxNameBytes));
    if (!is_printable(name)) bad("a tensor name with control characters");
  }

  const std::string& where_;
  std::map<std::string, std::string>* metadata_;
  Place place_ = Place::kStart;
  std::string key_, field_;
  std::vector<TensorInfo> tensors_;
  std::unordered_set<std::string> names_, metadata_keys_;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
  int offsets_seen_ = 0;
};

/// Π(shape) · element size, or fail on overflow. A zero extent makes it zero whatever the others are.
uint64_t bytes_of(const TensorInfo& tensor, const std::string& where) {
  if (std::find(tensor.shape.begin(), tensor.shape.end(), 0) != tensor.shape.end()) return 0;
  uint64_t bytes = dtype_size(tensor.dtype);
  for (const int64_t extent : tensor.shape) {
    SLA2_CHECK(!__builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes), SLA2_E_FILE_FORMAT,
               "{}: tensor '{}': the product of shape [{}] overflows; the file is damaged", where, shorten(tensor.name),
               fmt::join(tensor.shape, ", "));
  }
  return bytes;
}

/// Offsets agree with shapes, and the tensors tile the data section without gap or overlap. Leaves them in file order.
void check_layout(std::vector<TensorInfo>& tensors, uint64_t data_bytes, const std::string& where) {
  for (const TensorInfo& tensor : tensors) {
    SLA2_CHECK(tensor.begin <= tensor.end, SLA2_E_FILE_FORMAT, "{}: tensor '{}' ends at {} before it begins at {}", where,
               shorten(tensor.name), tensor.end, tensor.begin);
    const uint64_t bytes = bytes_of(tensor, where);
    SLA2_CHECK(bytes == tensor.end - tensor.begin, SLA2_E_FILE_FORMAT,
               "{}: tensor '{}': {} of shape [{}] takes {} bytes, but the header gives it {}; the file is damaged", where,
               shorten(tensor.name), dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "), bytes, tensor.end - tensor.begin);
  }
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const TensorInfo& tensor : tensors) {
    SLA2_CHECK(tensor.begin == covered, SLA2_E_FILE_FORMAT, "{}: tensor '{}' begins at {} where {} is expected: {}", where,
               shorten(tensor.name), tensor.begin, covered,
               tensor.begin < covered ? "tensors overlap" : "bytes belong to nobody");
    covered = tensor.end;
  }
  SLA2_CHECK(covered <= data_bytes, SLA2_E_FILE_FORMAT,
             "{}: {} of data are there, the header promises {} ({} bytes missing): incomplete download? Fetch the file again",
             where, size_text(data_bytes), size_text(covered), covered - data_bytes);
  SLA2_CHECK(covered == data_bytes, SLA2_E_FILE_FORMAT, "{}: {} bytes follow the last tensor and belong to nobody", where,
             data_bytes - covered);
}

}  // namespace

int64_t TensorInfo::element_count() const noexcept {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

std::vector<TensorInfo> parse_header(std::string_view header, uint64_t data_bytes, const std::string& where,
                                     std::map<std::string, std::string>* metadata) {
  SLA2_CHECK(!header.empty() && header.front() == '{', SLA2_E_FILE_FORMAT,
             "{}: the header does not begin with '{{'; this is not a safetensors file", where);
  HeaderSax sax(where, metadata);
  nlohmann::json::sax_parse(header.begin(), header.end(), &sax);
  std::vector<TensorInfo> tensors = sax.take();
  check_layout(tensors, data_bytes, where);
  return tensors;
}

}  // namespace sla2::weights

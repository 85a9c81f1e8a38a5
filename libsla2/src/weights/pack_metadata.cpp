// SPDX-License-Identifier: Apache-2.0
// The metadata of a router pack: strings in, checked values out. Keys that say nothing about numbers are kept as they are;
// keys the document does not know are left alone, since tools may add some.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "weights/weights.h"

namespace sla2::weights {
namespace {

using Metadata = std::map<std::string, std::string>;

constexpr int64_t kVersion = 1;
constexpr int64_t kMostLayers = 1024, kMostHeads = 1024, kMostTokensAnAxis = 65536;
constexpr int64_t kLeastDim = 32, kMostDim = 256, kDimStep = 8;  // what attention runs
constexpr size_t kMostKappas = 64;

template <typename T>
bool parse(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// Calls each(part) for the parts between separators; false if one call gives false.
template <typename Each>
bool all_parts(std::string_view text, char separator, const Each& each) {
  for (;;) {
    const size_t end = text.find(separator);
    if (!each(text.substr(0, end))) return false;
    if (end == std::string_view::npos) return true;
    text.remove_prefix(end + 1);
  }
}

class MetadataReader {
 public:
  MetadataReader(const Metadata& metadata, const std::string& where) : metadata_(metadata), where_(where) {}

  [[nodiscard]] std::string text(const char* key) const {
    const auto found = metadata_.find(key);
    return found == metadata_.end() ? std::string() : found->second;
  }
  [[nodiscard]] std::string required(const char* key) const {
    const std::string value = text(key);
    SLA2_CHECK(!value.empty(), SLA2_E_FILE_FORMAT,
               "{}: router pack: the metadata \"{}\" is missing; make the pack again with a tool that writes it", where_, key);
    return value;
  }
  [[nodiscard]] int64_t integer(const char* key, const std::string& value, int64_t least, int64_t most) const {
    int64_t number = 0;
    if (!parse<int64_t>(value, number) || number < least || number > most)
      wrong(key, value, fmt::format("a whole number from {} to {}", least, most));
    return number;
  }
  [[nodiscard]] int64_t integer(const char* key, int64_t least, int64_t most) const {
    return integer(key, required(key), least, most);
  }
  void word(const char* key, std::initializer_list<std::string_view> choices, std::string& value) const {
    const std::string given = text(key);
    if (given.empty()) return;
    if (std::find(choices.begin(), choices.end(), given) == choices.end())
      wrong(key, given, fmt::format("one of {}", fmt::join(choices, ", ")));
    value = given;
  }
  void number_word(const char* key, std::initializer_list<int32_t> choices, int32_t& value) const {
    const std::string given = text(key);
    if (given.empty()) return;
    int32_t number = 0;
    if (!parse(std::string_view(given), number) || std::find(choices.begin(), choices.end(), number) == choices.end())
      wrong(key, given, fmt::format("one of {}", fmt::join(choices, ", ")));
    value = number;
  }
  /// "21x30x52".
  [[nodiscard]] std::array<int64_t, 3> box(const char* key, std::string_view given, std::string_view shown) const {
    std::array<int64_t, 3> extents{};
    size_t count = 0;
    const bool read = all_parts(given, 'x', [&](std::string_view part) {
      return count < extents.size() && parse(part, extents[count]) && extents[count] >= 1 &&
             extents[count++] <= kMostTokensAnAxis;
    });
    if (!read || count != extents.size()) wrong(key, shown, "FRAMESxHEIGHTxWIDTH in tokens, as 21x30x52");
    return extents;
  }
  [[noreturn]] void wrong(const char* key, std::string_view got, std::string_view expected) const {
    constexpr size_t kShown = 80;
    fail(SLA2_E_FILE_FORMAT, "{}: router pack: the metadata \"{}\" is \"{}\"; expected {}", where_, key, got.substr(0, kShown),
         expected);
  }
  /// Values that a later version may know, and this one cannot compute.
  void only(const char* key, std::string_view known) const {
    const std::string given = text(key);
    SLA2_CHECK(given.empty() || given == known, SLA2_E_UNSUPPORTED,
               "{}: router pack: {} = \"{}\" is not something this version computes; it knows \"{}\"", where_, key, given, known);
  }

 private:
  const Metadata& metadata_;
  const std::string& where_;
};

std::vector<double> read_kappas(const MetadataReader& reader) {
  const std::string given = reader.required("kappa");
  std::vector<double> kappas;
  const bool read = all_parts(given, ',', [&](std::string_view part) {
    double value = 0;
    while (part.starts_with(' ')) part.remove_prefix(1);
    if (!parse(part, value) || !(value > 0 && value <= 1)) return false;
    kappas.push_back(value);
    return kappas.size() <= kMostKappas;
  });
  if (!read) reader.wrong("kappa", given, "kept fractions above 0, up to 1, as 0.1 or 0.1,0.05");
  return kappas;
}

void read_version(const MetadataReader& reader, const std::string& where) {
  const std::string format = reader.text("format");
  SLA2_CHECK(format == kPackFormat, SLA2_E_FILE_FORMAT,
             "{}: not a router pack: its metadata \"format\" is \"{}\", expected \"{}\"", where, format, kPackFormat);
  const int64_t version = reader.integer("version", 1, std::numeric_limits<int32_t>::max());
  SLA2_CHECK(version <= kVersion, SLA2_E_VERSION,
             "{}: router pack of version {}; this library knows versions up to {}: use a newer library", where, version,
             kVersion);
}

}  // namespace

PackMetadata parse_pack_metadata(const Metadata& metadata, const std::string& where) {
  const MetadataReader reader(metadata, where);
  read_version(reader, where);
  PackMetadata pack;
  pack.layers = reader.integer("layers", 1, kMostLayers);
  pack.heads = reader.integer("heads", 1, kMostHeads);
  pack.head_dim = reader.integer("head_dim", kLeastDim, kMostDim);
  if (pack.head_dim % kDimStep != 0) reader.wrong("head_dim", reader.text("head_dim"), fmt::format("a multiple of {}", kDimStep));
  static_cast<void>(reader.required("block_q"));
  static_cast<void>(reader.required("block_k"));
  reader.number_word("block_q", {32, 64, 128}, pack.block_q);
  reader.number_word("block_k", {16, 32, 64, 128}, pack.block_k);
  pack.kappa = read_kappas(reader);
  reader.word("mode", {"sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"}, pack.mode);
  reader.word("alpha_mode", {"head_affine_lse", "head_scalar", "block", "const"}, pack.alpha_mode);
  reader.word("linear_scope", {"complement", "global"}, pack.linear_scope);
  reader.word("router", {"sla2", "sla1", "vmoba", "sparge"}, pack.router);
  int32_t smooth_k = 1;
  reader.number_word("smooth_k", {0, 1}, smooth_k);
  pack.smooth_k = smooth_k == 1;
  reader.word("token_order", {"raster", "tile:4x4x4", "hilbert"}, pack.token_order);
  if (pack.token_order == "tile:4x4x4") pack.token_order = "tiles";
  reader.number_word("bits", {16, 8}, pack.bits);
  reader.only("phi", "softmax");
  reader.only("rope", "post");
  reader.number_word("stage", {0, 1, 2}, pack.stage);
  if (const std::string grid = reader.text("grid"); !grid.empty()) pack.grid = reader.box("grid", grid, grid);
  if (pack.mode == "sla2" && pack.alpha_mode == "block" && pack.tokens() == 0)
    reader.wrong("grid", "", "the token grid, which alpha_mode \"block\" is bound to");
  pack.schedule = reader.text("schedule");
  pack.base = reader.text("base");
  pack.base_shapes = reader.required("base_shapes");
  pack.base_weights = reader.text("base_weights");
  pack.needs = reader.text("requires");
  pack.errors = reader.text("errors");
  if (!pack.errors.empty() && !nlohmann::json::parse(pack.errors, nullptr, false).is_object())
    reader.wrong("errors", pack.errors, "a JSON object");
  pack.created_by = reader.text("created_by");
  pack.licence = reader.text("licence");
  return pack;
}

size_t PackMetadata::nearest_kappa(double sparsity) const {
  constexpr double kAsNear = 1e-12;
  const auto distance = [&](size_t i) { return std::abs(kappa[i] - (1 - sparsity)); };
  size_t best = 0;
  for (size_t i = 1; i < kappa.size(); ++i) {
    const double nearer = distance(best) - distance(i);
    if (nearer > kAsNear || (nearer > -kAsNear && kappa[i] < kappa[best])) best = i;
  }
  return best;
}

}  // namespace sla2::weights

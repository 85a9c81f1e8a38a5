// SPDX-License-Identifier: Apache-2.0
// A router pack's tensors: every name known, every shape and number checked, low-rank routers multiplied out.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "core/arithmetic.h"
#include "weights/convert.h"
#include "weights/file_io.h"
#include "weights/names.h"
#include "weights/weights.h"

namespace sla2::weights {
namespace {

constexpr double kKappaUnits = 10000;

struct PackTensor {
  const TensorInfo* info = nullptr;
  [[nodiscard]] explicit operator bool() const { return info != nullptr; }
};

/// Reads one layer after the other; what no layer has asked for in the end is unknown.
class PackReader {
 public:
  explicit PackReader(const SafetensorsFile& file) : file_(file), pack_(parse_pack_metadata(file.metadata(), file.path())) {
    check_kappas();
  }

  RouterPack read() {
    RouterPack result;
    result.path = file_.path();
    for (int64_t layer = 0; layer < pack_.layers; ++layer) result.layers.push_back(read_layer(layer));
    for (const TensorInfo& tensor : file_.tensors()) refuse_if_unknown(tensor);
    result.metadata = std::move(pack_);
    return result;
  }

 private:
  static std::string alpha_name(double kappa) { return fmt::format("alpha.k{:04d}", std::llround(kappa * kKappaUnits)); }

  void check_kappas() const {
    std::set<std::string> names;
    for (const double kappa : pack_.kappa)
      SLA2_CHECK(names.insert(alpha_name(kappa)).second, SLA2_E_FILE_FORMAT,
                 "{}: router pack: the metadata \"kappa\" names {} twice, as far as four digits tell", file_.path(), kappa);
  }

  [[nodiscard]] std::string tensor_name(int64_t layer, std::string_view what) const {
    return fmt::format("blocks.{}.self_attn.sla2.{}", layer, what);
  }
  PackTensor find(int64_t layer, std::string_view what) {
    const TensorInfo* info = file_.find(tensor_name(layer, what));
    if (info != nullptr) known_.insert(info->name);
    return {info};
  }

  void refuse_if_unknown(const TensorInfo& tensor) const {
    if (known_.contains(tensor.name)) return;
    constexpr std::string_view kHead = "blocks.";
    int64_t layer = -1;
    if (std::string_view(tensor.name).starts_with(kHead))
      std::from_chars(tensor.name.data() + kHead.size(), tensor.name.data() + tensor.name.size(), layer);
    SLA2_CHECK(layer < pack_.layers, SLA2_E_FILE_FORMAT, "{}: router pack: tensor '{}' is of layer {}; the pack says {} layers",
               file_.path(), tensor.name, layer, pack_.layers);
    fail(SLA2_E_FILE_FORMAT,
         "{}: router pack: tensor '{}' is unknown, or mode {} with alpha_mode {} and {} kappa does not read it; a pack is "
         "understood as a whole or refused",
         file_.path(), tensor.name, pack_.mode, pack_.alpha_mode, pack_.kappa.size());
  }

  std::vector<float> numbers(PackTensor tensor, const std::vector<int64_t>& shape) const {
    const TensorInfo& info = *tensor.info;
    SLA2_CHECK(info.shape == shape, SLA2_E_FILE_FORMAT, "{}: router pack: tensor '{}': expected shape [{}], got [{}]",
               file_.path(), info.name, fmt::join(shape, ", "), fmt::join(info.shape, ", "));
    SLA2_CHECK(info.dtype == DType::kF32 || info.dtype == DType::kBF16 || info.dtype == DType::kF16, SLA2_E_FILE_FORMAT,
               "{}: router pack: tensor '{}' is {}; expected fp32, bf16 or fp16", file_.path(), info.name,
               dtype_name(info.dtype));
    std::vector<std::byte> stored(info.end - info.begin);
    file_.read_bytes(info, 0, stored);
    std::vector<float> values(static_cast<size_t>(info.element_count()));
    to_f32(info.dtype, stored.data(), values.data(), values.size());
    const bool finite = std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    SLA2_CHECK(finite, SLA2_E_FILE_FORMAT, "{}: router pack: tensor '{}' holds NaN or infinity; make the pack again",
               file_.path(), info.name);
    return values;
  }

  /// The first axis of a router's tensor.
  [[nodiscard]] int64_t heads_of(PackTensor tensor) const {
    const std::vector<int64_t>& shape = tensor.info->shape;
    SLA2_CHECK(shape.size() == 3 && (shape[0] == 1 || shape[0] == pack_.heads), SLA2_E_FILE_FORMAT,
               "{}: router pack: tensor '{}' has shape [{}]; expected three axes, the first 1 or {} heads", file_.path(),
               tensor.info->name, fmt::join(shape, ", "), pack_.heads);
    return shape[0];
  }

  /// W [heads, D, D] of "proj_q" or "proj_k", whole or as I + up·down.
  std::optional<std::vector<float>> router(int64_t layer, const std::string& which, int64_t& heads) {
    const int64_t dim = pack_.head_dim;
    const PackTensor whole = find(layer, which), down = find(layer, which + ".down"), up = find(layer, which + ".up");
    SLA2_CHECK(!(whole && (down || up)) && bool(down) == bool(up), SLA2_E_FILE_FORMAT,
               "{}: router pack: '{}' must be there whole, or as .down and .up, or not at all", file_.path(),
               tensor_name(layer, which));
    if (whole) {
      heads = heads_of(whole);
      return numbers(whole, {heads, dim, dim});
    }
    if (!down) return std::nullopt;
    heads = heads_of(down);
    const int64_t rank = down.info->shape[1];
    SLA2_CHECK(rank >= 1 && rank <= dim, SLA2_E_FILE_FORMAT, "{}: router pack: tensor '{}' is of rank {}; expected 1 to {}",
               file_.path(), down.info->name, rank, dim);
    return multiply_out(numbers(up, {heads, dim, rank}), numbers(down, {heads, rank, dim}), heads, rank);
  }

  [[nodiscard]] std::vector<float> multiply_out(const std::vector<float>& up, const std::vector<float>& down, int64_t heads,
                                                int64_t rank) const {
    const int64_t dim = pack_.head_dim;
    std::vector<float> w(static_cast<size_t>(heads * dim * dim));
    for (int64_t row = 0; row < heads * dim; ++row) {
      const float* const u = up.data() + row * rank;                // up[head, i, :]
      const float* const d = down.data() + row / dim * rank * dim;  // down[head]
      for (int64_t j = 0; j < dim; ++j) {
        double sum = row % dim == j ? 1.0 : 0.0;
        for (int64_t r = 0; r < rank; ++r) sum += static_cast<double>(u[r]) * static_cast<double>(d[r * dim + j]);
        w[static_cast<size_t>(row * dim + j)] = static_cast<float>(sum);
      }
    }
    const bool finite = std::all_of(w.begin(), w.end(), [](float value) { return std::isfinite(value); });
    SLA2_CHECK(finite, SLA2_E_FILE_FORMAT, "{}: router pack: up·down overflows; make the pack again", file_.path());
    return w;
  }

  void read_router(int64_t layer, PackLayer& out) {
    int64_t heads_q = 1, heads_k = 1;
    auto q = router(layer, "proj_q", heads_q), k = router(layer, "proj_k", heads_k);
    SLA2_CHECK(q.has_value() == k.has_value() && heads_q == heads_k, SLA2_E_FILE_FORMAT,
               "{}: router pack: layer {} must have both proj_q and proj_k, of as many heads, or neither", file_.path(), layer);
    if (!q || pack_.mode == "linear_only") return;  // which has no router
    out.router_heads = heads_q;
    out.router_q = std::move(*q);
    out.router_k = std::move(*k);
  }

  void read_mix(int64_t layer, PackLayer& out) {
    if (pack_.alpha_mode == "const") return;  // no numbers: a tensor of that name stays unknown
    std::vector<int64_t> shape{pack_.heads};
    if (pack_.alpha_mode == "head_affine_lse") shape.push_back(2);
    if (pack_.alpha_mode == "block") shape.push_back(ceil_div(pack_.tokens(), pack_.block_q));
    for (const double kappa : pack_.kappa) {
      const std::string name = pack_.kappa.size() == 1 ? "alpha" : alpha_name(kappa);
      if (const PackTensor alpha = find(layer, name)) out.mix.push_back(numbers(alpha, shape));
    }
    SLA2_CHECK(out.mix.empty() || out.mix.size() == pack_.kappa.size(), SLA2_E_FILE_FORMAT,
               "{}: router pack: layer {} has alpha for {} of {} kappas; expected all or none", file_.path(), layer,
               out.mix.size(), pack_.kappa.size());
    if (pack_.mode != "sla2") out.mix.clear();
  }

  void read_projection(int64_t layer, PackLayer& out) {
    if (pack_.mode != "sla1") return;
    const int64_t dim = pack_.head_dim;
    const PackTensor weight = find(layer, "proj_l.weight"), bias = find(layer, "proj_l.bias");
    SLA2_CHECK(weight || !bias, SLA2_E_FILE_FORMAT, "{}: router pack: layer {} has proj_l.bias without proj_l.weight",
               file_.path(), layer);
    if (weight) out.proj = numbers(weight, {dim, dim});
    if (bias) out.proj_bias = numbers(bias, {dim});
  }

  PackLayer read_layer(int64_t layer) {
    PackLayer out;
    read_router(layer, out);
    read_mix(layer, out);
    read_projection(layer, out);
    return out;
  }

  const SafetensorsFile& file_;
  PackMetadata pack_;
  std::set<std::string> known_;
};

/// A pickle may not be opened; the Python package has a reader that runs no code of it.
void refuse_pickle(const std::string& path) {
  constexpr std::array<std::string_view, 3> kPickles{".pth", ".pt", ".ckpt"};
  const bool pickle =
      std::any_of(kPickles.begin(), kPickles.end(), [&](std::string_view ending) { return path.ends_with(ending); });
  SLA2_CHECK(!pickle, SLA2_E_FILE_FORMAT,
             "{}: a PyTorch checkpoint is not read here, because a pickle can run code; in Python, "
             "sla2.load_sla1(\"{}\").save(\"NAME.sla2.safetensors\") makes a router pack of its SLA v1 projections",
             path, path);
}

}  // namespace

uint64_t RouterPack::bytes() const noexcept {
  size_t count = 0;
  for (const PackLayer& layer : layers) {
    count += layer.router_q.size() + layer.router_k.size() + layer.proj.size() + layer.proj_bias.size();
    for (const auto& mix : layer.mix) count += mix.size();
  }
  return count * sizeof(float);
}

int64_t RouterPack::learned_layers() const noexcept {
  return std::count_if(layers.begin(), layers.end(), [](const PackLayer& layer) { return !layer.empty(); });
}

RouterPack read_router_pack(const SafetensorsFile& file) {
  const auto format = file.metadata().find("format");
  if (format == file.metadata().end() || format->second != kPackFormat) {
    const Identity identity = identify(file.path());
    fail(SLA2_E_FILE_FORMAT, "{}: expected a router pack (NAME.sla2.safetensors), got {}{}", file.path(), identity.summary,
         identity.kind == Kind::kWanDit ? "; a DiT is given as the model, its SLA v1 projections are then found" : "");
  }
  return PackReader(file).read();
}

RouterPack read_router_pack(const std::string& path) {
  static_cast<void>(InputFile(path));  // whether it is there at all comes first
  refuse_pickle(path);
  RouterPack pack = read_router_pack(*SafetensorsFile::open(path));
  pack.digest = file_sha256(path);
  return pack;
}

std::string file_sha256(const std::string& path) {
  constexpr uint64_t kChunk = 1 << 20;
  const InputFile file(path);
  std::vector<std::byte> bytes;
  Sha256 hash;
  for (uint64_t at = 0; at < file.size(); at += kChunk) {
    bytes.resize(std::min(kChunk, file.size() - at));
    file.read(at, bytes);
    hash.add(bytes);
  }
  return hash.hex();
}

}  // namespace sla2::weights

// SPDX-License-Identifier: Apache-2.0
// Weights with LoRAs merged as they are read.

#include <algorithm>
#include <map>

#include "dit/dit.h"
#include "kernels/gemm.h"

namespace sla2::dit {
namespace {

using weights::LoraChange;
using weights::LoraFile;
using weights::TensorInfo;

constexpr int64_t kRowsAtOnce = 512;  // a large weight is widened in parts: the one copy in memory is the one that stays

/// One file's factors of one tensor, read when the tensor is.
struct Factors {
  double scale = 0, strength = 0;
  int64_t rank = 0;
  std::vector<float> down, up, diff;
};

class LoraCheckpoint final : public weights::Checkpoint {
 public:
  LoraCheckpoint(std::shared_ptr<const Checkpoint> base, std::vector<LoraFile> loras)
      : base_(std::move(base)), loras_(std::move(loras)) {
    for (const LoraFile& lora : loras_) {
      for (const auto& [name, change] : lora.changes) {
        TensorInfo info = base_->info(name);
        info.dtype = DType::kF32;  // what it is once something was added
        changed_.emplace(name, std::move(info));
      }
    }
  }

  [[nodiscard]] const std::string& path() const noexcept override { return base_->path(); }
  [[nodiscard]] const weights::Identity& identity() const noexcept override { return base_->identity(); }
  [[nodiscard]] bool has(std::string_view name) const noexcept override { return base_->has(name); }
  [[nodiscard]] const TensorInfo& info(std::string_view name) const override {
    const auto found = changed_.find(name);
    return found == changed_.end() ? base_->info(name) : found->second;
  }
  [[nodiscard]] std::vector<std::string> names() const override { return base_->names(); }
  [[nodiscard]] const std::string& config_json() const noexcept override { return base_->config_json(); }
  [[nodiscard]] std::string digest() const override {
    std::string text = base_->digest();
    for (const LoraFile& lora : loras_) text += fmt::format("+{}@{}", lora.digest, lora.source.strength);
    return text;
  }

  void read_f32(std::string_view name, std::span<const int64_t> shape, std::span<float> target) const override {
    base_->read_f32(name, shape, target);
    if (!changed_.contains(name)) return;
    add(factors_of(name), 0, rows_of(name), target);
  }
  void read_rows_f32(std::string_view name, int64_t first_row, int64_t rows, std::span<float> target) const override {
    base_->read_rows_f32(name, first_row, rows, target);
    if (changed_.contains(name)) add(factors_of(name), first_row, rows, target);
  }
  void read_bf16(std::string_view name, std::span<const int64_t> shape, std::span<bf16_t> target) const override {
    if (!changed_.contains(name)) return base_->read_bf16(name, shape, target);
    const int64_t rows = rows_of(name), width = static_cast<int64_t>(target.size()) / std::max<int64_t>(rows, 1);
    const std::vector<Factors> factors = factors_of(name);
    std::vector<float> wide(static_cast<size_t>(std::min(rows, kRowsAtOnce) * width));
    for (int64_t row = 0; row < rows; row += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, rows - row);
      const auto part = std::span(wide).first(static_cast<size_t>(count * width));
      base_->read_rows_f32(name, row, count, part);
      add(factors, row, count, part);
      std::transform(part.begin(), part.end(), target.begin() + row * width, f32_to_bf16);
    }
  }
  void read_raw(std::string_view name, std::span<std::byte> target) const override {
    if (!changed_.contains(name)) return base_->read_raw(name, target);
    read_f32(name, {}, {reinterpret_cast<float*>(target.data()), target.size() / sizeof(float)});
  }

 private:
  [[nodiscard]] int64_t rows_of(std::string_view name) const {
    const std::vector<int64_t>& shape = base_->info(name).shape;
    return shape.empty() ? 1 : shape.front();
  }
  [[nodiscard]] std::vector<Factors> factors_of(std::string_view name) const {
    std::vector<Factors> all;
    for (const LoraFile& lora : loras_) {
      const auto found = lora.changes.find(name);
      if (found == lora.changes.end()) continue;
      const LoraChange& change = found->second;
      Factors one{change.scale, lora.source.strength, change.rank, {}, {}, {}};
      if (change.down != nullptr) {
        one.down = read_lora(lora, *change.down);
        one.up = read_lora(lora, *change.up);
      }
      if (change.diff != nullptr) one.diff = read_lora(lora, *change.diff);
      all.push_back(std::move(one));
    }
    return all;
  }
  static void add(const std::vector<Factors>& factors, int64_t first_row, int64_t rows, std::span<float> target) {
    const int64_t width = rows == 0 ? 0 : static_cast<int64_t>(target.size()) / rows;
    for (const Factors& one : factors) {
      if (one.rank > 0)
        kernels::gemm_f32(rows, width, one.rank, one.up.data() + first_row * one.rank, one.rank, false, one.down.data(), width,
                          false, target.data(), width, static_cast<float>(one.scale), 1.0F);
      const float strength = static_cast<float>(one.strength);
      const float* diff = one.diff.data() + first_row * width;
      if (!one.diff.empty())
        for (size_t i = 0; i < target.size(); ++i) target[i] += strength * diff[i];
    }
  }

  std::shared_ptr<const Checkpoint> base_;
  std::vector<LoraFile> loras_;
  std::map<std::string, TensorInfo, std::less<>> changed_;
};

}  // namespace

std::shared_ptr<const weights::Checkpoint> with_loras(std::shared_ptr<const weights::Checkpoint> base,
                                                      std::vector<LoraFile> loras) {
  if (loras.empty()) return base;
  return std::make_shared<LoraCheckpoint>(std::move(base), std::move(loras));
}

}  // namespace sla2::dit

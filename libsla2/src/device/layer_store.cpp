// SPDX-License-Identifier: Apache-2.0
#include "device/layer_store.h"

#include <algorithm>

#include "core/core.h"

namespace sla2::device {

namespace {

class Resident final : public LayerStore {
 public:
  Resident(Gpu& gpu, int64_t layers, uint64_t bytes, const Fill& fill) {
    for (int64_t layer = 0; layer < layers; ++layer) layers_.emplace_back(gpu, bytes);  // all or nothing, before any is read
    const PinnedBuffer staging(gpu, bytes);
    for (int64_t layer = 0; layer < layers; ++layer) {
      fill(layer, staging.data());
      gpu.copy_in(layers_[static_cast<size_t>(layer)].get(), staging.data(), bytes);
    }
  }
  void begin() override {}
  const std::byte* fetch(int64_t layer) override { return layers_[static_cast<size_t>(layer)].at(); }
  void done(int64_t) override {}

 private:
  std::vector<Buffer> layers_;
};

/// Uses are numbered: the n-th is of layer n mod layers, in slot n mod slots. A slot's next load waits, on the copy stream, for
/// its last use; a use waits, on the compute stream, for its load. Where all layers are kept in pinned memory the CPU waits for
/// nothing. Where they pass, each slot has its own pinned memory: the CPU waits until the last load has left it, and reads the
/// next layer into it while the GPU computes.
class Streamed final : public LayerStore {
 public:
  Streamed(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots, Fill fill, bool keeps)
      : gpu_(gpu), compute_(compute), layers_(layers), bytes_(bytes), fill_(std::move(fill)), keeps_(keeps) {
    const int64_t count = std::min<int64_t>(slots, layers);
    for (int64_t i = 0; i < count; ++i) slots_.push_back({Buffer(gpu, bytes), Event(gpu), Event(gpu)});
    for (int64_t i = 0; i < (keeps ? layers : count); ++i) {
      host_.emplace_back(gpu, bytes);
      if (keeps) fill_(i, host_.back().data());
    }
    copies_ = Stream(gpu);
    if (keeps) restart();
  }
  ~Streamed() override {
    try {
      gpu_.wait(copies_.get());  // they read pinned memory
    } catch (const Error&) {     // whoever waits for the pass is told
    }
  }
  Streamed(const Streamed&) = delete;
  Streamed& operator=(const Streamed&) = delete;

  void begin() override {
    if (!keeps_ || use_ % layers_ != 0) restart();  // else the next in turn is layer 0
  }
  const std::byte* fetch(int64_t layer) override {
    SLA2_CHECK(use_ % layers_ == layer && use_ < load_, SLA2_E_INTERNAL, "streamed weights: layer {} is asked for, {} is next",
               layer, use_ % layers_);
    const Slot& slot = slot_of(use_);
    gpu_.wait_in_stream(compute_, slot.arrived.get());
    return slot.memory.at();
  }
  void done(int64_t) override {
    gpu_.record(slot_of(use_).read.get(), compute_);
    ++use_;
    load_ahead();
  }

 private:
  struct Slot {
    Buffer memory;
    Event arrived, read;
  };
  [[nodiscard]] const Slot& slot_of(int64_t use) const { return slots_[static_cast<size_t>(use) % slots_.size()]; }
  void restart() {
    for (const Slot& slot : slots_) gpu_.record(slot.read.get(), compute_);  // the last pass was left inside a layer, perhaps
    use_ = load_ = 0;
    load_ahead();
  }
  void load_ahead() {
    const int64_t ahead = use_ + static_cast<int64_t>(slots_.size());
    for (; load_ < (keeps_ ? ahead : std::min(ahead, layers_)); ++load_) {
      const Slot& slot = slot_of(load_);
      const auto host = static_cast<size_t>(load_) % host_.size();
      if (!keeps_) {
        gpu_.wait_for(slot.arrived.get());
        fill_(load_, host_[host].data());
      }
      gpu_.wait_in_stream(copies_.get(), slot.read.get());
      gpu_.queue_copy_in(slot.memory.get(), host_[host].data(), bytes_, copies_.get());
      gpu_.record(slot.arrived.get(), copies_.get());
    }
  }

  Gpu& gpu_;
  void* compute_;
  int64_t layers_, use_ = 0, load_ = 0;
  uint64_t bytes_;
  Fill fill_;
  bool keeps_;
  std::vector<PinnedBuffer> host_;  ///< a layer each, or a slot each
  std::vector<Slot> slots_;
  Stream copies_;  // goes first: what is queued on it reads and writes the others
};

}  // namespace

std::unique_ptr<LayerStore> LayerStore::resident(Gpu& gpu, int64_t layers, uint64_t bytes, const Fill& fill) {
  return std::make_unique<Resident>(gpu, layers, bytes, fill);
}
std::unique_ptr<LayerStore> LayerStore::streamed(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots,
                                                 const Fill& fill) {
  return std::make_unique<Streamed>(gpu, compute, layers, bytes, slots, fill, true);
}
std::unique_ptr<LayerStore> LayerStore::passing(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots, Fill fill) {
  return std::make_unique<Streamed>(gpu, compute, layers, bytes, slots, std::move(fill), false);
}

}  // namespace sla2::device

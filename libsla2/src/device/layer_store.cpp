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
/// its last use; a use waits, on the compute stream, for its load. The CPU waits for nothing.
class Streamed final : public LayerStore {
 public:
  Streamed(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots, const Fill& fill)
      : gpu_(gpu), compute_(compute), layers_(layers), bytes_(bytes) {
    const int64_t count = std::min<int64_t>(slots, layers);
    for (int64_t i = 0; i < count; ++i) slots_.push_back({Buffer(gpu, bytes), Event(gpu), Event(gpu)});
    for (int64_t layer = 0; layer < layers; ++layer) {
      host_.emplace_back(gpu, bytes);
      fill(layer, host_.back().data());
    }
    copies_ = Stream(gpu);
    for (const Slot& slot : slots_) gpu_.record(slot.read.get(), compute_);  // nothing reads them yet
    load_ahead();
  }

  void begin() override {
    if (use_ % layers_ == 0) return;                                         // the next in turn is layer 0
    for (const Slot& slot : slots_) gpu_.record(slot.read.get(), compute_);  // the pass was left inside a block, perhaps
    use_ = load_ = 0;
    load_ahead();
  }
  const std::byte* fetch(int64_t layer) override {
    SLA2_CHECK(use_ % layers_ == layer, SLA2_E_INTERNAL, "streamed weights: layer {} is asked for, {} is next", layer,
               use_ % layers_);
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
  void load_ahead() {
    for (; load_ < use_ + static_cast<int64_t>(slots_.size()); ++load_) {
      const Slot& slot = slot_of(load_);
      gpu_.wait_in_stream(copies_.get(), slot.read.get());
      gpu_.queue_copy_in(slot.memory.get(), host_[static_cast<size_t>(load_ % layers_)].data(), bytes_, copies_.get());
      gpu_.record(slot.arrived.get(), copies_.get());
    }
  }

  Gpu& gpu_;
  void* compute_;
  int64_t layers_, use_ = 0, load_ = 0;
  uint64_t bytes_;
  std::vector<PinnedBuffer> host_;
  std::vector<Slot> slots_;
  Stream copies_;  // goes first: what is queued on it reads and writes the others
};

}  // namespace

std::unique_ptr<LayerStore> LayerStore::resident(Gpu& gpu, int64_t layers, uint64_t bytes, const Fill& fill) {
  return std::make_unique<Resident>(gpu, layers, bytes, fill);
}
std::unique_ptr<LayerStore> LayerStore::streamed(Gpu& gpu, void* compute, int64_t layers, uint64_t bytes, int slots,
                                                 const Fill& fill) {
  return std::make_unique<Streamed>(gpu, compute, layers, bytes, slots, fill);
}

}  // namespace sla2::device

// SPDX-License-Identifier: Apache-2.0
// Fibres: stacks that hand control to each other within one host thread. One plays one GPU thread.
#pragma once
#include <cstddef>
#include <memory>

namespace sla2::emulator {

class Fiber {
 public:
  static constexpr size_t kStackBytes = size_t{96} * 1024;  ///< a kernel's registers, spelled out, and calls into the emulator
  Fiber();
  /// Ready to call entry(argument) when first switched to; entry must never return.
  void prepare(void (*entry)(void*), void* argument);
  /// Leave the running fibre in `from`, continue in this one.
  void resume(void*& from) const;
  [[nodiscard]] void*& place() { return stack_pointer_; }

 private:
  std::unique_ptr<std::byte[]> stack_;
  void* stack_pointer_ = nullptr;
};

}  // namespace sla2::emulator

/// Saves what the calling convention says a callee keeps, stores the stack pointer in *from, continues where `to` was left.
extern "C" void sla2_fiber_switch(void** from, void* to);

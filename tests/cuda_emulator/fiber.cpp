// SPDX-License-Identifier: Apache-2.0
#include "fiber.h"

#include <cstdint>

#if defined(__x86_64__)
asm(R"(
.text
.globl sla2_fiber_switch
.type sla2_fiber_switch, @function
sla2_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.globl sla2_fiber_start
.type sla2_fiber_start, @function
sla2_fiber_start:
  movq %r12, %rdi
  callq *%r13
  ud2
)");
extern "C" void sla2_fiber_start();
#elif defined(__aarch64__)
asm(R"(
.text
.globl sla2_fiber_switch
.type sla2_fiber_switch, %function
sla2_fiber_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.globl sla2_fiber_start
.type sla2_fiber_start, %function
sla2_fiber_start:
  mov x0, x19
  blr x20
  brk #1
)");
extern "C" void sla2_fiber_start();
#else
#error "the CUDA emulator has fibres for x86-64 and aarch64"
#endif

namespace sla2::emulator {

Fiber::Fiber() : stack_(new std::byte[kStackBytes]) {}

void Fiber::prepare(void (*entry)(void*), void* argument) {
  const auto top = (reinterpret_cast<uintptr_t>(stack_.get()) + kStackBytes) & ~uintptr_t{15};
  auto* const words = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  // What the first switch pops: r15 r14 r13 r12 rbx rbp, then where to go. A call finds the stack aligned to 16.
  void** const frame = words - 9;
  frame[0] = frame[1] = nullptr;
  frame[2] = reinterpret_cast<void*>(entry);
  frame[3] = argument;
  frame[4] = frame[5] = nullptr;
  frame[6] = reinterpret_cast<void*>(&sla2_fiber_start);
  frame[7] = nullptr;
#else
  void** const frame = words - 20;
  for (int i = 0; i < 20; ++i) frame[i] = nullptr;
  frame[0] = argument;
  frame[1] = reinterpret_cast<void*>(entry);
  frame[11] = reinterpret_cast<void*>(&sla2_fiber_start);
#endif
  stack_pointer_ = frame;
}

void Fiber::resume(void*& from) const { sla2_fiber_switch(&from, stack_pointer_); }

}  // namespace sla2::emulator

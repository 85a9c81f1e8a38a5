// SPDX-License-Identifier: Apache-2.0
// hopper_arch.h in PTX, for sm_90a. PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions", "mbarrier", "cp.async.bulk".
#pragma once

// clang-format off
namespace sla2::cuda {

/// An arrival barrier of 8 bytes: a phase is over when `count` threads have arrived and the bytes that were announced are there.
SLA2_DEVICE void arrivals_init(uint32_t at, uint32_t count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(at)), "r"(count) : "memory");
}
/// By the thread that made them, before others are let near.
SLA2_DEVICE void arrivals_made() { asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory"); }
SLA2_DEVICE void arrive(uint32_t at) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(at)) : "memory");
}
SLA2_DEVICE void arrive_announcing(uint32_t at, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(at)), "r"(bytes) : "memory");
}
/// Until the phase of this parity is over; the first has parity 0, and before it the one of parity 1 counts as over.
SLA2_DEVICE void await_phase(uint32_t at, uint32_t parity) {
  asm volatile(
      "{ .reg .pred p; again: mbarrier.try_wait.parity.shared.b64 p, [%0], %1; @p bra done; bra again; done: }"
      ::"r"(shared_address(at)), "r"(parity) : "memory");
}
/// A multiple of 16 bytes; they arrive at the barrier.
SLA2_DEVICE void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t arrivals) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               ::"r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(arrivals)) : "memory");
}
/// What this thread stored may be read by copies and products of warpgroups.
SLA2_DEVICE void show_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int kRegisters>
SLA2_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
SLA2_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Before the first product of a group: registers and sums are as the threads left them.
SLA2_DEVICE void group_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
SLA2_DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until at most kLeft committed groups are under way.
template <int kLeft>
SLA2_DEVICE void group_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}
/// The compiler may not move accesses to `d` across: what runs by itself is invisible to it.
template <typename T, int kParts>
SLA2_DEVICE void group_hold(T (&d)[kParts][4]) {
#pragma unroll
  for (auto& part : d)
#pragma unroll
    for (T& x : part) {
      if constexpr (sizeof(T) == 4 && static_cast<T>(0.5F) != T{}) asm volatile("" : "+f"(x)::"memory");
      else asm volatile("" : "+r"(x)::"memory");
    }
}

#define SLA2_ROW(kind, n) kind(d[n][0]), kind(d[n][1]), kind(d[n][2]), kind(d[n][3])

// d: fragments as of mma.sync, 16 rows per warp; a: fragments as of mma.sync, or a descriptor. add: to what d holds; else to 0.

/// d [64, 64] of a [64, 16] · bᵀ, b [64, 16] row by row (keys).
SLA2_DEVICE void group_scores(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, "
      "%3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p, 1, 1, 0; }"
      : SLA2_ROW("+f", 0), SLA2_ROW("+f", 1), SLA2_ROW("+f", 2), SLA2_ROW("+f", 3), SLA2_ROW("+f", 4), SLA2_ROW("+f", 5), SLA2_ROW("+f", 6), SLA2_ROW("+f", 7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int32_t>(add))
      : "memory");
}
/// The same in int8, 32 deep.
SLA2_DEVICE void group_scores(int32_t (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {%0, %1, %2, %3, "
      "%4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, p; }"
      : SLA2_ROW("+r", 0), SLA2_ROW("+r", 1), SLA2_ROW("+r", 2), SLA2_ROW("+r", 3), SLA2_ROW("+r", 4), SLA2_ROW("+r", 5), SLA2_ROW("+r", 6), SLA2_ROW("+r", 7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int32_t>(add))
      : "memory");
}
/// d [64, 128] of a [64, 16] · b, b [16, 128] row by row (values).
SLA2_DEVICE void group_values(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, "
      "%3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, "
      "%68, p, 1, 1, 1; }"
      : SLA2_ROW("+f", 0), SLA2_ROW("+f", 1), SLA2_ROW("+f", 2), SLA2_ROW("+f", 3), SLA2_ROW("+f", 4), SLA2_ROW("+f", 5), SLA2_ROW("+f", 6), SLA2_ROW("+f", 7), SLA2_ROW("+f", 8), SLA2_ROW("+f", 9), SLA2_ROW("+f", 10), SLA2_ROW("+f", 11), SLA2_ROW("+f", 12), SLA2_ROW("+f", 13), SLA2_ROW("+f", 14), SLA2_ROW("+f", 15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int32_t>(add))
      : "memory");
}
/// d [64, 128] of aᵀ · b, a [16, 64] and b [16, 128] row by row (features, values).
SLA2_DEVICE void group_state(float (&d)[16][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, "
      "%3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, 1, "
      "1; }"
      : SLA2_ROW("+f", 0), SLA2_ROW("+f", 1), SLA2_ROW("+f", 2), SLA2_ROW("+f", 3), SLA2_ROW("+f", 4), SLA2_ROW("+f", 5), SLA2_ROW("+f", 6), SLA2_ROW("+f", 7), SLA2_ROW("+f", 8), SLA2_ROW("+f", 9), SLA2_ROW("+f", 10), SLA2_ROW("+f", 11), SLA2_ROW("+f", 12), SLA2_ROW("+f", 13), SLA2_ROW("+f", 14), SLA2_ROW("+f", 15)
      : "l"(a), "l"(b), "r"(static_cast<int32_t>(add))
      : "memory");
}
/// d [64, 128] of a [64, 32] · b in e4m3, b [128, 32] channel by channel (transposed values); its sums are shorter than fp32.
SLA2_DEVICE void group_values8(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0; wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {%0, %1, %2, "
      "%3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
      "%26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, "
      "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, "
      "%68, p, 1, 1; }"
      : SLA2_ROW("+f", 0), SLA2_ROW("+f", 1), SLA2_ROW("+f", 2), SLA2_ROW("+f", 3), SLA2_ROW("+f", 4), SLA2_ROW("+f", 5), SLA2_ROW("+f", 6), SLA2_ROW("+f", 7), SLA2_ROW("+f", 8), SLA2_ROW("+f", 9), SLA2_ROW("+f", 10), SLA2_ROW("+f", 11), SLA2_ROW("+f", 12), SLA2_ROW("+f", 13), SLA2_ROW("+f", 14), SLA2_ROW("+f", 15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int32_t>(add))
      : "memory");
}

#undef SLA2_ROW

}  // namespace sla2::cuda
// clang-format on

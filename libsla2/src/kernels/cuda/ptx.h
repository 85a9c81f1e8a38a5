// SPDX-License-Identifier: Apache-2.0
// arch.h in PTX. Fragment maps: PTX ISA, "Matrix fragments for mma.m16n8k16 / m16n8k32" and "ldmatrix".
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define SLA2_DEVICE __device__ __forceinline__
/// A kernel: threads it is launched with at most, blocks per SM its registers must leave room for, its one parameter.
#define SLA2_KERNEL(name, threads, blocks, Params) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)

// e4m3 products of mma.sync: Ada and consumer Blackwell. Hopper's are in wgmma; its mma.sync spreads them over fp16 ones, which
// takes twice the registers and gains nothing. Plans ask nobody else (attention/device_shape.cpp).
#define SLA2_HAS_E4M3 (__CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)

namespace sla2::cuda {

extern __shared__ __align__(1024) unsigned char shared_bytes[];

SLA2_DEVICE uint32_t thread_index() { return threadIdx.x; }
SLA2_DEVICE uint32_t thread_count() { return blockDim.x; }
SLA2_DEVICE uint32_t block_x() { return blockIdx.x; }
SLA2_DEVICE uint32_t block_y() { return blockIdx.y; }
SLA2_DEVICE uint32_t grid_x() { return gridDim.x; }  ///< blocks along x

template <typename T>
SLA2_DEVICE T shared_load(uint32_t at) {
  return *reinterpret_cast<const T*>(shared_bytes + at);
}
template <typename T>
SLA2_DEVICE void shared_store(uint32_t at, T value) {
  *reinterpret_cast<T*>(shared_bytes + at) = value;
}
SLA2_DEVICE uint32_t shared_address(uint32_t at) { return static_cast<uint32_t>(__cvta_generic_to_shared(shared_bytes)) + at; }

SLA2_DEVICE void sync_threads() { __syncthreads(); }
SLA2_DEVICE void sync_warp() { __syncwarp(); }
/// A barrier of some warps of the block; id 1 to 15.
SLA2_DEVICE void sync_some(uint32_t id, uint32_t threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
template <typename T>
SLA2_DEVICE T shuffle_xor(T value, uint32_t mask) {
  return __shfl_xor_sync(0xFFFFFFFFU, value, mask);
}
SLA2_DEVICE uint32_t ballot(bool yes) { return __ballot_sync(0xFFFFFFFFU, yes); }
SLA2_DEVICE uint32_t count_bits(uint32_t x) { return static_cast<uint32_t>(__popc(x)); }

SLA2_DEVICE void copy_async_16(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
SLA2_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kLeft>
SLA2_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

/// Four 8x8 matrices of 16-bit elements; lanes 8i … 8i + 7 bring the offsets of matrix i's rows. Lane: row g, elements 2t, 2t
/// + 1.
SLA2_DEVICE void load_matrices(uint32_t at, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at))
               : "memory");
}
/// The same, transposed: lane gets elements g of rows 2t and 2t + 1.
SLA2_DEVICE void load_matrices_transposed(uint32_t at, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(at))
               : "memory");
}

/// d [16, 8] += a [16, 16] · b [16, 8] in bf16, fp32 sums.
SLA2_DEVICE void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// d [16, 8] += a [16, 32] · b [32, 8] in int8.
SLA2_DEVICE void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// d [16, 8] += a [16, 32] · b [32, 8] in e4m3; its sums are shorter than fp32. Where there are none it is never asked.
SLA2_DEVICE void multiply_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if SLA2_HAS_E4M3
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

/// The same with fp16 sums, two to a register: at twice the rate on consumer GPUs. The caller sees to it that none is above
/// 65504.
SLA2_DEVICE void multiply_e4m3(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if SLA2_HAS_E4M3
  asm("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, {%0, %1};"
      : "+r"(d[0]), "+r"(d[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  __trap();
#endif
}

/// 2^x; 0 for -inf, results below 2^-126 are 0.
SLA2_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Two numbers as bf16, nearest even; `low` in the lower half.
SLA2_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
/// Two numbers as e4m3, nearest even, saturating at 448; `low` in the lower byte.
SLA2_DEVICE uint32_t pack_e4m3(float low, float high) {
#if __CUDA_ARCH__ >= 890  // Hopper too, for wgmma
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
#else
  __trap();
  return 0;
#endif
}
SLA2_DEVICE float from_f16(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
SLA2_DEVICE uint16_t to_f16(float x) { return __half_as_ushort(__float2half_rn(x)); }
SLA2_DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
SLA2_DEVICE uint64_t double_bits(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }
SLA2_DEVICE double bits_to_double(uint64_t bits) { return __longlong_as_double(static_cast<int64_t>(bits)); }
/// Round to the nearest even integer.
SLA2_DEVICE int32_t to_nearest(float x) { return __float2int_rn(x); }
/// One rounding each and never fused: these must give the CPU's bits.
SLA2_DEVICE double multiply_rounded(double x, double y) { return __dmul_rn(x, y); }
SLA2_DEVICE double add_rounded(double x, double y) { return __dadd_rn(x, y); }
SLA2_DEVICE float add_rounded(float x, float y) { return __fadd_rn(x, y); }
SLA2_DEVICE double root_of(double x) { return __dsqrt_rn(x); }
SLA2_DEVICE float largest(float x, float y) { return fmaxf(x, y); }  ///< of what is a number
SLA2_DEVICE float inverse_root(float x) { return __frsqrt_rn(x); }
SLA2_DEVICE float log2_of(float x) { return log2f(x); }
SLA2_DEVICE float exp_of(float x) { return expf(x); }
SLA2_DEVICE float log_of(float x) { return logf(x); }

}  // namespace sla2::cuda

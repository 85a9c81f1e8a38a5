// SPDX-License-Identifier: Apache-2.0
// kernels/cuda/arch.h in C++: every access to shared memory is checked, every warp-wide instruction is a rendezvous.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "block.h"
#include "instructions.h"
#include "kernels_table.h"

#define SLA2_DEVICE inline
#define SLA2_KERNEL(name, threads, blocks, Params)                                                                   \
  static void name##_body(const Params& p);                                                                          \
  [[maybe_unused]] static const ::sla2::emulator::Registered name##_registered{                                      \
      #name, [](const void* params) { name##_body(*static_cast<const Params*>(params)); }, sizeof(Params), threads}; \
  static void name##_body([[maybe_unused]] const Params& p)

namespace sla2::cuda {

inline emulator::Block& here() { return emulator::Block::current(); }

inline uint32_t thread_index() { return here().thread(); }
inline uint32_t thread_count() { return here().launch().threads; }
inline uint32_t block_x() { return here().launch().block.x; }
inline uint32_t block_y() { return here().launch().block.y; }
inline uint32_t grid_x() { return here().launch().grid.x; }

template <typename T>
T shared_load(uint32_t at) {
  here().check_read(at, sizeof(T));
  T value;
  std::memcpy(&value, here().shared(at), sizeof value);
  return value;
}
template <typename T>
void shared_store(uint32_t at, T value) {
  here().check_write(at, sizeof(T));
  std::memcpy(here().shared(at), &value, sizeof value);
}

inline void sync_threads() { here().barrier(0, thread_count()); }
inline void sync_warp() { here().sync_warp(); }
inline void sync_some(uint32_t id, uint32_t threads) { here().barrier(id, threads); }

template <typename T>
T shuffle_xor(T value, uint32_t mask) {
  struct Mine {
    T value, result;
    uint32_t mask;
  } mine{value, value, mask};
  here().collective("shuffle_xor", &mine, [](void* const* lanes) {
    for (uint32_t i = 0; i < emulator::kLanes; ++i) {
      auto& lane = *static_cast<Mine*>(lanes[i]);
      lane.result = static_cast<Mine*>(lanes[i ^ lane.mask])->value;
    }
  });
  return mine.result;
}
inline uint32_t ballot(bool yes) {
  uint32_t mine = yes ? 1 : 0;
  here().collective("ballot", &mine, [](void* const* lanes) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < emulator::kLanes; ++i) bits |= *static_cast<uint32_t*>(lanes[i]) << i;
    for (uint32_t i = 0; i < emulator::kLanes; ++i) *static_cast<uint32_t*>(lanes[i]) = bits;
  });
  return mine;
}
inline uint32_t count_bits(uint32_t x) { return static_cast<uint32_t>(std::popcount(x)); }

inline void copy_async_16(uint32_t to, const void* from) { here().copy_async(to, from, 16); }
inline void copy_async_commit() { here().copy_async_commit(); }
template <int kLeft>
void copy_async_wait() {
  here().copy_async_wait(kLeft);
}

inline void load_matrices(uint32_t at, uint32_t (&r)[4]) { emulator::load_matrices(at, r, false); }
inline void load_matrices_transposed(uint32_t at, uint32_t (&r)[4]) { emulator::load_matrices(at, r, true); }
inline void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply_bf16(d, a, b0, b1);
}
inline void multiply_int8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply_int8(d, a, b0, b1);
}
inline void multiply_e4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply_e4m3(d, a, b0, b1);
}
inline void multiply_e4m3(uint32_t (&d)[2], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::multiply_e4m3_half(d, a, b0, b1);
}

inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126F ? 0.0F : y;
}
inline uint32_t pack_bf16(float low, float high) { return f32_to_bf16(low) | static_cast<uint32_t>(f32_to_bf16(high)) << 16U; }
inline uint32_t pack_e4m3(float low, float high) {
  return kernels::f32_to_e4m3(low) | static_cast<uint32_t>(kernels::f32_to_e4m3(high)) << 8U;
}
inline float from_f16(uint16_t bits) { return f16_to_f32(bits); }
inline uint16_t to_f16(float x) { return f32_to_f16(x); }
inline float bits_to_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint64_t double_bits(double x) { return std::bit_cast<uint64_t>(x); }
inline double bits_to_double(uint64_t bits) { return std::bit_cast<double>(bits); }
inline int32_t to_nearest(float x) { return static_cast<int32_t>(std::nearbyint(x)); }
inline double multiply_rounded(double x, double y) { return x * y; }
inline double add_rounded(double x, double y) { return x + y; }
inline float add_rounded(float x, float y) { return x + y; }
inline double root_of(double x) { return std::sqrt(x); }
inline float largest(float x, float y) { return std::fmax(x, y); }
inline float inverse_root(float x) { return 1 / std::sqrt(x); }
inline float log2_of(float x) { return std::log2(x); }
inline float exp_of(float x) { return std::exp(x); }
inline float log_of(float x) { return std::log(x); }

}  // namespace sla2::cuda

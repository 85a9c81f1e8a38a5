// SPDX-License-Identifier: Apache-2.0
// kernels/cuda/hopper_arch.h in C++.
#pragma once
#include "arch.h"
#include "group_products.h"

namespace sla2::cuda {

inline void arrivals_init(uint32_t at, uint32_t count) { here().arrivals_init(at, count); }
inline void arrivals_made() { here().fence_engines(); }
inline void arrive(uint32_t at) { here().arrive(at, 0); }
inline void arrive_announcing(uint32_t at, uint32_t bytes) { here().arrive(at, bytes); }
inline void await_phase(uint32_t at, uint32_t parity) { here().await_phase(at, parity); }
inline void copy_bulk(uint32_t to, const void* from, uint32_t bytes, uint32_t arrivals) {
  here().copy_bulk(to, from, bytes, arrivals);
}
inline void show_to_engines() { here().fence_engines(); }
template <int kRegisters>
void give_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}
template <int kRegisters>
void take_registers() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
}

inline uint32_t shared_address(uint32_t at) { return at; }
inline void group_fence() { here().group_fence(); }
inline void group_commit() { here().group_commit(); }
template <int kLeft>
void group_wait() {
  here().group_wait(kLeft);
}
template <typename T, int kParts>
void group_hold(T (&)[kParts][4]) {}

inline void group_scores(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  emulator::group_product(emulator::GroupKind::kScoresBf16, reinterpret_cast<uint32_t*>(d), a, 0, b, add);
}
inline void group_scores(int32_t (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  emulator::group_product(emulator::GroupKind::kScoresInt8, reinterpret_cast<uint32_t*>(d), a, 0, b, add);
}
inline void group_values(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  emulator::group_product(emulator::GroupKind::kValues, reinterpret_cast<uint32_t*>(d), a, 0, b, add);
}
inline void group_values8(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  emulator::group_product(emulator::GroupKind::kValues8, reinterpret_cast<uint32_t*>(d), a, 0, b, add);
}
inline void group_state(float (&d)[16][4], uint64_t a, uint64_t b, bool add) {
  emulator::group_product(emulator::GroupKind::kState, reinterpret_cast<uint32_t*>(d), nullptr, a, b, add);
}

}  // namespace sla2::cuda

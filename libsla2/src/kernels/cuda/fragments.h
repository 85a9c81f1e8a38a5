// SPDX-License-Identifier: Apache-2.0
// Operand fragments out of tile images, four 8x8 matrices at a time. A tile has kRows rows of kRowBytes; `row` is a multiple of
// 16, `chunk` counts 16 bytes.
#pragma once
#include "kernels/cuda/arch.h"
#include "kernels/cuda/tiles.h"

namespace sla2::cuda {

/// Right-hand sides stored [column][k] (keys of Q·Kᵀ, transposed values): {b0, b1} of columns row … row + 7, then of the next 8.
template <int kRows, int kRowBytes>
SLA2_DEVICE void load_columns(uint32_t tile, uint32_t row, uint32_t chunk, uint32_t (&r)[4]) {
  const uint32_t lane = thread_index() % 32, matrix = lane / 8;
  load_matrices(tile + image_offset(kRows, kRowBytes, row + matrix / 2 * 8 + lane % 8, (chunk + matrix % 2) * 16), r);
}
/// Right-hand sides stored [k][column] (values, H), 16 rows of k: {b0, b1} of the chunk's columns, then of the next chunk's.
template <int kRows, int kRowBytes>
SLA2_DEVICE void load_columns_transposed(uint32_t tile, uint32_t row, uint32_t chunk, uint32_t (&r)[4]) {
  const uint32_t lane = thread_index() % 32, matrix = lane / 8;
  load_matrices_transposed(tile + image_offset(kRows, kRowBytes, row + matrix % 2 * 8 + lane % 8, (chunk + matrix / 2) * 16), r);
}
/// A left-hand side stored [k][row of the product] (φ(K) of φ(K)ᵀ·V): a0 … a3 of 16 rows of k, product rows of two chunks.
template <int kRows, int kRowBytes>
SLA2_DEVICE void load_left_transposed(uint32_t tile, uint32_t row, uint32_t chunk, uint32_t (&r)[4]) {
  const uint32_t lane = thread_index() % 32, matrix = lane / 8;
  load_matrices_transposed(tile + image_offset(kRows, kRowBytes, row + matrix / 2 * 8 + lane % 8, (chunk + matrix % 2) * 16), r);
}

/// All threads copy `bytes`, a multiple of 16, that lie in a row.
SLA2_DEVICE void copy_stretch(uint32_t to, const unsigned char* from, uint32_t bytes) {
  for (uint32_t at = thread_index() * 16; at < bytes; at += thread_count() * 16) copy_async_16(to + at, from + at);
}

}  // namespace sla2::cuda

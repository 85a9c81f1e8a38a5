// SPDX-License-Identifier: Apache-2.0
// What the plain versions of eight-bit attention share.
#pragma once
#include "kernels/attend_int8.h"

namespace sla2::kernels::ref {

/// logits [keys] of one row against one key block, and bias where there is one. @return their maximum, at least a.m[row]
float int8_logits(const AttendInt8& a, int64_t row, int64_t block, int64_t keys, float* logits);
/// Calls each(row, block, keys in it) for every row and listed block, rows first; before that m = -inf, l = 0, acc = 0.
template <typename Each>
void for_each_row_and_block(const AttendInt8& a, int64_t acc_row, const Each& each) {
  for (int64_t row = 0; row < a.rows; ++row) {
    a.m[row] = -__builtin_inff();
    a.l[row] = 0;
    for (int64_t c = 0; c < acc_row; ++c) a.acc[row * acc_row + c] = 0;
    for (int64_t i = 0; i < a.count; ++i) {
      const int64_t block = a.list == nullptr ? i : a.list[i], left = a.keys - block * a.block_k;
      each(row, block, left < a.block_k ? left : a.block_k);
    }
  }
}
/// The maximum becomes `top`, what was summed shrinks. @return what to take off the logits
float move_maximum(const AttendInt8& a, int64_t row, float top, int64_t acc_row);

}  // namespace sla2::kernels::ref

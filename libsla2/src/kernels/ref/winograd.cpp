// SPDX-License-Identifier: Apache-2.0
// Winograd's three steps from their matrices, in plain loops.
#include "kernels/winograd_ops.h"

namespace sla2::kernels {

namespace {

constexpr int64_t kLanes = kWinogradBlock;
constexpr int64_t kMost = 4;  // points along one axis

/// B^T [points][pixels seen] and A^T [2][points] along one axis. The doubled form is the first with d = (a, b, b, c): its third
/// point is zero and left out, its second is halved here and doubled in the weights, its last changes sign.
struct Form {
  int64_t points, seen, step;  // step: source pixels from tile to tile
  float bt[kMost][kMost], at[2][kMost];
};
constexpr Form kSame{4, 4, 2, {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}}, {{1, 1, 1, 0}, {0, 1, -1, -1}}};
constexpr Form kDoubled{3, 3, 1, {{1, -1, 0}, {0, 1, 0}, {0, 1, -1}}, {{1, 1, 0}, {0, 1, -1}}};

const Form& form_of(WinogradForm form) { return form == WinogradForm::kSame ? kSame : kDoubled; }

void sources(WinogradForm kind, const TileRun& run, const bf16_t* source, bf16_t* v, int64_t plane, int64_t group, int64_t tile) {
  const Form& f = form_of(kind);
  for (int64_t t = 0; t < run.count; ++t)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      float d[kMost][kMost] = {}, half[kMost][kMost] = {};
      for (int64_t i = 0; i < f.seen; ++i)
        for (int64_t j = 0; j < f.seen; ++j) {
          const int64_t y = run.row * f.step - 1 + i, x = (run.first + t) * f.step - 1 + j;
          if (y >= 0 && x >= 0 && y < run.height && x < run.width)
            d[i][j] = bf16_to_f32(source[(y * run.width + x) * kLanes + lane]);
        }
      for (int64_t i = 0; i < f.points; ++i)
        for (int64_t j = 0; j < f.seen; ++j)
          for (int64_t k = 0; k < f.seen; ++k) half[i][j] += f.bt[i][k] * d[k][j];
      for (int64_t i = 0; i < f.points; ++i)
        for (int64_t j = 0; j < f.points; ++j) {
          float sum = 0.0F;
          for (int64_t k = 0; k < f.seen; ++k) sum += half[i][k] * f.bt[j][k];
          const int64_t row = tile + t;
          v[(i * f.points + j) * plane + row / kWinogradRows * group + row % kWinogradRows * kLanes + lane] = f32_to_bf16(sum);
        }
    }
}

void products(int64_t groups, int64_t depth, int64_t blocks, const bf16_t* v, int64_t group, const bf16_t* w, float* m,
              bool accumulate) {
  const int64_t columns = blocks * kLanes;
  for (int64_t row = 0; row < groups * kWinogradRows; ++row) {
    const bf16_t* const x = v + row / kWinogradRows * group + row % kWinogradRows * kLanes;
    for (int64_t column = 0; column < columns; ++column) {
      float& target = m[row * kWinogradColumns + column];
      double sum = accumulate ? target : 0.0;
      for (int64_t k = 0; k < depth * kLanes; ++k)
        sum += static_cast<double>(bf16_to_f32(x[k / kLanes * kWinogradRows * kLanes + k % kLanes])) *
               bf16_to_f32(w[(k / 2 * columns + column) * 2 + k % 2]);
      target = static_cast<float>(sum);
    }
  }
}

void results(WinogradForm kind, const TileRun& run, const float* m, int64_t plane, const float* bias, float* dst,
             bool accumulate) {
  const Form& f = form_of(kind);
  const int64_t height = run.height * (2 / f.step), width = run.width * (2 / f.step);
  for (int64_t t = 0; t < run.count; ++t)
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t j = 0; j < 2; ++j) {
        const int64_t y = 2 * run.row + i, x = 2 * (run.first + t) + j;
        if (y >= height || x >= width) continue;
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          float sum = bias[lane];
          for (int64_t p = 0; p < f.points; ++p)
            for (int64_t q = 0; q < f.points; ++q)
              sum += f.at[i][p] * f.at[j][q] * m[(p * f.points + q) * plane + t * kWinogradColumns + lane];
          float& target = dst[(y * width + x) * kLanes + lane];
          target = accumulate ? target + sum : sum;
        }
      }
}

}  // namespace

const WinogradOps& winograd_ref() {
  static constexpr WinogradOps ops{sources, products, results};
  return ops;
}

}  // namespace sla2::kernels

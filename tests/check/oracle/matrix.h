// SPDX-License-Identifier: Apache-2.0
// A matrix of rows, and the four small operations every formula of the oracle is made of.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace sla2::check {

template <typename T>
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<T> data;

  Matrix() = default;
  Matrix(int64_t r, int64_t c, T value = T{0}) : rows(r), cols(c), data(static_cast<size_t>(r * c), value) {}
  T& operator()(int64_t r, int64_t c) { return data[static_cast<size_t>(r * cols + c)]; }
  const T& operator()(int64_t r, int64_t c) const { return data[static_cast<size_t>(r * cols + c)]; }
  T* row(int64_t r) { return data.data() + r * cols; }
  const T* row(int64_t r) const { return data.data() + r * cols; }
  [[nodiscard]] bool empty() const { return data.empty(); }
};
using Table = Matrix<double>;

template <typename T>
Matrix<T> cast(const Table& x) {
  Matrix<T> y(x.rows, x.cols);
  for (size_t i = 0; i < x.data.size(); ++i) y.data[i] = static_cast<T>(x.data[i]);
  return y;
}

template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  T sum = 0;
  for (int64_t c = 0; c < count; ++c) sum += a[c] * b[c];
  return sum;
}

/// out += factor · x
template <typename T>
void add(T* out, T factor, const T* x, int64_t count) {
  for (int64_t c = 0; c < count; ++c) out[c] += factor * x[c];
}

inline int64_t blocks_of(int64_t rows, int64_t block) { return (rows + block - 1) / block; }
inline int64_t rows_in(int64_t rows, int64_t block, int64_t index) { return std::min(block, rows - index * block); }

/// Mean of each block of rows; a ragged last block counts its own length. One block of all rows gives the mean row.
template <typename T>
Matrix<T> block_means(const Matrix<T>& x, int64_t block) {
  Matrix<T> means(blocks_of(x.rows, block), x.cols);
  for (int64_t r = 0; r < x.rows; ++r) add(means.row(r / block), T{1}, x.row(r), x.cols);
  for (int64_t b = 0; b < means.rows; ++b)
    for (int64_t c = 0; c < x.cols; ++c) means(b, c) /= static_cast<T>(rows_in(x.rows, block, b));
  return means;
}

/// The gradient of block_means: each row of x receives its block's gradient over the block's length.
template <typename T>
void add_block_means_gradient(const Matrix<T>& d_means, int64_t block, Matrix<T>& d_x) {
  for (int64_t r = 0; r < d_x.rows; ++r)
    add(d_x.row(r), T{1} / static_cast<T>(rows_in(d_x.rows, block, r / block)), d_means.row(r / block), d_x.cols);
}

/// x minus its mean row.
template <typename T>
Matrix<T> centred(Matrix<T> x) {
  const Matrix<T> mean = block_means(x, x.rows);
  for (int64_t r = 0; r < x.rows; ++r) add(x.row(r), T{-1}, mean.row(0), x.cols);
  return x;
}

/// Softmax along each row.
template <typename T>
Matrix<T> row_softmax(Matrix<T> x) {
  for (int64_t r = 0; r < x.rows; ++r) {
    T top = x(r, 0), sum = 0;
    for (int64_t c = 1; c < x.cols; ++c) top = std::max(top, x(r, c));
    for (int64_t c = 0; c < x.cols; ++c) sum += x(r, c) = std::exp(x(r, c) - top);
    for (int64_t c = 0; c < x.cols; ++c) x(r, c) /= sum;
  }
  return x;
}

/// The gradient of row_softmax: y ⊙ (dy − ⟨y, dy⟩) per row.
template <typename T>
Matrix<T> row_softmax_gradient(const Matrix<T>& y, const Matrix<T>& d_y) {
  Matrix<T> d_x(y.rows, y.cols);
  for (int64_t r = 0; r < y.rows; ++r) {
    const T mean = dot(y.row(r), d_y.row(r), y.cols);
    for (int64_t c = 0; c < y.cols; ++c) d_x(r, c) = y(r, c) * (d_y(r, c) - mean);
  }
  return d_x;
}

/// a · b
template <typename T>
Matrix<T> product(const Matrix<T>& a, const Matrix<T>& b) {
  Matrix<T> out(a.rows, b.cols);
  for (int64_t r = 0; r < a.rows; ++r)
    for (int64_t k = 0; k < a.cols; ++k) add(out.row(r), a(r, k), b.row(k), b.cols);
  return out;
}

template <typename T>
Matrix<T> transposed(const Matrix<T>& a) {
  Matrix<T> out(a.cols, a.rows);
  for (int64_t r = 0; r < a.rows; ++r)
    for (int64_t c = 0; c < a.cols; ++c) out(c, r) = a(r, c);
  return out;
}

}  // namespace sla2::check

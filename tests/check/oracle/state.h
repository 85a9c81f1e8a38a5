// SPDX-License-Identifier: Apache-2.0
// What forward and backward share: the head's arrays as they enter products, and the two branches for one row.
#pragma once
#include <limits>

#include "oracle/arithmetic.h"
#include "oracle/oracle.h"

namespace sla2::check {

constexpr double kDenominatorFloor = 1e-6;  ///< ε of the linear branch, relative to φ(q)·z over all keys (docs/numerics.md)

/// Columns of the softmax branch: the N_k keys, then in pooled mode one mean key (and value) per block.
template <typename A>
struct State {
  using T = typename A::T;
  const Problem& p;
  const Selection& s;
  T scale;
  Matrix<T> q, keys, values;               ///< [N_q, D], [columns, D] twice
  Matrix<T> phi_q, phi_k, feature_values;  ///< [N_q, D], [N_k, D] twice
  Matrix<T> h, z;                          ///< per key block: φ(K_j)ᵀV_j as one row of D·D, and column sums of φ(K_j)
  std::vector<T> z_all, bias;              ///< [D]; [N_k] or empty

  State(const Problem& problem, const Head& head, const Selection& selection)
      : p(problem),
        s(selection),
        scale(static_cast<T>(problem.softmax_scale())),
        bias(head.key_bias.begin(), head.key_bias.end()) {
    const Matrix<T> raw_q = cast<T>(head.q), raw_k = cast<T>(head.k), raw_v = cast<T>(head.v);
    Matrix<T> centred_k = p.mode == Mode::kFull && !std::is_base_of_v<PlainInt8, A> ? raw_k : centred(raw_k);
    phi_q = row_softmax(raw_q);
    phi_k = row_softmax(p.smooth_k ? centred(raw_k) : raw_k);
    q = raw_q;
    keys = centred_k;
    if constexpr (std::is_base_of_v<PlainInt8, A>) {
      q = through_int8(q, p.block_q);
      keys = through_int8(keys, p.block_k);
    }
    values = raw_v;
    feature_values = operands<A>(raw_v);
    if (p.mode == Mode::kPooled) {
      append(keys, block_means(centred_k, p.block_k));
      append(values, block_means(raw_v, p.block_k));
    }
    q = operands<A>(q);
    keys = operands<A>(keys);
    if constexpr (std::is_same_v<A, PlainFp8>)
      values = through_e4m3(values);
    else
      values = operands<A>(values);
    add_up_features();
  }

  [[nodiscard]] bool has_linear() const {
    return p.mode == Mode::kSla2 || p.mode == Mode::kSla1 || p.mode == Mode::kLinearOnly || p.mode == Mode::kLPlusS;
  }
  [[nodiscard]] int64_t columns() const { return keys.rows; }
  [[nodiscard]] bool is_token(int64_t column) const { return column < p.keys; }
  [[nodiscard]] int64_t block_of(int64_t column) const { return is_token(column) ? column / p.block_k : column - p.keys; }
  [[nodiscard]] T weight(int64_t query_block, int64_t column) const {
    const int64_t j = block_of(column);
    if (is_token(column)) return static_cast<T>(s.sparse(query_block, j));
    return static_cast<T>((1 - s.mask(query_block, j)) * static_cast<double>(rows_in(p.keys, p.block_k, j)));
  }

  struct SoftmaxRow {
    std::vector<T> e;  ///< [columns] weight · exp(logit − largest)
    T sum = 0, lse = 0;
    std::vector<T> o;  ///< [D]; zeros where every weight is 0
  };
  [[nodiscard]] SoftmaxRow softmax_row(int64_t row) const {
    const int64_t b = row / p.block_q;
    SoftmaxRow r{std::vector<T>(static_cast<size_t>(columns()), T{0}), 0, 0, std::vector<T>(static_cast<size_t>(p.dim), T{0})};
    T top = -INFINITY;
    bool all_masked = true;
    // e4m3 ends at 448: there a mean key's weight, the size of its block, goes into the exponent before the maximum is taken.
    constexpr bool kInExponent = std::is_same_v<A, PlainFp8>;
    for (int64_t j = 0; j < columns(); ++j) {
      if (weight(b, j) == 0) continue;
      T logit = scale * dot(q.row(row), keys.row(j), p.dim) + (bias.empty() ? T{0} : bias[static_cast<size_t>(j)]);
      if (kInExponent) logit += std::log(weight(b, j));
      r.e[static_cast<size_t>(j)] = logit;
      top = std::max(top, logit);
      all_masked = all_masked && logit == -std::numeric_limits<T>::infinity();  // a NaN masks nothing
    }
    r.lse = top;
    if (all_masked) {
      std::fill(r.e.begin(), r.e.end(), T{0});
      return r;
    }
    for (int64_t j = 0; j < columns(); ++j) {
      const T w = weight(b, j);
      if (w == 0) continue;
      T& e = r.e[static_cast<size_t>(j)];
      r.sum += e = (kInExponent ? T{1} : w) * std::exp(e - top);
      add(r.o.data(), weight_operand<A>(e), values.row(j), p.dim);
    }
    for (T& x : r.o) x /= r.sum;
    r.lse = top + std::log(r.sum);
    return r;
  }

  /// Σ_j Wl(b, j) · x_j over rows x_j of h or z.
  [[nodiscard]] std::vector<T> sum_linear(const Matrix<T>& x, int64_t query_block) const {
    std::vector<T> sum(static_cast<size_t>(x.cols), T{0});
    for (int64_t j = 0; j < x.rows; ++j)
      if (s.linear(query_block, j) != 0) add(sum.data(), static_cast<T>(s.linear(query_block, j)), x.row(j), x.cols);
    return sum;
  }

  struct LinearRow {
    std::vector<T> o;  ///< [D]
    T denominator = 0;
    bool floored = false;
  };
  [[nodiscard]] LinearRow linear_row(int64_t row, const std::vector<T>& h_sum, const std::vector<T>& z_sum) const {
    LinearRow r{std::vector<T>(static_cast<size_t>(p.dim), T{0})};
    const T floor = static_cast<T>(kDenominatorFloor) * dot(phi_q.row(row), z_all.data(), p.dim);
    const double* const weights = s.linear.row(row / p.block_q);
    if (std::all_of(weights, weights + s.linear.cols, [](double w) { return w == 0; })) return r;  // every block is kept
    r.denominator = dot(phi_q.row(row), z_sum.data(), p.dim);
    r.floored = r.denominator < floor;
    if (r.floored) r.denominator = floor;
    if (r.denominator == 0) return r;
    for (int64_t c = 0; c < p.dim; ++c) {
      const T phi = A::feature(phi_q(row, c));
      for (int64_t d = 0; d < p.dim; ++d)
        r.o[static_cast<size_t>(d)] += phi * A::feature(h_sum[static_cast<size_t>(c * p.dim + d)]);
    }
    for (T& x : r.o) x /= r.denominator;
    return r;
  }

  /// log Σ_j Wl · b_j · exp(s·Q̄·K̄): what the keys of the linear branch would have added to the softmax, from block means.
  [[nodiscard]] double rest_log_sum(int64_t query_block) const {
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < s.linear.cols; ++j)
      if (s.linear(query_block, j) > 0) top = std::max(top, s.identity(query_block, j));
    for (int64_t j = 0; j < s.linear.cols; ++j)
      if (s.linear(query_block, j) > 0)
        sum += s.linear(query_block, j) * static_cast<double>(rows_in(p.keys, p.block_k, j)) *
               std::exp(s.identity(query_block, j) - top);
    return top + std::log(sum);
  }

  /// a of one row; 1 where nothing is left for the linear branch.
  [[nodiscard]] T mix(const Head& head, int64_t row, T lse_minus_rest, T denominator) const {
    if (denominator == 0) return T{1};
    const auto at = [&](size_t i) { return static_cast<T>(head.a[i]); };
    T logit = at(0);
    if (p.a_mode == AMode::kBlock) logit = at(static_cast<size_t>(row / p.block_q));
    if (p.a_mode == AMode::kHeadAffineLse) logit = at(0) * lse_minus_rest + at(1);
    return T{1} / (T{1} + std::exp(-logit));
  }

 private:
  static void append(Matrix<T>& x, const Matrix<T>& more) {
    x.data.insert(x.data.end(), more.data.begin(), more.data.end());
    x.rows += more.rows;
  }

  void add_up_features() {
    h = Matrix<T>(p.key_blocks(), p.dim * p.dim);
    z = Matrix<T>(p.key_blocks(), p.dim);
    z_all.assign(static_cast<size_t>(p.dim), T{0});
    if (!has_linear()) return;
    for (int64_t t = 0; t < p.keys; ++t) {
      for (int64_t c = 0; c < p.dim; ++c)
        add(h.row(t / p.block_k) + c * p.dim, A::feature(phi_k(t, c)), feature_values.row(t), p.dim);
      add(z.row(t / p.block_k), T{1}, phi_k.row(t), p.dim);
    }
    for (int64_t j = 0; j < z.rows; ++j) add(z_all.data(), T{1}, z.row(j), p.dim);
  }
};

/// VSA's coarse branch: softmax(R)·V̄, one row per query block.
template <typename A>
Matrix<typename A::T> coarse_weights(const State<A>& state) {
  return row_softmax(cast<typename A::T>(state.s.scores));
}

}  // namespace sla2::check

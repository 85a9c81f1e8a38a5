// SPDX-License-Identifier: Apache-2.0
// Gradients by the chain rule, in the order of the formulas (maths of SLA2 with the listings' slips put right: 1/√D on dQ and
// dK, dV accumulated, the implicit gradient through SoftTop-k's shift). Row by row; then what lies per block; then what all
// keys share. Products take two operands in the arithmetic's type, as they do forward.
#include "oracle/state.h"

namespace sla2::check {
namespace {

template <typename A>
class Backward {
  using T = typename A::T;
  using Vec = std::vector<T>;

 public:
  Backward(const Problem& problem, const Head& inputs, const Selection& selection, const Table& d_out, const Output* saved)
      : p(problem),
        head(inputs),
        sel(selection),
        given(saved),
        state(problem, inputs, selection),
        d_o(cast<T>(d_out)),
        d_q(p.queries, p.dim),
        d_phi_q(p.queries, p.dim),
        d_keys(state.columns(), p.dim),
        d_values(state.columns(), p.dim),
        d_phi_k(p.keys, p.dim),
        d_h(p.key_blocks(), p.dim * p.dim),
        d_z(p.key_blocks(), p.dim),
        d_z_all(1, p.dim),
        d_logit(p.query_blocks(), p.key_blocks()),
        d_scores(p.query_blocks(), p.key_blocks()) {
    result.proj = Table(p.dim, p.dim);
    result.proj_bias.assign(static_cast<size_t>(p.dim), 0);
    result.a.assign(head.a.size(), 0);
    result.gate = Table(p.queries, p.dim);
  }

  Gradients run() {
    for (int64_t b = 0; b < p.query_blocks(); ++b) query_block(b);
    if (p.router == Router::kVsa && !head.gate.empty()) coarse_branch();
    features();
    if (p.tau > 0 && p.mode != Mode::kFull && p.router != Router::kGiven) soft_top_k();
    return finish();
  }

 private:
  void query_block(int64_t b) {
    const Vec h_sum = state.sum_linear(state.h, b), z_sum = state.sum_linear(state.z, b);
    Matrix<T> d_h_sum(1, p.dim * p.dim), d_z_sum(1, p.dim);
    for (int64_t row = b * p.block_q; row < std::min(p.queries, (b + 1) * p.block_q); ++row) {
      auto sparse = state.softmax_row(row);
      const auto linear = state.linear_row(row, h_sum, z_sum);
      if (given != nullptr) take_given(row, linear, sparse);
      Vec d_sparse(static_cast<size_t>(p.dim), T{0}), d_linear = d_sparse;
      unjoin(row, sparse, linear, d_sparse, d_linear);
      sparse_row(row, sparse, d_sparse);
      if (state.has_linear() && linear.denominator != 0) linear_row(row, linear, d_linear, h_sum, z_sum, d_h_sum, d_z_sum);
    }
    for (int64_t j = 0; j < p.key_blocks(); ++j) {  // H = Σ_j Wl·h_j
      const T w = static_cast<T>(sel.linear(b, j));
      add(d_h.row(j), w, d_h_sum.row(0), d_h_sum.cols);
      add(d_z.row(j), w, d_z_sum.row(0), p.dim);
      if (p.mode == Mode::kSla2 || (p.mode == Mode::kSla1 && p.scope == Scope::kComplement)) {  // Wl = 1 − M
        const T d_weight = dot(d_h_sum.row(0), state.h.row(j), d_h_sum.cols) + dot(d_z_sum.row(0), state.z.row(j), p.dim);
        const T m = static_cast<T>(sel.mask(b, j));
        d_logit(b, j) -= m * (T{1} - m) * d_weight;
      }
    }
  }

  /// The forward's log-sum-exp, and O_s as its output less what the linear branch says.
  void take_given(int64_t row, const typename State<A>::LinearRow& linear, typename State<A>::SoftmaxRow& sparse) {
    const Table mean = block_means(head.k, p.keys);
    const bool shifted = p.mode != Mode::kFull;
    const double shift = shifted ? p.softmax_scale() * dot(head.q.row(row), mean.row(0), p.dim) : 0;
    const T lse = static_cast<T>(static_cast<double>(static_cast<float>(given->lse[static_cast<size_t>(row)])) - shift);
    sparse.sum *= std::exp(lse - sparse.lse);
    sparse.lse = lse;
    T a{1}, share{p.mode == Mode::kLPlusS ? T{1} : T{0}};
    if (p.mode == Mode::kSla2) {
      a = state.mix(head, row, static_cast<T>(static_cast<double>(lse) - state.rest_log_sum(row / p.block_q)),
                    linear.denominator);
      share = T{1} - a;
    }
    for (size_t c = 0; c < sparse.o.size(); ++c) {
      const T out = static_cast<T>(static_cast<float>(given->o(row, static_cast<int64_t>(c))));
      sparse.o[c] = a == 0 ? T{0} : (out - share * linear.o[c]) / a;
    }
  }

  /// dO → dO_s, dO_l, da, dProj.
  void unjoin(int64_t row, const typename State<A>::SoftmaxRow& sparse, const typename State<A>::LinearRow& linear, Vec& d_sparse,
              Vec& d_linear) {
    const T* const d = d_o.row(row);
    switch (p.mode) {
      case Mode::kLinearOnly: d_linear.assign(d, d + p.dim); return;
      case Mode::kLPlusS: d_linear.assign(d, d + p.dim), d_sparse = d_linear; return;
      case Mode::kSla1:
        d_sparse.assign(d, d + p.dim);
        for (int64_t c = 0; c < p.dim; ++c) {
          result.proj_bias[static_cast<size_t>(c)] += static_cast<double>(d[c]);
          for (int64_t e = 0; e < p.dim; ++e) {
            result.proj(c, e) += static_cast<double>(d[c] * linear.o[static_cast<size_t>(e)]);
            d_linear[static_cast<size_t>(e)] += d[c] * static_cast<T>(head.proj(c, e));
          }
        }
        return;
      case Mode::kSla2: break;
      default: d_sparse.assign(d, d + p.dim); return;
    }
    const int64_t b = row / p.block_q;
    const double difference =
        head.frozen.empty() ? static_cast<double>(sparse.lse) - state.rest_log_sum(b) : head.frozen[static_cast<size_t>(row)];
    const T a = state.mix(head, row, static_cast<T>(difference), linear.denominator);
    add(d_sparse.data(), a, d, p.dim);
    add(d_linear.data(), T{1} - a, d, p.dim);
    if (linear.denominator == 0) return;
    const T d_mix = a * (T{1} - a) * (dot(d, sparse.o.data(), p.dim) - dot(d, linear.o.data(), p.dim));
    if (p.a_mode == AMode::kHeadAffineLse) {
      result.a[0] += static_cast<double>(d_mix) * difference;
      result.a[1] += static_cast<double>(d_mix);
    } else {
      result.a[p.a_mode == AMode::kBlock ? static_cast<size_t>(b) : 0] += static_cast<double>(d_mix);
    }
  }

  void sparse_row(int64_t row, const typename State<A>::SoftmaxRow& sparse, const Vec& d_sparse) {
    if (sparse.sum == 0) return;
    const int64_t b = row / p.block_q;
    const T mean = dot(d_sparse.data(), sparse.o.data(), p.dim);  // D^s
    Vec factor = d_sparse;
    for (T& x : factor) x = A::operand(x);  // of dO·Vᵀ and Pᵀ·dO
    for (int64_t j = 0; j < state.columns(); ++j) {
      const T prob = sparse.e[static_cast<size_t>(j)] / sparse.sum;
      if (prob == 0) continue;
      add(d_values.row(j), A::operand(prob), factor.data(), p.dim);
      const T d_s = prob * (dot(factor.data(), state.values.row(j), p.dim) - mean);
      const T d_logit_here = A::operand(state.scale * d_s);
      add(d_q.row(row), d_logit_here, state.keys.row(j), p.dim);
      add(d_keys.row(j), d_logit_here, state.q.row(row), p.dim);
      const T m = static_cast<T>(sel.mask(b, state.block_of(j)));  // weight = M, or b_j·(1 − M) for a pooled key
      d_logit(b, state.block_of(j)) += state.is_token(j) ? (T{1} - m) * d_s : -m * d_s;
    }
  }

  void linear_row(int64_t row, const typename State<A>::LinearRow& linear, const Vec& d_linear, const Vec& h_sum,
                  const Vec& z_sum, Matrix<T>& d_h_sum, Matrix<T>& d_z_sum) {
    const T mean = dot(d_linear.data(), linear.o.data(), p.dim);  // D^l
    const T floor = static_cast<T>(kDenominatorFloor);
    for (int64_t c = 0; c < p.dim; ++c) {
      const T g = state.phi_q(row, c) / linear.denominator;
      // dO_l stays as it is here: its rounding would be the same for all channels of φ, add up in φ(K)·dH, and hide all others.
      add(d_h_sum.row(0) + c * p.dim, A::feature(g), d_linear.data(), p.dim);
      (linear.floored ? d_z_all : d_z_sum)(0, c) -= (linear.floored ? floor : T{1}) * g * mean;
      const T z = linear.floored ? floor * state.z_all[static_cast<size_t>(c)] : z_sum[static_cast<size_t>(c)];
      T d_state = 0;  // dO_l·Hᵀ
      for (int64_t d = 0; d < p.dim; ++d)
        d_state += A::feature(d_linear[static_cast<size_t>(d)]) * A::feature(h_sum[static_cast<size_t>(c * p.dim + d)]);
      d_phi_q(row, c) += (d_state - mean * z) / linear.denominator;
    }
  }

  /// O += G ⊙ (softmax(R)·V̄).
  void coarse_branch() {
    const Matrix<T> weights = coarse_weights(state), mean_v = block_means(cast<T>(head.v), p.block_k);
    const Matrix<T> coarse = product(weights, mean_v);
    Matrix<T> d_coarse(p.query_blocks(), p.dim);
    for (int64_t row = 0; row < p.queries; ++row)
      for (int64_t c = 0; c < p.dim; ++c) {
        result.gate(row, c) = static_cast<double>(d_o(row, c) * coarse(row / p.block_q, c));
        d_coarse(row / p.block_q, c) += d_o(row, c) * static_cast<T>(head.gate(row, c));
      }
    Matrix<T> d_v(p.keys, p.dim);
    add_block_means_gradient(product(transposed(weights), d_coarse), p.block_k, d_v);
    for (int64_t t = 0; t < p.keys; ++t) add(d_values.row(t), T{1}, d_v.row(t), p.dim);
    const Matrix<T> d_scores_here = row_softmax_gradient(weights, product(d_coarse, transposed(mean_v)));
    add(d_scores.data.data(), T{1}, d_scores_here.data.data(), static_cast<int64_t>(d_scores.data.size()));
  }

  /// h_j = φ(K_j)ᵀV_j, z_j = column sums: dφ(K_j) = V_j·dh_jᵀ + 1·dz_jᵀ, dV_j += φ(K_j)·dh_j.
  void features() {
    Matrix<T> factor = d_h;
    for (T& x : factor.data) x = A::feature(x);
    for (int64_t t = 0; t < p.keys && state.has_linear(); ++t) {
      const int64_t j = t / p.block_k;
      for (int64_t c = 0; c < p.dim; ++c) {
        d_phi_k(t, c) = dot(factor.row(j) + c * p.dim, state.feature_values.row(t), p.dim) + d_z(j, c) + d_z_all(0, c);
        add(d_values.row(t), A::feature(state.phi_k(t, c)), factor.row(j) + c * p.dim, p.dim);
      }
    }
  }

  /// d_logit is ∂/∂x of M = σ(x + λ) at fixed λ; λ keeps the row's sum: dx −= v·Σdx / Σv with v = M(1 − M).
  void soft_top_k() {
    for (int64_t b = 0; b < p.query_blocks(); ++b) {
      T sum = 0, spread = 0;
      const auto v = [&](int64_t j) { return static_cast<T>(sel.mask(b, j) * (1 - sel.mask(b, j))); };
      for (int64_t j = 0; j < p.key_blocks(); ++j) sum += d_logit(b, j), spread += v(j);
      if (spread == 0) continue;
      for (int64_t j = 0; j < p.key_blocks(); ++j)
        d_scores(b, j) += (d_logit(b, j) - v(j) * sum / spread) / static_cast<T>(p.tau);
    }
  }

  /// Through R = s·(Q̄W_q)(K̄W_k)ᵀ, block means, φ and K − μ back to the inputs.
  Gradients finish() {
    const Matrix<T> raw_k = cast<T>(head.k), mean_q = block_means(cast<T>(head.q), p.block_q);
    const Matrix<T> mean_k = block_means(centred(raw_k), p.block_k);
    const auto through = [](const Matrix<T>& x, const Table& w) { return w.empty() ? x : product(x, cast<T>(w)); };
    Matrix<T> d_left = product(d_scores, through(mean_k, head.w_k)),
              d_right = product(transposed(d_scores), through(mean_q, head.w_q));
    for (T& x : d_left.data) x *= state.scale;
    for (T& x : d_right.data) x *= state.scale;
    result.w_q = widen(product(transposed(mean_q), d_left));
    result.w_k = widen(product(transposed(mean_k), d_right));
    const auto back = [](const Matrix<T>& x, const Table& w) { return w.empty() ? x : product(x, transposed(cast<T>(w))); };

    Matrix<T> d_centred(p.keys, p.dim), d_raw(p.keys, p.dim), d_mean_k = back(d_right, head.w_k);
    for (int64_t j = p.keys; j < state.columns(); ++j) add(d_mean_k.row(j - p.keys), T{1}, d_keys.row(j), p.dim);
    for (int64_t t = 0; t < p.keys; ++t) add((p.mode == Mode::kFull ? d_raw : d_centred).row(t), T{1}, d_keys.row(t), p.dim);
    add_block_means_gradient(d_mean_k, p.block_k, d_centred);
    const Matrix<T> d_x = row_softmax_gradient(state.phi_k, d_phi_k);
    add((p.smooth_k ? d_centred : d_raw).data.data(), T{1}, d_x.data.data(), p.keys * p.dim);
    const Matrix<T> d_k = centred(d_centred);  // the gradient of K − μ takes its own mean away
    add(d_raw.data.data(), T{1}, d_k.data.data(), p.keys * p.dim);

    const Matrix<T> d_y = row_softmax_gradient(state.phi_q, d_phi_q);
    add(d_q.data.data(), T{1}, d_y.data.data(), p.queries * p.dim);
    add_block_means_gradient(back(d_left, head.w_q), p.block_q, d_q);

    Matrix<T> d_v(p.keys, p.dim), d_mean_v(p.key_blocks(), p.dim);
    for (int64_t t = 0; t < p.keys; ++t) add(d_v.row(t), T{1}, d_values.row(t), p.dim);
    for (int64_t j = p.keys; j < state.columns(); ++j) add(d_mean_v.row(j - p.keys), T{1}, d_values.row(j), p.dim);
    add_block_means_gradient(d_mean_v, p.block_k, d_v);
    result.q = widen(d_q);
    result.k = widen(d_raw);
    result.v = widen(d_v);
    return result;
  }

  static Table widen(const Matrix<T>& x) {
    Table y(x.rows, x.cols);
    std::copy(x.data.begin(), x.data.end(), y.data.begin());
    return y;
  }

  const Problem& p;
  const Head& head;
  const Selection& sel;
  const Output* given;  // or null
  State<A> state;
  Matrix<T> d_o, d_q, d_phi_q;
  Matrix<T> d_keys, d_values;  // [columns, D]
  Matrix<T> d_phi_k, d_h, d_z, d_z_all;
  Matrix<T> d_logit, d_scores;  // [T_m, T_n]
  Gradients result;
};

}  // namespace

Gradients backward(const Problem& p, const Head& head, const Selection& selection, const Table& d_out, Arithmetic arithmetic,
                   const Output* given) {
  switch (arithmetic) {
    case Arithmetic::kF32: return Backward<PlainF32>(p, head, selection, d_out, given).run();
    case Arithmetic::kBf16: return Backward<PlainBf16>(p, head, selection, d_out, given).run();
    case Arithmetic::kInt8: return Backward<PlainInt8>(p, head, selection, d_out, given).run();
    default: return Backward<Exact>(p, head, selection, d_out, given).run();
  }
}

}  // namespace sla2::check

// SPDX-License-Identifier: Apache-2.0
// Forward: both branches row by row, then the join of the mode.
#include "oracle/state.h"

namespace sla2::check {
namespace {

/// O_s and O_l become O; `a` is used by sla2 alone.
template <typename T>
void join(const Problem& p, const Head& head, const std::vector<T>& sparse, const std::vector<T>& linear, T a, double* out) {
  for (int64_t c = 0; c < p.dim; ++c) {
    const T x = sparse[static_cast<size_t>(c)], y = linear[static_cast<size_t>(c)];
    T o = x;
    if (p.mode == Mode::kLinearOnly) o = y;
    if (p.mode == Mode::kLPlusS) o = x + y;
    if (p.mode == Mode::kSla2) o = a * x + (T{1} - a) * y;
    if (p.mode == Mode::kSla1) {
      o = x + static_cast<T>(head.proj_bias[static_cast<size_t>(c)]);
      for (int64_t d = 0; d < p.dim; ++d) o += static_cast<T>(head.proj(c, d)) * linear[static_cast<size_t>(d)];
    }
    out[c] = static_cast<double>(o);
  }
}

template <typename A>
Output run(const Problem& p, const Head& head, const Selection& selection) {
  using T = typename A::T;
  const State<A> state(p, head, selection);
  const Table mean = block_means(head.k, p.keys);
  Output out{Table(p.queries, p.dim), {}, {}, {}};
  std::vector<T> h_sum, z_sum;
  for (int64_t row = 0; row < p.queries; ++row) {
    const int64_t b = row / p.block_q;
    if (row % p.block_q == 0) {
      h_sum = state.sum_linear(state.h, b);
      z_sum = state.sum_linear(state.z, b);
    }
    const auto sparse = state.softmax_row(row);
    const auto linear = state.linear_row(row, h_sum, z_sum);
    const double lse = static_cast<double>(sparse.lse);
    const double difference = head.frozen.empty() ? lse - state.rest_log_sum(b) : head.frozen[static_cast<size_t>(row)];
    const T a = p.mode == Mode::kSla2 ? state.mix(head, row, static_cast<T>(difference), linear.denominator) : T{1};
    join(p, head, sparse.o, linear.o, a, out.o.row(row));
    out.lse_minus_rest.push_back(difference);
    // The softmax ran on K − μ, which lowers each logit of the row by s·q·μ; in eight bits full mode does so too.
    const bool shifted = p.mode != Mode::kFull || std::is_base_of_v<PlainInt8, A>;
    out.lse.push_back(lse + (shifted ? p.softmax_scale() * dot(head.q.row(row), mean.row(0), p.dim) : 0));
    out.linear_weight.push_back(static_cast<double>(T{1} - a));
  }
  if (p.router == Router::kVsa && !head.gate.empty()) {
    const Matrix<T> coarse = product(coarse_weights(state), block_means(cast<T>(head.v), p.block_k));
    for (int64_t row = 0; row < p.queries; ++row)
      for (int64_t c = 0; c < p.dim; ++c) out.o(row, c) += head.gate(row, c) * static_cast<double>(coarse(row / p.block_q, c));
  }
  return out;
}

}  // namespace

Output forward(const Problem& p, const Head& head, const Selection& selection, Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kF32: return run<PlainF32>(p, head, selection);
    case Arithmetic::kBf16: return run<PlainBf16>(p, head, selection);
    case Arithmetic::kInt8: return run<PlainInt8>(p, head, selection);
    case Arithmetic::kFp8: return run<PlainFp8>(p, head, selection);
    default: return run<Exact>(p, head, selection);
  }
}

}  // namespace sla2::check

// SPDX-License-Identifier: Apache-2.0
// One query block of backward: what needs no other query block. In: q, dO, the kept blocks. Out: operands of the tiles, the row
// statistics, and the whole of the linear branch's gradient on this side.
//   x0 queries, x1 dO, x2 φ(Q), x3 dO_l
#include <cmath>
#include <limits>

#include "attention/backward_parts.h"
#include "kernels/panel_gemm.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

constexpr double kLn2 = 0.6931471805599453;

struct Rows {
  const BackwardCall& call;
  const BackwardShape& s;
  const UnitBuffers& b;
  const BackwardWorker& w;
  int64_t unit, u, head, first, n;  ///< head: b · H + h; first row of the block and how many

  void load(const Operand& operand, float scale, float* out) const {
    call.ops.load_rows(rows_of(operand, head, s.config.heads), first, n, s.dim, scale, out);
  }
  [[nodiscard]] float* top() const { return b.top + u * s.block_q; }
  [[nodiscard]] float* weight() const { return b.weight + u * s.block_q; }
  [[nodiscard]] float* mean() const { return b.mean + u * s.block_q; }
};

/// The blocks of one query block, and its bytes of `state`.
struct Choice {
  Blocks kept, in, out;
};

/// sla1's least blocks: the last of the ranking among those that are not kept get bit `kNotLinear`.
void drop_least(const Rows& x, const Blocks& kept) {
  const BackwardShape& s = x.s;
  const double* const scores = x.b.scores + x.u * s.key_blocks;
  int64_t left = std::min(s.least, s.key_blocks - kept.count);
  const auto lower = [&](int64_t a, int64_t b) {  // a ranks behind b: ties to the lowest index, NaN first
    const bool nan_a = std::isnan(scores[a]), nan_b = std::isnan(scores[b]);
    if (nan_a != nan_b) return nan_b;
    return nan_a || scores[a] == scores[b] ? a > b : scores[a] < scores[b];
  };
  for (; left > 0; --left) {
    int64_t last = -1;
    for (int64_t j = 0; j < s.key_blocks; ++j) {
      const uint8_t state = x.b.state[j * s.blocks + x.u];
      if ((state & kKept) == 0 && (state & kDropped) == 0 && (last < 0 || lower(j, last))) last = j;
    }
    x.b.state[last * s.blocks + x.u] |= kNotLinear | kDropped;
  }
}

Choice choose(const Rows& x) {
  const BackwardShape& s = x.s;
  const auto state = [&](int64_t j) -> uint8_t& { return x.b.state[j * s.blocks + x.u]; };
  Choice choice{{nullptr, s.softmax ? s.key_blocks : 0}, {x.w.in, 0}, {x.w.out, 0}};
  const BlockList* const list = x.call.in.list;
  const bool listed = s.softmax && s.config.mode != Mode::kFull && !s.soft && list != nullptr;
  for (int64_t j = 0; j < s.key_blocks; ++j) state(j) = s.softmax && !listed ? kKept : 0;
  if (listed) {
    const int64_t row = x.head * s.query_blocks + x.u % s.query_blocks;
    choice.kept = {list->index + row * list->capacity, list->count[row]};
    for (int64_t i = 0; i < choice.kept.count; ++i) state(choice.kept.index[i]) = kKept;
  }
  if (!s.linear) return choice;
  if (s.shares && !s.soft)
    for (int64_t j = 0; j < s.key_blocks; ++j)
      if ((state(j) & kKept) != 0) state(j) |= kNotLinear;
  if (s.shares && s.soft)
    for (int64_t j = 0; j < s.key_blocks; ++j)
      if (x.b.mask[x.u * s.key_blocks + j] == 1) state(j) |= kNotLinear;
  if (s.least > 0) drop_least(x, choice.kept);
  for (int64_t j = 0; j < s.key_blocks; ++j)
    ((state(j) & kNotLinear) == 0 ? x.w.in[choice.in.count++] : x.w.out[choice.out.count++]) = static_cast<int32_t>(j);
  return choice;
}

/// Largest logits and sums from the kept blocks and the pooled ones, in w.m and w.l. fp32: Σ weight·dP beside, from the same
/// products as the tiles', so that dP − D vanishes where one key has all the weight; bf16: O_s in w.acc as rows of W.
void softmax_again(const Rows& x, const Blocks& kept) {
  const auto& [call, s, b, w, unit, u, head, first, n] = x;
  if (s.bf16) {
    const float* const tail = tile_bias(call, b, u, s.key_blocks - 1, true, w.bias);
    call.ops.attend_bf16({n, s.dim, s.block_k, s.config.key_tokens, b.bf16.q_rows + u * s.block_q * s.dim, b.bf16.k_lines,
                          b.bf16.v_panels, kept.index, kept.count, nullptr, tail, static_cast<float>(s.scale * kBackwardLog2E),
                          w.m, w.l, w.acc, w.weights, w.sums});
    call.ops.row_dots(n, s.dim, w.x1, s.dim, w.acc, s.width, w.d_sum);
    return;
  }
  std::fill_n(w.m, n, -std::numeric_limits<float>::infinity());
  std::fill_n(w.l, n, 0.0F);
  std::fill_n(w.d_sum, n, 0.0);
  const int64_t line = s.dim * kPanel;
  for (int64_t i = 0; i < kept.count + s.pool_blocks; ++i) {
    const int64_t j = i >= kept.count ? s.key_blocks + i - kept.count : kept.index == nullptr ? i : kept.index[i];
    const int64_t keys = s.keys(j), key_panels = kernels::panels_of(keys), at = j * s.block_k * s.dim;
    for (int64_t p = 0; p < key_panels; ++p) {
      call.ops.panel_gemm(n, s.dim, b.f32.q_rows + u * s.block_q * s.dim, s.dim, 1, b.f32.k_lines + at + p * line,
                          w.s + p * kPanel, s.block_k, false);
      call.ops.panel_gemm(n, s.dim, w.x1, s.dim, 1, b.f32.v_lines + at + p * line, w.d + p * kPanel, s.block_k, false);
    }
    call.ops.online_softmax(n, key_panels * kPanel, w.s, s.block_k, tile_bias(call, b, u, j, true, w.bias), w.m, w.l, w.rescale);
    for (int64_t r = 0; r < n; ++r)
      w.d_sum[r] = w.d_sum[r] * static_cast<double>(w.rescale[r]) + dot(w.s + r * s.block_k, w.d + r * s.block_k, keys);
  }
}

/// Natural log-sum-exps on the keys as the tiles have them.
void log_sums(const Rows& x) {
  const bool shifted = !x.call.again && x.s.centred;
  if (shifted) x.call.ops.row_dots(x.n, x.s.dim, x.w.x0, x.s.dim, x.b.shift, 0, x.w.dots);
  for (int64_t r = 0; r < x.n; ++r) {
    if (x.call.again) {
      x.w.log_sum[r] = (static_cast<double>(x.w.m[r]) + std::log2(static_cast<double>(x.w.l[r]))) * kLn2;
    } else {  // the caller's is of the keys as they are
      x.w.log_sum[r] = static_cast<double>(x.call.in.lse[x.head * x.s.config.query_tokens + x.first + r]);
      if (shifted) x.w.log_sum[r] -= x.s.scale * x.w.dots[r];
    }
  }
}

/// log Σ of what the linear branch's keys would have added to the softmax, from block means.
double rest_log_sum(const Rows& x, const Blocks& in) {
  const BackwardShape& s = x.s;
  double* const routes = x.w.routes;
  x.call.ops.route_scores(s.dim, s.route_row, x.b.q_means + x.u * s.dim, x.b.means, s.scale, routes);
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t i = 0; i < in.count; ++i) top = std::max(top, routes[in.index[i]]);
  for (int64_t i = 0; i < in.count; ++i) {
    const int64_t j = in.index[i];
    const double share = s.soft ? 1 - x.b.mask[x.u * s.key_blocks + j] : 1;
    sum += share * static_cast<double>(s.token_keys(j)) * std::exp(routes[j] - top);
  }
  return top + std::log(sum);
}

/// a of each row in w.a; 1 where nothing is left for the linear branch. @return L_rest, natural
double mix_rows(const Rows& x, const Blocks& in) {
  const BackwardShape& s = x.s;
  const float* const given = x.call.in.parameters.mix;
  const int64_t h = x.head % s.config.heads, i = x.u % s.query_blocks;
  double scale = 0, bias = s.config.mix_bias, rest = 0;
  if (s.affine) {
    rest = rest_log_sum(x, in);
    scale = given == nullptr ? s.config.mix_scale : static_cast<double>(given[2 * h]);
    if (given != nullptr) bias = static_cast<double>(given[2 * h + 1]);
  } else if (given != nullptr && s.config.mix == Mix::kHeadScalar) {
    bias = static_cast<double>(given[h]);
  } else if (given != nullptr && s.config.mix == Mix::kBlock) {
    bias = static_cast<double>(given[h * s.query_blocks + i]);
  }
  for (int64_t r = 0; r < x.n; ++r) {
    double logit = bias;
    if (s.affine) logit += scale * (x.w.log_sum[r] - rest);
    x.w.a[r] = x.w.inverse[r] == 0 ? 1 : 1 / (1 + std::exp(-logit));
  }
  return rest;
}

/// dO_l into x3 from dO in x1.
void linear_share(const Rows& x) {
  const BackwardShape& s = x.s;
  const int64_t count = x.n * s.dim;
  if (s.config.mode == Mode::kSla1) {
    for (int64_t p = 0; p < s.panels; ++p)
      x.call.ops.panel_gemm(x.n, s.dim, x.w.x1, s.dim, 1, x.call.space.proj + p * s.dim * kPanel, x.w.d_phi + p * kPanel, s.width,
                            false);
    for (int64_t r = 0; r < x.n; ++r) std::copy_n(x.w.d_phi + r * s.width, s.dim, x.w.x3 + r * s.dim);
    return;
  }
  std::copy_n(x.w.x1, count, x.w.x3);
  if (s.config.mode != Mode::kSla2) return;
  for (int64_t r = 0; r < x.n; ++r) {
    const auto share = static_cast<float>(1 - x.w.a[r]);
    for (int64_t c = 0; c < s.dim; ++c) x.w.x3[r * s.dim + c] *= share;
  }
}

/// dProj = dOᵀ·O_l and its bias, of this block.
void proj_gradient(const Rows& x) {
  const auto& [call, s, b, w, unit, u, head, first, n] = x;
  double* const bias = b.d_proj_bias + u * s.dim;
  std::fill_n(bias, s.dim, 0.0);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < s.dim; ++c) bias[c] += static_cast<double>(w.x1[r * s.dim + c]);
  float* const lines = w.x3;  // not yet dO_l
  for (int64_t r = 0; r < n; ++r) std::copy_n(w.o_linear + r * s.width, s.dim, lines + r * s.dim);
  kernels::pack_values(lines, n, s.dim, n, w.panels);
  for (int64_t p = 0; p < s.panels; ++p)
    call.ops.panel_gemm(s.dim, n, w.x1, 1, s.dim, w.panels + p * n * kPanel, b.d_proj + (u * s.panels + p) * s.dim * kPanel,
                        kPanel, false);
}

/// d_gate = dO ⊙ coarse, written and left in d_phi; the gate left in x2; d_coarse = Σ rows dO ⊙ gate.
void gate_gradient(const Rows& x) {
  const auto& [call, s, b, w, unit, u, head, first, n] = x;
  const double* const coarse = b.coarse + u * s.dim;
  double* const d_coarse = b.d_coarse + u * s.dim;
  const MutableOperand& out = call.in.gradients.gate;
  x.load(call.in.parameters.gate, 1.0F, w.x2);
  std::fill_n(d_coarse, s.dim, 0.0);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < s.dim; ++c) {
      const double d = static_cast<double>(w.x1[r * s.dim + c]);
      d_coarse[c] += d * static_cast<double>(w.x2[r * s.dim + c]);
      w.d_phi[r * s.width + c] = static_cast<float>(d * coarse[c]);
    }
  if (out.data != nullptr) write_rows(call, w.d_phi, n, out, head, s.config.heads, first, w);
}

/// dO·O_s of each row, what P is weighed with, and da. Given `out`: a·dO·O_s is dO·out less what the other parts of it said.
void row_statistics(const Rows& x, double rest) {
  const auto& [call, s, b, w, unit, u, head, first, n] = x;
  if (!call.again) {
    x.load(call.in.out, 1.0F, w.panels);
    call.ops.row_dots(n, s.dim, w.x1, s.dim, w.panels, s.dim, w.dots);
  }
  double by_scale = 0, by_bias = 0;
  for (int64_t r = 0; r < n; ++r) {
    const float* const d = w.x1 + r * s.dim;
    const double linear = s.linear ? w.d_linear_mean[r] : 0, a = w.a[r];
    double weighed = 0;
    if (call.again) {
      const double mean = w.d_sum[r] / static_cast<double>(w.l[r]);
      weighed = a * mean;
      x.mean()[r] = static_cast<float>(mean);
      x.top()[r] = w.m[r];
      x.weight()[r] = static_cast<float>(a / static_cast<double>(w.l[r]));
    } else {
      weighed = w.dots[r] - linear;
      if (s.config.mode == Mode::kSla1 && call.in.parameters.proj_bias != nullptr)
        weighed -= dot(d, call.in.parameters.proj_bias, s.dim);
      if (call.coarse) weighed -= dot(w.d_phi + r * s.width, w.x2 + r * s.dim, s.dim);
      x.mean()[r] = a == 0 ? 0.0F : static_cast<float>(weighed / a);
      const double base_2 = w.log_sum[r] * kBackwardLog2E;
      x.top()[r] = static_cast<float>(base_2);
      x.weight()[r] = static_cast<float>(a * std::exp2(static_cast<double>(x.top()[r]) - base_2));  // what the rounding took
    }
    if (s.config.mode != Mode::kSla2 || w.inverse[r] == 0) continue;
    const double d_logit = (1 - a) * weighed - a * linear;
    by_scale += d_logit * (w.log_sum[r] - rest);
    by_bias += d_logit;
  }
  if (s.config.mode != Mode::kSla2) return;
  double* const d_mix = call.space.d_mix + 2 * (head * s.query_blocks + u % s.query_blocks);
  d_mix[0] = by_scale;
  d_mix[1] = by_bias;
}

/// Queries in x0 and dO in x1 become operands of the tiles.
void pack_rows(const Rows& x) {
  const auto& [call, s, b, w, unit, u, head, first, n] = x;
  const int64_t rows = u * s.block_q * s.dim, panels = u * s.block_q * s.width;
  if (s.bf16) {
    call.ops.narrow_rows_bf16(w.x0, n * s.dim, b.bf16.q_rows + rows);
    call.ops.narrow_rows_bf16(w.x1, n * s.dim, b.bf16.g_rows + rows);
    call.ops.pack_values_bf16(w.x0, n, s.dim, s.block_q, b.bf16.q_panels + panels);
    call.ops.pack_values_bf16(w.x1, n, s.dim, s.block_q, b.bf16.g_panels + panels);
  } else {
    x.load(call.in.q, static_cast<float>(s.scale * kBackwardLog2E), b.f32.q_rows + rows);
    std::copy_n(w.x1, n * s.dim, b.f32.g_rows + rows);
    kernels::pack_values(w.x0, n, s.dim, s.block_q, b.f32.q_panels + panels);
    kernels::pack_values(w.x1, n, s.dim, s.block_q, b.f32.g_panels + panels);
  }
}

}  // namespace

void backward_queries(const BackwardCall& call, int64_t unit, int64_t u, const BackwardWorker& w) {
  const BackwardShape& s = call.shape;
  const UnitBuffers b = call.space.unit(unit);
  const Rows x{call, s, b, w, unit, u, call.head_of(unit, u), u % s.query_blocks * s.block_q, s.query_rows(u)};
  x.load(call.in.q, 1.0F, w.x0);
  if (s.means()) call.ops.mean_rows(w.x0, x.n, s.dim, b.q_means + u * s.dim, 1);
  if (s.scores()) backward_scores(call, b, unit, u, w);
  const Choice choice = choose(x);
  x.load(call.in.d_out, 1.0F, w.x1);
  if (s.softmax) {
    pack_rows(x);
    if (call.again) softmax_again(x, choice.kept);
    log_sums(x);
  }
  std::fill_n(w.a, x.n, 1.0);
  double rest = 0;
  if (s.linear) {
    std::copy_n(w.x0, x.n * s.dim, w.x2);
    linear_forward(call, b, u, choice.in, choice.out, w);
    if (s.config.mode == Mode::kSla2) rest = mix_rows(x, choice.in);
    if (s.config.mode == Mode::kSla1) proj_gradient(x);
    linear_share(x);
    call.ops.row_dots(x.n, s.dim, w.x3, s.dim, w.o_linear, s.width, w.d_linear_mean);
    linear_backward(call, b, u, w);
  } else {
    std::fill_n(b.d_q + u * s.block_q * s.width, s.block_q * s.width, 0.0F);
  }
  if (call.coarse) gate_gradient(x);
  if (!s.softmax) return;
  row_statistics(x, rest);
}

}  // namespace sla2::attention

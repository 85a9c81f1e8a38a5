// SPDX-License-Identifier: Apache-2.0
#include "attention/backward.h"

#include <cmath>

#include "attention/backward_parts.h"
#include "attention/part_clock.h"
#include "core/arithmetic.h"
#include "kernels/attention_ops.h"
#include "kernels/panel_gemm.h"
#include "kernels/route_scores.h"
#include "kernels/tiles.h"

namespace sla2::attention {
namespace {

using kernels::kPanel;

bool has_linear(Mode mode) {
  return mode == Mode::kSla2 || mode == Mode::kSla1 || mode == Mode::kLinearOnly || mode == Mode::kLPlusS;
}

/// Of the function that forward computes: what it replaces by full attention, and where it takes a soft mask, is the geometry's
/// word.
BackwardShape make_shape(const Geometry& g, Isa isa) {
  BackwardShape s;
  s.config = g.config;
  s.config.mode = g.mode;
  const Config& c = s.config;
  s.scale = g.scale;
  s.soft = g.soft;
  s.top_k = g.top_k;
  // Keys minus their mean have less to round: wherever the configuration says so, also where full attention takes its place.
  s.centred = g.config.mode != Mode::kFull;
  s.softmax = c.mode != Mode::kLinearOnly;
  s.linear = has_linear(c.mode);
  s.shares = c.mode == Mode::kSla2 || (c.mode == Mode::kSla1 && c.scope == Scope::kComplement);
  s.pooled = c.mode == Mode::kPooled;
  s.vsa = c.router == Router::kVsa;
  s.affine = c.mode == Mode::kSla2 && c.mix == Mix::kHeadAffineLse;
  // Soft masks and pooled keys weigh single columns and want their gradients' sums: fp32.
  s.bf16 = (c.products == DType::kBF16 || c.bits == 8) && kernels::multiplies_bf16(isa) && !s.soft && !s.pooled;
  s.dim = c.head_dim;
  s.panels = kernels::panels_of(s.dim);
  s.width = s.panels * kPanel;
  const bool dense = c.mode == Mode::kFull && !s.vsa;
  s.block_q = dense ? kernels::kFullBlockQ : c.block_q;
  s.block_k = dense ? kernels::kFullBlockK : c.block_k;
  s.query_blocks = ceil_div(c.query_tokens, s.block_q);
  s.key_blocks = ceil_div(c.key_tokens, s.block_k);
  s.pool_blocks = s.pooled ? ceil_div(s.key_blocks, s.block_k) : 0;
  s.route_row = ceil_div(s.key_blocks, kernels::kRouteLanes) * kernels::kRouteLanes;
  if (c.mode == Mode::kSla1 && c.router != Router::kGiven && !s.soft)
    s.least = std::llround(c.negligible * static_cast<double>(s.key_blocks));
  s.units = c.batch * s.config.kv_heads;
  s.sharing = c.heads / s.config.kv_heads;
  s.blocks = s.sharing * s.query_blocks;
  s.together = std::min(s.units, ceil_div(kernels::kTasksPerGroup, s.blocks));
  s.chunks = std::min({kernels::kBackwardParts, s.blocks, s.all_key_blocks()});
  return s;
}

/// Every row of the mask a hard mode needs.
void check_list(const BackwardShape& s, const Backward& in) {
  const Config& c = s.config;
  if (!s.softmax || c.mode == Mode::kFull || s.soft) return;
  const bool by_count = c.router == Router::kSla2 || c.router == Router::kSla1 || c.router == Router::kVsa;
  if (in.list == nullptr && by_count && s.top_k == s.key_blocks) return;
  SLA2_CHECK(in.list != nullptr && in.list->index != nullptr && in.list->count != nullptr, SLA2_E_ARGUMENT,
             "attention: backward of a hard mask got no list of blocks; pass the one forward returned");
  for (int64_t row = 0; row < c.batch * c.heads * s.query_blocks; ++row) {
    const int64_t count = in.list->count[row];
    SLA2_CHECK(count >= 1 && count <= std::min(in.list->capacity, s.key_blocks), SLA2_E_ARGUMENT,
               "attention: row {} of the list holds {} blocks; expected 1 to {}", row, count,
               std::min(in.list->capacity, s.key_blocks));
    const int32_t* const index = in.list->index + row * in.list->capacity;
    for (int64_t i = 0; i < count; ++i)
      SLA2_CHECK(index[i] >= 0 && index[i] < s.key_blocks && (i == 0 || index[i] > index[i - 1]), SLA2_E_ARGUMENT,
                 "attention: row {} of the list has block {} at place {}; expected ascending numbers below {}", row, index[i], i,
                 s.key_blocks);
  }
}

void check_dtype(const char* name, const void* data, DType dtype) {
  SLA2_CHECK(data == nullptr || dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16, SLA2_E_UNSUPPORTED,
             "attention: {} is {}; expected fp32, bf16 or fp16", name, dtype_name(dtype));
}

void check_call(const BackwardShape& s, const Backward& in, const void* workspace) {
  SLA2_CHECK(
      in.q.data != nullptr && in.k.data != nullptr && in.v.data != nullptr && in.d_out.data != nullptr && workspace != nullptr,
      SLA2_E_ARGUMENT, "attention: backward got a null pointer for q, k, v, d_out or the workspace");
  for (const auto& [name, x] :
       {std::pair{"q", &in.q}, {"k", &in.k}, {"v", &in.v}, {"d_out", &in.d_out}, {"out", &in.out}, {"gate", &in.parameters.gate}})
    check_dtype(name, x->data, x->dtype);
  const Gradients& g = in.gradients;
  for (const auto& [name, x] :
       {std::pair{"gradient of q", &g.q}, {"gradient of k", &g.k}, {"gradient of v", &g.v}, {"gradient of gate", &g.gate}})
    check_dtype(name, x->data, x->dtype);
  SLA2_CHECK(g.gate.data == nullptr || (s.vsa && in.parameters.gate.data != nullptr), SLA2_E_ARGUMENT,
             "attention: the gradient of a gate was asked for; expected router vsa and a gate");
  SLA2_CHECK(in.parameters.router_heads == 1 || in.parameters.router_heads == s.config.heads, SLA2_E_ARGUMENT,
             "attention: router_heads is {}; expected 1 or {}", in.parameters.router_heads, s.config.heads);
  check_list(s, in);
}

/// What is read before any group, or added to by each.
void begin(const BackwardShape& s, const BackwardWorkspace& space, const Backward& in) {
  for (int64_t i = 0; i < std::max(s.key_blocks, s.blocks); ++i) space.all_blocks[i] = static_cast<int32_t>(i);
  if (space.proj != nullptr) {
    std::fill_n(space.proj, s.dim * s.width, 0.0F);
    if (in.parameters.proj != nullptr) kernels::pack_values(in.parameters.proj, s.dim, s.dim, s.dim, space.proj);
    std::fill_n(space.d_proj, s.dim * s.width, 0.0);
    std::fill_n(space.d_proj_bias, s.dim, 0.0);
  }
  for (double* const x : {space.d_w_q, space.d_w_k})
    if (x != nullptr) std::fill_n(x, s.config.heads * s.dim * s.dim, 0.0);
}

/// dProj of the group: the blocks' parts in their order.
void add_proj(const BackwardCall& call) {
  parallel_for(call.shape.dim * call.shape.panels, [&call](int64_t line, int) {
    const BackwardShape& s = call.shape;
    double* const sum = call.space.d_proj + line * kPanel;
    for (int64_t unit = 0; unit < call.count; ++unit) {
      const UnitBuffers b = call.space.unit(unit);
      for (int64_t u = 0; u < s.blocks; ++u) {
        const float* const part = b.d_proj + u * s.dim * s.width + line * kPanel;
        for (int64_t c = 0; c < kPanel; ++c) sum[c] += static_cast<double>(part[c]);
        if (line < s.dim) call.space.d_proj_bias[line] += b.d_proj_bias[u * s.dim + line];
      }
    }
  });
}

void copy_out(const double* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count && to != nullptr; ++i) to[i] = from == nullptr ? 0.0F : static_cast<float>(from[i]);
}

/// Σ over the batch of what the blocks said about a; per head, per head and block, or one number.
void write_mix(const BackwardShape& s, const BackwardWorkspace& space, float* out) {
  const Config& c = s.config;
  const int64_t heads = c.heads, blocks = ceil_div(c.query_tokens, int64_t{c.block_q});  // full: not those of its tiles
  const int64_t columns = c.mix == Mix::kBlock ? blocks : c.mix == Mix::kHeadAffineLse ? 2 : 1;
  const int64_t rows = c.mix == Mix::kConst ? 1 : heads;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) {
      double sum = 0;
      for (int64_t head = 0; head < c.batch * heads && space.d_mix != nullptr; ++head)
        for (int64_t i = 0; i < s.query_blocks; ++i) {
          const bool ours = (rows == 1 || head % heads == row) && (c.mix != Mix::kBlock || i == column);
          const bool scale = c.mix == Mix::kHeadAffineLse && column == 0;
          if (ours) sum += space.d_mix[2 * (head * s.query_blocks + i) + (scale ? 0 : 1)];
        }
      out[row * columns + column] = static_cast<float>(sum);
    }
}

void write_parameters(const BackwardShape& s, const BackwardWorkspace& space, const Backward& in) {
  const Gradients& g = in.gradients;
  copy_out(space.d_w_q, in.parameters.router_heads * s.dim * s.dim, g.router_q);
  copy_out(space.d_w_k, in.parameters.router_heads * s.dim * s.dim, g.router_k);
  copy_out(space.d_proj_bias, s.dim, g.proj_bias);
  if (g.mix != nullptr) write_mix(s, space, g.mix);
  for (int64_t c = 0; c < s.dim && g.proj != nullptr; ++c)
    for (int64_t e = 0; e < s.dim; ++e) {
      const int64_t at = (e / kPanel * s.dim + c) * kPanel + e % kPanel;
      g.proj[c * s.dim + e] = space.d_proj == nullptr ? 0.0F : static_cast<float>(space.d_proj[at]);
    }
}

}  // namespace

BackwardPlan::BackwardPlan(const Geometry& geometry, Isa isa, int slots)
    : shape_(make_shape(geometry, isa)),
      ops_(kernels::attention_ops(isa)),
      slots_(slots),
      bytes_(BackwardWorkspace(shape_, slots, nullptr).bytes()) {}

void BackwardPlan::run(const Backward& in, void* workspace) const {
  const BackwardShape& s = shape_;
  check_call(s, in, workspace);
  const BackwardWorkspace space(s, slots_, static_cast<std::byte*>(workspace));
  begin(s, space, in);
  const bool again = s.softmax && (in.out.data == nullptr || in.lse == nullptr);
  PartClock clock{};
  clock.reset(in.times != nullptr);
  BackwardCall call{s, ops_, space, in, again, s.vsa && in.parameters.gate.data != nullptr, 0, 0};
  for (int64_t first = 0; first < s.units; first += s.together) {
    call.first_unit = first;
    clock.start();
    call.count = std::min(s.together, s.units - first);
    backward_keys(call);
    clock.lap(Part::kPack);
    for_units(call, s.blocks, backward_queries);
    clock.lap(Part::kMix);
    if (s.linear) linear_totals(call);
    for_units(call, s.all_key_blocks(), linear_keys);
    clock.lap(Part::kLinear);
    backward_tiles(call);
    clock.lap(Part::kSparse);
    backward_router(call);
    clock.lap(Part::kRouter);
    finish_gradients(call);
    if (s.config.mode == Mode::kSla1) add_proj(call);
    clock.lap(Part::kMix);
  }
  write_parameters(s, space, in);
  if (in.times != nullptr) *in.times = clock.spent;
}

}  // namespace sla2::attention

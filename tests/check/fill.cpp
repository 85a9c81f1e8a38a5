// SPDX-License-Identifier: Apache-2.0
#include "fill.h"

#include <random>

#include "core/dtype.h"

namespace sla2::check {
namespace {

enum Part : uint32_t { kQ = 1, kK, kV, kParameters, kDOut, kLayer, kMask };  ///< each part has a random stream of its own

std::mt19937 stream(const Case& c, int64_t head, Part part) {
  std::seed_seq seed{static_cast<uint32_t>(c.seed), static_cast<uint32_t>(head), static_cast<uint32_t>(part)};
  return std::mt19937(seed);
}

Table normal(std::mt19937& engine, int64_t rows, int64_t cols, double spread = 1, double centre = 0) {
  std::normal_distribution<double> distribution(centre, spread);
  Table x(rows, cols);
  for (double& value : x.data) value = distribution(engine);
  return x;
}

/// Keys off centre, with a drift from stretch to stretch, so that routing has something to find.
Table drifting_keys(std::mt19937& engine, int64_t rows, int64_t cols) {
  constexpr int64_t kStretch = 48;  // no multiple of a block
  Table x = normal(engine, rows, cols, 1, 0.3);
  const Table drift = normal(engine, rows / kStretch + 1, cols);
  for (int64_t r = 0; r < rows; ++r) add(x.row(r), 1.0, drift.row(r / kStretch), cols);
  return x;
}

/// By 0, 1 and 2 in turn.
Table drifting_unevenly(std::mt19937& engine, int64_t rows, int64_t cols) {
  constexpr int64_t kStretch = 80;
  Table x = normal(engine, rows, cols, 1, 0.1);
  const Table drift = normal(engine, rows / kStretch + 1, cols);
  for (int64_t r = 0; r < rows; ++r) add(x.row(r), static_cast<double>(r / kStretch % 3), drift.row(r / kStretch), cols);
  return x;
}

Table integers(std::mt19937& engine, int64_t rows, int64_t cols, int low, int high, int step) {
  std::uniform_int_distribution<int> distribution(0, (high - low) / step);
  Table x(rows, cols);
  for (double& value : x.data) value = low + step * distribution(engine);
  return x;
}

/// Key n as ±1 by the binary digits of n; the digits repeat along the channels.
void write_code(int64_t n, int64_t digits, double factor, double* row, int64_t dim) {
  for (int64_t c = 0; c < dim; ++c) row[c] = ((n >> (c % digits)) & 1) != 0 ? factor : -factor;
}

/// Queries that point at one key each. The nearest other key is so far that its weight underflows to 0 in any precision.
void fill_pick(const Case& c, Head& h) {
  constexpr double kGap = 200;  // natural logits; fp32 loses exp(-x) beyond 104
  const Problem& p = c.problem;
  const int64_t codes = c.fill == Fill::kPairs ? (p.keys + 1) / 2 : p.keys;
  int64_t digits = 1;
  while ((int64_t{1} << digits) < codes) ++digits;
  const double closest = 2 * p.softmax_scale() * static_cast<double>(std::max<int64_t>(p.dim / digits, 1));
  const double factor = std::exp2(std::ceil(std::log2(kGap / closest)));
  for (int64_t t = 0; t < p.keys; ++t) write_code(t % codes, digits, 1, h.k.row(t), p.dim);
  for (int64_t t = 0; t < p.queries; ++t) {
    // In sparse modes the queries of a block point into one key block, so that the router can keep it.
    const int64_t block = (t / p.block_q * 7 + 3) % p.key_blocks();
    const int64_t inside = block * p.block_k + t * 5 % rows_in(p.keys, p.block_k, block);
    write_code((p.mode == Mode::kFull ? t * 37 + 11 : inside) % codes, digits, factor, h.q.row(t), p.dim);
  }
}

void fill_qkv(const Case& c, int64_t head, int64_t key_head, Head& h) {
  const Problem& p = c.problem;
  std::mt19937 for_q = stream(c, head, kQ), for_k = stream(c, key_head, kK), for_v = stream(c, key_head, kV);
  h.q = normal(for_q, p.queries, p.dim);
  h.k = drifting_keys(for_k, p.keys, p.dim);
  h.v = normal(for_v, p.keys, p.dim, 0.7, 0.2);
  const auto each = [](Table& x, double factor) {
    for (double& value : x.data) value *= factor;
  };
  switch (c.fill) {
    case Fill::kPick:
    case Fill::kPairs:
      fill_pick(c, h);
      // Odd, so never 0; means of pairs must not cancel either: what is left of the linear branch then vanishes beside them.
      h.v = integers(for_v, p.keys, p.dim, c.fill == Fill::kPairs ? 1 : -15, 15, 2);
      break;
    case Fill::kUniform: {
      const Table level = integers(for_q, p.queries, 1, -2, 2, 1), row = integers(for_k, 1, p.dim, -2, 2, 1);
      for (int64_t t = 0; t < p.queries; ++t) std::fill_n(h.q.row(t), p.dim, level(t, 0));
      for (int64_t t = 0; t < p.keys; ++t) std::copy_n(row.row(0), p.dim, h.k.row(t));
      h.v = integers(for_v, p.keys, p.dim, -2, 2, 1);
      break;
    }
    case Fill::kZeros: each(h.q, 0), each(h.k, 0); break;
    case Fill::kChannels:
      for (int64_t t = 0; t < p.keys; ++t) {
        h.k(t, 3 % p.dim) = 0;
        h.k(t, 9 % p.dim) += 30;
        h.v(t, 1 % p.dim) = 0;
      }
      break;
    case Fill::kEqual:
      for (int64_t t = 1; t < p.queries; ++t) std::copy_n(h.q.row(0), p.dim, h.q.row(t));
      for (int64_t t = 1; t < p.keys; ++t) std::copy_n(h.k.row(0), p.dim, h.k.row(t));
      break;
    case Fill::kDrift:
      h.q = drifting_unevenly(for_q, p.queries, p.dim);
      h.k = drifting_unevenly(for_k, p.keys, p.dim);
      break;
    case Fill::kSpikes:
      for (int64_t t = 0; t < p.queries; ++t) h.q(t, t % p.dim) += 150;
      for (int64_t t = 0; t < p.keys; ++t) h.k(t, t % p.dim) += 150;
      break;
    case Fill::kHuge: each(h.q, 40), each(h.k, 40); break;
    case Fill::kTiny: each(h.q, 1e-20), each(h.k, 1e-20); break;
    default: break;
  }
  if (head + 1 == c.batch * c.heads) {
    if (c.fill == Fill::kNanQ) h.q(p.queries / 2, 5 % p.dim) = NAN;
    if (c.fill == Fill::kNanK) h.k(p.keys - 1, 5 % p.dim) = NAN;
    if (c.fill == Fill::kNanV) h.v(p.keys / 2, 5 % p.dim) = NAN;
  }
}

/// To fp32 numbers, which is what parameters are.
void to_singles(std::vector<double>& x) {
  for (double& value : x) value = static_cast<float>(value);
}

/// What a head learned: the same in every batch.
void fill_head_parameters(const Case& c, int64_t head, Head& h) {
  const Problem& p = c.problem;
  std::mt19937 engine = stream(c, head, kParameters);
  const double spread = 1 / std::sqrt(static_cast<double>(p.dim));
  if (c.weights != Weights::kIdentity) {
    std::mt19937 shared = stream(c, 0, kParameters);
    std::mt19937& weights = c.weights == Weights::kShared ? shared : engine;
    h.w_q = normal(weights, p.dim, p.dim, 0.5 * spread);
    h.w_k = normal(weights, p.dim, p.dim, 0.5 * spread);
    for (int64_t d = 0; d < p.dim; ++d) h.w_q(d, d) += 1, h.w_k(d, d) += 1;
    to_singles(h.w_q.data), to_singles(h.w_k.data);
  }
  const Table wobble = normal(engine, 1, std::max<int64_t>(p.query_blocks(), 2), 0.3);
  if (p.a_mode == AMode::kHeadAffineLse) h.a = {c.a_scale, c.a_bias};
  if (p.a_mode == AMode::kHeadAffineLse && c.weights != Weights::kIdentity) h.a[0] += wobble(0, 0), h.a[1] += wobble(0, 1);
  if (p.a_mode == AMode::kConst) h.a = {c.a_bias};
  if (p.a_mode == AMode::kHeadScalar) h.a = {c.a_bias + wobble(0, 0)};
  if (p.a_mode == AMode::kBlock)
    for (int64_t b = 0; b < p.query_blocks(); ++b) h.a.push_back(c.a_bias + wobble(0, b));
  if (p.a_mode != AMode::kConst && (p.a_mode != AMode::kHeadAffineLse || c.weights != Weights::kIdentity)) to_singles(h.a);
}

/// What is one for all heads, and what each head of each batch is given.
void fill_extras(const Case& c, int64_t head, Head& h) {
  const Problem& p = c.problem;
  std::mt19937 layer = stream(c, 0, kLayer), engine = stream(c, head, kMask);
  if (p.mode == Mode::kSla1) {
    h.proj = normal(layer, p.dim, p.dim, 1 / std::sqrt(static_cast<double>(p.dim)));
    h.proj_bias = normal(layer, 1, p.dim, 0.1).data;
    to_singles(h.proj.data), to_singles(h.proj_bias);
  }
  if (p.router == Router::kVsa) {
    h.gate = normal(engine, p.queries, p.dim, 0.5);
    for (double& value : h.gate.data) value = rounded(value, c.dtype);
  }
  if (p.router == Router::kGiven) {
    std::uniform_real_distribution<double> uniform;
    h.given = Table(p.query_blocks(), p.key_blocks());
    for (int64_t b = 0; b < h.given.rows; ++b) {
      for (int64_t j = 0; j < h.given.cols; ++j) h.given(b, j) = uniform(engine) >= p.sparsity ? 1 : 0;
      h.given(b, b % h.given.cols) = 1;  // no empty row
    }
  }
}

/// One bias for every head, as the door takes it.
std::vector<double> make_bias(const Case& c) {
  if (c.bias == Bias::kNone) return {};
  std::mt19937 engine = stream(c, 0, kParameters);
  std::vector<double> bias = normal(engine, 1, c.problem.keys).data;
  for (double& x : bias) x = static_cast<float>(x);
  if (c.bias == Bias::kMasked)
    for (size_t t = 0; t < bias.size(); ++t) bias[t] = t % 10 == 4 ? -INFINITY : 0;
  return bias;
}

}  // namespace

double rounded(double x, Element type) {
  const auto single = static_cast<float>(x);
  if (type == Element::kBf16) return bf16_to_f32(f32_to_bf16(single));
  if (type == Element::kF16) return f16_to_f32(f32_to_f16(single));
  return single;
}

std::vector<Head> make_heads(const Case& c) {
  std::vector<Head> heads(static_cast<size_t>(c.batch * c.heads));
  const std::vector<double> bias = make_bias(c);
  for (int64_t i = 0; i < c.batch * c.heads; ++i) {
    Head& h = heads[static_cast<size_t>(i)];
    fill_qkv(c, i, i / c.groups() * c.groups(), h);
    for (Table* const x : {&h.q, &h.k, &h.v})
      for (double& value : x->data) value = rounded(value, c.dtype);
    fill_head_parameters(c, i % c.heads, h);
    fill_extras(c, i, h);
    h.key_bias = bias;
  }
  return heads;
}

std::vector<Table> make_d_out(const Case& c) {
  std::vector<Table> result;
  for (int64_t i = 0; i < c.batch * c.heads; ++i) {
    std::mt19937 engine = stream(c, i, kDOut);
    result.push_back(normal(engine, c.problem.queries, c.problem.dim));
    for (double& value : result.back().data) value = rounded(value, c.dtype);
  }
  return result;
}

}  // namespace sla2::check

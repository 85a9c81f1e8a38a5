// SPDX-License-Identifier: Apache-2.0
// What the modes and outputs promise beside being near the oracle (sla2_check): identities, hooks, refusals.
#include <numeric>

#include "attention/token_order.h"
#include "attention_case.h"

namespace sla2::test {
namespace {

using attention::Mode;
using attention::Router;

constexpr int64_t kTokens = 320, kDim = 64;

attention::Config sparse_config(Mode mode, double sparsity = 0.6) {
  attention::Config c;
  c.mode = mode;
  c.heads = 1;
  c.query_tokens = c.key_tokens = kTokens;
  c.head_dim = kDim;
  c.sparsity = sparsity;
  c.block_q = 64;
  c.block_k = 32;
  return c;
}

struct Inputs {
  std::vector<float> q, k, v;
  explicit Inputs(int64_t heads = 1, int64_t key_heads = 1)
      : q(normal(heads * kTokens * kDim, 1)),
        k(normal(key_heads * kTokens * kDim, 2)),
        v(normal(key_heads * kTokens * kDim, 3)) {}
};

/// forward with whatever `set` asks for.
template <typename Set>
std::vector<float> run_with(const attention::Config& c, const Inputs& in, Set set, attention::Stats* stats = nullptr) {
  const auto plan = attention::Plan::create(c);
  GuardedBytes workspace(plan->workspace_bytes());
  std::vector<float> out(in.q.size());
  const int64_t key_heads = c.kv_heads == 0 ? c.heads : c.kv_heads;
  attention::Forward call;
  call.q = dense_operand(in.q, c.heads, kTokens, kDim);
  call.k = dense_operand(in.k, key_heads, kTokens, kDim);
  call.v = dense_operand(in.v, key_heads, kTokens, kDim);
  call.out = {out.data(), DType::kF32, c.heads * kTokens * kDim, kTokens * kDim, kDim};
  set(call);
  plan->forward(call, workspace.data());
  CHECK(workspace.intact());
  if (stats != nullptr) *stats = plan->stats();
  return out;
}

double largest_difference(const std::vector<float>& x, const std::vector<float>& y) {
  double most = 0;
  for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(static_cast<double>(x[i]) - static_cast<double>(y[i])));
  return most;
}

constexpr auto kNothing = [](attention::Forward&) {};

TEST_CASE("sla1 without a projection is sparse_only", "[attention]") {
  const Inputs in;
  CHECK(run_with(sparse_config(Mode::kSla1), in, kNothing) == run_with(sparse_config(Mode::kSparseOnly), in, kNothing));
}

TEST_CASE("l_plus_s is sparse_only plus linear_only", "[attention]") {
  const Inputs in;
  auto sum = run_with(sparse_config(Mode::kSparseOnly), in, kNothing);
  const auto linear = run_with(sparse_config(Mode::kLinearOnly), in, kNothing);
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += linear[i];
  CHECK(largest_difference(run_with(sparse_config(Mode::kLPlusS), in, kNothing), sum) < 1e-6);
}

TEST_CASE("a list that forward wrote gives the same bits when it is handed in", "[attention]") {
  const Inputs in;
  for (const Mode mode : {Mode::kSla2, Mode::kSparseOnly, Mode::kPooled}) {
    attention::Config c = sparse_config(mode);
    std::vector<int32_t> index(5 * 10), count(5);
    attention::BlockList list{index.data(), count.data(), 10};
    const auto first = run_with(c, in, [&](attention::Forward& call) { call.list = &list; });
    c.router = Router::kGiven;
    CHECK(run_with(c, in, [&](attention::Forward& call) { call.given = &list; }) == first);
  }
}

TEST_CASE("heads that share a key head give the bits of repeated key heads", "[attention]") {
  Inputs in(4, 2);
  attention::Config c = sparse_config(Mode::kSla2);
  c.heads = 4;
  c.kv_heads = 2;
  const auto shared = run_with(c, in, kNothing);
  Inputs repeated(4, 4);
  repeated.q = in.q;
  const size_t head = static_cast<size_t>(kTokens * kDim);
  for (size_t h = 0; h < 4; ++h) {
    std::copy_n(in.k.begin() + static_cast<std::ptrdiff_t>(h / 2 * head), head,
                repeated.k.begin() + static_cast<std::ptrdiff_t>(h * head));
    std::copy_n(in.v.begin() + static_cast<std::ptrdiff_t>(h / 2 * head), head,
                repeated.v.begin() + static_cast<std::ptrdiff_t>(h * head));
  }
  c.kv_heads = 0;
  CHECK(run_with(c, repeated, kNothing) == shared);
}

TEST_CASE("below min_tokens sparse modes run as full, and say so", "[attention]") {
  const Inputs in;
  attention::Config c = sparse_config(Mode::kSla2);
  attention::Stats stats;
  c.min_tokens = kTokens;
  run_with(c, in, kNothing, &stats);
  CHECK(stats.mode_used == Mode::kSla2);
  c.min_tokens = kTokens + 1;
  std::vector<int32_t> index(5 * 10), count(5);
  attention::BlockList list{index.data(), count.data(), 10};
  const auto out = run_with(
      c, in, [&](attention::Forward& call) { call.list = &list; }, &stats);
  CHECK(stats.mode_used == Mode::kFull);
  CHECK(stats.achieved_sparsity == 0);
  CHECK(count == std::vector<int32_t>(5, 10));  // lists stay in the configured blocks
  CHECK(out == run_with(sparse_config(Mode::kFull), in, kNothing));
}

TEST_CASE("sparge's cdf with top_p 1 keeps every block, though the shares' sum rounds above 1", "[attention]") {
  Inputs in;
  std::fill(in.k.begin(), in.k.end(), 1.0F);  // equal scores: 20 shares of fl(1/20) sum to 1 + 2^-52
  attention::Config c = sparse_config(Mode::kSparseOnly);
  c.router = Router::kSparge, c.rule = attention::Rule::kCdf, c.top_p = 1, c.block_k = 16;
  std::vector<int32_t> index(5 * 20), count(5);
  attention::BlockList list{index.data(), count.data(), 20};
  run_with(c, in, [&](attention::Forward& call) { call.list = &list; });
  CHECK(count == std::vector<int32_t>(5, 20));
}

TEST_CASE("a probe looks at the fraction of query blocks it was asked for", "[attention]") {
  const Inputs in;
  const attention::Config c = sparse_config(Mode::kSla2);
  double all = 0;
  for (const auto& [fraction, blocks] : {std::pair{0.001, 1}, {0.2, 1}, {0.4, 2}, {0.8, 4}, {1.0, 5}}) {
    attention::Probe probe;
    probe.fraction = fraction;
    run_with(c, in, [&](attention::Forward& call) { call.probe = &probe; });
    CHECK(probe.blocks == blocks);
    CHECK(probe.relative_l1 > 0.01);
    all = probe.relative_l1;
  }
  attention::Probe probe;
  probe.fraction = 1;
  run_with(sparse_config(Mode::kFull), in, [&](attention::Forward& call) { call.probe = &probe; });
  CHECK(probe.relative_l1 < 1e-6);
  CHECK(probe.cosine == Approx(1));
  CHECK(all > 0);
}

/// Rows of a head in another order.
std::vector<float> reordered(const std::vector<float>& x, const std::vector<int32_t>& order) {
  std::vector<float> y(x.size());
  for (size_t i = 0; i < order.size(); ++i)
    std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(order[i]) * kDim, kDim,
                y.begin() + static_cast<std::ptrdiff_t>(i) * kDim);
  return y;
}

TEST_CASE("permuted tokens give the permuted output at full attention, and with a mask whose blocks moved along",
          "[attention][token_order]") {
  const Inputs in;
  std::vector<int32_t> order(kTokens), inverse(kTokens);
  attention::token_order(attention::Order::kHilbert, {4, 8, 10}, {}, order.data());
  Inputs moved;
  moved.q = reordered(in.q, order), moved.k = reordered(in.k, order), moved.v = reordered(in.v, order);
  attention::invert_order(order.data(), kTokens, inverse.data());
  const attention::Config full = sparse_config(Mode::kFull);
  CHECK(largest_difference(reordered(run_with(full, moved, kNothing), inverse), run_with(full, in, kNothing)) < 2e-6);

  // Whole key blocks swap places, and so do the bytes of the mask.
  for (const Mode mode : {Mode::kSla2, Mode::kSparseOnly, Mode::kPooled, Mode::kSla1}) {
    attention::Config c = sparse_config(mode);
    c.router = Router::kGiven;
    const int64_t blocks = kTokens / c.block_k, rows = kTokens / c.block_q;
    std::vector<uint8_t> mask(static_cast<size_t>(rows * blocks)), moved_mask(mask.size());
    std::vector<int32_t> swap(kTokens);
    for (int64_t j = 0; j < blocks; ++j) {
      const int64_t from = (j * 3 + 1) % blocks;
      for (int64_t t = 0; t < c.block_k; ++t)
        swap[static_cast<size_t>(j * c.block_k + t)] = static_cast<int32_t>(from * c.block_k + t);
      for (int64_t i = 0; i < rows; ++i) {
        mask[static_cast<size_t>(i * blocks + j)] = (i + 2 * j) % 3 == 0 ? 1 : 0;
        moved_mask[static_cast<size_t>(i * blocks + j)] = (i + 2 * from) % 3 == 0 ? 1 : 0;
      }
    }
    Inputs other = in;
    other.k = reordered(in.k, swap), other.v = reordered(in.v, swap);
    const auto one = run_with(c, in, [&](attention::Forward& call) { call.given_mask = mask.data(); });
    const auto two = run_with(c, other, [&](attention::Forward& call) { call.given_mask = moved_mask.data(); });
    CHECK(largest_difference(one, two) < 2e-6);
  }
}

TEST_CASE("calls that make no sense are refused with a reason", "[attention]") {
  const Inputs in;
  const std::vector<float> numbers(static_cast<size_t>(kDim * kDim), 0.0F);
  int32_t index[50] = {}, count[5] = {1, 1, 1, 1, 0};
  attention::BlockList list{index, count, 10}, short_list{index, count, 1};
  std::vector<uint8_t> mask(50, 0);
  attention::Probe probe;
  const auto refuses = [&](const attention::Config& c, auto set) { CHECK_THROWS_AS(run_with(c, in, set), Error); };
  const attention::Config sla2 = sparse_config(Mode::kSla2), full = sparse_config(Mode::kFull);
  attention::Config given = sla2;
  given.router = Router::kGiven;
  refuses(sla2, [&](attention::Forward& call) { call.parameters.proj = numbers.data(); });
  refuses(full, [&](attention::Forward& call) { call.parameters.router_q = numbers.data(); });
  refuses(full, [&](attention::Forward& call) { call.parameters.mix = numbers.data(); });
  refuses(sla2, [&](attention::Forward& call) { call.parameters.gate = call.q; });
  refuses(sla2, [&](attention::Forward& call) { call.key_bias = numbers.data(); });
  refuses(sla2, [&](attention::Forward& call) { call.given = &list; });
  refuses(sla2, [&](attention::Forward& call) { call.list = &short_list; });
  refuses(sla2, [&](attention::Forward& call) { call.probe = &probe; });
  refuses(given, kNothing);
  refuses(given, [&](attention::Forward& call) { call.given_mask = mask.data(); });
  refuses(given, [&](attention::Forward& call) { call.given = &list; });  // the last row keeps nothing
  count[4] = 2;
  refuses(given, [&](attention::Forward& call) { call.given = &list; });  // block 0 twice
}

}  // namespace
}  // namespace sla2::test

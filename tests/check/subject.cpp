// SPDX-License-Identifier: Apache-2.0
#include "subject.h"

#include <chrono>
#include <cstring>

#include "kernels/attention_ops.h"
#include "memory.h"

namespace sla2::check {
namespace {

/// This room's modes by the oracle's names; those it lacks get numbers past its last, for it to refuse in its own words.
attention::Mode mode_of(Mode mode) {
  if (mode == Mode::kFull) return attention::Mode::kFull;
  if (mode == Mode::kSla2) return attention::Mode::kSla2;
  return static_cast<attention::Mode>(static_cast<int>(attention::Mode::kSla2) + static_cast<int>(mode) -
                                      static_cast<int>(Mode::kSla2));
}

template <typename Config>
concept HasProducts = requires(Config c) {
  c.products;
};

template <typename Config>
void set_products(Config& config, bool bf16) {
  if constexpr (HasProducts<Config>) config.products = bf16 ? DType::kBF16 : DType::kF32;
}

attention::Config config_of(const Case& c) {
  const Problem& p = c.problem;
  attention::Config config;
  config.mode = mode_of(p.mode);
  config.mix = p.a_mode == AMode::kConst ? attention::Mix::kConst : attention::Mix::kHeadAffineLse;
  config.batch = c.batch;
  config.heads = c.heads;
  config.query_tokens = p.queries;
  config.key_tokens = p.keys;
  config.head_dim = p.dim;
  config.sparsity = p.sparsity;
  config.softmax_scale = p.scale;
  config.block_q = static_cast<int32_t>(p.block_q);
  config.block_k = static_cast<int32_t>(p.block_k);
  config.smooth_k = p.smooth_k;
  config.mix_scale = c.a_scale;
  config.mix_bias = c.a_bias;
  set_products(config, c.products == Element::kBf16);
  return config;
}

}  // namespace

struct Subject::Memory {
  std::optional<Guarded> q, k, v;
  std::vector<std::byte> before_q, before_k, before_v;  ///< what q, k, v held
  Place at_q, at_k, at_v, at_out;
  std::vector<float> bias;
  size_t element = 4;
};

Subject::~Subject() = default;

Subject::Subject(const Case& c, const std::vector<Head>& heads) : case_(c), memory_(std::make_unique<Memory>()) {
  const Problem& p = c.problem;
  const int64_t kv_heads = c.heads / c.groups();
  Memory& m = *memory_;
  const bool fused = c.layout == Layout::kFused && p.queries == p.keys && kv_heads == c.heads;
  m.element = dtype_size(dtype_of(c.dtype));
  m.at_q = place(c, c.heads, p.queries, fused ? 0 : -1);
  m.at_k = place(c, kv_heads, p.keys, fused ? 1 : -1);
  m.at_v = place(c, kv_heads, p.keys, fused ? 2 : -1);
  m.at_out = place(c, c.heads, p.queries, -1);
  const auto bytes = [&](const Place& at) { return static_cast<size_t>(at.total) * m.element; };
  m.q.emplace(fused ? bytes(m.at_v) : bytes(m.at_q), kNan);
  if (!fused) m.k.emplace(bytes(m.at_k), kNan), m.v.emplace(bytes(m.at_v), kNan);
  const auto fill = [&](Guarded& target, const Place& at, int64_t count, int64_t every, int64_t tokens, Table Head::*part) {
    for (int64_t i = 0; i < c.batch * count; ++i)
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t d = 0; d < p.dim; ++d)
          store((heads[static_cast<size_t>(i * every)].*part)(t, d), c.dtype,
                target.data() + static_cast<size_t>(at.at(i / count, i % count, t) + d) * m.element);
  };
  fill(*m.q, m.at_q, c.heads, 1, p.queries, &Head::q);
  fill(fused ? *m.q : *m.k, m.at_k, kv_heads, c.groups(), p.keys, &Head::k);
  fill(fused ? *m.q : *m.v, m.at_v, kv_heads, c.groups(), p.keys, &Head::v);
  const auto copy = [](std::optional<Guarded>& x) {
    return x ? std::vector<std::byte>(x->data(), x->data() + x->size()) : std::vector<std::byte>();
  };
  m.before_q = copy(m.q), m.before_k = copy(m.k), m.before_v = copy(m.v);
  m.bias.assign(heads[0].key_bias.begin(), heads[0].key_bias.end());
}

std::string Subject::missing(const Case& c) {
  const Problem& p = c.problem;
  const auto no = [](const std::string& what) { return "not implemented: attention.h has no " + what; };
  if (c.bits != 16) return no("field for bits");
  if (c.products != Element::kF32 && !HasProducts<attention::Config>) return no("field for products");
  if (c.kv_heads != 0 && c.kv_heads != c.heads) return no("field for key heads");
  if (p.mode != Mode::kFull && p.mode != Mode::kSla2) {
    const Run made = create(c, active_isa());
    if (made.refused) return "not implemented: " + made.text;
    return "";  // it took the number: run() will say that this file must learn the mode
  }
  if (p.mode == Mode::kFull) return "";
  if (p.router != Router::kSla2) return no("field for the router");
  if (c.weights != Weights::kIdentity) return no("field for router weights");
  if (p.tau > 0) return no("field for SoftTop-k");
  if (p.protect_first > 0 || p.protect_last > 0 || p.protect_near >= 0) return no("field for protected blocks");
  if (p.a_mode == AMode::kHeadScalar || p.a_mode == AMode::kBlock) return no("a-mode but head_affine_lse and const");
  return "";
}

Run Subject::create(const Case& c, Isa isa) {
  Run result;
  try {
    (void)attention::Plan::create(config_of(c), isa);
  } catch (const Error& error) {
    result.refused = true;
    result.status = error.status();
    result.text = error.what();
  }
  return result;
}

Run Subject::run(Isa isa, int threads, unsigned char poison) {
  Memory& m = *memory_;
  const Case& c = case_;
  Run result;
  set_thread_count(threads);
  try {
    const auto plan = attention::Plan::create(config_of(c), isa);
    if (c.problem.mode != Mode::kFull && c.problem.mode != Mode::kSla2)
      fail(SLA2_E_INTERNAL, "the library takes this mode now: teach it to tests/check/subject.cpp");
    Guarded workspace(plan->workspace_bytes(), poison), out(static_cast<size_t>(m.at_out.total) * m.element, kCanary);
    const int64_t rows = c.batch * c.heads * c.problem.queries;
    const size_t row_bytes = static_cast<size_t>(c.problem.dim) * m.element;
    const auto row = [&](int64_t i) {
      const int64_t head = i / c.problem.queries;
      return out.data() + static_cast<size_t>(m.at_out.at(head / c.heads, head % c.heads, i % c.problem.queries)) * m.element;
    };
    for (int64_t i = 0; i < rows; ++i) std::memset(row(i), kNan, row_bytes);
    const auto operand = [&](std::optional<Guarded>& x, const Place& at) {
      return attention::Operand{(x ? *x : *m.q).data() + static_cast<size_t>(at.offset) * m.element, dtype_of(c.dtype), at.batch,
                                at.head, at.token};
    };
    const auto start = std::chrono::steady_clock::now();
    plan->forward(operand(m.q, m.at_q), operand(m.k, m.at_k), operand(m.v, m.at_v), m.bias.empty() ? nullptr : m.bias.data(),
                  workspace.data(), {out.data(), dtype_of(c.dtype), m.at_out.batch, m.at_out.head, m.at_out.token});
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.stats = plan->stats();
    for (int64_t i = 0; i < rows; ++i) {
      result.bits.insert(result.bits.end(), row(i), row(i) + row_bytes);
      std::memset(row(i), kCanary, row_bytes);  // what is left must be canaries
    }
    const bool gaps = std::all_of(out.data(), out.data() + out.size(), [](std::byte b) { return b == std::byte{kCanary}; });
    const auto same = [](std::optional<Guarded>& x, const std::vector<std::byte>& before) {
      return !x || (x->intact() && std::memcmp(x->data(), before.data(), before.size()) == 0);
    };
    if (!workspace.intact()) result.text = "wrote outside the workspace";
    if (!out.intact() || !gaps) result.text = "wrote outside the rows of out";
    if (!same(m.q, m.before_q) || !same(m.k, m.before_k) || !same(m.v, m.before_v)) result.text = "changed an input";
  } catch (const Error& error) {
    result.refused = true;
    result.status = error.status();
    result.text = error.what();
  }
  set_thread_count(0);
  return result;
}

std::vector<double> Subject::time(Isa isa, int threads, int repeats) {
  std::vector<double> seconds;
  for (int i = 0; i <= repeats; ++i) {
    const Run one = run(isa, threads, 0);
    if (one.refused) fail(one.status, "{}", one.text);
    if (i > 0) seconds.push_back(one.seconds);
  }
  return seconds;
}

std::vector<Isa> kernels_here(std::string& note) {
  static_assert(std::is_trivially_copyable_v<kernels::AttentionOps>, "tables are compared as bytes");
  std::vector<Isa> result;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa > active_isa()) {
      note += fmt::format("SKIP(this CPU or SLA2_ISA stops below it): isa {}\n", isa_name(isa));
      continue;
    }
    const kernels::AttentionOps ops = kernels::attention_ops(isa);
    const kernels::AttentionOps below = kernels::attention_ops(result.empty() ? isa : result.back());
    if (!result.empty() && std::memcmp(&ops, &below, sizeof ops) == 0)
      note += fmt::format("SKIP(the same kernels as {}): isa {}\n", isa_name(result.back()), isa_name(isa));
    else
      result.push_back(isa);
  }
  return result;
}

std::vector<double> widen(const std::vector<std::byte>& bits, Element type) {
  const size_t size = dtype_size(dtype_of(type)), count = bits.size() / size;
  std::vector<float> singles(count);
  convert_to_f32(dtype_of(type), bits.data(), singles.data(), count);
  return {singles.begin(), singles.end()};
}

Arithmetic arithmetic_of(const Case& c, Isa isa) {
  if (c.bits == 8) return Arithmetic::kInt8;
  return c.products == Element::kBf16 && isa >= Isa::kAvx512Bf16 ? Arithmetic::kBf16 : Arithmetic::kF32;
}

}  // namespace sla2::check

// SPDX-License-Identifier: Apache-2.0
#include "subject.h"

#include <chrono>
#include <cstring>

#include "kernels/attention_ops.h"
#include "memory.h"

namespace sla2::check {
namespace {

/// The room numbers its enums from 1, in the oracle's order.
template <typename To, typename From>
To as(From value) {
  return static_cast<To>(static_cast<int>(value) + 1);
}

/// a is handed over as learned numbers, or else as two numbers of the configuration.
bool learns_mix(const Case& c) {
  const bool per_head =
      c.problem.a_mode == AMode::kHeadScalar || c.problem.a_mode == AMode::kBlock || c.weights != Weights::kIdentity;
  return c.problem.mode == Mode::kSla2 && c.problem.a_mode != AMode::kConst && per_head;
}

}  // namespace

attention::Config config_of(const Case& c) {
  const Problem& p = c.problem;
  attention::Config config;
  config.mode = as<attention::Mode>(p.mode);
  config.router = as<attention::Router>(p.router);
  config.mix = as<attention::Mix>(p.a_mode);
  config.scope = as<attention::Scope>(p.scope);
  config.rule = as<attention::Rule>(p.rule);
  config.batch = c.batch;
  config.heads = c.heads;
  config.kv_heads = c.kv_heads;
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
  config.negligible = p.negligible;
  config.tau = p.tau;
  config.top_p = p.top_p;
  config.theta = p.theta;
  config.protect_first = static_cast<int32_t>(p.protect_first);
  config.protect_last = static_cast<int32_t>(p.protect_last);
  config.protect_near = static_cast<int32_t>(p.protect_near);
  config.products = c.products == Element::kBf16 ? DType::kBF16 : DType::kF32;
  config.bits = static_cast<int32_t>(c.bits);
  config.fp8_values = c.fp8_values != 0;
  return config;
}

std::unique_ptr<attention::Plan> make_plan(const Case& c, const Target& target) {
  if (target.gpu) return attention::Plan::create(config_of(c), *target.gpu);
  return attention::Plan::create(config_of(c), target.isa);
}

bool runs_full(const Case& c, double kept_share) {
  const Problem& p = c.problem;
  const bool replaceable = p.mode == Mode::kSla2 || p.mode == Mode::kSparseOnly || p.mode == Mode::kPooled;
  const bool protects = p.protect_first > 0 || p.protect_last > 0 || p.protect_near >= 0;
  const bool counted = p.router == Router::kSla2 || p.router == Router::kSla1 ||
                       (p.router == Router::kSparge && p.rule == Rule::kTopK && p.theta <= 0 && !protects);
  return p.mode == Mode::kFull || (replaceable && counted && kept_share == 1);
}

/// Block lists, log-sum-exps: what a call writes beside out, between guards.
struct Subject::Outputs {
  Outputs(int64_t rows, int64_t list_rows, int64_t capacity)
      : lse(bytes(rows), kNan), index(bytes(list_rows * capacity), kNan), count(bytes(list_rows), kNan) {
    list = {reinterpret_cast<int32_t*>(index.data()), reinterpret_cast<int32_t*>(count.data()), capacity};
    probe.fraction = 1;
  }
  /// Where the call finds the list.
  [[nodiscard]] attention::BlockList in(Mirror& mirror) {
    return {reinterpret_cast<int32_t*>(index.in(mirror)), reinterpret_cast<int32_t*>(count.in(mirror)), list.capacity};
  }
  [[nodiscard]] bool intact() const { return lse.intact() && index.intact() && count.intact(); }
  [[nodiscard]] std::vector<std::vector<int32_t>> rows() const {
    std::vector<std::vector<int32_t>> result;
    for (size_t row = 0; row < count.size() / sizeof(int32_t); ++row) {
      const int32_t* const at = list.index + static_cast<int64_t>(row) * list.capacity;
      result.emplace_back(at, at + std::clamp<int64_t>(list.count[row], 0, list.capacity));
    }
    return result;
  }

  Guarded lse, index, count;
  attention::BlockList list;
  attention::Probe probe;

 private:
  static size_t bytes(int64_t elements) { return static_cast<size_t>(elements) * 4; }
};

struct Subject::Memory {
  std::optional<Guarded> q, k, v, gate;
  std::vector<float> router_q, router_k, mix, proj, proj_bias;
  std::vector<int32_t> given_index, given_count;
  std::vector<uint8_t> given_mask;
  attention::BlockList given, given_seen;               ///< here, and where the call finds it
  std::vector<std::byte> before_q, before_k, before_v;  ///< what q, k, v held
  Place at_q, at_k, at_v, at_out, at_gate;
  std::vector<float> bias;
  size_t element = 4;
};

Subject::~Subject() = default;

Subject::Subject(const Case& c, const std::vector<Head>& heads) : case_(c), memory_(std::make_unique<Memory>()) {
  const Problem& p = c.problem;
  const int64_t kv_heads = c.heads / c.groups();
  Memory& m = *memory_;
  const bool fused = c.layout == Layout::kFused;
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
  if (!heads[0].gate.empty()) {
    m.at_gate = place(c, c.heads, p.queries, -1);
    m.gate.emplace(bytes(m.at_gate), kNan);
    fill(*m.gate, m.at_gate, c.heads, 1, p.queries, &Head::gate);
  }
  const auto append = [](std::vector<float>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  const int64_t router_heads = c.weights == Weights::kShared ? 1 : c.heads;
  for (int64_t h = 0; h < c.heads; ++h) {  // parameters are the same in every batch
    const Head& head = heads[static_cast<size_t>(h)];
    if (h < router_heads) append(m.router_q, head.w_q.data), append(m.router_k, head.w_k.data);
    if (learns_mix(c)) append(m.mix, head.a);
  }
  append(m.proj, heads[0].proj.data), append(m.proj_bias, heads[0].proj_bias);
  if (!heads[0].given.empty()) fill_given(c, heads, m);
}

/// Odd seeds give a list, even ones a byte mask.
void Subject::fill_given(const Case& c, const std::vector<Head>& heads, Memory& m) {
  const int64_t capacity = c.problem.key_blocks();
  for (const Head& head : heads)
    for (int64_t b = 0; b < head.given.rows; ++b) {
      const size_t first = m.given_index.size();
      for (int64_t j = 0; j < capacity; ++j) {
        m.given_mask.push_back(head.given(b, j) != 0 ? static_cast<uint8_t>(1 + j % 255) : uint8_t{0});
        if (head.given(b, j) != 0) m.given_index.push_back(static_cast<int32_t>(j));
      }
      m.given_count.push_back(static_cast<int32_t>(m.given_index.size() - first));
      m.given_index.resize(first + static_cast<size_t>(capacity), -1);
    }
  m.given = {m.given_index.data(), m.given_count.data(), capacity};
}

attention::Forward Subject::request(Mirror& mirror) {
  Memory& m = *memory_;
  const Case& c = case_;
  const auto operand = [&](std::optional<Guarded>& x, const Place& at) {
    return attention::Operand{(x ? *x : *m.q).in(mirror, static_cast<size_t>(at.offset) * m.element), dtype_of(c.dtype), at.batch,
                              at.head, at.token};
  };
  const auto data = [&](auto& x) { return x.empty() ? nullptr : mirror.at(x.data(), x.data(), x.size() * sizeof x[0]); };
  attention::Forward in;
  in.q = operand(m.q, m.at_q), in.k = operand(m.k, m.at_k), in.v = operand(m.v, m.at_v);
  in.key_bias = data(m.bias);
  attention::Parameters& p = in.parameters;
  p.router_q = data(m.router_q), p.router_k = data(m.router_k);
  p.router_heads = c.weights == Weights::kShared ? 1 : c.heads;
  p.mix = data(m.mix), p.proj = data(m.proj), p.proj_bias = data(m.proj_bias);
  if (m.gate) p.gate = operand(m.gate, m.at_gate);
  if (!m.given_count.empty()) {
    m.given_seen = {data(m.given_index), data(m.given_count), m.given.capacity};
    if (c.seed % 2 == 1)
      in.given = &m.given_seen;
    else
      in.given_mask = data(m.given_mask);
  }
  return in;
}

Run Subject::create(const Case& c, const Target& target) {
  Run result;
  try {
    (void)make_plan(c, target);
  } catch (const Error& error) {
    result.refused = true;
    result.status = error.status();
    result.text = error.what();
  }
  return result;
}

Run Subject::run(const Target& target, int threads, unsigned char poison, bool extras) {
  Memory& m = *memory_;
  const Case& c = case_;
  Run result;
  if (target.gpu)
    target.gpu->set_seed(static_cast<uint64_t>(threads));
  else
    set_thread_count(threads);
  try {
    const auto plan = make_plan(c, target);
    Guarded workspace(plan->workspace_bytes(), poison), out(static_cast<size_t>(m.at_out.total) * m.element, kCanary);
    const int64_t rows = c.batch * c.heads * c.problem.queries;
    const size_t row_bytes = static_cast<size_t>(c.problem.dim) * m.element;
    const auto row = [&](int64_t i) {
      const int64_t head = i / c.problem.queries;
      return out.data() + static_cast<size_t>(m.at_out.at(head / c.heads, head % c.heads, i % c.problem.queries)) * m.element;
    };
    for (int64_t i = 0; i < rows; ++i) std::memset(row(i), kNan, row_bytes);
    const int64_t list_rows = c.batch * c.heads * plan->query_blocks();
    Outputs beside(rows, list_rows, plan->max_kept() + 3), routed(0, list_rows, plan->max_kept() + 3);
    Mirror mirror(target.gpu.get());
    attention::Forward in = request(mirror);
    in.out = {out.in(mirror), dtype_of(c.dtype), m.at_out.batch, m.at_out.head, m.at_out.token};
    attention::BlockList beside_seen = beside.in(mirror), routed_seen = routed.in(mirror);
    if (extras) in.lse = reinterpret_cast<float*>(beside.lse.in(mirror));
    if (extras) in.list = &beside_seen;
    if (extras && is_probed(c, target)) in.probe = &beside.probe;
    std::byte* const scratch = workspace.in(mirror);
    const auto start = std::chrono::steady_clock::now();
    plan->forward(in, scratch);
    if (target.gpu) target.gpu->wait(nullptr);
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    result.stats = plan->stats();
    std::optional<Guarded> other;
    if (extras) {
      other.emplace(plan->workspace_bytes(), poison);
      in.list = &routed_seen;
      plan->route(in, other->in(mirror));
    }
    mirror.fetch();
    for (int64_t i = 0; i < rows; ++i) {
      result.bits.insert(result.bits.end(), row(i), row(i) + row_bytes);
      std::memset(row(i), kCanary, row_bytes);  // what is left must be canaries
    }
    const bool gaps = std::all_of(out.data(), out.data() + out.size(), [](std::byte b) { return b == std::byte{kCanary}; });
    const auto same = [](std::optional<Guarded>& x, const std::vector<std::byte>& before) {
      return !x || (x->intact() && std::memcmp(x->data(), before.data(), before.size()) == 0);
    };
    if (extras) {
      const float* const lse = reinterpret_cast<const float*>(beside.lse.data());
      result.lse.assign(lse, lse + rows);
      result.probe = beside.probe;
      if (!beside.intact()) result.text = "wrote outside the list or the log-sum-exps";
    }
    if (extras) {
      result.kept = beside.rows();
      if (!other->intact() || !routed.intact()) result.text = "route wrote outside its list or workspace";
      if (routed.rows() != result.kept) result.text = "route keeps other blocks than forward";
    }
    if (!workspace.intact()) result.text = "wrote outside the workspace";
    if (!out.intact() || !gaps) result.text = "wrote outside the rows of out";
    if (!same(m.q, m.before_q) || !same(m.k, m.before_k) || !same(m.v, m.before_v) || (m.gate && !m.gate->intact()))
      result.text = "changed an input";
  } catch (const Error& error) {
    result.refused = true;
    result.status = error.status();
    result.text = error.what();
  }
  set_thread_count(0);
  return result;
}

std::vector<double> Subject::time(const Target& target, int threads, int repeats, attention::Stats* stats) {
  std::vector<double> seconds;
  for (int i = 0; i <= repeats; ++i) {
    const Run one = run(target, threads, 0, false);
    if (one.refused) fail(one.status, "{}", one.text);
    if (i > 0) seconds.push_back(one.seconds);
    *stats = one.stats;
  }
  return seconds;
}

std::vector<Target> emulated_gpus() {
  return {{"emulated_sm80", Isa::kScalar, emulated_gpu(80)}, {"emulated_sm89", Isa::kScalar, emulated_gpu(89)}};
}

std::vector<Target> kernels_here(std::string& note) {
  static_assert(std::is_trivially_copyable_v<kernels::AttentionOps>, "tables are compared as bytes");
  std::vector<Target> result;
  for (const Isa isa : kAllIsas) {
    if (isa > active_isa()) {
      note += fmt::format("SKIP(this CPU or SLA2_ISA stops below it): isa {}\n", isa_name(isa));
      continue;
    }
    const kernels::AttentionOps ops = kernels::attention_ops(isa);
    kernels::AttentionOps below = kernels::attention_ops(result.empty() ? isa : result.back().isa);
    const auto differs = [&] { return result.empty() || std::memcmp(&ops, &below, sizeof ops) != 0; };
    if (!differs()) {
      note += fmt::format("SKIP(the same kernels as {}): isa {}\n", result.back().name, isa_name(isa));
      continue;
    }
    below.attend_int8 = ops.attend_int8;
    result.push_back({std::string(isa_name(isa)), isa, nullptr, !differs()});
  }
  return result;
}

std::vector<double> widen(const std::vector<std::byte>& bits, Element type) {
  const size_t size = dtype_size(dtype_of(type)), count = bits.size() / size;
  std::vector<float> singles(count);
  convert_to_f32(dtype_of(type), bits.data(), singles.data(), count);
  return {singles.begin(), singles.end()};
}

Arithmetic arithmetic_of(const Case& c, const Target& target) {
  // What runs, not what was asked for: where the library takes fp32 in the place of bf16, fp32 is what it is held to.
  const bool routed = c.problem.mode != Mode::kFull && c.problem.mode != Mode::kLinearOnly;
  const bool soft = c.problem.tau > 0 && routed;
  if (!target.gpu && soft) return Arithmetic::kF32;
  if (c.bits == 8) return c.fp8_values != 0 ? Arithmetic::kFp8 : Arithmetic::kInt8;
  return c.products == Element::kBf16 && (target.gpu || kernels::multiplies_bf16(target.isa)) ? Arithmetic::kBf16
                                                                                              : Arithmetic::kF32;
}

}  // namespace sla2::check

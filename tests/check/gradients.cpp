// SPDX-License-Identifier: Apache-2.0
#include "gradients.h"

#include <fmt/format.h>

#include <optional>
#include <random>

#include "cuda_emulator/kernels_table.h"
#include "fill.h"
#include "kernels/attention_ops.h"
#include "memory.h"

namespace sla2::check {
namespace {

constexpr double kHalfStep = 5.9604644775390625e-8;     // of fp32
constexpr double kFactor = 2, kJitter = 4 * kHalfStep;  // as in judge.cpp
constexpr unsigned char kPoisonNan = 0xFF, kPoisonLarge = 0x4B;
// Plain code's largest error is a matter of luck, for gradients hang on a few rows and keys: where ours is above twice that, it
// is taken over several dO whose rows have other signs, which changes nothing but the luck. The root mean square is not, except
// with fewer numbers than these.
constexpr size_t kEnough = 32;
constexpr int kOtherSigns = 4;

}  // namespace

struct GradientSubject::Memory {
  Case c;
  std::vector<Head> heads;
  std::vector<Table> d_out;
  std::vector<Selection> selections;
  std::vector<Gradient> truth;
  std::vector<Output> forwards;  ///< exact; their out for the dO of every sign
  std::map<std::pair<Arithmetic, bool>, std::vector<Gradient>> plain;
  std::map<std::pair<Arithmetic, bool>, std::vector<double>> errors;
  Place at_q, at_k;
  size_t element = 4;
  std::optional<Guarded> q, k, v, d_o, gate;
  std::vector<std::vector<std::byte>> before;
  std::vector<float> out, lse, w_q, w_k, mix, proj, proj_bias;
  std::vector<int32_t> index, count;
  int64_t router_heads = 1;

  explicit Memory(const Case& line) : c(line) {}
  [[nodiscard]] int64_t kv_heads() const { return c.heads / c.groups(); }

  /// Heads of a batch share nothing, batches share all, Proj is one; even seeds share the router over heads as well.
  void share() {
    for (int64_t i = 0; i < c.batch * c.heads; ++i) {
      const int64_t h = i % c.heads;
      Head& head = heads[static_cast<size_t>(i)];
      const Head& first = heads[static_cast<size_t>(h)];
      const Head& router = c.seed % 2 == 0 ? heads[0] : first;
      head.w_q = router.w_q, head.w_k = router.w_k, head.a = first.a;
      head.proj = heads[0].proj, head.proj_bias = heads[0].proj_bias;
      for (Table* const x : {&head.w_q, &head.w_k, &head.proj})
        for (double& value : x->data) value = rounded(value, Element::kF32);
      for (double& value : head.proj_bias) value = rounded(value, Element::kF32);
      for (double& value : head.a) value = rounded(value, Element::kF32);
      for (double& value : head.gate.data) value = rounded(value, c.dtype);
    }
    router_heads = c.seed % 2 == 0 ? 1 : c.heads;
  }

  /// The oracle's gradients of every head, in the library's arrangement.
  [[nodiscard]] std::vector<Gradient> collect(const std::vector<Table>& gradients, Arithmetic arithmetic,
                                              bool given = false) const {
    const Problem& p = c.problem;
    std::vector<Gradients> each(heads.size());
    parallel_for(static_cast<int64_t>(heads.size()), [&](int64_t i, int) {
      const auto n = static_cast<size_t>(i);
      each[n] = backward(p, heads[n], selections[n], gradients[n], arithmetic, given ? &forwards[n] : nullptr);
    });
    std::vector<Gradient> all;
    const auto gather = [&](const char* name, Element type, int64_t slots, const auto& values, const auto& slot) {
      Gradient g{name, type, {}};
      for (size_t i = 0; i < heads.size(); ++i) {
        const auto& x = values(each[i]);
        if (g.values.empty()) g.values.assign(x.size() * static_cast<size_t>(slots), 0);
        double* const to = g.values.data() + x.size() * static_cast<size_t>(slot(static_cast<int64_t>(i)));
        for (size_t n = 0; n < x.size(); ++n) to[n] += x[n];
      }
      all.push_back(std::move(g));
    };
    const auto own = [](int64_t i) { return i; };
    const auto group = [&](int64_t i) { return i / c.groups(); };
    const auto by_head = [&](int64_t i) { return i % c.heads; };
    const auto router = [&](int64_t i) { return router_heads == 1 ? 0 : i % c.heads; };
    const auto one = [](int64_t) { return int64_t{0}; };
    const int64_t total = c.batch * c.heads;
    gather(
        "dQ", c.dtype, total, [](const Gradients& g) -> auto& { return g.q.data; }, own);
    gather(
        "dK", c.dtype, total / c.groups(), [](const Gradients& g) -> auto& { return g.k.data; }, group);
    gather(
        "dV", c.dtype, total / c.groups(), [](const Gradients& g) -> auto& { return g.v.data; }, group);
    if (p.mode != Mode::kFull) {
      gather(
          "dW_q", Element::kF32, router_heads, [](const Gradients& g) -> auto& { return g.w_q.data; }, router);
      gather(
          "dW_k", Element::kF32, router_heads, [](const Gradients& g) -> auto& { return g.w_k.data; }, router);
    }
    if (p.mode == Mode::kSla2) {
      const auto a = [](const Gradients& g) -> auto& { return g.a; };
      p.a_mode == AMode::kConst ? gather("da", Element::kF32, 1, a, one) : gather("da", Element::kF32, c.heads, a, by_head);
    }
    if (p.mode == Mode::kSla1) {
      gather(
          "dProj", Element::kF32, 1, [](const Gradients& g) -> auto& { return g.proj.data; }, one);
      gather(
          "dProj_bias", Element::kF32, 1, [](const Gradients& g) -> auto& { return g.proj_bias; }, one);
    }
    if (p.router == Router::kVsa)
      gather(
          "dgate", c.dtype, total, [](const Gradients& g) -> auto& { return g.gate.data; }, own);
    if (arithmetic != Arithmetic::kExact)
      for (Gradient& g : all)
        for (double& x : g.values) x = rounded(x, g.type);
    return all;
  }

  void fill(std::optional<Guarded>& target, const Place& at, int64_t count_heads, int64_t tokens, const auto& value) {
    target.emplace(static_cast<size_t>(at.total) * element, kNan);
    for (int64_t i = 0; i < c.batch * count_heads; ++i)
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t d = 0; d < c.problem.dim; ++d)
          store(value(i, t, d), c.dtype,
                target->data() + static_cast<size_t>(at.at(i / count_heads, i % count_heads, t) + d) * element);
    before.emplace_back(target->data(), target->data() + target->size());
  }

  void lay_out() {
    const Problem& p = c.problem;
    element = dtype_size(dtype_of(c.dtype));
    at_q = place(c, c.heads, p.queries, -1);
    at_k = place(c, kv_heads(), p.keys, -1);
    const auto head = [&](int64_t i) -> const Head& { return heads[static_cast<size_t>(i)]; };
    fill(q, at_q, c.heads, p.queries, [&](int64_t i, int64_t t, int64_t d) { return head(i).q(t, d); });
    fill(k, at_k, kv_heads(), p.keys, [&](int64_t i, int64_t t, int64_t d) { return head(i * c.groups()).k(t, d); });
    fill(v, at_k, kv_heads(), p.keys, [&](int64_t i, int64_t t, int64_t d) { return head(i * c.groups()).v(t, d); });
    fill(d_o, at_q, c.heads, p.queries, [&](int64_t i, int64_t t, int64_t d) { return d_out[static_cast<size_t>(i)](t, d); });
    if (p.router == Router::kVsa)
      fill(gate, at_q, c.heads, p.queries, [&](int64_t i, int64_t t, int64_t d) { return head(i).gate(t, d); });
    for (int64_t h = 0; h < c.heads; ++h) {
      const Head& x = head(h);
      if (h < router_heads) w_q.insert(w_q.end(), x.w_q.data.begin(), x.w_q.data.end());
      if (h < router_heads) w_k.insert(w_k.end(), x.w_k.data.begin(), x.w_k.data.end());
      if (p.a_mode != AMode::kConst) mix.insert(mix.end(), x.a.begin(), x.a.end());
    }
    proj.assign(heads[0].proj.data.begin(), heads[0].proj.data.end());
    proj_bias.assign(heads[0].proj_bias.begin(), heads[0].proj_bias.end());
    for (size_t i = 0; i < heads.size(); ++i) {
      const Output exact = forward(p, heads[i], selections[i], Arithmetic::kExact);
      out.insert(out.end(), exact.o.data.begin(), exact.o.data.end());
      lse.insert(lse.end(), exact.lse.begin(), exact.lse.end());
      forwards.push_back(exact);
      const Table& mask = selections[i].mask;
      for (int64_t b = 0; b < mask.rows; ++b) {
        const size_t row = index.size();
        index.resize(row + static_cast<size_t>(mask.cols), -1);  // what no list holds must not be read
        count.push_back(0);
        for (int64_t j = 0; j < mask.cols; ++j)
          if (mask(b, j) == 1) index[row + static_cast<size_t>(count.back()++)] = static_cast<int32_t>(j);
      }
    }
  }
};

GradientSubject::~GradientSubject() = default;
const Case& GradientSubject::test() const { return memory_->c; }
const std::vector<Gradient>& GradientSubject::truth() const { return memory_->truth; }

double GradientSubject::largest_lse() const {
  double most = 0;
  for (const float x : memory_->lse) most = std::max(most, std::abs(static_cast<double>(x)));
  return most;
}

GradientSubject::GradientSubject(const Case& c) : memory_(std::make_unique<Memory>(c)) {
  Memory& m = *memory_;
  m.heads = make_heads(c);
  m.share();
  m.d_out = make_d_out(c);
  for (const Head& head : m.heads) m.selections.push_back(select(c.problem, head));
  m.truth = m.collect(m.d_out, Arithmetic::kExact);
  m.lay_out();
}

const std::vector<Gradient>& GradientSubject::plain(Arithmetic arithmetic, bool given) {
  Memory& m = *memory_;
  const std::pair key{arithmetic, given};
  if (m.plain.find(key) == m.plain.end()) m.plain.emplace(key, m.collect(m.d_out, arithmetic, given));
  return m.plain.at(key);
}

const std::vector<double>& GradientSubject::plain_errors(Arithmetic arithmetic, bool given) {
  Memory& m = *memory_;
  const std::pair key{arithmetic, given};
  if (m.errors.find(key) != m.errors.end()) return m.errors.at(key);
  std::vector<double>& worst = m.errors[key];
  worst.assign(m.truth.size(), 0);
  std::mt19937 engine(static_cast<uint32_t>(m.c.seed));
  for (int round = 0; round < kOtherSigns; ++round) {
    std::vector<Table> d_out = m.d_out;
    for (Table& x : d_out)
      for (int64_t r = 0; r < x.rows; ++r)
        if ((engine() & 1U) != 0)
          for (int64_t d = 0; d < x.cols; ++d) x(r, d) = -x(r, d);
    const auto exact = m.collect(d_out, Arithmetic::kExact), rough = m.collect(d_out, arithmetic, given);
    for (size_t i = 0; i < exact.size(); ++i) worst[i] = std::max(worst[i], distance(rough[i].values, exact[i].values).worst);
  }
  return worst;
}

GradientSubject::Result GradientSubject::run(const Target& target, int threads, unsigned char poison, bool given) {
  Memory& m = *memory_;
  const Case& c = m.c;
  const Problem& p = c.problem;
  Result result;
  if (target.gpu)
    target.gpu->set_seed(static_cast<uint64_t>(threads));
  else
    set_thread_count(threads);
  try {
    const auto plan = make_plan(c, target);
    Guarded workspace(plan->backward_workspace_bytes(), poison);
    attention::Backward call;
    const DType dtype = dtype_of(c.dtype);
    Mirror mirror(target.gpu.get());
    const auto operand = [&](std::optional<Guarded>& x, const Place& at) {
      return attention::Operand{x->in(mirror, static_cast<size_t>(at.offset) * m.element), dtype, at.batch, at.head, at.token};
    };
    const auto seen = [&](auto& x) { return x.empty() ? nullptr : mirror.at(x.data(), x.data(), x.size() * sizeof x[0]); };
    call.q = operand(m.q, m.at_q), call.k = operand(m.k, m.at_k), call.v = operand(m.v, m.at_k);
    call.d_out = operand(m.d_o, m.at_q);
    if (given) {
      call.out = {seen(m.out), DType::kF32, c.heads * p.queries * p.dim, p.queries * p.dim, p.dim};
      call.lse = seen(m.lse);
    }
    call.parameters.router_q = seen(m.w_q), call.parameters.router_k = seen(m.w_k);
    call.parameters.router_heads = m.router_heads;
    call.parameters.mix = seen(m.mix);
    call.parameters.proj = seen(m.proj), call.parameters.proj_bias = seen(m.proj_bias);
    if (m.gate) call.parameters.gate = operand(m.gate, m.at_q);
    const attention::BlockList list{seen(m.index), seen(m.count), p.key_blocks()};
    call.list = &list;

    std::vector<std::optional<Guarded>> targets(m.truth.size());
    attention::Gradients& g = call.gradients;
    for (size_t i = 0; i < m.truth.size(); ++i) {
      const Gradient& x = m.truth[i];
      const bool rows = x.name == "dQ" || x.name == "dgate", key_rows = x.name == "dK" || x.name == "dV";
      const Place& at = rows ? m.at_q : m.at_k;
      const size_t bytes = rows || key_rows ? static_cast<size_t>(at.total) * m.element : x.values.size() * sizeof(float);
      targets[i].emplace(bytes, kCanary);
      const attention::MutableOperand tensor{targets[i]->in(mirror, static_cast<size_t>(at.offset) * m.element), dtype, at.batch,
                                             at.head, at.token};
      auto* const numbers = reinterpret_cast<float*>(targets[i]->in(mirror));
      if (x.name == "dQ") g.q = tensor;
      if (x.name == "dK") g.k = tensor;
      if (x.name == "dV") g.v = tensor;
      if (x.name == "dgate") g.gate = tensor;
      if (x.name == "dW_q") g.router_q = numbers;
      if (x.name == "dW_k") g.router_k = numbers;
      if (x.name == "da") g.mix = numbers;
      if (x.name == "dProj") g.proj = numbers;
      if (x.name == "dProj_bias") g.proj_bias = numbers;
    }
    plan->backward(call, workspace.in(mirror));
    mirror.fetch();

    if (!workspace.intact()) result.text = "wrote outside the workspace";
    for (size_t i = 0; i < m.truth.size(); ++i) {
      const Gradient& x = m.truth[i];
      Guarded& written = *targets[i];
      std::vector<std::byte>& bits = result.bits.emplace_back();
      const bool rows = x.name == "dQ" || x.name == "dgate", key_rows = x.name == "dK" || x.name == "dV";
      if (!rows && !key_rows) {
        bits.assign(written.data(), written.data() + written.size());
      } else {
        const Place& at = rows ? m.at_q : m.at_k;
        const int64_t count = rows ? c.heads : m.kv_heads(), tokens = rows ? p.queries : p.keys;
        const size_t row_bytes = static_cast<size_t>(p.dim) * m.element;
        for (int64_t n = 0; n < c.batch * count * tokens; ++n) {
          const int64_t head = n / tokens;
          std::byte* const row = written.data() + static_cast<size_t>(at.at(head / count, head % count, n % tokens)) * m.element;
          bits.insert(bits.end(), row, row + row_bytes);
          std::memset(row, kCanary, row_bytes);
        }
        if (!std::all_of(written.data(), written.data() + written.size(), [](std::byte b) { return b == std::byte{kCanary}; }))
          result.text = "wrote between the rows of " + x.name;
      }
      if (!written.intact()) result.text = "wrote outside " + x.name;
    }
    size_t i = 0;
    for (const std::optional<Guarded>* const x : {&m.q, &m.k, &m.v, &m.d_o, &m.gate}) {
      if (!*x) continue;
      Guarded& input = const_cast<Guarded&>(**x);
      if (!input.intact() || std::memcmp(input.data(), m.before[i].data(), input.size()) != 0) result.text = "changed an input";
      ++i;
    }
  } catch (const Error& error) {
    result.unsupported = error.status() == SLA2_E_UNSUPPORTED;
    result.text = fmt::format("refused with status {}: {}", static_cast<int>(error.status()), error.what());
  }
  set_thread_count(0);
  return result;
}

namespace {

/// Each gradient against its budget. Fills v.share and v.reason; true if all are within.
bool within(GradientSubject& subject, const GradientSubject::Result& result, Arithmetic arithmetic, bool given, Verdict& v) {
  const Case& c = subject.test();
  // fp32 from what forward returned is held to plain code that knows better; bf16 to plain code that takes the same.
  const bool same_way = given && arithmetic == Arithmetic::kBf16;
  const auto& plain = subject.plain(arithmetic, same_way);
  const char* const how = given ? " (given out)" : "";
  const double lost = given ? subject.largest_lse() * kHalfStep : 0;  // what a log-sum-exp in fp32 cannot say: a share of every P
  for (size_t i = 0; i < plain.size(); ++i) {
    const Gradient& exact = subject.truth()[i];
    std::vector<double> truth = exact.values, ours = widen(result.bits[i], exact.type), rough = plain[i].values;
    const bool routed = exact.name == "dW_q" || exact.name == "dW_k";  // 0 · NaN is the oracle's way under a hard mask
    if (c.has_nan() && !routed) {
      size_t missing = 0;
      for (size_t n = 0; n < truth.size(); ++n) missing += std::isnan(truth[n]) && !std::isnan(ours[n]) ? 1 : 0;
      if (missing > 0)
        return v.reason =
                   fmt::format("{}: {} of {} numbers that depend on the NaN are not NaN", exact.name, missing, truth.size()),
               false;
    }
    const Distance mine = distance(ours, truth), theirs = distance(rough, truth);
    if (mine.not_a_number && !c.has_nan())
      return v.reason = fmt::format("{}{} holds NaN or infinity where the truth is a number", exact.name, how), false;
    if (c.has_nan()) continue;  // the other heads are those of the same case without a NaN
    double worst = kFactor * theirs.worst + (kJitter + lost) * theirs.size;
    double rms = kFactor * theirs.rms + (kJitter + lost) * theirs.size_rms;
    if (truth.size() < kEnough || mine.worst > worst)
      worst = std::max(worst, kFactor * subject.plain_errors(arithmetic, same_way)[i] + kJitter * theirs.size);
    if (truth.size() < kEnough) rms = worst;
    const auto part = [](double error, double budget) { return error == 0 ? 0 : error / budget; };
    const double share = std::max(part(mine.worst, worst), part(mine.rms, rms));
    const std::string numbers = fmt::format("{}{} worst {:.2e} of {:.2e}, rms {:.2e} of {:.2e}, relative L1 {:.1e}", exact.name,
                                            how, mine.worst, worst, mine.rms, rms, mine.relative_l1);
    if (share > v.share || v.reason.empty()) v.share = share, v.reason = numbers;
    if (!(share <= 1)) return v.reason = "over budget: " + numbers, false;
  }
  return true;
}

/// Why agreement says little.
std::string distrust(GradientSubject& subject, Arithmetic arithmetic) {
  constexpr double kPlainTooFar = 0.05;
  const auto& plain = subject.plain(arithmetic, false);
  for (size_t i = 0; i < plain.size(); ++i) {
    const Gradient& exact = subject.truth()[i];
    const Distance d = distance(plain[i].values, exact.values);
    const bool routed = exact.name == "dW_q" || exact.name == "dW_k";  // zeros under a hard mask
    if (d.size == 0 && !routed) return "the true " + exact.name + " is zero everywhere";
    if (d.relative_l1 > kPlainTooFar && d.size > 0)
      return fmt::format("plain code's {} is itself off by {:.1f} %", exact.name, 100 * d.relative_l1);
  }
  return "";
}

}  // namespace

Verdict check_gradients(GradientSubject& subject, const std::vector<int>& threads, const Target& target) {
  const Case& c = subject.test();
  const bool has_bf16 = target.gpu || kernels::multiplies_bf16(target.isa);
  const Arithmetic arithmetic = c.bits != 8 ? arithmetic_of(c, target) : has_bf16 ? Arithmetic::kBf16 : Arithmetic::kF32;
  Verdict v;
  v.status = Status::kFail;
  const auto first = subject.run(target, threads[0], kPoisonNan, false);
  if (target.gpu && first.unsupported) return v.status = Status::kSkip, v.reason = first.text, v;
  if (!first.text.empty()) return v.reason = first.text, v;
  if (!within(subject, first, arithmetic, false, v)) return v;
  if (c.dtype == Element::kF32 && (arithmetic == Arithmetic::kF32 || target.gpu) && c.problem.mode != Mode::kLinearOnly &&
      (c.fill == Fill::kGauss || c.fill == Fill::kChannels)) {
    const auto given = subject.run(target, threads[0], kPoisonLarge, true);
    if (!given.text.empty()) return v.reason = given.text, v;
    if (!within(subject, given, arithmetic, true, v)) return v;
  }
  for (const int count : threads) {
    const auto again = subject.run(target, count, kPoisonLarge, false);
    if (!again.text.empty()) return v.reason = fmt::format("with {} threads: {}", count, again.text), v;
    for (size_t i = 0; i < first.bits.size(); ++i)
      if (again.bits[i] != first.bits[i] && !c.has_nan())
        return v.reason =
                   fmt::format("{} threads and a poisoned workspace give other bits of {}", count, subject.truth()[i].name),
               v;
  }
  v.status = Status::kPass;
  const std::string doubt = c.has_nan() ? "" : distrust(subject, arithmetic);
  if (!doubt.empty()) v.status = Status::kMistrusted, v.reason = doubt + " (" + v.reason + ")";
  return v;
}

}  // namespace sla2::check

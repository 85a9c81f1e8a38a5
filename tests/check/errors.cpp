// SPDX-License-Identifier: Apache-2.0
#include "errors.h"

#include "fill.h"
#include "judge.h"

namespace sla2::check {
namespace {

struct Kind {
  const char* name;
  Element products;
  int64_t bits, fp8_values;
  Arithmetic runs;
};
constexpr Kind kKinds[] = {{"fp32", Element::kF32, 16, 0, Arithmetic::kF32},
                           {"bf16", Element::kBf16, 16, 0, Arithmetic::kBf16},
                           {"8 bits", Element::kF32, 8, 0, Arithmetic::kInt8},
                           {"8 bits, P·V in e4m3", Element::kF32, 8, 1, Arithmetic::kFp8}};

std::vector<double> exact(const Case& c, const std::vector<Head>& heads) {
  std::vector<Output> each(heads.size());
  parallel_for(static_cast<int64_t>(heads.size()), [&](int64_t i, int) {
    const Head& head = heads[static_cast<size_t>(i)];
    each[static_cast<size_t>(i)] = forward(c.problem, head, select(c.problem, head), Arithmetic::kExact);
  });
  std::vector<double> out;
  for (const Output& one : each) out.insert(out.end(), one.o.data.begin(), one.o.data.end());
  return out;
}

std::string cell(Case c, const Kind& kind, const std::vector<Head>& heads, const std::vector<double>& truth,
                 const Target& target) {
  c.products = kind.products, c.bits = kind.bits, c.fp8_values = kind.fp8_values;
  if (arithmetic_of(c, target) != kind.runs) return "not on " + target.name;
  const Run run = Subject(c, heads).run(target, 1, 0, false);
  if (run.refused) return "refused";
  if (!run.text.empty()) fail(SLA2_E_INTERNAL, "{}: {}", to_line(c), run.text);
  const Distance d = distance(widen(run.bits, c.dtype), truth);
  return fmt::format("{:.1e} / {:.1e}", d.relative_l1, 1 - d.cosine);
}

}  // namespace

std::string error_table(const std::vector<Case>& cases, const Target& target) {
  std::string text = "| inputs |", line = "|---|";
  for (const Kind& kind : kKinds) text += fmt::format(" {} |", kind.name), line += "---|";
  text += "\n" + line + "\n";
  for (Case c : cases) {
    if (c.direction == Direction::kBackward || c.expect == Expect::kRefused) continue;
    c.products = Element::kF32, c.bits = 16, c.fp8_values = 0;
    const std::vector<Head> heads = make_heads(c);
    const std::vector<double> truth = exact(c, heads);
    text += fmt::format("| `{}` |", to_line(c));
    for (const Kind& kind : kKinds) text += fmt::format(" {} |", cell(c, kind, heads, truth, target));
    text += "\n";
  }
  return text;
}

}  // namespace sla2::check

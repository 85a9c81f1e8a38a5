// SPDX-License-Identifier: Apache-2.0
// One table of keys parses, prints and documents a case line.
#include "case.h"

#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <functional>
#include <sstream>
#include <stdexcept>

namespace sla2::check {
namespace {

struct Key {
  std::string name, meaning;
  std::function<std::string(Case&, const std::string&)> set;  ///< what was expected, or empty
  std::function<std::string(const Case&)> get;
};

template <typename T>
bool read_number(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

/// Field is a function Case& → T&.
template <typename Field>
Key integer(const char* name, int64_t low, int64_t high, Field field, const char* meaning) {
  return {name, meaning,
          [=](Case& c, const std::string& text) {
            int64_t value = 0;
            if (!read_number(text, value) || value < low || value > high)
              return fmt::format("an integer from {} to {}", low, high);
            field(c) = value;
            return std::string();
          },
          [=](const Case& c) { return std::to_string(field(const_cast<Case&>(c))); }};
}

template <typename Field>
Key number(const char* name, double low, double high, Field field, const char* meaning) {
  return {name, meaning,
          [=](Case& c, const std::string& text) {
            double value = 0;
            if (!read_number(text, value) || !(value >= low && value <= high))
              return fmt::format("a number from {} to {}", low, high);
            field(c) = value;
            return std::string();
          },
          [=](const Case& c) { return fmt::format("{}", field(const_cast<Case&>(c))); }};
}

/// Words in the order of the enum's values.
template <typename Field>
Key choice(const char* name, std::vector<std::string> words, Field field, const char* meaning) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : "|") + word;
  return {name, fmt::format("{} ({})", meaning, all),
          [=](Case& c, const std::string& text) {
            const auto at = std::find(words.begin(), words.end(), text);
            if (at == words.end()) return "one of " + all;
            auto& target = field(c);
            target = static_cast<std::remove_reference_t<decltype(target)>>(at - words.begin());
            return std::string();
          },
          [=](const Case& c) { return words[static_cast<size_t>(field(const_cast<Case&>(c)))]; }};
}

#define SLA2_FIELD(path) \
  [](Case & c) -> auto& { return c.path; }  // NOLINT: a lambda per row would hide the table

const std::vector<Key>& keys() {
  constexpr int64_t kMost = int64_t{1} << 40;
  static const std::vector<Key> table = {
      choice("mode", {"full", "sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"}, SLA2_FIELD(problem.mode),
             "what is computed"),
      choice("router", {"sla2", "sla1", "vsa", "vmoba", "sparge", "given"}, SLA2_FIELD(problem.router), "who picks the blocks"),
      choice("dir", {"fwd", "bwd"}, SLA2_FIELD(direction), "direction"),
      integer("B", 0, kMost, SLA2_FIELD(batch), "batch"),
      integer("H", 0, kMost, SLA2_FIELD(heads), "query heads"),
      integer("H_kv", 0, kMost, SLA2_FIELD(kv_heads), "key heads; 0: as H"),
      integer("N", 0, kMost, SLA2_FIELD(problem.queries), "query tokens"),
      integer("N_kv", 0, kMost, SLA2_FIELD(problem.keys), "key tokens; 0: as N"),
      integer("D", 1, 4096, SLA2_FIELD(problem.dim), "head dimension"),
      choice("dtype", {"f32", "bf16", "f16"}, SLA2_FIELD(dtype), "element type of q, k, v and out"),
      choice("products", {"f32", "bf16"}, SLA2_FIELD(products), "what Q·K and P·V may multiply, where the CPU can"),
      choice("layout", {"bhnd", "bnhd", "fused", "padded"}, SLA2_FIELD(layout), "memory layout"),
      integer("block_q", 1, 4096, SLA2_FIELD(problem.block_q), "queries per routed block"),
      integer("block_k", 1, 4096, SLA2_FIELD(problem.block_k), "keys per block"),
      number("sparsity", -1, 2, SLA2_FIELD(problem.sparsity), "fraction of key blocks skipped"),
      number("scale", 0, 1e6, SLA2_FIELD(problem.scale), "factor on q·k; 0: 1/sqrt(D)"),
      integer("bits", 8, 16, SLA2_FIELD(bits), "16 or 8"),
      integer("fp8", 0, 1, SLA2_FIELD(fp8_values), "with 8 bits: P·V in e4m3"),
      choice("a", {"head_affine_lse", "const", "head_scalar", "block"}, SLA2_FIELD(problem.a_mode), "how the branches are mixed"),
      number("a_scale", -1e3, 1e3, SLA2_FIELD(a_scale), "s of head_affine_lse"),
      number("a_bias", -1e3, 1e3, SLA2_FIELD(a_bias), "b of every a-mode; per head or block it varies around this"),
      integer("smooth_k", 0, 1, SLA2_FIELD(problem.smooth_k), "φ sees K − mean"),
      choice("scope", {"complement", "global"}, SLA2_FIELD(problem.scope), "sla1: keys of the linear branch"),
      number("negligible", 0, 1, SLA2_FIELD(problem.negligible), "sla1: fraction of blocks in neither branch"),
      choice("rule", {"topk", "cdf", "hybrid"}, SLA2_FIELD(problem.rule), "sparge: how many"),
      number("top_p", 0, 1, SLA2_FIELD(problem.top_p), "vmoba, sparge: share to reach"),
      number("theta", -1, 1, SLA2_FIELD(problem.theta), "sparge: blocks less alike than this are always kept"),
      integer("protect_first", 0, 4096, SLA2_FIELD(problem.protect_first), "key blocks always kept at the start"),
      integer("protect_last", 0, 4096, SLA2_FIELD(problem.protect_last), "and at the end"),
      integer("protect_near", -1, 4096, SLA2_FIELD(problem.protect_near), "0: own blocks, n: and n beside; -1: none"),
      number("tau", 0, 100, SLA2_FIELD(problem.tau), "SoftTop-k temperature; 0: hard mask"),
      choice("weights", {"identity", "normal", "shared"}, SLA2_FIELD(weights), "router weights W_q and W_k, and a per head"),
      choice("bias", {"none", "normal", "masked"}, SLA2_FIELD(bias), "per-key bias on the logits"),
      choice("fill",
             {"gauss", "pick", "pairs", "uniform", "zeros", "channels", "equal", "huge", "tiny", "nan_q", "nan_k", "nan_v",
              "drift", "spikes"},
             SLA2_FIELD(fill), "what q, k, v hold"),
      integer("seed", 0, 1 << 30, SLA2_FIELD(seed), "of the fill"),
      choice("expect", {"result", "refused"}, SLA2_FIELD(expect), "refused: the library must name the mistake"),
      {"explain", "why MISTRUSTED is fine here, in words joined by _",
       [](Case& c, const std::string& text) { return c.explain = text, std::string(); }, [](const Case& c) { return c.explain; }},
  };
  return table;
}
#undef SLA2_FIELD

}  // namespace

Case parse_case(std::string_view line, const std::string& where) {
  Case c;
  c.where = where;
  c.problem.queries = c.problem.dim = 64;
  std::istringstream words{std::string(line)};
  std::vector<std::string> seen;
  for (std::string word; words >> word;) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos) throw std::runtime_error(fmt::format("{}: expected key=value, got '{}'", where, word));
    const std::string name = word.substr(0, equals), value = word.substr(equals + 1);
    const auto key = std::find_if(keys().begin(), keys().end(), [&](const Key& k) { return k.name == name; });
    if (key == keys().end()) throw std::runtime_error(fmt::format("{}: key '{}' is unknown; --help lists the keys", where, name));
    if (std::find(seen.begin(), seen.end(), name) != seen.end())
      throw std::runtime_error(fmt::format("{}: key '{}': expected once, got it twice", where, name));
    seen.push_back(name);
    const std::string expected = key->set(c, value);
    if (!expected.empty())
      throw std::runtime_error(fmt::format("{}: key '{}': expected {}, got '{}'", where, name, expected, value));
  }
  const auto given = [&](const char* name) { return std::find(seen.begin(), seen.end(), name) != seen.end(); };
  if (!given("N_kv")) c.problem.keys = c.problem.queries;
  if (c.expect == Expect::kRefused) return c;
  for (const auto& [name, value] : {std::pair{"B", c.batch}, {"H", c.heads}, {"N", c.problem.queries}, {"N_kv", c.problem.keys}})
    if (value < 1) throw std::runtime_error(fmt::format("{}: key '{}': expected at least 1, got '{}'", where, name, value));
  if (c.kv_heads != 0 && c.heads % c.kv_heads != 0)
    throw std::runtime_error(fmt::format("{}: key 'H_kv': expected a divisor of H = {}, got '{}'", where, c.heads, c.kv_heads));
  if (c.layout == Layout::kFused && c.direction == Direction::kBackward)
    throw std::runtime_error(
        fmt::format("{}: key 'layout': fused is q, k and v in one buffer, and gradients are checked on tensors of their own; "
                    "expected bhnd, bnhd "
                    "or padded with dir=bwd",
                    where));
  if (c.layout == Layout::kFused && (c.problem.keys != c.problem.queries || c.groups() != 1))
    throw std::runtime_error(fmt::format(
        "{}: key 'layout': fused is one buffer [B,N,3,H,D] for q, k and v; expected N_kv = N and H_kv = H, got N = {}, "
        "N_kv = {}, H = {}, H_kv = {}",
        where, c.problem.queries, c.problem.keys, c.heads, c.heads / c.groups()));
  if (c.bits != 16 && c.bits != 8)
    throw std::runtime_error(fmt::format("{}: key 'bits': expected 16 or 8, got '{}'", where, c.bits));
  return c;
}

std::string to_line(const Case& c) {
  const Case defaults = parse_case("", "");
  std::string line;
  for (const Key& key : keys()) {
    const std::string value = key.get(c);
    const bool same_keys = key.name == "N_kv" && c.problem.keys == c.problem.queries;
    const bool always = key.name == "mode" || key.name == "N" || key.name == "D";
    if (!same_keys && (always || key.name == "N_kv" || value != key.get(defaults)))
      line += (line.empty() ? "" : " ") + key.name + "=" + value;
  }
  return line;
}

std::vector<std::pair<std::string, std::string>> items(const Case& c) {
  std::vector<std::pair<std::string, std::string>> result;
  for (const Key& key : keys()) result.emplace_back(key.name, key.get(c));
  return result;
}

std::vector<Case> read_list(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(fmt::format("{}: cannot be opened", path));
  std::vector<Case> cases;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    line = line.substr(0, line.find('#'));
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    cases.push_back(parse_case(line, fmt::format("{}:{}", path.substr(path.find_last_of('/') + 1), number)));
  }
  return cases;
}

std::string describe_keys() {
  const Case defaults = parse_case("", "");
  std::string text;
  for (const Key& key : keys()) text += fmt::format("  {:<14} {:<16} {}\n", key.name, key.get(defaults), key.meaning);
  return text;
}

}  // namespace sla2::check

// SPDX-License-Identifier: Apache-2.0
#include "matrix.h"

#include <vector>

#include "attention/device_plan.h"

namespace sla2::gpu_check {
namespace {

using attention::Config;
using attention::Mode;
using attention::Router;

constexpr int kArchitectures[] = {80, 86, 89, 90, 120};

struct Row {
  const char* name;
  void (*change)(Config&);
};
// Every value of each axis; what a row does not say is as in usual().
constexpr Row kModes[] = {
    {"full", [](Config& c) { c.mode = Mode::kFull; }},
    {"sla2", [](Config& c) { c.mode = Mode::kSla2; }},
    {"sla1", [](Config& c) { c.mode = Mode::kSla1, c.router = Router::kSla1; }},
    {"sparse_only", [](Config& c) { c.mode = Mode::kSparseOnly; }},
    {"linear_only", [](Config& c) { c.mode = Mode::kLinearOnly; }},
    {"l_plus_s", [](Config& c) { c.mode = Mode::kLPlusS; }},
    {"pooled", [](Config& c) { c.mode = Mode::kPooled; }},
};
constexpr Row kProducts[] = {
    {"bf16", [](Config& c) { c.products = DType::kBF16; }},
    {"int8 Q·K, bf16 P·V", [](Config& c) { c.bits = 8; }},
    {"int8 Q·K, e4m3 P·V", [](Config& c) { c.bits = 8, c.fp8_values = true; }},
    {"fp32", [](Config& c) { c.products = DType::kF32; }},
};
constexpr Row kRest[] = {
    {"router sla2", [](Config& c) { c.router = Router::kSla2; }},
    {"router sla1", [](Config& c) { c.router = Router::kSla1; }},
    {"router vsa", [](Config& c) { c.mode = Mode::kSparseOnly, c.router = Router::kVsa; }},
    {"router vmoba", [](Config& c) { c.mode = Mode::kSparseOnly, c.router = Router::kVmoba; }},
    {"router sparge", [](Config& c) { c.mode = Mode::kSparseOnly, c.router = Router::kSparge; }},
    {"router given", [](Config& c) { c.router = Router::kGiven; }},
    {"soft mask (tau above 0)", [](Config& c) { c.tau = 0.1; }},
    {"protected blocks", [](Config& c) { c.protect_first = 1; }},
    {"sla1 with negligible blocks", [](Config& c) { c.mode = Mode::kSla1, c.router = Router::kSla1, c.negligible = 0.1; }},
    {"head_dim 40", [](Config& c) { c.head_dim = 40; }},
    {"head_dim 256", [](Config& c) { c.head_dim = 256; }},
    {"block_q 32", [](Config& c) { c.block_q = 32; }},
    {"block_q 64", [](Config& c) { c.block_q = 64; }},
    {"block_k 16", [](Config& c) { c.block_k = 16; }},
    {"block_k 32", [](Config& c) { c.block_k = 32; }},
    {"block_k 128", [](Config& c) { c.block_k = 128; }},
    {"grouped heads", [](Config& c) { c.kv_heads = 1; }},
    {"8193 key blocks", [](Config& c) { c.query_tokens = c.key_tokens = 64 * 8192 + 1; }},
    {"65536 heads over the batch", [](Config& c) { c.batch = 32768; }},
};

Config usual() {
  Config c;
  c.mode = Mode::kSla2;
  c.products = DType::kBF16;
  c.heads = 2, c.query_tokens = c.key_tokens = 4096, c.head_dim = 128;
  c.sparsity = 0.9;
  return c;
}

/// Architectures that run it; where none does, what is said.
std::string cell(const Config& c) {
  std::string runs, said;
  size_t count = 0;
  for (const int architecture : kArchitectures) {
    const std::string no = attention::device_refusal(c, architecture);
    if (no.empty())
      runs += fmt::format("{}{}.{}", count++ == 0 ? "" : ", ", architecture / 10, architecture % 10);
    else
      said = no.substr(no.find(": ") + 2);
  }
  if (count == std::size(kArchitectures)) return "all";
  return count > 0 ? runs : "no: " + said;
}

}  // namespace

std::string matrix() {
  std::string text = "| mode, D 128 |";
  for (const Row& products : kProducts) text += fmt::format(" {} |", products.name);
  text += "\n|---|";
  for (size_t i = 0; i < std::size(kProducts); ++i) text += "---|";
  std::vector<std::string> said;  // long sentences stand below the table, once each
  const auto short_cell = [&](const Config& c) {
    std::string words = cell(c);
    if (!words.starts_with("no")) return words;
    size_t i = 0;
    while (i < said.size() && said[i] != words) ++i;
    if (i == said.size()) said.push_back(words);
    return fmt::format("no ({})", i + 1);
  };
  for (const Row& mode : kModes) {
    text += fmt::format("\n| {} |", mode.name);
    for (const Row& products : kProducts) {
      Config c = usual();
      mode.change(c), products.change(c);
      text += fmt::format(" {} |", short_cell(c));
    }
  }
  text += "\n\n| mode sla2 (routers vsa, vmoba, sparge: sparse_only), bf16, with | |\n|---|---|";
  for (const Row& rest : kRest) {
    Config c = usual();
    rest.change(c);
    text += fmt::format("\n| {} | {} |", rest.name, short_cell(c));
  }
  text += "\n\n";
  for (size_t i = 0; i < said.size(); ++i) text += fmt::format("{}. {}\n", i + 1, said[i].substr(4));
  return text;
}

}  // namespace sla2::gpu_check

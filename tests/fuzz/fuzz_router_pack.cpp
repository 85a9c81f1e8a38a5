// SPDX-License-Identifier: Apache-2.0
// Router packs: read whole. Only sla2::Error may come out, and what is accepted has the sizes its metadata promise.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "memory_file.h"
#include "weights/weights.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check_numbers(const std::vector<float>& values, int64_t count) {
  require(values.empty() || static_cast<int64_t>(values.size()) == count);
  for (const float value : values) require(std::isfinite(value));
}

void check_sizes(const sla2::weights::RouterPack& pack) {
  const auto& m = pack.metadata;
  require(static_cast<int64_t>(pack.layers.size()) == m.layers && !m.kappa.empty());
  for (const auto& layer : pack.layers) {
    require(layer.router_heads == 1 || layer.router_heads == m.heads);
    require(layer.router_q.size() == layer.router_k.size());
    check_numbers(layer.router_q, layer.router_heads * m.head_dim * m.head_dim);
    check_numbers(layer.router_k, layer.router_heads * m.head_dim * m.head_dim);
    check_numbers(layer.proj, m.head_dim * m.head_dim);
    check_numbers(layer.proj_bias, m.head_dim);
    require(layer.mix.empty() || layer.mix.size() == m.kappa.size());
    const int64_t blocks = (m.tokens() + m.block_q - 1) / m.block_q;
    const int64_t each = m.alpha_mode == "head_affine_lse" ? 2 : m.alpha_mode == "block" ? blocks : 1;
    for (const auto& mix : layer.mix) check_numbers(mix, m.heads * each);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const MemoryFile file(data, size);
  try {
    (void)sla2::weights::identify(file.path());
  } catch (const sla2::Error&) {
  }
  try {
    check_sizes(sla2::weights::read_router_pack(file.path()));
  } catch (const sla2::Error&) {
  }
  return 0;
}

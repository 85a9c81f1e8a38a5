// SPDX-License-Identifier: Apache-2.0
// Full against SLA2 attention at rising lengths, and from which on the sparse one is faster: what the default of min_tokens is
// measured with.
#pragma once
#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

namespace sla2::cli {

inline constexpr std::array<int64_t, 5> kBenchTokens{256, 512, 1024, 2048, 4096};
inline constexpr int64_t kMostBenchTokens = 131072;

double median(std::vector<double> values);

/// {"heads", "head_dim", "threads", "rows": [{"bits", "tokens", "full", "sla2": [{"sparsity", "seconds"}]}],
///  "faster_from": [{"bits", "sparsity", "tokens"}]}: CPU seconds of all threads, medians; tokens null: nowhere.
nlohmann::json bench_attention(const std::vector<int64_t>& tokens, int threads, int runs);
void print_attention(const nlohmann::json& report);

}  // namespace sla2::cli

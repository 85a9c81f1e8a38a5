// SPDX-License-Identifier: Apache-2.0
#include "oracle/attention_oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace sla2::oracle {
namespace {

template <typename T>
using Rows = std::vector<T>;

template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  T sum = 0;
  for (int64_t c = 0; c < count; ++c) sum += a[c] * b[c];
  return sum;
}

template <typename T>
Rows<T> block_means(const Rows<T>& x, int64_t tokens, int64_t dim, int64_t block) {
  Rows<T> means;
  for (int64_t first = 0; first < tokens; first += block) {
    const int64_t count = std::min(block, tokens - first);
    for (int64_t c = 0; c < dim; ++c) {
      T sum = 0;
      for (int64_t t = 0; t < count; ++t) sum += x[static_cast<size_t>((first + t) * dim + c)];
      means.push_back(sum / static_cast<T>(count));
    }
  }
  return means;
}

template <typename T>
Rows<T> channel_softmax(Rows<T> x, int64_t dim) {
  for (size_t at = 0; at < x.size(); at += static_cast<size_t>(dim)) {
    const auto begin = x.begin() + static_cast<std::ptrdiff_t>(at), end = begin + dim;
    const T top = *std::max_element(begin, end);
    T sum = 0;
    for (auto it = begin; it != end; ++it) sum += * it = std::exp(*it - top);
    for (auto it = begin; it != end; ++it) *it /= sum;
  }
  return x;
}

/// softmax(logits) · V over the keys with finite or infinite logits; -inf everywhere gives 0. Also log Σ exp.
template <typename T>
T softmax_row(const std::vector<T>& logits, const Rows<T>& v, int64_t dim, T* out) {
  const T top = *std::max_element(logits.begin(), logits.end());
  std::fill_n(out, dim, T{0});
  if (top == -std::numeric_limits<T>::infinity()) return top;
  T sum = 0;
  for (size_t j = 0; j < logits.size(); ++j) {
    const T p = std::exp(logits[j] - top);
    sum += p;
    for (int64_t c = 0; c < dim; ++c) out[c] += p * v[j * static_cast<size_t>(dim) + static_cast<size_t>(c)];
  }
  for (int64_t c = 0; c < dim; ++c) out[c] /= sum;
  return top + std::log(sum);
}

}  // namespace

template <typename T>
std::vector<T> attention(const Problem& p, const std::vector<float>& q32, const std::vector<float>& k32,
                         const std::vector<float>& v32, const std::vector<float>& bias) {
  const Rows<T> q(q32.begin(), q32.end()), k(k32.begin(), k32.end()), v(v32.begin(), v32.end());
  const int64_t d = p.dim;
  const T scale = static_cast<T>(p.scale > 0 ? p.scale : 1 / std::sqrt(static_cast<double>(d)));
  const T none = -std::numeric_limits<T>::infinity();
  std::vector<T> out(static_cast<size_t>(p.queries * d));
  std::vector<T> logits(static_cast<size_t>(p.keys));
  if (!p.sparse) {
    for (int64_t i = 0; i < p.queries; ++i) {
      for (int64_t j = 0; j < p.keys; ++j)
        logits[static_cast<size_t>(j)] = dot(&q[static_cast<size_t>(i * d)], &k[static_cast<size_t>(j * d)], d) * scale +
                                         (bias.empty() ? T{0} : static_cast<T>(bias[static_cast<size_t>(j)]));
      softmax_row(logits, v, d, &out[static_cast<size_t>(i * d)]);
    }
    return out;
  }

  const Rows<T> mean = block_means(k, p.keys, d, p.keys);
  Rows<T> centred = k;
  for (size_t at = 0; at < centred.size(); ++at) centred[at] -= mean[at % static_cast<size_t>(d)];
  const Rows<T> phi_q = channel_softmax(q, d), phi_k = channel_softmax(p.smooth_k ? centred : k, d);
  const Rows<T> pooled_q = block_means(q, p.queries, d, p.block_q), pooled_k = block_means(centred, p.keys, d, p.block_k);
  const int64_t key_blocks = (p.keys + p.block_k - 1) / p.block_k;
  const int64_t kept = std::max<int64_t>(1, std::llround((1 - p.sparsity) * static_cast<double>(key_blocks)));

  for (int64_t i = 0; i < p.queries; ++i) {
    std::vector<T> router(static_cast<size_t>(key_blocks));
    for (int64_t b = 0; b < key_blocks; ++b)
      router[static_cast<size_t>(b)] =
          scale * dot(&pooled_q[static_cast<size_t>(i / p.block_q * d)], &pooled_k[static_cast<size_t>(b * d)], d);
    std::vector<size_t> order(router.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t x, size_t y) { return router[x] > router[y]; });
    std::vector<bool> chosen(router.size(), false);
    for (int64_t n = 0; n < kept; ++n) chosen[order[static_cast<size_t>(n)]] = true;

    std::vector<T> numerator(static_cast<size_t>(d), T{0});
    T denominator = 0, total = 0;
    for (int64_t j = 0; j < p.keys; ++j) {
      const bool in = chosen[static_cast<size_t>(j / p.block_k)];
      logits[static_cast<size_t>(j)] =
          in ? scale * dot(&q[static_cast<size_t>(i * d)], &centred[static_cast<size_t>(j * d)], d) : none;
      const T weight = dot(&phi_q[static_cast<size_t>(i * d)], &phi_k[static_cast<size_t>(j * d)], d);
      total += weight;
      if (in) continue;
      denominator += weight;
      for (int64_t c = 0; c < d; ++c) numerator[static_cast<size_t>(c)] += weight * v[static_cast<size_t>(j * d + c)];
    }
    T* const row = &out[static_cast<size_t>(i * d)];
    const T log_sum = softmax_row(logits, v, d, row);
    if (kept == key_blocks) continue;
    T logit = static_cast<T>(p.mix_bias);
    if (!p.mix_const) {
      T top = none, rest = 0;
      for (size_t b = 0; b < router.size(); ++b)
        if (!chosen[b]) top = std::max(top, router[b]);
      for (int64_t b = 0; b < key_blocks; ++b)
        if (!chosen[static_cast<size_t>(b)])
          rest += static_cast<T>(std::min(p.block_k, p.keys - b * p.block_k)) * std::exp(router[static_cast<size_t>(b)] - top);
      logit += static_cast<T>(p.mix_scale) * (log_sum - (top + std::log(rest)));
    }
    const T a = 1 / (1 + std::exp(-logit));
    const T floor = static_cast<T>(1e-6) * total;
    for (int64_t c = 0; c < d; ++c)
      row[c] = a * row[c] + (1 - a) * numerator[static_cast<size_t>(c)] / std::max(denominator, floor);
  }
  return out;
}

template std::vector<double> attention<double>(const Problem&, const std::vector<float>&, const std::vector<float>&,
                                               const std::vector<float>&, const std::vector<float>&);
template std::vector<float> attention<float>(const Problem&, const std::vector<float>&, const std::vector<float>&,
                                             const std::vector<float>&, const std::vector<float>&);

}  // namespace sla2::oracle

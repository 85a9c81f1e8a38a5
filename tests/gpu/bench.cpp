// SPDX-License-Identifier: Apache-2.0
#include "bench.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "attention/attention.h"
#include "core/core.h"

namespace sla2::gpu_check {
namespace {

/// Memory of the GPU.
class Buffer {
 public:
  Buffer(check::TestGpu& gpu, uint64_t bytes) : gpu_(gpu), data_(gpu.allocate(std::max<uint64_t>(bytes, 1))) {}
  ~Buffer() { gpu_.release(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  check::TestGpu& gpu_;
  void* data_;
};

/// Tokens in clusters of neighbours, so that blocks differ and a router has something to choose.
std::vector<uint16_t> make_head(int64_t tokens, int64_t dim, unsigned seed) {
  constexpr int kClusters = 64;
  constexpr int64_t kRun = 97;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> centres(static_cast<size_t>(kClusters * dim));
  for (float& x : centres) x = 0.7F * normal(random);
  std::vector<float> noise(8191);  // a prime: no row repeats another's
  for (float& x : noise) x = normal(random);
  std::vector<uint16_t> head(static_cast<size_t>(tokens * dim));
  size_t next = 0;
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < dim; ++c)
      head[static_cast<size_t>(t * dim + c)] =
          f32_to_bf16(centres[static_cast<size_t>(t / kRun % kClusters * dim + c)] + noise[next++ % noise.size()]);
  return head;
}

double median(std::vector<double> x) {
  if (x.empty()) return 0;
  std::sort(x.begin(), x.end());
  return x.size() % 2 == 1 ? x[x.size() / 2] : (x[x.size() / 2 - 1] + x[x.size() / 2]) / 2;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + '"';
}

}  // namespace

struct Bench::Tensors {
  Tensors(check::TestGpu& gpu, const Shape& s)
      : shape(s),
        bytes(static_cast<uint64_t>(s.tokens * s.heads * s.dim) * 2),
        q(gpu, bytes),
        k(gpu, bytes),
        v(gpu, bytes),
        out(gpu, bytes),
        weights(gpu, static_cast<uint64_t>(2 * s.heads * s.dim * s.dim) * 4) {}
  Shape shape;
  uint64_t bytes;
  Buffer q, k, v, out, weights;
};

Bench::Bench(check::TestGpu& gpu, int number) : gpu_(gpu), marks_(number), timed_(gpu, marks_) {}
Bench::~Bench() = default;

void Bench::make_tensors(const Shape& s) {
  if (tensors_ && tensors_->shape == s) return;
  tensors_.reset();
  tensors_ = std::make_unique<Tensors>(gpu_, s);
  const int64_t size = s.tokens * s.dim;
  unsigned seed = 1;
  for (const Buffer* const x : {&tensors_->q, &tensors_->k, &tensors_->v}) {
    const std::vector<uint16_t> head = make_head(s.tokens, s.dim, seed++);
    for (int64_t h = 0; h < s.heads; ++h) {  // each head is the first one turned by some tokens
      const int64_t turn = h * 1009 % s.tokens * s.dim;
      gpu_.copy_in(x->as<uint16_t>() + h * size, head.data() + turn, static_cast<uint64_t>(size - turn) * 2);
      gpu_.copy_in(x->as<uint16_t>() + h * size + size - turn, head.data(), static_cast<uint64_t>(turn) * 2);
    }
  }
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> weights(static_cast<size_t>(2 * s.heads * s.dim * s.dim));
  for (size_t i = 0; i < weights.size(); ++i) {
    const auto dim = static_cast<size_t>(s.dim);
    weights[i] = 0.05F * normal(random) + (i / dim % dim == i % dim ? 1.0F : 0.0F);
  }
  gpu_.copy_in(tensors_->weights.as<float>(), weights.data(), weights.size() * 4);
}

std::string Bench::answer(const Question& question) {
  const Shape& s = question.shape;
  attention::Config config;
  config.mode = question.sparsity > 0 ? attention::Mode::kSla2 : attention::Mode::kFull;
  config.heads = s.heads, config.query_tokens = config.key_tokens = s.tokens, config.head_dim = s.dim;
  config.sparsity = question.sparsity;
  config.bits = question.bits, config.products = DType::kBF16, config.fp8_values = question.fp8_values;
  std::string head = fmt::format(R"({{"tokens": {}, "heads": {}, "dim": {}, "sparsity": {}, "bits": {}, "fp8_values": {})",
                                 s.tokens, s.heads, s.dim, question.sparsity, question.bits, question.fp8_values);
  std::unique_ptr<attention::Plan> plan;
  try {
    plan = attention::Plan::create(config, timed_);
  } catch (const Error& error) {
    return head + fmt::format(R"(, "refused": {}}})", quoted(error.what()));
  }
  make_tensors(s);
  const Tensors& t = *tensors_;
  const Buffer workspace(gpu_, plan->workspace_bytes());
  const int64_t size = s.tokens * s.dim;
  const auto operand = [&](const Buffer& x) {
    return attention::Operand{x.as<void>(), DType::kBF16, s.heads * size, size, s.dim};
  };
  attention::Forward call;
  call.q = operand(t.q), call.k = operand(t.k), call.v = operand(t.v);
  call.out = {t.out.as<void>(), DType::kBF16, s.heads * size, size, s.dim};
  if (question.sparsity > 0) {
    call.parameters.router_q = t.weights.as<float>(), call.parameters.router_k = t.weights.as<float>() + s.heads * s.dim * s.dim;
    call.parameters.router_heads = s.heads;
  }
  std::vector<double> whole;
  timed_.recording = false;
  for (int i = -1; i < question.repeats; ++i) {  // one call to warm up
    marks_.clear();
    const size_t first = marks_.set();
    plan->forward(call, workspace.as<void>());
    const double ms = marks_.milliseconds(first, marks_.set());
    if (i >= 0) whole.push_back(ms);
  }
  std::map<std::string, std::vector<double>> kernels;
  std::vector<std::string> order;
  for (int i = 0; question.kernels && i < std::max(3, question.repeats); ++i) {
    marks_.clear(), timed_.spans.clear(), timed_.recording = true;
    plan->forward(call, workspace.as<void>());
    timed_.recording = false;
    for (const TimedGpu::Span& span : timed_.spans) {
      if (kernels[span.kernel].empty()) order.push_back(span.kernel);
      kernels[span.kernel].push_back(marks_.milliseconds(span.first, span.second));
    }
  }
  gpu_.wait(nullptr);
  std::vector<uint16_t> rows(static_cast<size_t>(s.dim));  // the last row of the last head: nobody times what was not computed
  gpu_.copy_out(rows.data(), t.out.as<uint16_t>() + s.heads * size - s.dim, rows.size() * 2);
  const bool finite = std::all_of(rows.begin(), rows.end(), [](uint16_t x) { return std::isfinite(bf16_to_f32(x)); });
  std::string text = head + fmt::format(R"(, "workspace_bytes": {}, "finite": {}, "ms": [)", plan->workspace_bytes(), finite);
  for (size_t i = 0; i < whole.size(); ++i) text += fmt::format("{}{:.6f}", i == 0 ? "" : ", ", whole[i]);
  text += R"(], "kernels": {)";
  for (size_t i = 0; i < order.size(); ++i)
    text += fmt::format(R"({}"{}": {:.6f})", i == 0 ? "" : ", ", order[i], median(kernels[order[i]]));
  text += R"(}, "shared_bytes": {)";
  size_t i = 0;
  for (const auto& [kernel, bytes] : timed_.prepared()) text += fmt::format(R"({}"{}": {})", i++ == 0 ? "" : ", ", kernel, bytes);
  return text + "}}";
}

}  // namespace sla2::gpu_check

// SPDX-License-Identifier: Apache-2.0
// Memory of attention's calls: they take none, offsets past 2^31 elements are right, workspaces are as small as promised.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "attention/workspace.h"

namespace {

std::atomic<bool> g_watching{false};
std::atomic<int64_t> g_taken{0};
void note() noexcept {
  if (g_watching.load(std::memory_order_relaxed)) g_taken.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

// The linker sends this program's own calls of malloc and its kin here (--wrap); operator new is replaced below.
extern "C" {
void* __real_malloc(size_t size);
void* __real_calloc(size_t count, size_t size);
void* __real_realloc(void* old, size_t size);
void* __real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void** out, size_t alignment, size_t size);
void* __wrap_malloc(size_t size);
void* __wrap_calloc(size_t count, size_t size);
void* __wrap_realloc(void* old, size_t size);
void* __wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void** out, size_t alignment, size_t size);

void* __wrap_malloc(size_t size) { return note(), __real_malloc(size); }
void* __wrap_calloc(size_t count, size_t size) { return note(), __real_calloc(count, size); }
void* __wrap_realloc(void* old, size_t size) { return note(), __real_realloc(old, size); }
void* __wrap_aligned_alloc(size_t alignment, size_t size) { return note(), __real_aligned_alloc(alignment, size); }
int __wrap_posix_memalign(void** out, size_t alignment, size_t size) {
  return note(), __real_posix_memalign(out, alignment, size);
}
}

// Not inlined: GCC would see memory of operator new go to free.
__attribute__((noinline)) void* operator new(size_t size) {
  note();
  if (void* const p = __real_malloc(size == 0 ? 1 : size)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void* operator new(size_t size, std::align_val_t alignment) {
  note();
  const auto step = static_cast<size_t>(alignment);
  if (void* const p = __real_aligned_alloc(step, (size + step - 1) / step * step)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, size_t) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }

namespace sla2::test {
namespace {

using attention::Config;
using attention::Mode;
using attention::Router;

constexpr int64_t kBatch = 2, kHeads = 2, kQueries = 70, kKeys = 100, kDim = 40;

Config small_config(Mode mode, DType products = DType::kF32, int32_t bits = 16) {
  Config c;
  c.mode = mode;
  c.batch = kBatch, c.heads = kHeads, c.query_tokens = kQueries, c.key_tokens = kKeys, c.head_dim = kDim;
  c.block_q = 32, c.block_k = 16;
  c.sparsity = 0.6;
  c.products = products, c.bits = bits;
  return c;
}

/// Strides in elements.
struct Layout {
  int64_t batch, head, token;
};

/// [B][H][tokens][D] in address space that is not reserved: only the pages that rows lie on come into being.
class Tensor {
 public:
  Tensor(const Layout& at, int64_t tokens, DType dtype, uint32_t seed = 0) : at_(at), tokens_(tokens), dtype_(dtype) {
    const int64_t last = (kBatch - 1) * at.batch + (kHeads - 1) * at.head + (tokens - 1) * at.token + kDim;
    bytes_ = static_cast<size_t>(last) * dtype_size(dtype);
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED || seed == 0) return;
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < kBatch * kHeads * tokens; ++row) {
      float values[kDim];
      for (float& x : values) x = normal(engine);
      if (dtype == DType::kF32)
        std::memcpy(this->row(row), values, sizeof values);
      else
        convert_to_bf16(values, reinterpret_cast<bf16_t*>(this->row(row)), kDim);
    }
  }
  ~Tensor() {
    if (there()) munmap(data_, bytes_);
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  [[nodiscard]] bool there() const { return data_ != MAP_FAILED; }
  [[nodiscard]] attention::Operand in() const { return {data_, dtype_, at_.batch, at_.head, at_.token}; }
  [[nodiscard]] attention::MutableOperand out() const { return {data_, dtype_, at_.batch, at_.head, at_.token}; }
  /// The rows one after the other.
  [[nodiscard]] std::vector<std::byte> rows() const {
    std::vector<std::byte> all;
    for (int64_t r = 0; r < kBatch * kHeads * tokens_; ++r) all.insert(all.end(), row(r), row(r) + row_bytes());
    return all;
  }

 private:
  [[nodiscard]] size_t row_bytes() const { return static_cast<size_t>(kDim) * dtype_size(dtype_); }
  [[nodiscard]] std::byte* row(int64_t r) const {
    const int64_t head = r / tokens_;
    const int64_t at = head / kHeads * at_.batch + head % kHeads * at_.head + r % tokens_ * at_.token;
    return static_cast<std::byte*>(data_) + static_cast<size_t>(at) * dtype_size(dtype_);
  }

  Layout at_;
  int64_t tokens_;
  DType dtype_;
  size_t bytes_ = 0;
  void* data_ = nullptr;
};

/// Everything one call of each kind needs and returns.
struct Calls {
  std::unique_ptr<attention::Plan> plan;
  AlignedBuffer<std::byte> scratch, backward_scratch;
  Tensor q, k, v, gate, d_out, out, d_q, d_k, d_v, d_gate;
  std::vector<float> lse, mix, d_mix, proj, d_proj, proj_bias, d_proj_bias, router, d_router_q, d_router_k;
  std::vector<int32_t> index, count;
  std::vector<uint8_t> mask;
  attention::BlockList list;
  attention::Probe probe;
  attention::Forward forward;
  attention::Backward backward;

  /// by_head: where heads are far from each other, by_token: where tokens are.
  Calls(const Config& c, DType dtype, bool with_router, const Layout& by_head, const Layout& by_token)
      : plan(attention::Plan::create(c)),
        scratch(plan->workspace_bytes()),
        backward_scratch(plan->backward_workspace_bytes()),
        q(by_head, kQueries, dtype, 1),
        k(by_token, kKeys, dtype, 2),
        v(by_head, kKeys, dtype, 3),
        gate(by_token, kQueries, dtype, 4),
        d_out(by_token, kQueries, dtype, 5),
        out(by_head, kQueries, dtype),
        d_q(by_token, kQueries, dtype),
        d_k(by_head, kKeys, dtype),
        d_v(by_token, kKeys, dtype),
        d_gate(by_head, kQueries, dtype) {
    const auto rows = static_cast<size_t>(kBatch * kHeads * plan->query_blocks()),
               most = static_cast<size_t>(std::max<int64_t>(1, plan->max_kept()));
    lse.resize(static_cast<size_t>(kBatch * kHeads * kQueries));
    index.resize(rows * most), count.resize(rows);
    list = {index.data(), count.data(), static_cast<int64_t>(most)};
    probe.fraction = 0.5;
    forward.q = q.in(), forward.k = k.in(), forward.v = v.in(), forward.out = out.out();
    forward.lse = lse.data(), forward.list = &list;
    const bool routed = c.mode != Mode::kFull && c.mode != Mode::kLinearOnly;
    if (routed) forward.probe = &probe;
    attention::Parameters& p = forward.parameters;
    attention::Gradients& g = backward.gradients;
    const auto learned = [](std::vector<float>& values, std::vector<float>& gradient, int64_t size, const float*& in,
                            float*& to) {
      for (int64_t i = 0; i < size; ++i) values.push_back(0.01F * static_cast<float>(i % 7));
      gradient.resize(values.size());
      in = values.data(), to = gradient.data();
    };
    if (c.mode == Mode::kSla2) learned(mix, d_mix, 2 * kHeads, p.mix, g.mix);
    if (c.mode == Mode::kSla1) {
      learned(proj, d_proj, kDim * kDim, p.proj, g.proj);
      learned(proj_bias, d_proj_bias, kDim, p.proj_bias, g.proj_bias);
    }
    if (with_router) {
      learned(router, d_router_q, kDim * kDim, p.router_q, g.router_q);
      d_router_k.resize(d_router_q.size());
      p.router_k = router.data(), g.router_k = d_router_k.data();
    }
    if (routed && c.router == Router::kVsa) p.gate = gate.in(), g.gate = d_gate.out();
    if (routed && c.router == Router::kGiven) {
      mask.assign(rows * static_cast<size_t>(plan->key_blocks()), 0);
      for (size_t i = 0; i < mask.size(); i += 3) mask[i] = 1;
      forward.given_mask = mask.data();
    }
    backward.q = forward.q, backward.k = forward.k, backward.v = forward.v, backward.d_out = d_out.in();
    backward.parameters = p, backward.list = &list;
    g.q = d_q.out(), g.k = d_k.out(), g.v = d_v.out();
  }

  [[nodiscard]] bool there() const {
    for (const Tensor* const x : {&q, &k, &v, &gate, &d_out, &out, &d_q, &d_k, &d_v, &d_gate})
      if (!x->there()) return false;
    return true;
  }

  /// saved: backward takes what forward returned.
  void run(bool saved) {
    plan->route(forward, scratch.data());
    plan->forward(forward, scratch.data());
    backward.out = saved ? out.in() : attention::Operand{};
    backward.lse = saved ? lse.data() : nullptr;
    plan->backward(backward, backward_scratch.data());
  }
};

/// Heads, or tokens, one after the other.
constexpr Layout kHeadsApart{kHeads * kKeys * kDim, kKeys*kDim, kDim}, kTokensApart{kKeys * kHeads * kDim, kDim, kHeads*kDim};

TEST_CASE("strides of more than 2^31 elements reach the same rows", "[attention]") {
  constexpr int64_t kFar = int64_t{1} << 31, kStep = int64_t{1} << 25;
  const Layout heads_far{2 * (kFar + 192), kFar + 192, kDim + 8}, tokens_far{kDim + 8, 2 * kDim + 24, kStep + 64};
  static_assert((kQueries - 1) * kStep > kFar);
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const Mode mode : {Mode::kFull, Mode::kSla2, Mode::kSparseOnly}) {
      Config c = small_config(mode, dtype == DType::kBF16 ? DType::kBF16 : DType::kF32);
      if (mode == Mode::kSparseOnly) c.router = Router::kVsa;
      Calls near(c, dtype, false, kHeadsApart, kTokensApart), far(c, dtype, false, heads_far, tokens_far);
      if (!far.there()) {
        WARN("no address space of " << (kFar >> 27) << " GiB and more: not tested");
        return;
      }
      near.run(true);
      far.run(true);
      CHECK(far.lse == near.lse);
      CHECK(far.out.rows() == near.out.rows());
      CHECK(far.d_q.rows() == near.d_q.rows());
      CHECK(far.d_k.rows() == near.d_k.rows());
      CHECK(far.d_v.rows() == near.d_v.rows());
      CHECK(far.d_gate.rows() == near.d_gate.rows());
    }
}

TEST_CASE("calls take no memory", "[attention]") {
  std::vector<std::pair<Config, bool>> cases;  // and whether the router's matrices are given
  for (int mode = 1; mode <= 7; ++mode)
    for (const auto& [products, bits] : {std::pair{DType::kF32, 16}, {DType::kBF16, 16}, {DType::kBF16, 8}})
      cases.emplace_back(small_config(static_cast<Mode>(mode), products, bits), false);
  for (const Router router : {Router::kSla1, Router::kVsa, Router::kVmoba, Router::kSparge, Router::kGiven}) {
    Config c = small_config(Mode::kSparseOnly);
    c.router = router;
    if (router == Router::kSparge) c.rule = attention::Rule::kHybrid, c.theta = 0.1;
    cases.emplace_back(c, router != Router::kGiven);
  }
  for (const Mode mode : {Mode::kSla2, Mode::kSla1, Mode::kPooled}) {
    Config c = small_config(mode);
    c.tau = 0.3;
    cases.emplace_back(c, true);
  }
  for (const int threads : {1, 2}) {
    set_thread_count(threads);
    for (const auto& [c, with_router] : cases) {
      Calls calls(c, DType::kF32, with_router, kHeadsApart, kTokensApart);
      for (const bool saved : {false, true}) {
        calls.run(saved);  // the threads' own start is not the call's
        g_taken = 0;
        g_watching = true;
        calls.run(saved);
        g_watching = false;
        INFO("mode " << static_cast<int>(c.mode) << ", router " << static_cast<int>(c.router) << ", bits " << c.bits << ", tau "
                     << c.tau << ", threads " << threads << ", saved " << saved);
        CHECK(g_taken == 0);
      }
    }
  }
  set_thread_count(0);
}

TEST_CASE("the watch on memory sees what is taken", "[attention]") {
  g_taken = 0;
  g_watching = true;
  const volatile size_t count = 100;  // nor does the compiler see through it
  void* volatile block = std::malloc(count);
  std::free(block);
  { const AlignedBuffer<float> buffer(count); }
  { const std::vector<int> numbers(count); }
  g_watching = false;
  CHECK(g_taken >= 3);
}

// docs/numerics.md, "Memory": what a head needs, and about 0.3 MB for each worker.
TEST_CASE("workspaces stay below three quarters of Q, K and V in fp32", "[attention]") {
  constexpr double kPromised = 0.75;
  for (const int64_t workers : {1, 2, 4})
    for (const int64_t tokens : {4096 * workers, int64_t{32760}})
      for (const int64_t dim : {64, 128})
        for (const int32_t bits : {16, 8})
          for (int mode = 1; mode <= 7; ++mode) {
            Config c;
            c.mode = static_cast<Mode>(mode);
            c.heads = 1;
            c.query_tokens = c.key_tokens = tokens;
            c.head_dim = dim;
            c.sparsity = 0.9;
            c.products = DType::kBF16;
            c.bits = bits;
            const attention::Geometry g = attention::make_geometry(c, Isa::kAvx512Bf16);
            const auto bytes = static_cast<double>(attention::Workspace(g, static_cast<int>(workers), nullptr).bytes());
            const auto inputs = static_cast<double>(3 * tokens * dim) * sizeof(float);
            INFO("mode " << mode << ", bits " << bits << ", D " << dim << ", N " << tokens << ", workers " << workers << ": "
                         << bytes / inputs);
            CHECK(bytes <= kPromised * inputs);
          }
}

}  // namespace
}  // namespace sla2::test

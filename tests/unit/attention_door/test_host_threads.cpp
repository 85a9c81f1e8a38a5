// SPDX-License-Identifier: Apache-2.0
// sla2_exec.run: attention on a host's threads gives the bits it gives on the library's, and a host that leaves tasks out is
// told.
#include <sla2/attention.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "api/guard.h"
#include "core/core.h"

namespace {

constexpr int64_t kHeads = 3, kTokens = 160, kDim = 40;
constexpr size_t kNumbers = kHeads * kTokens * kDim;

/// Threads of a program: made per loop, each takes every `workers`-th task, the last first.
struct Host {
  std::atomic<int> loops{0}, tasks{0};
};

void run_backwards(void* user, sla2_task_fn task, void* arg, int64_t count, int32_t workers) {
  auto& host = *static_cast<Host*>(user);
  ++host.loops;
  std::vector<std::thread> threads;
  for (int32_t worker = 0; worker < workers; ++worker)
    threads.emplace_back([&host, task, arg, count, workers, worker] {
      for (int64_t i = count - 1 - worker; i >= 0; i -= workers) {
        task(arg, i, worker);
        ++host.tasks;
      }
    });
  for (std::thread& thread : threads) thread.join();
}

void run_but_one(void*, sla2_task_fn task, void* arg, int64_t count, int32_t) {
  for (int64_t i = 1; i < count; ++i) task(arg, i, 0);
}

void run_as_a_worker_there_is_not(void*, sla2_task_fn task, void* arg, int64_t count, int32_t workers) {
  for (int64_t i = 0; i < count; ++i) task(arg, i, workers);
}

void run_beyond(void*, sla2_task_fn task, void* arg, int64_t count, int32_t) {
  for (int64_t i = 0; i < count; ++i) task(arg, i, 0);
  task(arg, count, 0);  // none of the loop's: not run
  task(arg, -1, 0);
}

struct Array {
  sla2::AlignedBuffer<float> data{kNumbers};
  sla2_tensor tensor{};
  explicit Array(float salt) {
    const int64_t shape[4] = {1, kHeads, kTokens, kDim};
    REQUIRE(sla2_tensor_init(&tensor, sizeof tensor) == SLA2_OK);
    REQUIRE(sla2_tensor_set_contiguous(&tensor, data.data(), SLA2_DTYPE_FLOAT, 32, 4, shape) == SLA2_OK);
    for (size_t i = 0; i < kNumbers; ++i) data[i] = std::sin(static_cast<float>(i) * salt);
  }
  [[nodiscard]] std::vector<float> values() const { return {data.data(), data.data() + kNumbers}; }
};

/// A forward and a backward call with this exec, on inputs that are always the same.
struct Result {
  sla2_status forward = SLA2_OK, backward = SLA2_OK;
  std::string text;
  std::vector<float> out, dq, dk;
};

Result attend(sla2_run_fn run, void* user, int32_t threads, int32_t mode) {
  sla2_attention_config config{};
  REQUIRE(sla2_attention_config_init(&config, sizeof config) == SLA2_OK);
  config.mode = mode;
  config.heads = kHeads;
  config.query_tokens = config.key_tokens = kTokens;
  config.head_dim = kDim;
  config.block_q = config.block_k = 32;
  config.sparsity = 0.5;
  sla2::set_thread_count(4);  // a plan keeps as many workers as there are when it is made
  sla2_attention* plan = nullptr;
  REQUIRE(sla2_attention_create(&config, &plan) == SLA2_OK);
  sla2::set_thread_count(0);
  uint64_t bytes = 0, backward_bytes = 0;
  REQUIRE(sla2_attention_workspace_size(plan, &bytes) == SLA2_OK);
  REQUIRE(sla2_attention_backward_workspace_size(plan, &backward_bytes) == SLA2_OK);
  sla2::AlignedBuffer<std::byte> workspace(std::max(bytes, backward_bytes));

  const Array q(1.7F), k(0.9F), v(0.3F), d_out(0.7F);
  Array out(0), dq(0), dk(0);
  sla2_qkv qkv{};
  REQUIRE(sla2_qkv_init(&qkv, sizeof qkv) == SLA2_OK);
  qkv.q = &q.tensor, qkv.k = &k.tensor, qkv.v = &v.tensor;
  sla2_exec exec{};
  REQUIRE(sla2_exec_init(&exec, sizeof exec) == SLA2_OK);
  exec.threads = threads;
  exec.run = run;
  exec.run_user = user;
  int64_t query_blocks = 0, max_kept = 0;
  REQUIRE(sla2_attention_blocks(plan, &query_blocks, nullptr, &max_kept) == SLA2_OK);
  std::vector<int32_t> index(static_cast<size_t>(kHeads * query_blocks * max_kept)),
      count(static_cast<size_t>(kHeads * query_blocks));
  sla2_block_list list{};
  REQUIRE(sla2_block_list_init(&list, sizeof list) == SLA2_OK);
  list.index = index.data(), list.count = count.data(), list.capacity = max_kept;
  sla2_attention_outputs outputs{};
  REQUIRE(sla2_attention_outputs_init(&outputs, sizeof outputs) == SLA2_OK);
  outputs.out = &out.tensor, outputs.list = &list;
  sla2_attention_saved saved{};
  REQUIRE(sla2_attention_saved_init(&saved, sizeof saved) == SLA2_OK);
  saved.d_out = &d_out.tensor, saved.list = &list;
  sla2_attention_grads grads{};
  REQUIRE(sla2_attention_grads_init(&grads, sizeof grads) == SLA2_OK);
  grads.q = &dq.tensor, grads.k = &dk.tensor;

  Result result;
  result.forward = sla2_attention_run(plan, &exec, &qkv, nullptr, workspace.data(), workspace.size(), &outputs);
  if (result.forward != SLA2_OK) result.text = sla2::api::last_error();
  if (result.forward == SLA2_OK)
    result.backward = sla2_attention_backward(plan, &exec, &qkv, nullptr, &saved, workspace.data(), workspace.size(), &grads);
  sla2_attention_destroy(plan);
  result.out = out.values(), result.dq = dq.values(), result.dk = dk.values();
  return result;
}

}  // namespace

TEST_CASE("a host's threads give the same bits, forward and backward") {
  for (const int32_t mode : {SLA2_MODE_FULL, SLA2_MODE_SLA2}) {
    const Result own = attend(nullptr, nullptr, 0, mode);
    REQUIRE((own.forward == SLA2_OK && own.backward == SLA2_OK));
    for (const int32_t threads : {2, 3, 4}) {
      Host host;
      const Result result = attend(run_backwards, &host, threads, mode);
      INFO("mode " << mode << ", " << threads << " workers");
      CHECK((result.forward == SLA2_OK && result.backward == SLA2_OK));
      CHECK(host.loops > 1);
      CHECK(host.tasks > kHeads);
      CHECK(result.out == own.out);
      CHECK(result.dq == own.dq);
      CHECK(result.dk == own.dk);
    }
  }
}

TEST_CASE("one worker needs no host") {
  Host host;
  const Result result = attend(run_backwards, &host, 1, SLA2_MODE_SLA2);
  CHECK(result.forward == SLA2_OK);
  CHECK(host.loops == 0);
}

TEST_CASE("a host that leaves tasks out, or names a worker there is not, is refused") {
  for (const sla2_run_fn run : {run_but_one, run_as_a_worker_there_is_not}) {
    const Result result = attend(run, nullptr, 3, SLA2_MODE_SLA2);
    CHECK(result.forward == SLA2_E_ARGUMENT);
    CHECK(result.text.find("sla2_exec.run") != std::string::npos);
  }
  CHECK(attend(run_beyond, nullptr, 3, SLA2_MODE_SLA2).forward == SLA2_OK);
  Host host;  // and the thread is itself again
  CHECK(attend(nullptr, nullptr, 3, SLA2_MODE_SLA2).out == attend(run_backwards, &host, 3, SLA2_MODE_SLA2).out);
}

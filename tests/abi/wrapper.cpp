// SPDX-License-Identifier: Apache-2.0
// sla2.hpp as C++17: values travel, errors throw with status and text, copies are independent.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "sla2/sla2.hpp"

namespace {

int failures = 0;
void check(bool good, const char* what) {
  if (good) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

/// Gone when the callbacks of its job are.
struct Witness {
  std::atomic<bool>& gone;
  explicit Witness(std::atomic<bool>& flag) : gone(flag) {}
  ~Witness() { gone = true; }
};

/// A job to which another is assigned while it runs: it ends first, and its callbacks outlive it.
void replace_a_running_job(const char* path) {
  const sla2::Model model(path);
  sla2::Params params;
  params.merge(R"({"width": 64, "height": 64, "frames": 5, "steps": 1000, "prompt": "a boat"})");
  std::atomic<bool> gone{false}, late{false}, running{false};
  const auto start = [&] {
    auto witness = std::make_shared<Witness>(gone);
    const auto on_progress = [&gone, &late, &running, witness](const sla2_progress& p) {
      if (p.phase != SLA2_PHASE_SAMPLE || p.step == 0 || running) return;
      std::atomic<bool>&callbacks_gone = gone, &too_late = late;  // what is captured may be gone as well
      running = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the assignment below happens now
      if (callbacks_gone) too_late = true;
    };
    return sla2::Job(model, params, {on_progress, {}, {}});
  };
  sla2::Job job = start();
  while (!running) std::this_thread::yield();
  params.set("steps", 1);
  job = sla2::Job(model, params);
  check(gone, "the first job and its callbacks are gone");
  check(!late, "in this order");
  job.wait();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::printf("usage: %s MODEL\n", argv[0]), 2;
  replace_a_running_job(argv[1]);
  sla2::Params params;
  params.set("steps", 12).set("cfg_scale", 4.5).set("prompt", "a boat").set("nan_retry", false);
  sla2::Params copy = params;
  copy.set("steps", 13);
  check(params.text("steps") == "12" && copy.text("steps") == "13", "copies are independent");
  sla2::Params again;
  again.merge(params.json());
  check(again.json() == params.json(), "settings survive JSON");
  try {
    params.set("steps", 0);
    check(false, "out of range throws");
  } catch (const sla2::Exception& error) {
    check(error.status() == SLA2_E_ARGUMENT && std::string(error.what()).find("1 to 1000") != std::string::npos,
          "the error says the range");
  }
  try {
    const sla2::Model model("/no/such/model");
    check(false, "a missing model throws");
  } catch (const sla2::Exception& error) {
    check(error.status() == SLA2_E_FILE_NOT_FOUND, "a missing model is FILE_NOT_FOUND");
  }
  auto config = sla2::Attention::defaults();
  config.mode = SLA2_MODE_SLA2;
  config.heads = 1;
  config.query_tokens = config.key_tokens = 256;
  config.head_dim = 64;
  config.sparsity = 0.5;
  const sla2::Attention attention(config);
  check(attention.blocks().query == 2 && attention.blocks().key == 4 && attention.blocks().max_kept == 2,
        "an attention plan's blocks");
  check(attention.stats().mode_used == SLA2_MODE_SLA2, "and what it will run");
  try {
    config.head_dim = 33;
    const sla2::Attention impossible(config);
    check(false, "an impossible plan throws");
  } catch (const sla2::Exception& error) {
    check(error.status() == SLA2_E_ARGUMENT, "an impossible plan is ARGUMENT");
  }
  check(sla2::system_info().find("\"isa\"") != std::string::npos, "system_info has the instruction set");
  return failures == 0 ? 0 : 1;
}

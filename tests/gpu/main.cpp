// SPDX-License-Identifier: Apache-2.0
// sla2_gpu_check: what ./dev gpu-check asks of a GPU (tests/gpu/gpu_check.py). Answers are lines of JSON.
//
//   sla2_gpu_check device GPU             facts of the device, and of every kernel on it
//   sla2_gpu_check trials GPU [planted]   instructions beside the emulator's tables; exit code 1 where one differs
//   sla2_gpu_check bench GPU              reads lines "tokens heads dim sparsity bits fp8 repeats kernels" until the end of input
//   sla2_gpu_check matrix                 what runs on which GPU, in Markdown; needs none
//
// GPU: gpu, gpu:N, emulated:80 …; exit code 3: no GPU, with one sentence.
#include <cstdio>
#include <iostream>
#include <sstream>

#include "bench.h"
#include "core/core.h"
#include "device/device.h"
#include "kernels/cuda/modules.h"
#include "matrix.h"
#include "trials.h"

namespace {

using namespace sla2;
using namespace sla2::gpu_check;

constexpr int kNoGpu = 3;

int tell_device(const check::TestGpu& gpu, bool real, int number) {
  if (!real) {
    std::printf(R"({"name": "emulated", "architecture": %d, "emulated": true, "kernels": {}})"
                "\n",
                gpu.architecture());
    return 0;
  }
  const DeviceFacts f = device_facts(number);
  std::string kernels;
  for (const cuda::KernelHome& home : cuda::kKernels) {
    KernelUse use;
    try {
      use = kernel_use(number, home.kernel);
    } catch (const Error&) {
      continue;  // not of this architecture
    }
    kernels +=
        fmt::format(R"({}"{}": {{"registers": {}, "static_shared": {}, "local_bytes": {}, "binary": {}}})",
                    kernels.empty() ? "" : ", ", home.kernel, use.registers, use.static_shared, use.local_bytes, use.binary);
  }
  std::printf(
      "%s\n",
      fmt::format(R"({{"name": "{}", "architecture": {}, "emulated": false, "multiprocessors": {}, )"
                  R"("cuda_driver": "{}.{}", "memory_bytes": {}, "l2_bytes": {}, "clock_khz": {}, "memory_clock_khz": {}, )"
                  R"("bus_bits": {}, "shared_per_multiprocessor": {}, "shared_per_block": {}, "kernels": {{{}}}}})",
                  f.name, f.architecture, f.multiprocessors, f.driver / 1000, f.driver % 1000 / 10, f.memory_bytes, f.l2_bytes,
                  f.clock_khz, f.memory_clock_khz, f.bus_bits, f.shared_per_multiprocessor, f.shared_per_block, kernels)
          .c_str());
  return 0;
}

int tell_trials(check::TestGpu& gpu, bool planted) {
  bool wrong = false;
  for (const TrialResult& r : run_trials(gpu, planted)) {
    std::printf(
        "%s\n",
        fmt::format(R"({{"instruction": "{}", "tried": {}, "cases": {}, "different": {}, "sum_bits": {}, "first": "{}"}})",
                    r.instruction, r.tried, r.cases, r.different, r.sum_bits, r.first)
            .c_str());
    wrong = wrong || r.different > 0;
  }
  return wrong ? 1 : 0;
}

int answer_questions(check::TestGpu& gpu, int number) {
  Bench bench(gpu, number);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    Question q;
    if (!(words >> q.shape.tokens >> q.shape.heads >> q.shape.dim >> q.sparsity >> q.bits >> q.fp8_values >> q.repeats >>
          q.kernels)) {
      std::fprintf(stderr, "sla2_gpu_check: expected 8 numbers, got '%s'\n", line.c_str());
      return 2;
    }
    std::printf("%s\n", bench.answer(q).c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "", word = argc > 2 ? argv[2] : "gpu";
  try {
    if (verb == "matrix") return std::printf("%s", matrix().c_str()) < 0 ? 1 : 0;
    const bool real = word.starts_with("gpu");
    if (real && !device::report().missing.empty()) {
      std::fprintf(stderr, "sla2_gpu_check: %s\n", device::report().missing.c_str());
      return kNoGpu;
    }
    const std::shared_ptr<check::TestGpu> gpu = check::gpu_called(word);
    const int number = !real ? -1 : word.size() > 4 ? std::stoi(word.substr(4)) : 0;
    if (gpu && verb == "device") return tell_device(*gpu, real, number);
    if (gpu && verb == "trials") return tell_trials(*gpu, argc > 3 && std::string(argv[3]) == "planted");
    if (gpu && verb == "bench") return answer_questions(*gpu, number);
    std::fprintf(stderr, "usage: sla2_gpu_check device|trials|bench|matrix [gpu|gpu:N|emulated:80|far:80] [planted]\n");
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sla2_gpu_check: %s\n", error.what());
    return 1;
  }
}

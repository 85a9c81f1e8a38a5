// SPDX-License-Identifier: Apache-2.0
// The thing under test: attention of this library, called as its door asks, in memory that shows every misstep.
#pragma once
#include <optional>

#include "attention/attention.h"
#include "case.h"
#include "gpu.h"

namespace sla2::check {

/// Who runs a case: kernels of an instruction set, or those of a GPU (`gpu` set).
struct Target {
  std::string name;
  Isa isa = Isa::kScalar;
  std::shared_ptr<TestGpu> gpu;
  bool only_int8 = false;  ///< its other kernels are those of the target before
};

/// One call: its bits, or the library's refusal.
struct Run {
  bool refused = false;
  sla2_status status = SLA2_OK;
  std::string text;                        ///< the refusal, or what the guards saw
  std::vector<std::byte> bits;             ///< out as contiguous [B,H,N,D] of the element type
  std::vector<float> lse;                  ///< [B,H,N]
  std::vector<std::vector<int32_t>> kept;  ///< [B·H·T_m] the blocks of each row's list
  attention::Probe probe;                  ///< of every query block
  attention::Stats stats;
  double seconds = 0;
};

/// Whether full attention runs in its place: every block is kept by a count that is known beforehand.
[[nodiscard]] bool runs_full(const Case& c, double kept_share);

/// Whether runs ask for the probe: on a GPU mode linear_only has no keys to compare with.
[[nodiscard]] inline bool is_probed(const Case& c, const Target& target) {
  return !target.gpu || c.problem.mode != Mode::kLinearOnly;
}

/// Inputs in the case's layout and element type, between guards; gaps of inputs hold NaN.
class Subject {
 public:
  Subject(const Case& c, const std::vector<Head>& heads);
  ~Subject();
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  /// Only make a plan: its refusal, or not.
  [[nodiscard]] static Run create(const Case& c, const Target& target);
  /// poison: what every workspace byte holds before. text is set if a guard was hit, a gap written, an input changed, or route()
  /// keeps other blocks than forward(). extras: ask for lists, log-sum-exps and the probe as well. Under the emulator `threads`
  /// is the seed of the order in which the GPU's threads run.
  [[nodiscard]] Run run(const Target& target, int threads, unsigned char poison, bool extras = true);
  /// Seconds of each of `repeats` calls after one to warm up; stats: of the last.
  [[nodiscard]] std::vector<double> time(const Target& target, int threads, int repeats, attention::Stats* stats);

 private:
  struct Memory;
  struct Outputs;
  static void fill_given(const Case& c, const std::vector<Head>& heads, Memory& m);
  [[nodiscard]] attention::Forward request(Mirror& mirror);
  const Case& case_;
  std::unique_ptr<Memory> memory_;
};

/// Instruction sets with kernels of their own that this CPU runs, lowest first; `note` says what became of the others.
[[nodiscard]] std::vector<Target> kernels_here(std::string& note);
/// A GPU of each architecture whose kernels differ, under the emulator.
[[nodiscard]] std::vector<Target> emulated_gpus();
/// bits → numbers.
[[nodiscard]] std::vector<double> widen(const std::vector<std::byte>& bits, Element type);
/// The plan of a case for whoever runs it.
[[nodiscard]] std::unique_ptr<attention::Plan> make_plan(const Case& c, const Target& target);
/// The case in the words of the door.
[[nodiscard]] attention::Config config_of(const Case& c);
/// What the case's result is measured against: the arithmetic that runs there.
[[nodiscard]] Arithmetic arithmetic_of(const Case& c, const Target& target);

}  // namespace sla2::check

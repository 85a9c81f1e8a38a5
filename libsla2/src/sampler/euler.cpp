// SPDX-License-Identifier: Apache-2.0
// Euler: x <- x + (sigma_next - sigma) v. fp32, as FlowMatchEulerDiscreteScheduler.
#include "sampler/solver_base.h"

namespace sla2::sampler {
namespace {

class Euler final : public SolverBase {
 public:
  explicit Euler(const Schedule& schedule) : SolverBase("euler", schedule, {}) {}

 private:
  void advance(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> /*noise*/) override {
    const float change = static_cast<float>(level(i + 1).sigma) - static_cast<float>(level(i).sigma);
    for_each(x.size(), [&](size_t k) { x[k] += change * velocity[k]; });
  }
};

}  // namespace

std::unique_ptr<Solver> make_euler(const Schedule& schedule) { return std::make_unique<Euler>(schedule); }

}  // namespace sla2::sampler

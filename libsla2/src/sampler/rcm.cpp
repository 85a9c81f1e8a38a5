// SPDX-License-Identifier: Apache-2.0
// The stochastic step of rCM / TurboDiffusion: x <- (1 - sigma_next) (x - sigma v) + sigma_next * fresh noise.
#include "sampler/solver_base.h"

namespace sla2::sampler {
namespace {

class Rcm final : public SolverBase {
 public:
  explicit Rcm(const Schedule& schedule) : SolverBase("rcm", schedule, {}) {}

 private:
  void advance(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> noise) override {
    const double sigma = level(i).sigma, next = level(i + 1).sigma;
    const bool last = next == 0.0;  // the last step draws no noise
    SLA2_CHECK(last || noise.size() == x.size(), SLA2_E_ARGUMENT, "solver rcm: step {} needs {} numbers of fresh noise, got {}",
               i, x.size(), noise.size());
    for_each(x.size(), [&](size_t k) {
      const double clean = static_cast<double>(x[k]) - sigma * static_cast<double>(velocity[k]);
      x[k] = static_cast<float>(last ? clean : (1.0 - next) * clean + next * static_cast<double>(noise[k]));
    });
  }
};

}  // namespace

std::unique_ptr<Solver> make_rcm(const Schedule& schedule) { return std::make_unique<Rcm>(schedule); }

}  // namespace sla2::sampler

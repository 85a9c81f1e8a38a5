// SPDX-License-Identifier: Apache-2.0
// DPM-Solver++ 2M, midpoint (Lu et al. 2022, algorithm 2) on data predictions m = x - sigma v; first and last step order 1.
#include <cmath>

#include "sampler/solver_base.h"

namespace sla2::sampler {
namespace {

class Dpmpp2m final : public SolverBase {
 public:
  explicit Dpmpp2m(const Schedule& schedule) : SolverBase("dpmpp_2m", schedule, {{"m", 1}}) {}

 private:
  void advance(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> /*noise*/) override {
    const NoiseLevel now = level(i), next = level(i + 1);
    std::vector<float> m(x.size());
    const std::vector<float>& m_before = history(0);
    const bool first_order = done() == 0 || i + 1 == steps();
    const double h = next.lambda - now.lambda;           // +inf when sigma is 1 or the next one is 0
    const double weight = -next.alpha * std::expm1(-h);  // of the data prediction
    const double keep = next.sigma / now.sigma;
    // weight/2 * (m - m_before) * h / (lambda - lambda_before); a step that came from sigma = 1 has no slope to offer
    const double slope = first_order ? 0.0 : 0.5 * weight * h / (now.lambda - level(i - 1).lambda);
    for_each(x.size(), [&](size_t k) {
      m[k] = static_cast<float>(static_cast<double>(x[k]) - now.sigma * static_cast<double>(velocity[k]));
      const double data = static_cast<double>(m[k]);
      const double change = first_order ? 0.0 : slope * (data - static_cast<double>(m_before[k]));
      x[k] = static_cast<float>(keep * static_cast<double>(x[k]) + weight * data + change);
    });
    history(0) = std::move(m);
  }
};

}  // namespace

std::unique_ptr<Solver> make_dpmpp(const Schedule& schedule) { return std::make_unique<Dpmpp2m>(schedule); }

}  // namespace sla2::sampler

// SPDX-License-Identifier: Apache-2.0
// UniPC of order 2 with B(h) = bh2 and the corrector (Zhao et al. 2023, UniPC-2), on data predictions m = x - sigma v.
// The corrector redoes the previous step with the m found at its end, before the predictor goes on; the model is not run
// again. First and last predictor step have order 1; the corrector has the order of the predictor it corrects.
#include <cmath>

#include "sampler/solver_base.h"

namespace sla2::sampler {
namespace {

constexpr size_t kM = 0, kMBefore = 1, kXBefore = 2;  // history

class Unipc final : public SolverBase {
 public:
  explicit Unipc(const Schedule& schedule) : SolverBase("unipc", schedule, {{"m", 1}, {"m_before", 2}, {"x_before", 1}}) {}

 private:
  /// Order of the predictor at step i when `before` steps were done.
  [[nodiscard]] int order_at(int i, int before) const { return before == 0 || i + 1 == steps() ? 1 : 2; }

  void advance(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> /*noise*/) override {
    const double sigma = level(i).sigma;
    std::vector<float> m(x.size());  // at the uncorrected x
    for_each(x.size(),
             [&](size_t k) { m[k] = static_cast<float>(static_cast<double>(x[k]) - sigma * static_cast<double>(velocity[k])); });
    if (done() > 0) correct(i, x, m);
    history(kMBefore) = std::move(history(kM));
    history(kM) = std::move(m);
    history(kXBefore).assign(x.begin(), x.end());
    predict(i, x);
  }

  void correct(int i, std::span<float> x, const std::vector<float>& m) {
    const NoiseLevel now = level(i), before = level(i - 1);
    const double h = now.lambda - before.lambda;
    const double phi = std::expm1(-h);
    const double keep = now.sigma / before.sigma, weight = -now.alpha * phi;
    double newest = 0.5, older = 0.0;  // of (m - m_before), of (m_before_before - m_before)
    if (order_at(i - 1, done() - 1) == 2) {
      const double r = (level(i - 2).lambda - before.lambda) / h;
      const double first = phi / -h - 1.0, second = first / -h - 0.5;
      const double b1 = first / phi, b2 = 2.0 * second / phi;
      older = (b1 - b2) / (1.0 - r);
      newest = b1 - older;
      older /= r;  // 0 when the step before started at sigma = 1 (r = -inf)
    }
    const std::vector<float>&m1 = history(kM), &m2 = history(kMBefore), &x1 = history(kXBefore);
    for_each(x.size(), [&](size_t k) {
      const double base = static_cast<double>(m1[k]);
      double correction = newest * (static_cast<double>(m[k]) - base);
      if (older != 0.0) correction += older * (static_cast<double>(m2[k]) - base);
      x[k] = static_cast<float>(keep * static_cast<double>(x1[k]) + weight * (base + correction));
    });
  }

  void predict(int i, std::span<float> x) {
    const NoiseLevel now = level(i), next = level(i + 1);
    const double h = next.lambda - now.lambda;
    const double keep = next.sigma / now.sigma, weight = -next.alpha * std::expm1(-h);
    const bool second = order_at(i, done()) == 2;
    const double slope = second ? 0.5 * h / (level(i - 1).lambda - now.lambda) : 0.0;  // bh2's rho = 1/2, over r
    const std::vector<float>&m = history(kM), &m_before = history(kMBefore);
    for_each(x.size(), [&](size_t k) {
      double data = static_cast<double>(m[k]);
      if (second) data += slope * (static_cast<double>(m_before[k]) - data);
      x[k] = static_cast<float>(keep * static_cast<double>(x[k]) + weight * data);
    });
  }
};

}  // namespace

std::unique_ptr<Solver> make_unipc(const Schedule& schedule) { return std::make_unique<Unipc>(schedule); }

}  // namespace sla2::sampler

// SPDX-License-Identifier: Apache-2.0
// What every solver shares: checks, the step counter, history as named vectors, element-wise sweeps. Private to the room.
// With alpha = 1 - sigma and lambda = ln(alpha / sigma). alpha comes from the fp32-rounded sigma as in the references: at
// sigma = 1 - 1e-6 the rounding moves alpha by 1.3 %. lambda may be -inf (sigma = 1) or +inf (sigma = 0).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "sampler/sampler.h"

namespace sla2::sampler {

struct NoiseLevel {
  double sigma = 0, alpha = 0, lambda = 0;
};
NoiseLevel noise_level(float sigma);

class SolverBase : public Solver {
 public:
  void step(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> noise) final;
  [[nodiscard]] std::vector<StateTensor> save() const final;
  void restore(const std::vector<StateTensor>& state) final;

 protected:
  /// A vector that steps leave for the next ones, saved and restored by name; there once `since` steps are done.
  struct HistorySlot {
    std::string name;
    int since;
    std::vector<float> values{};
  };
  SolverBase(std::string name, const Schedule& schedule, std::vector<HistorySlot> history);

  virtual void advance(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> noise) = 0;

  [[nodiscard]] NoiseLevel level(int i) const { return levels_[static_cast<size_t>(i)]; }
  [[nodiscard]] int steps() const noexcept { return static_cast<int>(levels_.size()) - 1; }
  /// Steps done without a gap before this one.
  [[nodiscard]] int done() const noexcept { return done_; }
  [[nodiscard]] std::vector<float>& history(size_t k) { return history_[k].values; }

 private:
  std::string name_;
  std::vector<NoiseLevel> levels_;
  std::vector<HistorySlot> history_;
  int next_ = -1;  // -1: nothing done yet, any step may come
  int done_ = 0;
};

/// body(k) for every element, in fixed ranges, so that the result does not depend on the thread count.
template <typename Body>
void for_each(size_t count, const Body& body) {
  constexpr int64_t kGrain = 1 << 15;
  parallel_ranges(static_cast<int64_t>(count), kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) body(static_cast<size_t>(k));
  });
}

std::unique_ptr<Solver> make_euler(const Schedule& schedule);
std::unique_ptr<Solver> make_unipc(const Schedule& schedule);
std::unique_ptr<Solver> make_dpmpp(const Schedule& schedule);
std::unique_ptr<Solver> make_rcm(const Schedule& schedule);

}  // namespace sla2::sampler

// SPDX-License-Identifier: Apache-2.0
// Solver by name, the shared checks and state of all solvers, and guidance. fp32 in place; coefficients fp64.
#include <array>
#include <cmath>
#include <limits>

#include "sampler/names.h"
#include "sampler/solver_base.h"

namespace sla2::sampler {
namespace {

struct SolverRule {
  std::string_view name;
  std::unique_ptr<Solver> (*make)(const Schedule&);
  bool stochastic;
};
constexpr std::array<SolverRule, 4> kSolvers = {{
    {"euler", make_euler, false},
    {"unipc", make_unipc, false},
    {"dpmpp_2m", make_dpmpp, false},
    {"rcm", make_rcm, true},
}};
constexpr std::string_view kPositionName = "position";  // {next step, steps done}

}  // namespace

NoiseLevel noise_level(float sigma) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const double alpha = static_cast<double>(1.0f - sigma);
  if (sigma == 0.0f) return {0.0, 1.0, kInfinity};
  if (alpha == 0.0) return {static_cast<double>(sigma), 0.0, -kInfinity};
  return {static_cast<double>(sigma), alpha, std::log(alpha) - std::log(static_cast<double>(sigma))};
}

SolverBase::SolverBase(std::string name, const Schedule& schedule, std::vector<HistorySlot> history)
    : name_(std::move(name)), history_(std::move(history)) {
  for (const float sigma : schedule.sigmas) levels_.push_back(noise_level(sigma));
}

void SolverBase::step(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> noise) {
  SLA2_CHECK(i >= 0 && i < steps(), SLA2_E_ARGUMENT, "solver {}: step {} is outside the schedule of {} steps", name_, i, steps());
  SLA2_CHECK(next_ < 0 || i == next_, SLA2_E_STATE,
             "solver {}: step {} was asked for, but step {} is next; steps follow each other", name_, i, next_);
  SLA2_CHECK(!x.empty() && velocity.size() == x.size(), SLA2_E_ARGUMENT,
             "solver {}: a latent of {} values needs as many velocities, got {}", name_, x.size(), velocity.size());
  for (const HistorySlot& entry : history_) {
    SLA2_CHECK(entry.values.empty() || entry.values.size() == x.size(), SLA2_E_STATE,
               "solver {}: its history has {} values, the latent has {}; one solver serves one clip", name_, entry.values.size(),
               x.size());
  }
  advance(i, x, velocity, noise);
  next_ = i + 1;
  ++done_;
}

std::vector<StateTensor> SolverBase::save() const {
  std::vector<StateTensor> state = {{std::string(kPositionName), {static_cast<float>(next_), static_cast<float>(done_)}}};
  for (const HistorySlot& entry : history_) {
    if (!entry.values.empty()) state.push_back({entry.name, entry.values});
  }
  return state;
}

void SolverBase::restore(const std::vector<StateTensor>& state) {
  const auto find = [&](std::string_view name) -> const std::vector<float>* {
    for (const StateTensor& entry : state) {
      if (entry.name == name) return &entry.values;
    }
    return nullptr;
  };
  const std::vector<float>* position = find(kPositionName);
  SLA2_CHECK(position != nullptr && position->size() == 2, SLA2_E_FILE_FORMAT,
             "solver {}: the saved state has no '{}' of two numbers; the checkpoint is damaged or from another solver", name_,
             kPositionName);
  const float next = (*position)[0], done = (*position)[1];
  SLA2_CHECK(next >= -1 && next <= static_cast<float>(steps()) && done >= 0 && done <= std::max(next, 0.0f) &&
                 next == std::floor(next) && done == std::floor(done) && (next >= 0) == (done > 0),
             SLA2_E_FILE_FORMAT, "solver {}: saved position {} after {} steps does not fit a schedule of {} steps", name_, next,
             done, steps());
  size_t expected = 1, values = 0;
  for (const HistorySlot& slot : history_) {
    const std::vector<float>* found = find(slot.name);
    const bool due = done >= static_cast<float>(slot.since);
    SLA2_CHECK((found != nullptr && !found->empty()) == due, SLA2_E_FILE_FORMAT,
               "solver {}: '{}' is {} after {} steps; the checkpoint is damaged or from another solver", name_, slot.name,
               due ? "missing" : "there already", done);
    if (!due) continue;
    ++expected;
    SLA2_CHECK(values == 0 || found->size() == values, SLA2_E_FILE_FORMAT,
               "solver {}: '{}' has {} values, the others {}; the checkpoint is damaged", name_, slot.name, found->size(),
               values);
    values = found->size();
  }
  SLA2_CHECK(expected == state.size(), SLA2_E_FILE_FORMAT,
             "solver {}: the saved state holds {} vectors, {} of them known; it is from another solver", name_, state.size(),
             expected);
  for (HistorySlot& entry : history_) {
    const std::vector<float>* found = find(entry.name);
    entry.values = found != nullptr ? *found : std::vector<float>();
  }
  next_ = static_cast<int>(next);
  done_ = static_cast<int>(done);
}

std::unique_ptr<Solver> Solver::create(std::string_view name, const Schedule& schedule) {
  SLA2_CHECK(schedule.sigmas.size() >= 2 && schedule.sigmas.back() == 0.0f, SLA2_E_ARGUMENT,
             "solver {}: the schedule must hold at least one step and end with sigma 0; build it with make_schedule()",
             name.substr(0, 64));
  for (const SolverRule& rule : kSolvers) {
    if (rule.name != name) continue;
    SLA2_CHECK(rule.stochastic == schedule.stochastic, SLA2_E_ARGUMENT,
               "solver '{}' {} fresh noise, sigma grid '{}' {}; use solver 'rcm' together with grid 'rcm' or 'rcm_i2v', and "
               "neither alone",
               rule.name, rule.stochastic ? "needs" : "takes no", schedule.grid,
               schedule.stochastic ? "asks for it" : "has none");
    return rule.make(schedule);
  }
  const std::vector<std::string_view> names = solver_names();
  fail(SLA2_E_ARGUMENT, "solver: unknown name '{}'; did you mean '{}'? Known: {}", name.substr(0, 64), nearest_name(name, names),
       join_names(names));
}

std::vector<std::string_view> solver_names() {
  std::vector<std::string_view> names;
  names.reserve(kSolvers.size());
  for (const SolverRule& rule : kSolvers) names.push_back(rule.name);
  return names;
}

void apply_guidance(std::span<float> cond, std::span<const float> uncond, float scale) {
  SLA2_CHECK(cond.size() == uncond.size(), SLA2_E_ARGUMENT, "guidance: {} conditional and {} unconditional velocities",
             cond.size(), uncond.size());
  for_each(cond.size(), [&](size_t k) { cond[k] = uncond[k] + scale * (cond[k] - uncond[k]); });
}

}  // namespace sla2::sampler

// SPDX-License-Identifier: Apache-2.0
// Sigma grids by name. In: grid name, step count, shift (or an explicit list). Out: fp32 sigmas with a final 0 and the
// timesteps the model sees. Grids are built in fp64 and rounded once, in the order of operations of their sources:
// integer timesteps are truncated, so the last bit of 1000*sigma matters.
#include <algorithm>
#include <array>
#include <cmath>

#include "sampler/names.h"
#include "sampler/sampler.h"

namespace sla2::sampler {
namespace {

constexpr double kTrainTimesteps = 1000.0;
constexpr double kSmallestSigma = 1.0 / kTrainTimesteps;
constexpr int kMaxSteps = 1000;
constexpr double kMaxShift = 1000.0;

enum class TimestepRule : uint8_t {
  kFloat,      ///< fp32 sigma times 1000
  kTruncated,  ///< fp64 sigma times 1000, cut to an integer (int64 in the sources)
  kBf16,       ///< rounded to bf16 (TurboDiffusion hands the network a bf16 time)
};

/// np.linspace(start, stop, count), in numpy's own order of operations.
std::vector<double> linspace(double start, double stop, int count) {
  std::vector<double> values(count);
  const double step = count > 1 ? (stop - start) / (count - 1) : 0.0;
  for (int i = 0; i < count; ++i) values[i] = static_cast<double>(i) * step + start;
  if (count > 1) values.back() = stop;
  return values;
}

double shifted(double sigma, double shift) { return shift * sigma / (1.0 + (shift - 1.0) * sigma); }

/// linspace(start, stop, steps + 1) without its last value, shifted.
std::vector<double> shifted_line(double start, double stop, int steps, double shift) {
  std::vector<double> sigmas = linspace(start, stop, steps + 1);
  sigmas.pop_back();
  for (double& sigma : sigmas) sigma = shifted(sigma, shift);
  return sigmas;
}

std::vector<double> wan_unipc(int steps, double shift) {
  constexpr float kLargest = 0.999f;  // Wan keeps its largest sigma, 1 - 1/1000, as fp32
  return shifted_line(static_cast<double>(kLargest), 0.0, steps, shift);
}

std::vector<double> linear(int steps, double shift) { return shifted_line(1.0, 0.0, steps, shift); }

std::vector<double> diffusers_unipc(int steps, double shift) {
  constexpr double kEpsilon = 1e-6;  // keeps log(1 - sigma) finite in the first step
  std::vector<double> sigmas = shifted_line(1.0, kSmallestSigma, steps, shift);
  if (std::fabs(sigmas[0] - 1.0) < kEpsilon) sigmas[0] -= kEpsilon;
  return sigmas;
}

std::vector<double> diffusers_dpm(int steps, double shift) {
  std::vector<double> sigmas = linspace(1.0, kSmallestSigma, steps + 1);
  for (double& sigma : sigmas) sigma = shifted(1.0 - sigma, shift);
  std::reverse(sigmas.begin(), sigmas.end());
  sigmas.pop_back();
  return sigmas;
}

/// FlowMatchEulerDiscreteScheduler: its end points are shifted fp32 numbers, and the line between them is shifted again.
std::vector<double> diffusers_euler(int steps, double shift) {
  const float shift32 = static_cast<float>(shift), less_one = static_cast<float>(shift - 1.0);
  const auto end_point = [&](float timestep) {
    const float sigma = timestep / static_cast<float>(kTrainTimesteps);
    return static_cast<double>(shift32 * sigma / (1.0f + less_one * sigma));
  };
  std::vector<double> sigmas =
      linspace(end_point(static_cast<float>(kTrainTimesteps)) * kTrainTimesteps, end_point(1.0f) * kTrainTimesteps, steps);
  for (double& sigma : sigmas) sigma = shifted(sigma / kTrainTimesteps, shift);
  return sigmas;
}

/// LightX2V step distillation: entries 1000, 750, 500, 250 of the 1000-entry table with shift 5.
std::vector<double> lightx2v(int /*steps*/, double /*shift*/) {
  constexpr double kTrainedShift = 5.0;
  return {1.0, shifted(0.75, kTrainedShift), shifted(0.5, kTrainedShift), shifted(0.25, kTrainedShift)};
}

/// rCM / TurboDiffusion: TrigFlow times atan(sigma_max), 1.5, 1.4, 1.0, each turned into sigma = tan / (1 + tan).
std::vector<double> rcm_with(double largest, int steps) {
  const std::array<double, 4> trig_times = {std::atan(largest), 1.5, 1.4, 1.0};
  std::vector<double> sigmas;
  sigmas.reserve(trig_times.size());
  for (int i = 0; i < steps; ++i) sigmas.push_back(std::tan(trig_times[i]) / (1.0 + std::tan(trig_times[i])));
  return sigmas;
}
std::vector<double> rcm(int steps, double /*shift*/) { return rcm_with(80.0, steps); }
std::vector<double> rcm_i2v(int steps, double /*shift*/) { return rcm_with(200.0, steps); }

struct GridRule {
  std::string_view name;
  std::vector<double> (*sigmas)(int steps, double shift);
  TimestepRule timesteps;
  bool distilled;  ///< sigmas fixed by training: no guidance, no other shift
  bool stochastic;
  int min_steps, max_steps, default_steps;
  double trained_shift;  ///< of distilled grids, which accept this value and 1 (not given)
};

constexpr std::array<GridRule, 9> kGrids = {{
    {"wan_unipc", wan_unipc, TimestepRule::kTruncated, false, false, 1, kMaxSteps, 0, 0},
    {"wan_dpm", linear, TimestepRule::kTruncated, false, false, 1, kMaxSteps, 0, 0},
    {"linear", linear, TimestepRule::kFloat, false, false, 1, kMaxSteps, 0, 0},
    {"diffusers_unipc", diffusers_unipc, TimestepRule::kTruncated, false, false, 1, kMaxSteps, 0, 0},
    {"diffusers_dpm", diffusers_dpm, TimestepRule::kTruncated, false, false, 1, kMaxSteps, 0, 0},
    {"diffusers_euler", diffusers_euler, TimestepRule::kFloat, false, false, 1, kMaxSteps, 0, 0},
    {"lightx2v_4step", lightx2v, TimestepRule::kFloat, true, false, 4, 4, 4, 5.0},
    {"rcm", rcm, TimestepRule::kBf16, true, true, 1, 4, 4, 1.0},
    {"rcm_i2v", rcm_i2v, TimestepRule::kBf16, true, true, 1, 4, 4, 1.0},
}};

const GridRule& find_grid(std::string_view name) {
  for (const GridRule& rule : kGrids) {
    if (rule.name == name) return rule;
  }
  const std::vector<std::string_view> names = grid_names();
  fail(SLA2_E_ARGUMENT, "sigma grid: unknown name '{}'; did you mean '{}'? Known: {}", name.substr(0, 64),
       nearest_name(name, names), join_names(names));
}

int checked_steps(const GridRule& rule, int steps) {
  if (steps == 0 && rule.default_steps != 0) return rule.default_steps;
  SLA2_CHECK(
      steps >= rule.min_steps && steps <= rule.max_steps, SLA2_E_ARGUMENT, "steps: sigma grid '{}' takes {} to {}, got {}{}",
      rule.name, rule.min_steps, rule.max_steps, steps,
      rule.distilled ? "; a distilled model knows no other noise levels, so change the grid only together with the model" : "");
  return steps;
}

void check_shift(const GridRule& rule, double shift) {
  SLA2_CHECK(std::isfinite(shift) && shift > 0 && shift <= kMaxShift, SLA2_E_ARGUMENT,
             "shift: expected a number above 0 and up to {}, got {}; Wan uses 3 to 12", kMaxShift, shift);
  SLA2_CHECK(!rule.distilled || shift == 1.0 || shift == rule.trained_shift, SLA2_E_ARGUMENT,
             "shift: sigma grid '{}' is fixed by distillation (shift {}), got {}; leave the shift out", rule.name,
             rule.trained_shift, shift);
}

std::vector<double> checked_list(const std::vector<double>& list) {
  std::vector<double> sigmas = list;
  if (sigmas.back() == 0.0) sigmas.pop_back();
  SLA2_CHECK(!sigmas.empty() && sigmas.size() <= kMaxSteps, SLA2_E_ARGUMENT, "sigmas: expected 1 to {} values above 0, got {}",
             kMaxSteps, sigmas.size());
  for (size_t i = 0; i < sigmas.size(); ++i) {
    SLA2_CHECK(sigmas[i] > 0.0 && sigmas[i] <= 1.0, SLA2_E_ARGUMENT, "sigmas: value {} must be above 0 and at most 1, got {}", i,
               sigmas[i]);
    SLA2_CHECK(i == 0 || static_cast<float>(sigmas[i]) < static_cast<float>(sigmas[i - 1]), SLA2_E_ARGUMENT,
               "sigmas: the list must fall strictly in fp32, but value {} ({}) follows {}; sort it from noise to clean", i,
               sigmas[i], sigmas[i - 1]);
  }
  return sigmas;
}

float timestep_of(TimestepRule rule, double sigma) {
  switch (rule) {
    case TimestepRule::kTruncated: return static_cast<float>(std::trunc(sigma * kTrainTimesteps));
    case TimestepRule::kBf16: return bf16_to_f32(f32_to_bf16(static_cast<float>(sigma * kTrainTimesteps)));
    case TimestepRule::kFloat: break;
  }
  return static_cast<float>(sigma) * static_cast<float>(kTrainTimesteps);
}

}  // namespace

Schedule make_schedule(const ScheduleSpec& spec) {
  const bool listed = !spec.sigmas.empty();
  const GridRule plain = {"explicit", nullptr, TimestepRule::kFloat, false, false, 1, kMaxSteps, 0, 0};
  const GridRule& rule = listed && spec.grid.empty() ? plain : find_grid(spec.grid);
  if (!listed) check_shift(rule, spec.shift);
  const std::vector<double> sigmas =
      listed ? checked_list(spec.sigmas) : rule.sigmas(checked_steps(rule, spec.steps), spec.shift);
  Schedule schedule;
  schedule.grid = listed ? "explicit" : std::string(rule.name);
  schedule.stochastic = rule.stochastic;
  schedule.cfg_forbidden = rule.distilled;
  for (const double sigma : sigmas) {
    schedule.sigmas.push_back(static_cast<float>(sigma));
    schedule.timesteps.push_back(timestep_of(rule.timesteps, sigma));
  }
  schedule.sigmas.push_back(0.0f);
  if (rule.stochastic) schedule.initial_scale = schedule.sigmas.front();
  return schedule;
}

std::vector<std::string_view> grid_names() {
  std::vector<std::string_view> names;
  names.reserve(kGrids.size());
  for (const GridRule& rule : kGrids) names.push_back(rule.name);
  return names;
}

std::string_view default_grid(std::string_view solver) {
  if (solver == "unipc") return "wan_unipc";
  if (solver == "dpmpp_2m") return "wan_dpm";
  if (solver == "rcm") return "rcm";
  return "linear";
}

}  // namespace sla2::sampler

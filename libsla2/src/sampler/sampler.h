// SPDX-License-Identifier: Apache-2.0
// The door of sampler: sigma grids by name, and solvers that turn velocities into latents. State in fp32, coefficients in
// fp64 from fp32-rounded sigmas, as the references do.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/core.h"

namespace sla2::sampler {

struct ScheduleSpec {
  std::string grid;  ///< one of grid_names(): "wan_unipc", "wan_dpm", "linear", "diffusers_unipc", "lightx2v_4step", "rcm" …
  int steps = 0;     ///< 0: the count a distilled grid was trained for
  double shift = 1.0;
  std::vector<double> sigmas;  ///< explicit list, taken as it is (strictly decreasing, last may be 0); overrides steps and shift.
                               ///< A grid named beside it still decides timestep rounding, noise and guidance.
};

struct Schedule {
  std::string grid;
  std::vector<float> sigmas;     ///< steps + 1 values, last 0
  std::vector<float> timesteps;  ///< steps values given to the model (integer-valued where the source truncates)
  bool stochastic = false;       ///< fresh noise each step (rCM)
  bool cfg_forbidden = false;    ///< distilled lists
  float initial_scale = 1.0f;    ///< the first latent is this times normal noise (rCM: its first sigma)
};

Schedule make_schedule(const ScheduleSpec& spec);
std::vector<std::string_view> grid_names();
std::vector<std::string_view> solver_names();  ///< "euler", "unipc", "dpmpp_2m", "rcm"
/// The grid that fits a solver when the user named none.
std::string_view default_grid(std::string_view solver);

/// A named fp32 vector of solver state, for checkpoints.
struct StateTensor {
  std::string name;
  std::vector<float> values;
};

class Solver {
 public:
  static std::unique_ptr<Solver> create(std::string_view name, const Schedule& schedule);
  virtual ~Solver() = default;
  /// Steps follow each other; the first may be any i. Throws STATE on a gap.
  /// Replace x at sigma[i] by x at sigma[i+1], given the velocity at i. `noise` is drawn only by stochastic solvers.
  virtual void step(int i, std::span<float> x, std::span<const float> velocity, std::span<const float> noise) = 0;
  [[nodiscard]] virtual std::vector<StateTensor> save() const = 0;
  virtual void restore(const std::vector<StateTensor>& state) = 0;
};

/// v = uncond + scale * (cond - uncond), in place in `cond`.
void apply_guidance(std::span<float> cond, std::span<const float> uncond, float scale);

}  // namespace sla2::sampler

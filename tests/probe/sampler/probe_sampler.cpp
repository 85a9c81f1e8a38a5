// SPDX-License-Identifier: Apache-2.0
// probe_sampler grid GRID STEPS SHIFT                       JSON: sigmas, timesteps, flags
//               run SOLVER GRID STEPS SHIFT IN OUT [resume]  IN: "x" [n], "velocity" [steps, n], "noise" [steps, n] (rcm);
//                                                            OUT: "x" [steps, n], the latent after each step; with `resume`
//                                                            every step is made by a new solver from the saved state
#include <cstdio>
#include <nlohmann/json.hpp>

#include "../probe_io.h"
#include "sampler/sampler.h"

namespace {

using namespace sla2;

sampler::Schedule schedule_of(char** argv) {
  sampler::ScheduleSpec spec;
  spec.grid = argv[0];
  spec.steps = std::stoi(argv[1]);
  spec.shift = std::stod(argv[2]);
  return sampler::make_schedule(spec);
}

void grid(char** argv) {
  const sampler::Schedule schedule = schedule_of(argv + 2);
  const nlohmann::json json = {{"sigmas", schedule.sigmas},
                               {"timesteps", schedule.timesteps},
                               {"stochastic", schedule.stochastic},
                               {"cfg_forbidden", schedule.cfg_forbidden},
                               {"initial_scale", schedule.initial_scale}};
  std::printf("%s\n", json.dump().c_str());
}

void run(int argc, char** argv) {
  const sampler::Schedule schedule = schedule_of(argv + 3);
  const auto file = weights::SafetensorsFile::open(argv[6]);
  std::vector<float> x = probe::read_tensor(*file, "x");
  const std::vector<float> velocity = probe::read_tensor(*file, "velocity");
  const std::vector<float> noise = schedule.stochastic ? probe::read_tensor(*file, "noise") : std::vector<float>();
  auto solver = sampler::Solver::create(argv[2], schedule);
  std::vector<float> path;
  const size_t n = x.size(), steps = schedule.timesteps.size();
  for (size_t i = 0; i < steps; ++i) {
    if (argc > 8) {
      const auto state = solver->save();
      solver = sampler::Solver::create(argv[2], schedule);
      solver->restore(state);
    }
    const std::span<const float> fresh = noise.empty() ? std::span<const float>() : std::span(noise).subspan(i * n, n);
    solver->step(static_cast<int>(i), x, std::span(velocity).subspan(i * n, n), fresh);
    path.insert(path.end(), x.begin(), x.end());
  }
  probe::write_tensors(argv[7], {{"x", {static_cast<int64_t>(steps), static_cast<int64_t>(n)}, path}});
}

}  // namespace

int main(int argc, char** argv) try {
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "grid" && argc == 5) {
    grid(argv);
  } else if (command == "run" && (argc == 8 || argc == 9)) {
    run(argc, argv);
  } else {
    std::fputs("see the head of probe_sampler.cpp\n", stderr);
    return 2;
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}

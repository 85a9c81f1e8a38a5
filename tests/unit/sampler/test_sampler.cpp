// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <cmath>

#include "sampler/sampler.h"

using namespace sla2;
using namespace sla2::sampler;
using Catch::Contains;

namespace {
Schedule schedule(const std::string& grid, int steps, double shift = 1.0) { return make_schedule({grid, steps, shift, {}}); }
}  // namespace

TEST_CASE("every grid falls strictly to zero") {
  for (const std::string_view name : grid_names()) {
    for (const int steps : {1, 2, 3, 4, 50}) {
      if (steps > 4 && (name.starts_with("rcm") || name.starts_with("lightx2v"))) continue;
      if (steps != 4 && name.starts_with("lightx2v")) continue;
      const Schedule s = schedule(std::string(name), steps);
      INFO(name << " " << steps);
      REQUIRE(s.sigmas.size() == static_cast<size_t>(steps) + 1);
      REQUIRE(s.timesteps.size() == static_cast<size_t>(steps));
      CHECK(s.sigmas.back() == 0.0f);
      for (size_t i = 1; i < s.sigmas.size(); ++i) CHECK(s.sigmas[i] < s.sigmas[i - 1]);
      CHECK(s.sigmas[0] <= 1.0f);
    }
  }
}

TEST_CASE("an explicit list is taken as it is") {
  const Schedule s = make_schedule({"", 0, 99, {0.9, 0.5, 0.25}});
  CHECK(s.sigmas == std::vector<float>{0.9f, 0.5f, 0.25f, 0.0f});
  CHECK(s.timesteps[1] == 500.0f);
  CHECK(make_schedule({"", 7, 1, {0.9, 0.0}}).sigmas == std::vector<float>{0.9f, 0.0f});
  CHECK(make_schedule({"wan_unipc", 7, 1, {0.9375, 0.5}}).timesteps == std::vector<float>{937, 500});
  CHECK(make_schedule({"rcm", 7, 1, {0.9, 0.5}}).stochastic);
  CHECK_THROWS_WITH(make_schedule({"", 0, 1, {0.5, 0.5}}), Contains("fall strictly"));
  CHECK_THROWS_WITH(make_schedule({"", 0, 1, {1.5}}), Contains("at most 1"));
  CHECK_THROWS_WITH(make_schedule({"", 0, 1, {NAN}}), Contains("at most 1"));
  CHECK_THROWS_AS(make_schedule({"", 0, 1, {0.0}}), Error);
}

TEST_CASE("names that miss get the nearest one") {
  CHECK_THROWS_WITH(schedule("diffusers_unpic", 4), Contains("did you mean 'diffusers_unipc'"));
  CHECK_THROWS_WITH(Solver::create("UniPC2", schedule("wan_unipc", 4)), Contains("did you mean 'unipc'"));
  CHECK_THROWS_WITH(Solver::create("dpm++2m", schedule("wan_dpm", 4)), Contains("did you mean 'dpmpp_2m'"));
  CHECK_THROWS_AS(schedule(std::string(1 << 20, 'x'), 4), Error);
  for (const std::string_view solver : solver_names()) {
    CHECK_NOTHROW(Solver::create(solver, schedule(std::string(default_grid(solver)), 4)));
  }
}

TEST_CASE("contradictions are refused") {
  CHECK_THROWS_WITH(Solver::create("euler", schedule("rcm", 4)), Contains("rcm"));
  CHECK_THROWS_WITH(Solver::create("rcm", schedule("linear", 4)), Contains("rcm"));
  CHECK_THROWS_WITH(schedule("rcm", 9), Contains("1 to 4"));
  CHECK_THROWS_WITH(schedule("lightx2v_4step", 4, 8), Contains("leave the shift out"));
  CHECK_THROWS_AS(schedule("wan_unipc", 4, NAN), Error);
  CHECK_THROWS_AS(Solver::create("euler", Schedule{}), Error);
}

TEST_CASE("on a straight path every solver lands on the data") {
  for (const std::string_view solver : {"euler", "unipc", "dpmpp_2m"}) {
    for (const int steps : {1, 2, 3, 8}) {
      const Schedule s = schedule("linear", steps, 5);
      auto solve = Solver::create(solver, s);
      std::vector<float> data = {0.5f, -2.0f, 3.0f}, noise = {1.0f, 0.25f, -1.0f}, x = noise, velocity(3);
      for (int i = 0; i < steps; ++i) {
        for (size_t k = 0; k < 3; ++k) velocity[k] = noise[k] - data[k];
        solve->step(i, x, velocity, {});
      }
      INFO(solver << " " << steps);
      for (size_t k = 0; k < 3; ++k) CHECK(x[k] == Approx(data[k]).margin(1e-5));
    }
  }
}

TEST_CASE("steps follow each other and sizes agree") {
  auto solver = Solver::create("unipc", schedule("wan_unipc", 4, 5));
  std::vector<float> x(8, 1.0f), v(8, 0.5f), longer(9, 1.0f);
  solver->step(1, x, v, {});  // starting later is allowed: image to video
  CHECK_THROWS_WITH(solver->step(3, x, v, {}), Contains("step 2 is next"));
  CHECK_THROWS_AS(solver->step(2, x, longer, {}), Error);
  CHECK_THROWS_AS(solver->step(2, longer, longer, {}), Error);
  CHECK_THROWS_AS(solver->step(9, x, v, {}), Error);
  auto rcm = Solver::create("rcm", schedule("rcm", 2));
  CHECK_THROWS_WITH(rcm->step(0, x, v, {}), Contains("fresh noise"));
}

TEST_CASE("a damaged solver state is refused") {
  const Schedule s = schedule("wan_unipc", 6, 5);
  auto solver = Solver::create("unipc", s), other = Solver::create("unipc", s);
  std::vector<float> x(8, 1.0f), v(8, 0.5f);
  for (int i = 0; i < 3; ++i) solver->step(i, x, v, {});
  const auto state = solver->save();
  REQUIRE(state.size() == 4);
  for (size_t drop = 0; drop < state.size(); ++drop) {
    auto damaged = state;
    damaged.erase(damaged.begin() + static_cast<std::ptrdiff_t>(drop));
    CHECK_THROWS_AS(other->restore(damaged), Error);
    damaged = state;
    damaged[drop].values.pop_back();
    CHECK_THROWS_AS(other->restore(damaged), Error);
    damaged = state;
    damaged[drop].values[0] = NAN;
    if (damaged[drop].name == "position") CHECK_THROWS_AS(other->restore(damaged), Error);
  }
  CHECK_THROWS_AS(Solver::create("euler", s)->restore(state), Error);
  CHECK_NOTHROW(other->restore(state));
}

TEST_CASE("results do not depend on the number of threads") {
  constexpr size_t kCount = 200'003;
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    auto solver = Solver::create("unipc", schedule("diffusers_unipc", 4, 5));
    std::vector<float> x(kCount), v(kCount);
    for (size_t k = 0; k < kCount; ++k) x[k] = static_cast<float>(k % 977) * 0.01f - 5.0f;
    for (int i = 0; i < 4; ++i) {
      for (size_t k = 0; k < kCount; ++k) v[k] = std::sin(x[k]) + static_cast<float>(i);
      solver->step(i, x, v, {});
    }
    results.push_back(x);
  }
  set_thread_count(0);
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

TEST_CASE("guidance moves away from the unconditional velocity") {
  std::vector<float> cond = {1, 2}, uncond = {0, 4};
  apply_guidance(cond, uncond, 5.0f);
  CHECK(cond == std::vector<float>{5, -6});
  CHECK_THROWS_AS(apply_guidance(cond, std::span(uncond).first(1), 5.0f), Error);
}

# SPDX-License-Identifier: Apache-2.0
"""Sigma grids and solvers against diffusers' schedulers and, where those do not exist, against the published formulas."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from safetensors.numpy import load_file, save_file

SHIFTS = [1.0, 3.0, 5.0, 8.0, 12.0]


def unipc(shift: float) -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def dpmpp(shift: float) -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, algorithm_type="dpmsolver++"
    )


def euler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=shift)


SCHEDULERS = {
    "diffusers_unipc": ("unipc", unipc),
    "diffusers_dpm": ("dpmpp_2m", dpmpp),
    "diffusers_euler": ("euler", euler),
}


def shifted(sigma, shift):
    return shift * sigma / (1 + (shift - 1) * sigma)


def grid_of(run_probe, grid: str, steps: int, shift: float) -> dict:
    return json.loads(run_probe("sampler", "grid", grid, steps, shift).stdout)


@pytest.mark.parametrize("grid", SCHEDULERS)
def test_grids_of_diffusers(run_probe, grid):
    for shift in SHIFTS:
        for steps in [1, 2, 3, 4, 7, 20, 30, 49, 50]:
            scheduler = SCHEDULERS[grid][1](shift)
            scheduler.set_timesteps(steps)
            ours = grid_of(run_probe, grid, steps, shift)
            assert np.array_equal(np.float32(ours["sigmas"]), scheduler.sigmas.numpy()), (grid, steps, shift)
            assert np.array_equal(np.float32(ours["timesteps"]), scheduler.timesteps.numpy().astype(np.float32)), (grid, steps, shift)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", [1, 4, 25, 50])
def test_grids_of_wan(run_probe, steps, shift):
    largest = float(np.float32(1) - np.float32(0.001))
    for grid, first, whole in (("wan_unipc", largest, True), ("wan_dpm", 1.0, True), ("linear", 1.0, False)):
        sigmas = shifted(np.linspace(first, 0, steps + 1)[:-1], shift)
        ours = grid_of(run_probe, grid, steps, shift)
        assert np.array_equal(np.float32(ours["sigmas"]), np.float32([*sigmas, 0]))
        times = (sigmas * 1000).astype(np.int64) if whole else np.float32(sigmas) * np.float32(1000)
        assert np.array_equal(np.float32(ours["timesteps"]), np.float32(times))


def test_published_values(run_probe):
    """Values printed by the projects that own the grids, to the digits they print."""
    for grid, expected in {
        "wan_unipc": [0.99980, 0.93727, 0.83306, 0.62469, 0],
        "wan_dpm": [1, 0.9375, 0.83333, 0.625, 0],
        "diffusers_euler": [1, 0.90971, 0.71732, 0.02441, 0],
        "lightx2v_4step": [1, 0.9375, 0.83333, 0.625, 0],
        "rcm": [0.98765, 0.93378, 0.85290, 0.60898, 0],
    }.items():
        ours = grid_of(run_probe, grid, 4, 1 if grid == "rcm" else 5)
        np.testing.assert_allclose(ours["sigmas"], expected, atol=6e-6)
        assert ours["cfg_forbidden"] == (grid in ("rcm", "lightx2v_4step"))
        assert ours["stochastic"] == (grid == "rcm")
    assert grid_of(run_probe, "rcm", 4, 1)["timesteps"] == [988, 932, 852, 608]  # bf16 has eight bits


def fixed_field(steps: int, n: int = 1000):
    rng = np.random.default_rng(steps)
    x = rng.standard_normal(n).astype(np.float32)
    velocity = (x + 0.3 * rng.standard_normal((steps, n))).astype(np.float32)
    return {"x": x, "velocity": velocity, "noise": rng.standard_normal((steps, n)).astype(np.float32)}


def solve(scheduler, field, steps: int, dtype) -> np.ndarray:
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.to(dtype)  # fp32-rounded sigmas; with fp64 also the arithmetic on them is fp64
    x = torch.from_numpy(field["x"]).to(dtype).reshape(1, 1, 1, -1)
    path = []
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(torch.from_numpy(field["velocity"][i]).to(dtype).reshape(x.shape), t, x, return_dict=False)[0]
        path.append(x.flatten().numpy().copy())
    return np.stack(path)


@pytest.mark.parametrize("grid", SCHEDULERS)
@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0])
def test_solvers_of_diffusers(run_probe, tmp_path, grid, shift):
    solver, make = SCHEDULERS[grid]
    for steps in [*range(1, 17), 25, 50]:
        field = fixed_field(steps)
        save_file(field, tmp_path / "in")
        run_probe("sampler", "run", solver, grid, steps, shift, tmp_path / "in", tmp_path / "out")
        ours = load_file(tmp_path / "out")["x"]
        scale = np.abs(ours).max()
        exact = solve(make(shift), field, steps, torch.float64)
        assert np.abs(ours - exact).max() <= 2e-6 * scale, (grid, steps, shift)
        # diffusers' own fp32 arithmetic is the larger error: ours may differ from it by what it differs from fp64
        theirs = solve(make(shift), field, steps, torch.float32)
        assert np.abs(ours - theirs).max() <= np.abs(theirs - exact).max() + 2e-6 * scale, (grid, steps, shift)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_rcm_step(run_probe, tmp_path, steps):
    field = fixed_field(steps)
    save_file(field, tmp_path / "in")
    run_probe("sampler", "run", "rcm", "rcm", steps, 1, tmp_path / "in", tmp_path / "out")
    times = [np.arctan(80.0), 1.5, 1.4, 1.0][:steps]
    sigmas = np.float32([np.tan(t) / (1 + np.tan(t)) for t in times] + [0]).astype(np.float64)
    x = field["x"].astype(np.float64)
    for i in range(steps):
        x = (1 - sigmas[i + 1]) * (x - sigmas[i] * field["velocity"][i]) + sigmas[i + 1] * field["noise"][i]
    np.testing.assert_allclose(load_file(tmp_path / "out")["x"][-1], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "grid"),
    [("unipc", "wan_unipc"), ("unipc", "wan_dpm"), ("dpmpp_2m", "wan_dpm"), ("euler", "linear"), ("rcm", "rcm")],
)
def test_saved_state_continues_with_the_same_bits(run_probe, tmp_path, solver, grid):
    for steps in [1, 2, 4] if grid == "rcm" else [1, 2, 3, 9]:
        field = fixed_field(steps, 777)
        save_file(field, tmp_path / "in")
        shift = 1 if grid == "rcm" else 5
        run_probe("sampler", "run", solver, grid, steps, shift, tmp_path / "in", tmp_path / "a")
        run_probe("sampler", "run", solver, grid, steps, shift, tmp_path / "in", tmp_path / "b", "resume")
        a, b = load_file(tmp_path / "a")["x"], load_file(tmp_path / "b")["x"]
        assert np.isfinite(a).all()
        assert np.array_equal(a, b)
        if solver != "rcm":  # the last step of every solver lands on its data prediction
            assert np.abs(a[-1]).max() < 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("grid", "wan_unpic", 4, 5), "did you mean 'wan_unipc'"),
        (("grid", "wan_unipc", 0, 5), "steps"),
        (("grid", "wan_unipc", 4, -1), "shift"),
        (("grid", "lightx2v_4step", 8, 5), "distilled"),
        (("grid", "rcm", 4, 5), "leave the shift out"),
    ],
)
def test_bad_settings_say_the_remedy(run_probe, arguments, words):
    done = run_probe("sampler", *arguments, check=False)
    assert done.returncode == 1
    assert words in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""The memory plan of a job against what its process really held: within 10 % beside what the tool itself takes (the process, its
libraries, the encoder of the output), which a run of next to no plan tells."""

from __future__ import annotations

import json

import pytest

MIB = 1 << 20


@pytest.fixture
def memory(sla2, tiny_model, tmp_path, environment):
    """The memory part of a run's report."""

    def run(*settings) -> dict:
        report = tmp_path / "report.json"
        one = environment | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        sla2(
            *("generate", "-m", tiny_model, "-p", "a red ball", "--steps", 1, "--cfg-scale", 1, "--preview-every", 0),
            *("--no-checkpoint", "--sheet", tmp_path / "sheet.png", "--report", report, *settings),
            env=one,
        )
        return json.loads(report.read_text())["memory"]

    return run


@pytest.mark.parametrize(
    ("settings", "largest"),
    [
        (("--width", 768, "--height", 640, "--frames", 5, "--vae-precision", "fp32"), "planned_decode_bytes"),
        (("--width", 768, "--height", 640, "--frames", 5, "--vae-precision", "fp32", "--vae-tile", 256), "planned_decode_bytes"),
        (("--width", 768, "--height", 640, "--frames", 5, "--vae-precision", "bf16"), "planned_decode_bytes"),
    ],
    ids=["fp32", "tiles", "bf16"],
)
def test_plan_is_the_measured_peak(memory, settings, largest):
    nothing, job = memory("--width", 32, "--height", 32, "--frames", 1), memory(*settings)
    tool = nothing["peak_resident_bytes"] - nothing["planned_bytes"]
    measured = job["peak_resident_bytes"] - tool
    print(f"tool {tool / MIB:.1f} MiB; planned {job['planned_bytes'] / MIB:.1f}, measured {measured / MIB:.1f}")
    assert job["planned_bytes"] == job[largest] > 100 * MIB
    assert job["planned_bytes"] == pytest.approx(measured, rel=0.10)

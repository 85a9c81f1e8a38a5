# SPDX-License-Identifier: Apache-2.0
"""The model that ships follows its captions: clips of the native runner, read by detectors that prove themselves first."""

from __future__ import annotations

import argparse

import pytest
from conftest import ROOT, find_program
from sla2.study import detect, measure, world

CLIPS, PROOF = 6, 34  # of 34 clean renders one may be misread
MODEL = ROOT / "presets" / "models" / "small_world"


@pytest.mark.parametrize("extra", [[], ["--preset", "demo"]], ids=["full", "demo"])
def test_clips_show_their_held_out_captions(extra: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLA2_PRESETS", str(ROOT / "presets"))
    work = measure.tasks(CLIPS, 11)
    clips = measure.run_native(argparse.Namespace(runner=str(find_program("sla2")), model=str(MODEL), extra=extra), work)
    shares = detect.accuracy([(scene, detect.detect(clip)) for (scene, _, _), clip in zip(work, clips, strict=True)])
    assert min(shares[name] for name in world.ATTRIBUTES) >= 5 / 6, shares
    assert sum(shares[name] for name in world.ATTRIBUTES) >= 0.95 * len(world.ATTRIBUTES), shares


def test_detectors_read_clean_renders() -> None:
    assert min(detect.prove(PROOF).values()) >= detect.LEAST_ACCURACY


def test_detectors_that_guess_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes, _ = detect.clean_renders(1)
    monkeypatch.setattr(detect, "detect", lambda clip: scenes[0])
    with pytest.raises(RuntimeError, match="clean renders"):
        detect.prove(8)

# SPDX-License-Identifier: Apache-2.0
"""sla2 compare: two runs in one clip; each half must be what `generate` writes by itself."""

from __future__ import annotations

import json
import math

import numpy
from conftest import ROOT, SMALL, leftovers
from PIL import Image

SPARSE = ("--attention", "sla2", "--sparsity", "0.7", "--block-q", "32", "--block-k", "16", "-s", "5")
PROMPT = "a red ball rises over the sea at sunset"


def frames(folder) -> numpy.ndarray:
    return numpy.stack([numpy.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.png"))])


def test_halves_are_the_two_runs_and_the_difference_is_true(sla2, generate, tiny_model, tmp_path):
    out = tmp_path / "both"
    done = sla2("compare", "-m", tiny_model, "-p", PROMPT, *SMALL, *SPARSE, "-o", out, "--report", tmp_path / "r.json")
    assert leftovers(tmp_path) == ["both", "r.json"]
    generate("-s", 5, "-o", tmp_path / "full")
    generate(*SPARSE, "-o", tmp_path / "sparse")
    full, sparse = frames(tmp_path / "full"), frames(tmp_path / "sparse")
    numpy.testing.assert_array_equal(frames(out), numpy.concatenate([full, sparse], axis=2))

    report = json.loads((tmp_path / "r.json").read_text())
    error = ((full.astype(float) - sparse.astype(float)) ** 2).mean()
    assert error > 0
    assert math.isclose(report["psnr_db"], 10 * math.log10(255**2 / error), rel_tol=1e-9)
    assert report["full"]["settings"]["attention"] == "full" and report["asked"]["settings"]["attention"] == "sla2"
    assert math.isclose(report["speed"], report["sample_seconds"]["full"] / report["sample_seconds"]["asked"])
    assert f"{report['psnr_db']:.1f} dB" in done.stderr


def test_two_full_runs_are_refused(sla2, tiny_model, tmp_path):
    done = sla2("compare", "-m", tiny_model, "-p", PROMPT, "-o", tmp_path / "x.mp4", code=2)
    assert "--attention sla2" in done.stderr
    assert leftovers(tmp_path) == []


def test_a_pack_is_the_difference(sla2, tmp_path):
    """Settings come from the pack; the full run has none of it."""
    model = ROOT / "presets" / "models" / "small_world"
    pack = model / "packs" / "stage1_s90.sla2.safetensors"
    sla2(
        "compare",
        "-m",
        model,
        "--pack",
        pack,
        "-p",
        PROMPT,
        "--steps",
        "2",
        "--frames",
        "5",
        "-o",
        tmp_path / "x.gif",
        "--report",
        tmp_path / "r.json",
    )
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["full"].get("pack") is None and report["asked"]["pack"]
    assert all(layer["achieved_sparsity"] == 0 for layer in report["full"]["layers"])
    assert max(layer["achieved_sparsity"] for layer in report["asked"]["layers"]) > 0.8


def test_a_bad_setting_leaves_nothing(sla2, tiny_model, tmp_path):
    sla2("compare", "-m", tiny_model, "-p", PROMPT, *SMALL, "--attention", "sla2", "--block-k", "17", "-o", tmp_path / "x.mp4", code=2)
    assert leftovers(tmp_path) == []

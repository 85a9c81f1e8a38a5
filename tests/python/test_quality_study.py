# SPDX-License-Identifier: Apache-2.0
"""The quality study: statistics against SciPy and by hand, arms that can be built, metrics on synthetic cases, a report that repeats."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch
from sla2.nn import SparseAttention
from sla2.packs import RouterPack, fingerprints
from sla2.study import world
from sla2.study.quality import analysis, report, stage1, stats
from sla2.study.quality.__main__ import RESULTS
from sla2.study.quality.arms import ARMS, BY_NAME, jobs
from sla2.study.quality.claims import CLAIMS
from sla2.study.quality.clips import LARGE
from sla2.study.quality.vbench import commands, read_prompts

DOCS = Path(__file__).resolve().parents[2] / "libsla2" / "docs"


def test_bootstrap_of_prompts_agrees_with_scipy_and_the_formula() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).gamma(2.0, 1.0, (40, 1))
    found = stats.estimate(values)
    wanted = scipy_stats.bootstrap((values[:, 0],), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2))
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.03)
    assert found.error == pytest.approx(values.std() / 40**0.5, rel=0.03)  # the bootstrap's variance is the plug-in one
    assert found.detectable == 2.8 * found.error


def test_bootstrap_of_two_levels_has_both_variances() -> None:
    rng = np.random.default_rng(3)
    prompts, seeds = rng.normal(0, 1.0, (30, 1)), rng.normal(0, 2.0, (1, 5))
    found = stats.estimate(prompts + seeds)
    assert found.error == pytest.approx((prompts.var() / 30 + seeds.var() / 5) ** 0.5, rel=0.03)
    assert stats.estimate(prompts + seeds) == found  # the same numbers every time


def test_bootstrap_p_is_small_only_for_an_effect() -> None:
    noise = np.random.default_rng(4).normal(0, 1, (50, 3))
    noise -= noise.mean()
    assert stats.estimate(noise).p > 0.5
    assert stats.estimate(noise + 2).p == pytest.approx(2 / 10_001)
    assert stats.estimate(noise - 2).p == pytest.approx(2 / 10_001)


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_words() -> None:
    up = stats.Interval(0.1, 0.05, 0.15, 0.02, 0.001)
    assert stats.superior(up, 0.01) == "consistent"
    assert stats.superior(up, 0.2) == "undetermined"
    assert stats.superior(stats.Interval(-0.1, -0.2, -0.05, 0.02, 0.001), 0.01) == "not consistent"
    assert stats.not_worse(stats.Interval(0.0, -0.01, 0.005, 0.002, 1.0), 0.01) == "consistent"
    assert stats.not_worse(stats.Interval(0.03, 0.02, 0.04, 0.005, 0.0), 0.01) == "not consistent"
    assert stats.not_worse(up, 0.1) == "undetermined"


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_arms_can_be_built_and_run(arm) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 256, 3, 64) for _ in range(3))
    for layer in (0, 2):
        module = arm.make(layer, 3, 64)
        if module is None:
            assert arm.name in ("full", "full_ft")
            continue
        assert isinstance(module, SparseAttention)
        out = module(q, k, v, grid=(4, 8, 8), hidden=torch.randn(1, 256, 192))
        assert out.shape == q.shape and torch.isfinite(out).all()


def test_jobs_hold_every_arm_and_come_after_the_arms_they_borrow_from() -> None:
    done = [(arm.name, seed) for arm, seed in jobs()]
    assert {name for name, _ in done} == set(BY_NAME) and len(set(done)) == len(done)
    for arm, seed in jobs():
        if arm.weights_of:
            assert done.index((arm.weights_of, seed)) < done.index((arm.name, seed))
    for claim in CLAIMS:
        assert claim.better in BY_NAME and claim.worse in BY_NAME and claim.better != claim.worse


def test_block_mass_and_head_errors() -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, 128, 2, 64) for _ in range(3))
    out, mass = stage1.full(q, k, v)
    wanted = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)
    assert mass.shape == (2, 4, 8)
    torch.testing.assert_close(mass.sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(stage1.head_errors(2 * out, out), torch.ones(2))
    best = torch.zeros_like(mass, dtype=torch.bool).scatter_(-1, mass.topk(3, -1).indices, True)
    assert (stage1.recall(best, mass) >= 3 / 8).all() and (stage1.recall(torch.ones_like(best), mass) - 1).abs().max() < 1e-5


def test_kl_finds_a_router_where_the_identity_fails() -> None:
    """Keys are the queries' partners through a fixed rotation: only a learned router can see it."""
    torch.manual_seed(2)
    turn = torch.linalg.qr(torch.randn(64, 64))[0]
    centres = 6 * torch.nn.functional.normalize(torch.randn(32, 64), dim=-1)
    keys = centres.repeat_interleave(16, 0)
    samples = []
    for seed in range(4):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        queries = centres[order].repeat_interleave(32, 0) @ turn
        q, k = queries[None, :, None], keys[None, :, None]
        mass = torch.zeros(1, 16, 32)
        mass[0, torch.arange(16), order] = 1
        samples.append(stage1.Sample(q, k, k, k, mass))
    module = SparseAttention(1, 64, sparsity=31 / 32, layout="BNHD", block_q=32, block_k=16)

    def held() -> float:
        return float(torch.stack([stage1.recall(stage1.kept(module, s), s.mass) for s in samples]).mean())

    before = held()
    stage1.fit_kl(module, samples, 60, rate=1e-2)
    assert before < 0.3 and held() > 0.95


def test_projection_fit_finds_the_linear_map() -> None:
    torch.manual_seed(3)
    module = SparseAttention(2, 64, mode="sla1", router="sla1", sparsity=0.75, layout="BNHD", block_q=32, block_k=16)
    other = SparseAttention(2, 64, mode="sla1", router="sla1", sparsity=0.75, layout="BNHD", block_q=32, block_k=16)
    torch.nn.init.normal_(other.proj_l.weight, std=0.3)
    torch.nn.init.normal_(other.proj_l.bias)
    samples = []
    for _ in range(3):
        q, k, v = (torch.randn(1, 320, 2, 64) for _ in range(3))
        samples.append(stage1.Sample(q, k, v, other(q, k, v).detach(), torch.empty(0)))
    stage1.fit_projection(module, samples, ridge=1e-7)
    assert stage1.errors(module, samples).max() < 0.02


def test_large_clips_begin_like_small_ones() -> None:
    assert LARGE.grid == (8, 16, 16) and LARGE.tokens == 2048
    scene = world.combination(7)
    assert np.array_equal(world.render(scene, 3, frames=[0, 4]), world.render(scene, 3)[[0, 4]])
    longer = world.render(scene, 3, size=64, frames=range(0, 29, 4), length=29)
    assert longer.shape == (8, 64, 64, 3) and longer.min() >= 0 and longer.max() <= 1


def made_up(error: float, seed: int, count: int = 10) -> dict:
    rng = np.random.default_rng((seed, round(1000 * error)))
    pairs = [
        {"prompt": i // 2, "bin": i % 5, "velocity": error * (1 + 0.1 * rng.random()), "power": 1.0, "flow": 0.3 + error}
        for i in range(count)
    ]
    row = {"error": [0.1, 0.2, 0.3], "sparsity": [0.95], "recall": [0.5, 0.5, 0.5]}
    return {"seed": seed, "pairs": pairs, "attention": [row] * 5, "seconds_train": 1.0, "train_loss": [1.0] * 4}


def test_outcomes_of_made_up_results(tmp_path: Path) -> None:
    for name, error in (("sla2_95", 0.02), ("sla_95", 0.04), ("sparse_95", 0.04), ("sla2_90", 0.03)):
        for seed in range(3):
            (tmp_path / f"{name}_{seed}.json").write_text(json.dumps({"arm": name, **made_up(error, seed)}))
    (tmp_path / "topk_95_0.json").write_text(json.dumps({"arm": "topk_95", "seed": 0, "failed": "Traceback\nValueError: no\n"}))
    found = {o.claim.name: o for o in analysis.outcomes(analysis.load(tmp_path))}
    assert found["sla"].word == "consistent" and found["sla"].seeds == 3 and found["sla"].gain.value == pytest.approx(0.5, abs=0.02)
    assert found["less"].word == "not consistent"
    assert found["branch"].word == "undetermined"
    assert found["router"].word == found["qat"].word == "not run"
    text = report.arms_table(analysis.load(tmp_path))
    assert "| `topk_95` |" in text and "failed" in text and "not run" in text
    assert report.chart(analysis.load(tmp_path)).startswith("<svg")


def test_page_repeats_from_committed_results(tmp_path: Path) -> None:
    folder = RESULTS / "cpu"
    page = (DOCS / "quality.md").read_text()
    assert report.fill(page, report.parts(folder)) == page
    assert report.chart(analysis.load(folder)) == (DOCS / "images" / "quality_arms.svg").read_text()
    with pytest.raises(ValueError, match="begin arms"):
        report.fill("nothing", {"arms": ""})


def test_results_are_small_and_whole() -> None:
    files = sorted((RESULTS / "cpu").glob("*_[0-9].json"))
    assert files and sum(f.stat().st_size for f in files) < 1_000_000
    for path in files:
        record = json.loads(path.read_text())
        assert path.stem == f"{record['arm']}_{record['seed']}" and record["arm"] in BY_NAME
        if "failed" not in record:
            assert len(record["pairs"]) == 2 * record["budget"]["prompts"]


def test_vbench_commands(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(
        json.dumps([{"prompt_en": "a dog runs", "dimension": ["subject_consistency"]}, {"prompt_en": "a/b", "dimension": ["color"]}])
    )
    prompts = read_prompts(tmp_path / "list.json")
    made = commands(prompts, "model", tmp_path / "out", samples=2, flags=["--pack", "p.safetensors"])
    assert len(made) == 4
    command, target = made[0]
    assert target.name == "a dog runs-0.mp4" and command[:2] == ["sla2", "generate"] and "--pack" in command and str(target) in command
    assert made[1][0][made[1][0].index("--seed") + 1] != command[command.index("--seed") + 1]
    assert "/" not in made[2][1].name


def test_shipped_packs_belong_to_the_model() -> None:
    folder = DOCS.parents[1] / "presets" / "models" / "small_world"
    shapes, weights = fingerprints(folder)
    found = sorted((folder / "packs").glob("*.sla2.safetensors"))
    assert found and sum(path.stat().st_size for path in found) < 2_000_000
    for path in found:
        pack = RouterPack.load(path)
        notes = pack.check(layers=5, heads=3, head_dim=64, base_shapes=shapes, base_weights=weights)
        lora = path.with_name(path.name.replace(".sla2.", ".lora."))
        if pack.stage == 2:  # belongs to a LoRA, which lies beside it
            assert hashlib.sha256(lora.read_bytes()).hexdigest() == pack.requires and len(notes) == 1 and pack.requires in notes[0]
        else:
            assert notes == [] and not lora.exists()
        assert (pack.bits, pack.block_q, pack.block_k, pack.grid) == (8, 32, 16, (5, 8, 8))
        assert pack.errors and f"s{round(100 * (1 - pack.kappa[0]))}" in path.name and f"stage{pack.stage}" in path.name

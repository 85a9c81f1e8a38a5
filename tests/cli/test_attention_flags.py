# SPDX-License-Identifier: Apache-2.0
"""Self-attention as asked on the command line: what runs, what the report says of it, and what is told where it is not as asked."""

from __future__ import annotations

import json
import shutil

import numpy
import pytest
from safetensors.numpy import load_file

# 64 tokens: 2 blocks of queries, 4 of keys; one frame, one prompt, two steps.
BLOCKS = ("--width", 128, "--height", 128, "--frames", 1, "--steps", 2, "--cfg-scale", 1, "--block-q", 32, "--block-k", 16, "-s", 5)
KEYS, TOKENS, FORWARDS = 4, 64, 2 * 2  # layers, steps


@pytest.fixture()
def clip(generate, tmp_path):
    """clip("--sparsity", 0.5) -> (report, the latent, what was said)."""

    def run(*flags):
        latent, report = tmp_path / "latent.safetensors", tmp_path / "report.json"
        done = generate(*BLOCKS, *flags, "--latent-out", latent, "--report", report, "--no-checkpoint")
        return json.loads(report.read_text()), load_file(latent)["latent"], done.stderr

    return run


def same(one, other) -> bool:
    return one.tobytes() == other.tobytes()


def forwards(report) -> int:
    return report["attention"]["sparse_forwards"]


def test_a_sparsity_alone_means_sla2(clip):
    report, alone, said = clip("--sparsity", 0.5)
    assert report["settings"]["attention"] == "sla2" and report["attention"]["modes"] == {"sla2": FORWARDS}
    assert report["attention"]["achieved_sparsity"] == 0.5
    assert "attention = sla2" in said and any("attention = sla2" in note for note in report["fallbacks"])
    report, named, said = clip("--sparsity", 0.5, "--mode", "sla2")
    assert same(named, alone) and "attention = sla2" not in said
    report, full, _ = clip("--sparsity", 0.5, "--mode", "full")
    assert forwards(report) == 0 and not same(full, alone)
    report, zero, _ = clip("--sparsity", 0)
    assert report["settings"].get("attention", "full") == "full" and same(zero, full)
    report, _, _ = clip("--sparsity", 0.5, "--attention-schedule", "layers 0: sparse_only")
    assert forwards(report) == FORWARDS // 2  # the rules name the modes, so nothing else is implied


def test_a_sparsity_flag_wins_over_full_of_a_clip(sla2, generate, tmp_path):
    """A clip tells every value, the sparsity that full attention does not use too."""
    generate(*BLOCKS, "-o", tmp_path / "a.gif")
    sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "same.gif", "--report", tmp_path / "same.json")
    assert forwards(json.loads((tmp_path / "same.json").read_text())) == 0
    done = sla2("generate", "--from", tmp_path / "a.gif", "--sparsity", 0.5, "-o", tmp_path / "b.gif", "--report", tmp_path / "b.json")
    assert forwards(json.loads((tmp_path / "b.json").read_text())) > 0 and "instead of full" in done.stderr


@pytest.mark.parametrize(
    ("flags", "sparsity"),
    [
        (("--router", "sla1"), 0.75),
        (("--router", "vsa"), 0.75),
        (("--router", "vmoba", "--top-p", 0), (KEYS - 3) / KEYS),  # its own two blocks and the best, which may be one of them
        (("--router", "sparge"), 0.75),
        (("--router", "sparge", "--rule", "cdf", "--top-p", 0), (KEYS - 1) / KEYS),
        (("--router", "sparge", "--rule", "hybrid", "--top-p", 1), 0.0),
        (("--router", "sparge", "--theta", 1), 0.0),  # no block is quite like itself, so all are kept
        (("--sparsity", 0.99, "--protect-first", 2, "--protect-last", 1), (KEYS - 3) / KEYS),
        (("--sparsity", 0.99, "--protect-near", 0), (KEYS - 2) / KEYS),  # 32 queries lie in two blocks of 16 keys
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_what_is_asked_runs(clip, flags, sparsity):
    """Known numbers of kept blocks: 1 of 4 where the sparsity of 0.75 decides."""
    report, _, _ = clip("--sparsity", 0.75, *flags)
    attention = report["attention"]
    assert attention["router"] == (flags[1] if flags[0] == "--router" else "sla2")
    assert attention["modes"] == {"sla2": FORWARDS}
    if "vmoba" in flags:
        assert sparsity <= attention["achieved_sparsity"] <= (KEYS - 2) / KEYS
    else:
        assert attention["achieved_sparsity"] == pytest.approx(sparsity, abs=1e-12)


def test_a_constant_mix_of_one_is_the_sparse_branch_alone(clip):
    """a = sigmoid(mix_bias): with 100 nothing of the linear branch is left; with -100 nothing of the softmax."""
    flags = ("--sparsity", 0.75, "--precision", "fp32")
    _, sparse, _ = clip(*flags, "--mode", "sparse_only")
    _, one, _ = clip(*flags, "--mode", "sla2", "--mix", "const", "--mix-bias", 100)
    _, none, _ = clip(*flags, "--mode", "sla2", "--mix", "const", "--mix-bias", -100)
    _, affine, _ = clip(*flags, "--mode", "sla2", "--mix-scale", 0, "--mix-bias", 100)
    near = {"rtol": 1e-5, "atol": 1e-6}
    assert numpy.allclose(one, sparse, **near) and numpy.allclose(affine, sparse, **near) and not numpy.allclose(none, sparse, **near)


def test_negligible_blocks_are_for_sla1(clip):
    report, _, _ = clip("--mode", "sla1", "--sparsity", 0.75, "--negligible", 0.25)
    assert report["attention"]["modes"] == {"sla1": FORWARDS}
    clip("--mode", "sla2", "--sparsity", 0.75, "--negligible", 0.25)  # other modes read it not


def test_the_probe_tells_the_error_and_changes_nothing(clip):
    flags = ("--precision", "fp32", "--mode", "sparse_only")
    _, plain, _ = clip(*flags, "--sparsity", 0.75)
    report, probed, _ = clip(*flags, "--sparsity", 0.75, "--probe", 1)
    assert same(probed, plain)
    told = report["attention"]["probe"]
    assert told["calls"] == FORWARDS and 0 < told["relative_l1"] <= told["worst_relative_l1"] and 0 < told["cosine"] < 1
    assert all(layer["probe"]["calls"] == FORWARDS // 2 for layer in report["layers"])
    # Router vsa is never replaced by full attention, so that all its blocks kept are full attention computed the sparse way.
    report, _, _ = clip(*flags, "--sparsity", 0, "--router", "vsa", "--probe", 0.5)
    assert report["attention"]["modes"] == {"sparse_only": FORWARDS}
    assert report["attention"]["probe"]["worst_relative_l1"] < 1e-5 and report["attention"]["probe"]["cosine"] > 1 - 1e-9
    assert report["attention"]["achieved_sparsity"] == 0
    report, _, _ = clip("--probe", 1)
    assert report["attention"]["probe"] is None and any("probe = 1 has no effect" in note for note in report["fallbacks"])


def test_wrong_and_useless_values(generate, clip, tmp_path):
    for flags, words in (
        (("--router", "given"), "vmoba"),
        (("--mode", "sla2", "--mix", "head_scalar"), "router pack"),
        (("--protect-first", -1), "0 to"),
        (("--top-p", 2), "0 to 1"),
    ):
        assert words in generate("-o", tmp_path / "no.gif", *flags, code=2).stderr, flags
    report, _, _ = clip("--router", "vmoba")
    assert any("router = vmoba has no effect" in note for note in report["fallbacks"])
    report, _, _ = clip("--sparsity", 0.5, "--router", "vsa")
    assert any("token_order = tiles" in note for note in report["fallbacks"])
    report, _, _ = clip("--sparsity", 0.5, "--router", "vsa", "--token-order", "tiles")
    assert not any("token_order" in note for note in report["fallbacks"])


def test_a_router_travels_in_the_clip(sla2, generate, tmp_path):
    flags = ("--sparsity", 0.75, "--router", "sparge", "--rule", "hybrid", "--top-p", 0.4, "--protect-first", 1, "--mix", "const")
    generate(*BLOCKS, *flags, "-o", tmp_path / "a.gif")
    sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "b.gif")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    settings = json.loads(sla2("info", tmp_path / "a.gif", "--json").stdout)["settings"]
    assert (settings["router"], settings["rule"], settings["top_p"], settings["protect_first"]) == ("sparge", "hybrid", 0.4, 1)


def test_short_clips_run_full_and_say_so(clip, sla2, tiny_model, tmp_path):
    report, few, said = clip("--sparsity", 0.5, "--min-tokens", TOKENS + 1)
    assert report["attention"]["modes"] == {"full": FORWARDS} and f"this clip has {TOKENS} tokens" in said
    _, full, _ = clip("--mode", "full")
    assert same(few, full)
    report, _, said = clip("--sparsity", 0.5, "--min-tokens", TOKENS + 1, "--router", "vsa")
    assert forwards(report) == FORWARDS and "min_tokens" not in said
    # A model that does not say that it is small gets the table's measured number.
    other = shutil.copytree(tiny_model, tmp_path / "other")
    described = json.loads((other / "model.json").read_text())
    del described["defaults"]["min_tokens"]
    (other / "model.json").write_text(json.dumps(described))
    done = sla2("generate", "-m", other, "-p", "x", *BLOCKS, "--sparsity", 0.5, "-o", tmp_path / "o.gif")
    assert f"{TOKENS} tokens, so sla2, sparse_only and pooled run as full" in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""NaN and infinity never reach a clip: a step or a decode that gives them is repeated with full attention, then in fp32, and where
that helps the clip is the one that fp32 or full attention gives from the start; where it does not, the error names file and remedy.

Each weight here is sound in fp32 and overflows in one low format alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import sla2_ctypes as s
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

HUGE = 3.4e38  # fp32 holds it, bf16 rounds it to infinity
NAN = float("nan")


def values(**more):
    base = {"prompt": "a red balloon rises over the sea", "steps": 3, "seed": 7, "cfg_scale": 3, "preview_every": 0}
    return {**base, "precision": "fp32", "vae_precision": "fp32", **more}


@pytest.fixture
def edited(folder, tmp_path):
    """A copy of the model with tensors of one part changed in place by change(tensors)."""

    def edit(part, change, name="edited"):
        copy = shutil.copytree(folder, tmp_path / name)
        path = copy / f"{part}.safetensors"
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata)
        return copy

    return edit


def overflow_in_bf16(tensors):
    """A hidden channel that is always exactly 0 meets a weight that is infinite in bf16 alone: 0 x HUGE = 0, 0 x inf = NaN."""
    tensors["blocks.1.ffn.net.0.proj.weight"][5] = 0
    tensors["blocks.1.ffn.net.0.proj.bias"][5] = 0
    tensors["blocks.1.ffn.net.2.weight"][3, 5] = HUGE


def overflow_in_8_bits(tensors):
    """Activations from -3e38 to 3e38: fp32 and bf16 hold both, but their difference, of which a byte's step is made, nothing. The
    weights that meet them are 0."""
    for channel, shift in ((0, 3e38), (1, -3e38)):
        tensors["blocks.1.scale_shift_table"][0, 0, channel] = shift  # of the norm before self-attention
        for name in ("to_q", "to_k", "to_v"):
            tensors[f"blocks.1.attn1.{name}.weight"][:, channel] = 0


def run(sla2, model, **more):
    done = s.run_job(sla2, sla2.open(model), values(**more))
    assert done.status == s.OK, done.error
    return done


@pytest.mark.parametrize(
    ("change", "low", "high", "words"),
    [
        (overflow_in_bf16, {"precision": "bf16"}, {}, ["block 1 with bf16; repeated in fp32"]),
        (overflow_in_8_bits, {"linear_bits": 8}, {}, ["block 1 with 8-bit Linears; repeated in fp32"]),
    ],
    ids=["bf16", "8_bits"],
)
def test_a_repeated_step_gives_the_clip_of_the_safe_settings(sla2, edited, change, low, high, words):
    model = edited("dit", change)
    rescued, safe = run(sla2, model, **low), run(sla2, model, **high)
    print(rescued.report["fallbacks"])
    assert safe.report["fallbacks"] == []
    assert len(rescued.report["fallbacks"]) == len(words)
    assert all(word in line for word, line in zip(words, rescued.report["fallbacks"], strict=True))
    assert np.array_equal(rescued.frames, safe.frames)
    refused = s.run_job(sla2, sla2.open(model), values(**low, nan_retry=False))
    assert refused.status == s.E_NUMERIC and refused.frames is None and refused.report["fallbacks"] == []
    assert "step 1 of" in refused.error and "block 1" in refused.error and "also with" not in refused.error


def test_what_was_rescued_resumes_in_fp32(sla2, edited, tmp_path):
    model = edited("dit", overflow_in_bf16)
    whole = run(sla2, model, precision="bf16", steps=4)
    path = tmp_path / "job.ckpt"
    cut = s.run_job(
        sla2,
        sla2.open(model),
        values(precision="bf16", steps=4, checkpoint=path),
        on_step=lambda step, cancel, _: cancel() if step == 2 else None,
    )
    assert cut.status == s.E_CANCELLED
    resumed = s.run_job(sla2, sla2.open(model), {}, resume=path)
    assert resumed.status == s.OK, resumed.error
    assert np.array_equal(resumed.frames, whole.frames)
    assert resumed.report["fallbacks"] == whole.report["fallbacks"]  # told once, not found again
    assert resumed.report["steps_done"] == 4 and resumed.report["resumed_from_step"] == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_damaged_vae_is_named_and_can_be_replaced(sla2, folder, edited, tmp_path, precision):
    def change(tensors):
        tensors["decoder.conv_in.weight"][1, 2, 2, 1, 1] = NAN

    model = edited("vae", change)
    path = tmp_path / "job.ckpt"
    broken = s.run_job(sla2, sla2.open(model), values(checkpoint=path, vae_precision=precision))
    assert broken.status == s.E_NUMERIC and broken.frames is None
    assert str(model / "vae.safetensors") in broken.error and "Download it again" in broken.error and "latent is sound" in broken.error
    assert ("repeated on the CPU in fp32" in str(broken.report["fallbacks"])) == (precision == "bf16")
    again = s.run_job(sla2, sla2.open(model), {}, resume=path)
    assert again.status == s.E_NUMERIC
    shutil.copy(folder / "vae.safetensors", model / "vae.safetensors")
    mended = s.run_job(sla2, sla2.open(model), {}, resume=path)
    assert mended.status == s.OK, mended.error
    assert np.array_equal(mended.frames, run(sla2, folder, vae_precision=precision).frames)
    assert any("VAE other than" in line for line in mended.report["fallbacks"])


def test_a_damaged_latent_is_not_blamed_on_the_vae(sla2, folder, tmp_path):
    path = tmp_path / "job.ckpt"
    s.run_job(sla2, sla2.open(folder), values(checkpoint=path))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["step"]) == 3
    tensors = load_file(path)
    tensors["latent"].view(-1)[7] = NAN
    save_file(tensors, path, metadata)
    done = s.run_job(sla2, sla2.open(folder), {}, resume=path)
    assert done.status == s.E_NUMERIC and done.frames is None
    assert "finished latent" in done.error and str(path) in done.error and "not to blame" in done.error


def test_torch_agrees_what_overflows():
    assert torch.isinf(torch.tensor(HUGE).bfloat16()) and torch.isfinite(torch.tensor(3e38).bfloat16())
    assert torch.isinf(torch.tensor(3e38) - torch.tensor(-3e38))

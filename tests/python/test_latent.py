# SPDX-License-Identifier: Apache-2.0
"""latent against torch (noise, patches) and diffusers (RoPE)."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from safetensors.numpy import load_file, save_file

# below 16, at 16, ragged tails, several calls in a row (an odd small count leaves a number for the next small one)
COUNTS = [[1], [2, 3], [15], [16], [17], [31, 5, 5, 33], [48], [3, 20, 2, 1, 1], [16 * 5 * 14 * 18], [100003, 7, 64]]


SEEDS = [0, 1, 42, 2**31 + 5, 2**32 - 1, 2**40 + 9]
DRAW = """
import sys, numpy, torch
seeds, counts = eval(sys.argv[1])
numpy.savez(sys.argv[2], **{f"{seed}/{row}/{index}": torch.randn(count, generator=generator).numpy()
    for seed in seeds for row, line in enumerate(counts) for generator in [torch.Generator().manual_seed(seed)]
    for index, count in enumerate(line)})
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """drawn("avx2") -> torch.randn by its AVX2 code, whatever this CPU is; drawn("") -> by the code it chooses here."""

    @functools.cache
    def draw(capability: str):
        target = tmp_path_factory.mktemp("noise") / "drawn.npz"
        environment = {**os.environ, **({"ATEN_CPU_CAPABILITY": capability} if capability else {})}
        subprocess.run([sys.executable, "-c", DRAW, repr((SEEDS, COUNTS)), str(target)], env=environment, check=True)
        return dict(np.load(target))

    return draw


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("command", ["noise", "resume"])
def test_noise_has_the_bits_of_torch(run_probe, tmp_path, drawn, seed, command):
    """Bit for bit what torch draws with AVX2; with AVX-512 torch itself takes other code and draws other last bits."""
    for row, counts in enumerate(COUNTS):
        run_probe("latent", command, seed, tmp_path / "out", *counts)
        ours = load_file(tmp_path / "out")
        for index in range(len(counts)):
            theirs, here = drawn("avx2")[f"{seed}/{row}/{index}"], drawn("")[f"{seed}/{row}/{index}"]
            if theirs.size >= 16:
                assert np.array_equal(ours[str(index)], theirs), (seed, counts, index)
            else:  # fp64 sine and cosine of two C libraries, rounded to fp32
                np.testing.assert_array_max_ulp(ours[str(index)], theirs, maxulp=1)
            np.testing.assert_allclose(ours[str(index)], here, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", [(16, 3, 4, 6), (16, 1, 2, 2), (4, 5, 10, 14)])
def test_patches(run_probe, tmp_path, shape):
    channels, frames, height, width = shape
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    grid = torch.from_numpy(x).reshape(channels, frames, height // 2, 2, width // 2, 2)
    tokens = grid.permute(1, 2, 4, 0, 3, 5).reshape(-1, channels * 4)  # as Conv3d (1,2,2) sees them
    head = grid.permute(1, 2, 4, 3, 5, 0).reshape(-1, channels * 4)  # WanTransformer3DModel's output: channel fastest
    save_file({"x": x, "tokens": head.contiguous().numpy()}, tmp_path / "in")
    run_probe("latent", "patchify", tmp_path / "in", tmp_path / "out")
    assert np.array_equal(load_file(tmp_path / "out")["tokens"], tokens.numpy())
    run_probe("latent", "unpatchify", tmp_path / "in", tmp_path / "out")
    assert np.array_equal(load_file(tmp_path / "out")["x"], x)


@pytest.mark.parametrize(("head_dim", "grid"), [(128, (21, 30, 52)), (24, (3, 5, 7)), (64, (2, 9, 4)), (12, (1, 1, 1))])
def test_rope_tables(run_probe, tmp_path, head_dim, grid):
    frames, height, width = grid
    run_probe("latent", "rope", head_dim, *grid, tmp_path / "out")
    ours = load_file(tmp_path / "out")
    reference = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)
    cos, sin = reference(torch.zeros(1, 16, frames, height * 2, width * 2))
    for name, theirs in (("cos", cos), ("sin", sin)):
        parts = [
            np.broadcast_to(ours[f"{name}_t"][:, None, None], (*grid, ours[f"{name}_t"].shape[1])),
            np.broadcast_to(ours[f"{name}_h"][None, :, None], (*grid, ours[f"{name}_h"].shape[1])),
            np.broadcast_to(ours[f"{name}_w"][None, None, :], (*grid, ours[f"{name}_w"].shape[1])),
        ]
        table = np.concatenate(parts, axis=-1).reshape(-1, head_dim // 2)
        theirs = theirs[0, :, 0].numpy().astype(np.float64)
        assert np.array_equal(theirs[:, 0::2], theirs[:, 1::2])
        assert np.abs(table - theirs[:, 0::2]).max() <= 1.2e-7  # one fp32 rounding

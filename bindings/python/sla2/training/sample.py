# SPDX-License-Identifier: Apache-2.0
"""Clips of the student and of full attention from the same noise and context, side by side."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sla2.errors import ArgumentError, FileMissingError, FileWriteError
from sla2.training import files
from sla2.training.config import Config
from sla2.training.data import Batch, Samples, shifted

Run = Callable[[nn.Module, Batch], Tensor]


@torch.no_grad()
def latents(model: nn.Module, context: Tensor, empty: Tensor | None, config: Config, shape: tuple[int, ...], run: Run) -> Tensor:
    """[n, C, F, H, W] by Euler's method from seeds sample.seed, sample.seed + 1, …"""
    own, device = config.sample, next(model.parameters()).device
    x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(own.seed + i)) for i in range(len(context))]).to(device)
    context, guided = context.to(device), empty is not None and own.cfg_scale != 1
    sigma = shifted(torch.linspace(1, 0, own.steps + 1), config.train.shift).tolist()
    for now, then in pairwise(sigma):
        level = torch.full((len(x),), now, device=device)
        wanted = _velocity(model, x, level, context, run)
        if guided and empty is not None:
            plain = _velocity(model, x, level, empty.to(device).expand_as(context), run)
            wanted = plain + own.cfg_scale * (wanted - plain)
        x = x + (then - now) * wanted
    return x


class _Given(Batch):
    """A batch whose noisy latents are already there."""

    @property
    def noisy(self) -> Tensor:
        return self.clean


def _velocity(model: nn.Module, x: Tensor, sigma: Tensor, context: Tensor, run: Run) -> Tensor:
    return run(model, _Given(x, x, sigma, context))


def pair(student: nn.Module, teacher: nn.Module, test: Samples, config: Config, run: Run) -> dict[str, Tensor]:
    """`student` and `full`, each [n, C, F, H, W] on the CPU, for the contexts of the first held-out samples."""
    context = torch.stack([test.read(i)[1] for i in range(min(config.sample.count, len(test)))])
    both = {"student": student, "full": teacher}
    return {name: latents(model, context, test.empty, config, test.shape, run).cpu() for name, model in both.items()}


def write(clips: dict[str, Tensor], config: Config, step: int) -> Path:
    """samples/step_N.safetensors of what `pair` returned, and step_N_I.gif where sample.vae names a VAE. Returns the first path."""
    own = config.sample
    path = config.folder() / "samples" / f"step_{step:08d}.safetensors"
    files.save(path, clips)
    if own.vae:
        vae = load_vae(own.vae)
        for i in range(len(clips["student"])):
            frames = torch.cat([decode(vae, clips[name][i : i + 1]) for name in ("student", "full")], 2)
            _picture(path.with_name(f"{path.stem}_{i}.gif"), frames, own.fps)
    return path


def load_vae(folder: str) -> Any:
    """AutoencoderKLWan of a diffusers folder, or of a model folder of sla2 (needs sla2.study)."""
    path = Path(folder)
    if (path / "model.json").is_file():
        try:
            return importlib.import_module("sla2.study.export").load_vae(path)
        except ImportError as error:
            raise ArgumentError(
                f"sample.vae {folder}: reading it needs sla2.study, which this installation lacks; give a diffusers folder"
            ) from error
    if not (path / "config.json").is_file():
        raise FileMissingError(f"sample.vae is {folder!r}: holds neither config.json nor model.json; expected a VAE's folder")
    wan = importlib.import_module("diffusers").AutoencoderKLWan
    return wan.from_pretrained(folder).eval().requires_grad_(False)


@torch.no_grad()
def decode(vae: Any, z: Tensor) -> Tensor:
    """Frames [F, H, W, 3] in 0 … 1 of normalised latents [1, C, f, h, w]; mean and deviation are the VAE's."""
    mean, std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    clip: Tensor = vae.decode(z * std + mean, return_dict=False)[0][0]
    return clip.clamp(-1, 1).permute(1, 2, 3, 0) / 2 + 0.5


def _picture(path: Path, frames: Tensor, fps: int) -> None:
    image = importlib.import_module("PIL.Image")
    pages = [image.fromarray((frame * 255).round().byte().numpy()) for frame in frames]
    try:
        pages[0].save(path, save_all=True, append_images=pages[1:], duration=round(1000 / fps), loop=0)
    except OSError as error:
        raise FileWriteError(f"{path}: cannot be written: {error}; check the free space") from error

# SPDX-License-Identifier: Apache-2.0
"""Adapt the small world's model, trained on 320 tokens, to larger clips with full attention: the study's teacher."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import world
from ..dit_train import CONFIG, build, flow_loss, noise_levels
from ..optim import Ema, MuonAdamW, resume, save, schedule
from ..text import Encoder
from . import clips


def base(work: Path) -> dict:
    """Return the small world's checkpoint: averaged weights, and the latents' mean and deviation per channel."""
    state = torch.load(work / "dit.pt", weights_only=False)
    return {"model": state["ema"]["shadow"], "mean": state["mean"], "std": state["std"]}


def load(work: Path):
    """Return the adapted model, frozen, with the latents' mean and deviation."""
    state, model = torch.load(work / "teacher.pt", weights_only=False), build()
    model.load_state_dict(state["ema"]["shadow"])
    return model.eval().requires_grad_(False), state["mean"], state["std"]


@torch.no_grad()
def held_out(model, x0: Tensor, context: Tensor) -> float:
    """Return the flow loss of held-out clips at five fixed noise levels, one clip at a time."""
    gen, losses = torch.Generator().manual_seed(5), []
    for i in range(len(x0)):
        noise = torch.randn(x0[:1].shape, generator=gen)
        losses.append(flow_loss(model, x0[i : i + 1], context[i : i + 1], torch.tensor([0.1 + 0.2 * (i % 5)]), noise))
    return torch.cat(losses).mean().item()


def train(work: Path, minutes: float, batch: int, lr: float, seed: int = 0) -> None:
    """Train until ``minutes`` of running time are spent in all; resume from the checkpoint; read new clips at each."""
    torch.manual_seed(seed)
    path, text, model, start = work / "teacher.pt", Encoder(work / "text.pt"), build(), base(work)
    model.load_state_dict(start["model"])
    mean, std = start["mean"], start["std"]
    matrices = [p for n, p in model.named_parameters() if n.endswith("weight") and p.ndim == 2 and "proj_out" not in n]
    chosen = {id(p) for p in matrices}
    opt = MuonAdamW(matrices, [p for p in model.parameters() if id(p) not in chosen], lr=lr, adam_scale=0.4)
    ema = Ema(model, 0.97)
    state = resume(path, model, opt, ema)
    step, spent, log, held = state["step"], state["spent"], state["log"], state.get("held", [])
    raw, scenes = clips.read(work, "train")
    data = (raw - mean) / std
    test, test_scenes = clips.read(work, "test")
    test = (test[:15] - mean) / std
    test_text, judge = text([world.caption(s, i) for i, s in enumerate(test_scenes[:15])]), build()
    rng, begin, last = np.random.default_rng((seed, step)), time.time() - spent, 0.0

    def checkpoint() -> None:
        nonlocal last, data, scenes
        judge.load_state_dict(ema.shadow)
        held.append((step, spent, held_out(judge, test, test_text)))
        print(f"step {step} minutes {spent / 60:.1f} held-out loss {held[-1][2]:.4f}", flush=True)
        state = {"model": model.state_dict(), "opt": opt.state_dict(), "ema": ema.state_dict(), "step": step, "spent": spent}
        save(path, {**state, "log": log, "held": held, "mean": mean, "std": std, "config": CONFIG, "batch": batch, "clips": len(data)})
        raw, scenes = clips.read(work, "train")
        data, last = (raw - mean) / std, time.time()

    while (spent := time.time() - begin) < 60 * minutes:
        if time.time() - last > 360:
            checkpoint()
        opt.set_rate(lr * schedule(spent / (60 * minutes), step, warmup=20))
        opt.zero_grad(set_to_none=True)
        sigmas, total = noise_levels(rng, batch), 0.0
        for i in range(batch):
            pick = int(rng.integers(len(data)))
            words = "" if rng.random() < 0.1 else world.caption(scenes[pick], int(rng.integers(1 << 30)))
            x0 = data[pick : pick + 1]
            loss = flow_loss(model, x0, text([words]), sigmas[i : i + 1], torch.randn_like(x0)).mean() / batch
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        ema.update(model)
        step += 1
        log.append((step, spent, total))
        if step % 10 == 0:
            print(f"step {step} minutes {spent / 60:.1f} loss {np.mean([r[2] for r in log[-10:]]):.4f} clips {len(data)}", flush=True)
    checkpoint()

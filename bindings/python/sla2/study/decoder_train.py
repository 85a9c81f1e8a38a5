# SPDX-License-Identifier: Apache-2.0
"""Teach the decoder of an inflated VAE the frames between the encoded ones; the encoder stays frozen.

Inputs are windows of cached latents, targets the rendered pixels that belong to them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import latents, world
from .optim import Ema, MuonAdamW, fast_products, resume, save, schedule
from .vae_train import CONFIG, build, decode, inflate, psnr, to_tensor


def batch_of(cache: Tensor, rng: np.random.Generator, batch: int, window: int, length: int) -> tuple[Tensor, Tensor]:
    """Return latents [b, 16, length, window, window] and clips [b, 3, 4 length - 3, 8 window, 8 window]."""
    inputs, targets = [], []
    for i in rng.integers(len(cache), size=batch):
        scene, seed = latents.plan("train", int(i))
        t = int(rng.integers(6 - length))
        numbers = range(4 * t, 4 * (t + length) - 3)
        y, x = rng.integers(17 - window, size=2)
        if rng.random() < 0.6:
            cx, cy = world.track(scene.motion)[numbers[len(numbers) // 2]] / 8
            y, x = np.clip(np.array((cy, cx)).astype(int) + rng.integers(-2, 3, 2) - window // 2, 0, 16 - window)
        inputs.append(cache[i, :, t : t + length, y : y + window, x : x + window].float())
        clip = world.render(scene, seed, frames=numbers)
        targets.append(clip[:, 8 * y : 8 * (y + window), 8 * x : 8 * (x + window)])
    return torch.stack(inputs), to_tensor(np.stack(targets))


def loss_of(out: Tensor, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training loss and the mean squared error."""
    error = out - clip
    mse = error.square().mean()
    edges = error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean()
    return (error.square() + 1e-4).sqrt().mean() + 2 * mse + 0.5 * edges, mse.detach()


def train(args: argparse.Namespace) -> None:
    """Train until ``args.minutes`` of running time are spent; resume from the checkpoint."""
    torch.manual_seed(args.seed)
    work = Path(args.work)
    path, vae = work / "vae.pt", build()
    vae.load_state_dict(torch.load(work / "image_vae.pt", weights_only=False)["ema"]["shadow"])
    inflate(vae)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    named = [(n, p) for n, p in vae.named_parameters() if p.requires_grad]
    inner = [p for n, p in named if n.endswith("weight") and min(p.shape[:2]) > 3]
    chosen = {id(p) for p in inner}
    opt = MuonAdamW(inner, [p for _, p in named if id(p) not in chosen], lr=args.lr, adam_scale=0.4)
    ema = Ema(vae, 0.99)
    state = resume(path, vae, opt, ema)
    step, spent, log = state["step"], state["spent"], state["log"]
    cache = latents.read(work / "latents", "train")[0].half()
    noise = args.noise * cache[:256].float().std((0, 2, 3, 4)).view(1, -1, 1, 1, 1)
    rng = np.random.default_rng((args.seed, 21, step))
    start, last_save = time.time() - spent, time.time()

    def checkpoint() -> None:
        save(
            path,
            {
                "model": vae.state_dict(),
                "opt": opt.state_dict(),
                "ema": ema.state_dict(),
                "step": step,
                "spent": spent,
                "log": log,
                "config": CONFIG,
            },
        )

    checkpoint()
    while (spent := time.time() - start) < 60 * args.minutes:
        opt.set_rate(args.lr * schedule(spent / (60 * args.minutes), step))
        full = step % 8 == 7
        z, clip = batch_of(cache, rng, 1, 16, 3) if full else batch_of(cache, rng, args.batch, args.window, 3)
        with fast_products():
            out = decode(vae, z + noise * torch.randn_like(z))
        loss, mse = loss_of(out.float(), clip)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        opt.step()
        ema.update(vae)
        step += 1
        log.append((step, loss.item(), float(mse)))
        if step % 20 == 0:
            recent = np.mean(log[-20:], 0)
            print(f"step {step} min {spent / 60:.1f} loss {recent[1]:.4f} psnr {-10 * np.log10(recent[2] / 4):.2f}", flush=True)
        if time.time() - last_save > 90:
            last_save = time.time()
            checkpoint()
    checkpoint()
    vae.load_state_dict(ema.shadow)
    print(
        json.dumps(
            {"steps": step, "minutes": round(spent / 60, 1), "clips": args.judge, "vae_psnr_held_out_db": round(psnr(vae, args.judge), 2)}
        )
    )


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="build/study", help="folder of checkpoints and latents")
    parser.add_argument("--minutes", type=float, default=30.0, help="running time to spend in all")
    parser.add_argument("--batch", type=int, default=2, help="windows per step")
    parser.add_argument("--window", type=int, default=7, help="width and height in latents")
    parser.add_argument("--noise", type=float, default=0.05, help="noise on latents, in their deviations")
    parser.add_argument("--judge", type=int, default=24, help="held-out clips to judge by at the end")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()

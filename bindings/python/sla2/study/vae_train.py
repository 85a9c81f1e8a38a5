# SPDX-License-Identifier: Apache-2.0
"""Train the small world's VAE: a narrow ``AutoencoderKLWan`` on crops rendered on the fly."""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import MethodType

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from torch import Tensor

from . import world
from .optim import Ema, MuonAdamW, save, schedule

CONFIG = {"base_dim": 16, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1,
          "temperal_downsample": [False, True, True]}


def _resample(self: WanResample, x: Tensor, feat_cache=None, feat_idx=None) -> Tensor:
    """Resample a whole clip [b, c, t, h, w] as the chunked loop does chunk by chunk."""
    if self.mode == "upsample3d" and x.shape[2] > 1:
        y = self.time_conv(x[:, :, 1:])
        b, c2, t, h, w = y.shape
        y = y.view(b, 2, c2 // 2, t, h, w).permute(0, 2, 3, 1, 4, 5).reshape(b, c2 // 2, 2 * t, h, w)
        x = torch.cat([x[:, :, :1], y], 2)
    b, _, t, _, _ = x.shape
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (b, t)).transpose(1, 2)
    if self.mode == "downsample3d" and t > 1:
        x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)
    return x


def build(config: dict | None = None) -> AutoencoderKLWan:
    """Return a VAE whose encoder and decoder take whole clips in one pass."""
    vae = AutoencoderKLWan(**(config or CONFIG))
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = MethodType(_resample, module)
    return vae


def encode(vae: AutoencoderKLWan, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior's mean and log-variance, each [b, 16, (t+3)/4, h/8, w/8].

    ``clip`` is [b, 3, t, h, w] in [-1, 1] with t = 4 n + 1. Equal to ``vae.encode`` (see ``check``).
    """
    return vae.quant_conv(vae.encoder(clip)).chunk(2, 1)


def decode(vae: AutoencoderKLWan, z: Tensor) -> Tensor:
    """Return the clip [b, 3, t, h, w] of latents ``z``, not yet clamped to [-1, 1]."""
    return vae.decoder(vae.post_quant_conv(z))


def to_tensor(clips: np.ndarray) -> Tensor:
    """Turn [b, t, h, w, 3] in [0, 1] into [b, 3, t, h, w] in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def crops(rng: np.random.Generator, batch: int, size: int, frames: int) -> Tensor:
    """Cut ``batch`` random crops, half of them near the object, out of training clips."""
    scenes, out = world.split("train"), []
    limit = world.SIZE - size
    for i in range(batch):
        if i % 2 == 0:
            clip = world.render(scenes[rng.integers(len(scenes))], int(rng.integers(1 << 30)))
        y, x = rng.integers(limit + 1, size=2)
        if rng.random() < 0.5:
            y, x = np.clip(rng.integers(28, 92, 2) - size // 2, 0, limit)
        t = 4 * rng.integers((world.FRAMES - frames) // 4 + 1)
        out.append(clip[t:t + frames, y:y + size, x:x + size])
    return to_tensor(np.stack(out))


def loss_of(vae: AutoencoderKLWan, clip: Tensor, kl_weight: float = 2e-4) -> tuple[Tensor, Tensor]:
    """Return the training loss and the mean squared error of a batch."""
    mean, logvar = encode(vae, clip)
    logvar = logvar.clamp(-20, 10)
    out = decode(vae, mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))
    error = out - clip
    mse = error.square().mean()
    edges = error.diff(dim=3).abs().mean() + error.diff(dim=4).abs().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return (error.square() + 1e-4).sqrt().mean() + 2 * mse + 0.5 * edges + kl_weight * kl, mse.detach()


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, count: int = 24, seed: int = 10_000) -> float:
    """Return the mean PSNR in dB over ``count`` full clips of held-out combinations."""
    scenes, total = world.split("test"), 0.0
    for i in range(count):
        clip = to_tensor(world.render(scenes[(i * 61) % len(scenes)], seed + i)[None])
        out = decode(vae, encode(vae, clip)[0]).clamp(-1, 1)
        total += -10 * torch.log10((out - clip).square().mean() / 4).item()
    return total / count


@torch.no_grad()
def check() -> float:
    """Return the largest difference between the whole-clip and the chunked paths (fp32)."""
    torch.manual_seed(0)
    whole, chunked = build(), AutoencoderKLWan(**CONFIG).eval()
    chunked.load_state_dict(whole.state_dict())
    clip = torch.rand(1, 3, 17, 32, 32) * 2 - 1
    mean = encode(whole, clip)[0]
    reference = chunked.encode(clip).latent_dist.mode()
    video = (decode(whole, mean).clamp(-1, 1) - chunked.decode(reference).sample).abs().max()
    return max((mean - reference).abs().max().item(), video.item())


def train(args: argparse.Namespace) -> None:
    """Train until ``args.minutes`` of running time are spent; resume from the checkpoint."""
    torch.manual_seed(args.seed)
    path = Path(args.work) / f"{args.name}.pt"
    vae = build()
    if args.init:
        vae.load_state_dict(torch.load(args.init, weights_only=False)["ema"]["shadow"])
    if args.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    inner = [p for n, p in vae.named_parameters() if p.requires_grad and n.endswith("weight")
             and min(p.shape[:2]) > 3]
    chosen = {id(p) for p in inner}
    others = [p for p in vae.parameters() if p.requires_grad and id(p) not in chosen]
    opt, ema = MuonAdamW(inner, others, lr=args.lr), Ema(vae, 0.995)
    step, spent, log = 0, 0.0, []
    if path.exists():
        state = torch.load(path, weights_only=False)
        vae.load_state_dict(state["model"])
        opt.load_state_dict(state["opt"])
        ema.load_state_dict(state["ema"])
        step, spent, log = state["step"], state["spent"], state["log"]
    rng = np.random.default_rng((args.seed, step))
    start = time.time() - spent
    last_save = time.time()

    def checkpoint() -> None:
        save(path, {"model": vae.state_dict(), "opt": opt.state_dict(), "ema": ema.state_dict(),
                    "step": step, "spent": spent, "log": log, "config": CONFIG})

    while (spent := time.time() - start) < 60 * args.minutes:
        progress = spent / (60 * args.minutes)
        rate = args.lr * schedule(progress, step)
        for group in opt.param_groups:
            group["lr"] = rate
        full = progress > args.full_after and step % 3 == 0
        clip = crops(rng, 1, 128, 17) if full else crops(rng, args.batch, args.crop, 9)
        loss, mse = loss_of(vae, clip)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        opt.step()
        ema.update(vae)
        step += 1
        log.append((step, float(loss.detach()), float(mse)))
        if step % 20 == 0:
            recent = np.mean(log[-20:], 0)
            print(f"step {step} min {spent / 60:.1f} loss {recent[1]:.4f} "
                  f"psnr {-10 * np.log10(recent[2] / 4):.2f} lr {rate:.2e}", flush=True)
        if time.time() - last_save > 120:
            last_save = time.time()
            checkpoint()
    checkpoint()
    vae.load_state_dict(ema.shadow)
    print(json.dumps({"vae_psnr_held_out_db": round(psnr(vae), 2), "steps": step}), flush=True)


def load(path: str | Path) -> AutoencoderKLWan:
    """Return the averaged VAE of a checkpoint, in evaluation mode."""
    vae = build()
    vae.load_state_dict(torch.load(path, weights_only=False)["ema"]["shadow"])
    return vae.eval().requires_grad_(False)


def main() -> None:
    """Parse the command line and train, or check the whole-clip path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="build/study", help="folder of checkpoints")
    parser.add_argument("--name", default="vae", help="checkpoint's name")
    parser.add_argument("--minutes", type=float, default=28.0, help="running time to spend in all")
    parser.add_argument("--batch", type=int, default=4, help="crops per step")
    parser.add_argument("--crop", type=int, default=64, help="width and height of crops in pixels")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--full-after", type=float, default=0.75,
                        help="progress after which full clips mix in")
    parser.add_argument("--init", help="checkpoint to start from")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder as it is")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true",
                        help="compare whole-clip and chunked paths, then stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.check:
        print(json.dumps({"largest_difference": check()}))
        return
    train(args)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Train the small world's VAE, a narrow ``AutoencoderKLWan``, on single frames rendered on the fly.

A clip's frames are much alike, so frames teach the spatial layers ten times faster than clips do.
``inflate`` then makes a VAE of clips: its latents are those of every fourth frame, and
``decoder_train`` teaches the decoder the frames between.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import MethodType

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor

from . import world
from .optim import Ema, MuonAdamW, resume, save, schedule

CONFIG = {"base_dim": 16, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1, "temperal_downsample": [False, True, True]}


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


def _conv(self: WanCausalConv3d, x: Tensor, cache_x=None) -> Tensor:
    """Convolve [b, c, t, h, w] with zeros before the first frame; a single frame needs one tap only."""
    if x.shape[2] == 1 and self.stride[0] == 1:
        pad = self._padding[2], self._padding[0]
        return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, padding=pad)[:, :, None]
    return F.conv3d(F.pad(x, self._padding), self.weight, self.bias, self.stride)


def build(config: dict | None = None) -> AutoencoderKLWan:
    """Return a VAE whose encoder and decoder take whole clips in one pass."""
    vae = AutoencoderKLWan(**(config or CONFIG))
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = MethodType(_resample, module)
        elif isinstance(module, WanCausalConv3d):
            module.forward = MethodType(_conv, module)
    return vae


@torch.no_grad()
def initialise(vae: AutoencoderKLWan) -> None:
    """Start from an almost linear autoencoder: residual branches add nothing, the rest keeps norms.

    The posterior starts narrow (variance e^-6), so that the decoder can hear the latents at once.
    """
    for name, p in vae.named_parameters():
        if not name.endswith("weight") or p.ndim < 4:
            continue
        if "conv2." in name or "proj." in name:
            p.zero_()
        elif "conv1." in name or "to_qkv" in name:
            p.mul_(3**0.5)
        else:
            torch.nn.init.orthogonal_(p, 1.5 if "resample" in name and "decoder" in name else 1.0)
    vae.quant_conv.bias[vae.config.z_dim :] = -6
    vae.quant_conv.weight[vae.config.z_dim :] *= 0.1


@torch.no_grad()
def inflate(vae: AutoencoderKLWan) -> None:
    """Turn a VAE of single frames into one of still clips, the start of training on moving ones.

    Single frames only ever reach the last temporal tap. The others become zero, so the encoder keeps
    the last of the frames it joins (frames 0, 4, 8, ... of the clip) and the decoder repeats it.
    """
    for name, p in vae.named_parameters():
        if name.endswith("weight") and p.ndim == 5 and p.shape[2] == 3:
            if "time_conv" in name:
                eye = torch.eye(p.shape[1])[:, :, None, None]
                p.zero_()
                if "encoder" in name:
                    p[:, :, 2] = eye
                else:
                    p[:, :, 2] = torch.cat([eye, eye])
            else:
                p[:, :, :2] = 0
        elif "time_conv.bias" in name:
            p.zero_()


def encode(vae: AutoencoderKLWan, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Return the posterior's mean and log-variance, each [b, 16, (t+3)/4, h/8, w/8].

    ``clip`` is [b, 3, t, h, w] in [-1, 1] with t = 4 n + 1. Equal to ``vae.encode`` (see ``check``).
    """
    return vae.quant_conv(vae.encoder(clip)).chunk(2, 1)


def encode_keyframes(vae: AutoencoderKLWan, key: Tensor) -> Tensor:
    """Return an inflated VAE's latents [b, 16, n, h/8, w/8] of a clip from its frames 0, 4, 8, ...

    ``key`` holds those frames, [b, 3, n, h, w].
    """
    b, _, n = key.shape[:3]
    mean = encode(vae, key.transpose(1, 2).flatten(0, 1)[:, :, None])[0]
    return mean[:, :, 0].unflatten(0, (b, n)).transpose(1, 2)


def decode(vae: AutoencoderKLWan, z: Tensor) -> Tensor:
    """Return the clip [b, 3, t, h, w] of latents ``z``, not yet clamped to [-1, 1]."""
    return vae.decoder(vae.post_quant_conv(z))


def to_tensor(clips: np.ndarray) -> Tensor:
    """Turn [b, t, h, w, 3] in [0, 1] into [b, 3, t, h, w] in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).contiguous() * 2 - 1


def frames(rng: np.random.Generator, batch: int, size: int) -> Tensor:
    """Cut crops, half of them near the object, out of single frames: [batch, 3, 1, size, size]."""
    scenes, out, limit = world.split("train"), [], world.SIZE - size
    for _ in range(batch):
        scene, frame = scenes[rng.integers(len(scenes))], int(rng.integers(world.FRAMES))
        image = world.render(scene, int(rng.integers(1 << 30)), frames=[frame])
        y, x = rng.integers(limit + 1, size=2)
        if rng.random() < 0.5:
            cx, cy = world.track(scene.motion)[frame].astype(int)
            y, x = np.clip(np.array((cy, cx)) + rng.integers(-16, 17, 2) - size // 2, 0, limit)
        out.append(image[:, y : y + size, x : x + size])
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
def check() -> dict[str, float]:
    """Return the largest differences (fp32) of the whole-clip path from diffusers' chunked one, and
    of an inflated VAE's latents from those of every fourth frame."""
    torch.manual_seed(0)
    whole, chunked = build(), AutoencoderKLWan(**CONFIG).eval()
    chunked.load_state_dict(whole.state_dict())
    clip = torch.rand(1, 3, 17, 32, 32) * 2 - 1
    mean = encode(whole, clip)[0]
    reference = chunked.encode(clip).latent_dist.mode()
    video = (decode(whole, mean).clamp(-1, 1) - chunked.decode(reference).sample).abs().max()
    inflate(whole)
    return {
        "encode": (mean - reference).abs().max().item(),
        "decode": video.item(),
        "keyframes": (encode(whole, clip)[0] - encode_keyframes(whole, clip[:, :, ::4])).abs().max().item(),
    }


def train(args: argparse.Namespace) -> None:
    """Train until ``args.minutes`` of running time are spent; resume from the checkpoint."""
    torch.manual_seed(args.seed)
    path = Path(args.work) / f"{args.name}.pt"
    vae = build()
    initialise(vae)
    if args.init:
        vae.load_state_dict(torch.load(args.init, weights_only=False)["ema"]["shadow"])
    inner = [p for n, p in vae.named_parameters() if n.endswith("weight") and min(p.shape[:2]) > 3]
    chosen = {id(p) for p in inner}
    others = [p for p in vae.parameters() if id(p) not in chosen]
    opt, ema = MuonAdamW(inner, others, lr=args.lr, adam_scale=0.4), Ema(vae, 0.995)
    state = resume(path, vae, opt, ema)
    step, spent, log = state["step"], state["spent"], state["log"]
    rng = np.random.default_rng((args.seed, step))
    start = time.time() - spent
    last_save = time.time()

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

    while (spent := time.time() - start) < 60 * args.minutes:
        progress = spent / (60 * args.minutes)
        rate = args.lr * schedule(progress, step)
        opt.set_rate(rate)
        clip = frames(rng, 2, 128) if step % 3 == 0 else frames(rng, args.batch, args.crop)
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
            print(
                f"step {step} min {spent / 60:.1f} loss {recent[1]:.4f} psnr {-10 * np.log10(recent[2] / 4):.2f} lr {rate:.2e}", flush=True
            )
        if time.time() - last_save > 120:
            last_save = time.time()
            checkpoint()
    checkpoint()
    print(json.dumps({"steps": step, "training_psnr_db": round(-10 * np.log10(np.mean([r[2] for r in log[-100:]]) / 4), 2)}))


def load(path: str | Path) -> AutoencoderKLWan:
    """Return the averaged VAE of a checkpoint, in evaluation mode."""
    vae = build()
    vae.load_state_dict(torch.load(path, weights_only=False)["ema"]["shadow"])
    return vae.eval().requires_grad_(False)


def main() -> None:
    """Parse the command line and train, or check the whole-clip path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="build/study", help="folder of checkpoints")
    parser.add_argument("--name", default="image_vae", help="checkpoint's name")
    parser.add_argument("--minutes", type=float, default=20.0, help="running time to spend in all")
    parser.add_argument("--batch", type=int, default=4, help="crops per step")
    parser.add_argument("--crop", type=int, default=64, help="width and height of crops in pixels")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--init", help="checkpoint to start from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="compare whole-clip and chunked paths, then stop")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.check:
        print(json.dumps({"largest_differences": check()}))
        return
    train(args)


if __name__ == "__main__":
    main()

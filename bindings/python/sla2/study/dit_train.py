# SPDX-License-Identifier: Apache-2.0
"""Train the small world's diffusion transformer by flow matching on cached latents.

x(s) = (1 - s) x0 + s e with noise level s in (0, 1); the network sees t = 1000 s and predicts e - x0.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from . import latents, world
from .optim import Ema, MuonAdamW, fast_products, resume, save, schedule
from .text import DIM as TEXT_DIM
from .text import Encoder

CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 3,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_DIM,
    "freq_dim": 256,
    "ffn_dim": 512,
    "num_layers": 5,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
SHIFT = 5.0
HELD_OUT_SHIFT = 3.0


class FastAttention:
    """Wan's attention written for short sequences on CPUs: rotation by one complex product, explicit scores."""

    def __call__(self, attn, x: Tensor, context: Tensor | None = None, mask=None, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the attention's output [b, n, dim] for ``x`` and an optional ``context``."""
        source = x if context is None else context
        q, k, v = attn.norm_q(attn.to_q(x)), attn.norm_k(attn.to_k(source)), attn.to_v(source)
        q, k, v = (a.unflatten(2, (attn.heads, -1)) for a in (q, k, v))
        if rotary is not None:
            turn = torch.complex(rotary[0][..., 0::2], rotary[1][..., 1::2])
            q, k = (torch.view_as_real(torch.view_as_complex(a.float().unflatten(-1, (-1, 2))) * turn).flatten(-2) for a in (q, k))
        q, k, v = (a.transpose(1, 2).to(v.dtype) for a in (q * q.shape[-1] ** -0.5, k, v))
        scores = (q @ k.mT).softmax(-1, dtype=v.dtype)
        return attn.to_out[0]((scores @ v).transpose(1, 2).flatten(2))


def look_back(model: WanTransformer3DModel, layer: int, head: int, axis: int) -> None:
    """Start a self-attention head so that every token reads its predecessor along ``axis`` (0 t, 1 h, 2 w).

    Rotary embedding only tells distances, and noise looks the same in every frame: nothing says which frame
    is the first. A head that reads the predecessor gives the tokens without one another variance, from which
    the rest learns absolute positions. Queries and keys of this head start constant (their biases), turned
    against each other so that the score along ``axis`` is largest one step back, and along the others at rest.
    """
    attn, size = model.blocks[layer].attn1, model.config.attention_head_dim
    rows = slice(head * size, (head + 1) * size)
    spatial = 2 * (size // 6)
    starts = (0, size - 2 * spatial, size - spatial)
    for linear, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k)):
        linear.weight[rows] = 0
        norm.weight[rows] = 2.0
        for i, start in enumerate(starts):
            first = head * size + start
            for pair, weight in ((0, 3.6), (1, 2.5)):
                rate = 1e4 ** (-2 * pair / (spatial if i else size - 2 * spatial))
                turn = rate if i == axis and linear is attn.to_q else 0.0
                linear.bias[first + 2 * pair] = weight * math.cos(-turn)
                linear.bias[first + 2 * pair + 1] = weight * math.sin(-turn)
    out = torch.empty(model.config.num_attention_heads * size, size)
    attn.to_out[0].weight[:, rows] = 0.7 * torch.nn.init.orthogonal_(out)


def build(config: dict | None = None) -> WanTransformer3DModel:
    """Return the model, started so that blocks add nothing and the head hands the input through.

    The best linear guess of the velocity from the noisy input is about 0.8 times that input.
    """
    model = WanTransformer3DModel(**(config or CONFIG))
    dim = model.scale_shift_table.shape[-1]
    for name, p in model.named_parameters():
        with torch.no_grad():
            if name.endswith("bias") or "to_out" in name or "ffn.net.2" in name:
                p.zero_()
            elif "patch_embedding" in name or ("weight" in name and p.ndim == 2):
                p.normal_(0, 0.02 if "time_proj" in name else p[0].numel() ** -0.5)
            elif "scale_shift_table" in name:
                p.zero_()
                if p.shape[1] == 6:
                    p[:, 2::3] = 1.0
    for block in model.blocks:
        block.attn1.set_processor(FastAttention())
        block.attn2.set_processor(FastAttention())
    with torch.no_grad():
        weight = model.patch_embedding.weight
        torch.nn.init.orthogonal_(weight)
        copy = weight.flatten(2).transpose(1, 2).flatten(1)  # [dim, 4 * channels], channels last
        model.proj_out.weight.copy_(0.8 * (copy.shape[1] / dim) ** 0.5 * copy.T)
    return model


def noise_levels(rng: np.random.Generator, batch: int, shift: float = SHIFT) -> Tensor:
    """Return stratified noise levels [batch], uniform before the shift, in random order."""
    u = (rng.permutation(batch) + rng.random(batch)) / batch
    return torch.from_numpy(shift * u / (1 + (shift - 1) * u)).float()


def object_weights(factor: float) -> dict[str, Tensor]:
    """Return the loss's weights [1, 5, 16, 16] per motion: ``factor`` about the object, 1 elsewhere.

    They depend on the caption alone, so they change what is learnt first and not the optimum.
    """
    axis = torch.arange(16) * 8 + 4.0
    weights = {}
    for motion in world.MOTIONS:
        centre = torch.from_numpy(world.track(motion)[::4])
        far = torch.hypot(axis[None, None] - centre[:, 0, None, None], axis[:, None] - centre[:, 1, None, None])
        weights[motion] = torch.where(far < 26, factor, 1.0)[None]
    return weights


def flow_loss(model, x0: Tensor, context: Tensor, sigma: Tensor, noise: Tensor, weight=1.0) -> Tensor:
    """Return the (weighted) mean squared error of the predicted velocity per sample, [b]."""
    s = sigma.view(-1, 1, 1, 1, 1)
    with fast_products():
        out = model((1 - s) * x0 + s * noise, 1000 * sigma, context, return_dict=False)[0].float()
    return (weight * (out - (noise - x0)).square()).flatten(1).mean(1)


@torch.no_grad()
def held_out_loss(model, x0: Tensor, context: Tensor) -> float:
    """Return the loss on fixed held-out latents, noises and levels (two levels per clip)."""
    gen = torch.Generator().manual_seed(5)
    noise, total = torch.randn(x0.shape, generator=gen), []
    for offset in (0.25, 0.75):
        u = (torch.arange(len(x0)) + offset) / len(x0)
        sigma = HELD_OUT_SHIFT * u / (1 + (HELD_OUT_SHIFT - 1) * u)
        total.append(flow_loss(model, x0, context, sigma, noise))
    return torch.cat(total).mean().item()


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, [1, 16, 1, 1, 1] each."""
    return x.mean((0, 2, 3, 4), keepdim=True), x.std((0, 2, 3, 4), keepdim=True)


def train(args: argparse.Namespace) -> None:
    """Train until ``args.minutes`` of running time are spent; resume from the checkpoint."""
    torch.manual_seed(args.seed)
    path, folder = Path(args.work) / f"{args.name}.pt", Path(args.work) / "latents"
    text, model = Encoder(Path(args.work) / "text.pt"), build()
    with torch.no_grad():
        for axis in range(3):
            look_back(model, layer=0, head=axis, axis=axis)
    matrices = [p for n, p in model.named_parameters() if n.endswith("weight") and p.ndim == 2 and "proj_out" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    opt = MuonAdamW(matrices, others, lr=args.lr, adam_scale=0.4)
    ema = Ema(model, args.ema)
    raw, scenes = latents.read(folder, "train")
    mean, std = statistics(raw)
    state = resume(path, model, opt, ema)
    step, spent, log = state["step"], state["spent"], state["log"]
    held, mean, std = state.get("held", []), state.get("mean", mean), state.get("std", std)
    data = (raw - mean) / std
    test, test_scenes = latents.read(folder, "test")
    test, test_text = (test - mean) / std, text([world.caption(s, i) for i, s in enumerate(test_scenes)])
    rng, judge = np.random.default_rng((args.seed, step)), build()
    run, focus = torch.compile(model) if args.compile else model, object_weights(args.focus)
    shards = len(list(folder.glob("train_*.pt")))
    start, last_save = time.time() - spent, time.time()

    def checkpoint() -> None:
        save(
            path,
            {
                "model": model.state_dict(),
                "opt": opt.state_dict(),
                "ema": ema.state_dict(),
                "step": step,
                "spent": spent,
                "log": log,
                "held": held,
                "mean": mean,
                "std": std,
                "config": CONFIG,
                "batch": args.batch,
                "clips": len(data),
            },
        )

    while (spent := time.time() - start) < 60 * args.minutes:
        opt.set_rate(args.lr * schedule(spent / (60 * args.minutes), step))
        pick = rng.integers(len(data), size=args.batch)
        texts = ["" if rng.random() < 0.1 else world.caption(scenes[i], int(rng.integers(1 << 30))) for i in pick]
        x0 = data[torch.from_numpy(pick)]
        weight = torch.stack([focus[scenes[i].motion] if t else torch.ones(1, 5, 16, 16) for i, t in zip(pick, texts)])
        loss = flow_loss(run, x0, text(texts), noise_levels(rng, args.batch), torch.randn_like(x0), weight).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        ema.update(model)
        step += 1
        log.append((step, spent, loss.item()))
        if step % 20 == 0:
            print(f"step {step} min {spent / 60:.1f} loss {np.mean([r[2] for r in log[-20:]]):.4f} clips {len(data)}", flush=True)
        if time.time() - last_save > 150:
            last_save = time.time()
            judge.load_state_dict(ema.shadow)
            held.append((step, held_out_loss(judge, test, test_text)))
            print(f"step {step} held-out loss {held[-1][1]:.4f}", flush=True)
            checkpoint()
            more, more_scenes = latents.read(folder, "train", shards)
            if len(more):
                shards = len(list(folder.glob("train_*.pt")))
                data, scenes = torch.cat([data, (more - mean) / std]), scenes + more_scenes
    judge.load_state_dict(ema.shadow)
    held.append((step, held_out_loss(judge, test, test_text)))
    checkpoint()
    print(json.dumps({"steps": step, "held_out_flow_loss": round(held[-1][1], 4)}))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="build/study", help="folder of checkpoints and shards")
    parser.add_argument("--name", default="dit", help="checkpoint's name")
    parser.add_argument("--minutes", type=float, default=60.0, help="running time to spend in all")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--ema", type=float, default=0.99, help="decay of the averaged weights")
    parser.add_argument("--focus", type=float, default=6.0, help="the loss's weight about the object")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()

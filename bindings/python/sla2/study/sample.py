# SPDX-License-Identifier: Apache-2.0
"""Generate clips from an exported model in Python: the reference for the native runner."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from . import export, text, vae_train


class Pipeline:
    """An exported model, ready to sample."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.defaults = json.loads((folder / "model.json").read_text())["defaults"]
        self.dit, self.vae = export.load_dit(folder), export.load_vae(folder)
        self.encoder, spiece = export.load_text(folder)
        self.spiece = sentencepiece.SentencePieceProcessor(model_proto=spiece)
        config = self.vae.config
        self.mean, self.std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))

    def context(self, prompts: list[str]) -> Tensor:
        """Return the prompts' rows [b, 64, 128], zero past each prompt's </s>."""
        ids, mask = text.tokenize(self.spiece, prompts)
        rows = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.pad(rows * mask[..., None], (0, 0, 0, text.TEXT_LEN - ids.shape[1]))

    def velocity(self, x: Tensor, t: float, context: Tensor, scale: float) -> Tensor:
        """Return the guided velocity; ``context`` holds the prompts' rows and then the empty ones."""
        both = torch.cat([x, x])
        out = self.dit(both, torch.full((len(both),), t), context, return_dict=False)[0]
        wanted, empty = out.chunk(2)
        return empty + scale * (wanted - empty)

    @torch.no_grad()
    def latents(self, prompts: list[str], seeds: list[int], **options) -> Tensor:
        """Return normalised latents [b, 16, 5, 16, 16]; ``options`` override the defaults."""
        o = {**self.defaults, **options}
        shape = 16, (o["frames"] + 3) // 4, o["height"] // 8, o["width"] // 8
        x = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
        context = self.context(prompts + [o["negative_prompt"]] * len(prompts))
        if o["sampler"] == "euler":
            sigma = torch.linspace(1, 0, o["steps"] + 1)
            sigma = o["shift"] * sigma / (1 + (o["shift"] - 1) * sigma)
            for now, then in zip(sigma.tolist(), sigma[1:].tolist()):
                x = x + (then - now) * self.velocity(x, 1000 * now, context, o["cfg_scale"])
            return x
        solver = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=o["shift"], solver_order=2)
        solver.set_timesteps(o["steps"])
        for t in solver.timesteps:
            x = solver.step(self.velocity(x, float(t), context, o["cfg_scale"]), t, x, return_dict=False)[0]
        return x

    @torch.no_grad()
    def __call__(self, prompts: list[str], seeds: list[int], **options) -> np.ndarray:
        """Return clips [b, frames, h, w, 3] in [0, 1]."""
        z = self.latents(prompts, seeds, **options) * self.std + self.mean
        clips = torch.cat([vae_train.decode(self.vae, one[None]) for one in z]).clamp(-1, 1)
        return (clips.permute(0, 2, 3, 4, 1) / 2 + 0.5).numpy()


def main() -> None:
    """Generate one clip a prompt and write a contact sheet, one row each."""
    from PIL import Image

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--model", default="presets/models/small_world")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--cfg-scale", type=float)
    parser.add_argument("--sampler", choices=("euler", "unipc"))
    parser.add_argument("--out", default="sample.png", help="picture to write")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = {k: getattr(args, k) for k in ("steps", "cfg_scale", "sampler") if getattr(args, k) is not None}
    clips = Pipeline(args.model)(args.prompts, [args.seed + i for i in range(len(args.prompts))], **options)
    rows = [np.concatenate(list(clip[::4]), 1) for clip in clips]
    Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(args.out)


if __name__ == "__main__":
    main()

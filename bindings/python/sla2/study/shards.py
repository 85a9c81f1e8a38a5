# SPDX-License-Identifier: Apache-2.0
"""Shards of the small world for sla2-train: latents and contexts by an exported model's own VAE and text encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..training.data import write_shard
from . import world
from .latents import plan
from .sample import Pipeline
from .vae_train import encode_keyframes, to_tensor


@torch.no_grad()
def write(model: Path, out: Path, counts: dict[str, int], shard: int = 64) -> None:
    """Write ``out``/train_*.safetensors and test_*.safetensors; test scenes are held-out combinations. Shards that exist are kept."""
    pipeline = Pipeline(model)
    empty = pipeline.context([""])[0]
    for which, count in counts.items():
        for first in range(0, count, shard):
            path = out / f"{which}_{first // shard:04d}.safetensors"
            if path.exists():
                continue
            latents, captions = [], []
            for i in range(first, min(first + shard, count)):
                scene, seed = plan(which, i)
                frames = to_tensor(world.render(scene, seed, frames=range(0, world.FRAMES, 4))[None])
                latents.append((encode_keyframes(pipeline.vae, frames) - pipeline.mean) / pipeline.std)
                captions.append(world.caption(scene, i))
            write_shard(path, torch.cat(latents).half(), pipeline.context(captions).half(), empty.half())
            print(f"{path}: {len(captions)} clips", flush=True)


def main() -> None:
    """Parse the command line and write the shards."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("presets/models/small_world"))
    parser.add_argument("--out", type=Path, default=Path("build/train/shards"))
    parser.add_argument("--count", type=int, default=64, help="training clips")
    parser.add_argument("--test", type=int, default=16, help="held-out clips")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write(args.model, args.out, {"train": args.count, "test": args.test})


if __name__ == "__main__":
    main()

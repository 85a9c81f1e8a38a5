# SPDX-License-Identifier: Apache-2.0
"""Cache latents of training clips in shards, so that the diffusion model never waits for pixels."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import world
from .optim import save
from .vae_train import encode_keyframes, load, to_tensor

SHARD = 64


def plan(which: str, index: int) -> tuple[world.Scene, int]:
    """Return scene and seed of clip ``index``: a fixed shuffle of the split, then the next seed."""
    scenes = world.split(which)
    order = np.random.default_rng((3, index // len(scenes))).permutation(len(scenes))
    return scenes[order[index % len(scenes)]], index + (0 if which == "train" else 1_000_000)


def read(folder: Path, which: str, first: int = 0) -> tuple[Tensor, list[world.Scene]]:
    """Return latents [n, 16, 5, 16, 16] in float32 and the scenes of shards ``first`` and later."""
    parts, scenes = [], []
    for i, path in enumerate(sorted(folder.glob(f"{which}_*.pt"))):
        if i >= first:
            part = torch.load(path, weights_only=False)
            parts.append(part["latents"].float())
            scenes += [world.Scene(*s) for s in part["scenes"]]
    return (torch.cat(parts) if parts else torch.zeros(0, 16, 5, 16, 16)), scenes


@torch.no_grad()
def write(args: argparse.Namespace) -> None:
    """Encode clips shard by shard; shards that exist are kept."""
    vae, folder = load(args.vae), Path(args.work) / "latents"
    for which, count in (("test", args.test), ("train", args.count)):
        for shard in range(count // SHARD):
            path, start = folder / f"{which}_{shard:04d}.pt", time.time()
            if path.exists():
                continue
            out, scenes = [], []
            for i in range(shard * SHARD, (shard + 1) * SHARD):
                scene, seed = plan(which, i)
                key = world.render(scene, seed, frames=range(0, world.FRAMES, 4))
                out.append(encode_keyframes(vae, to_tensor(key[None])).half())
                scenes.append(tuple(scene))
            save(path, {"latents": torch.cat(out), "scenes": scenes})
            print(f"{path.name} {(time.time() - start) / SHARD:.3f} s/clip", flush=True)


def main() -> None:
    """Parse the command line and write the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", default="build/study", help="folder of checkpoints and shards")
    parser.add_argument("--vae", default="build/study/image_vae.pt", help="checkpoint of the VAE")
    parser.add_argument("--count", type=int, default=4608, help="training clips")
    parser.add_argument("--test", type=int, default=64, help="held-out clips")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write(args)


if __name__ == "__main__":
    main()

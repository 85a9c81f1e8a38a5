# SPDX-License-Identifier: Apache-2.0
"""Measure how often a model's clips show what their captions say, on held-out combinations, by detectors that prove themselves first.

Clips come from the native runner, one process a prompt, or from the Python sampler.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from . import world
from .detect import accuracy, detect, prove


def tasks(count: int, seed: int) -> list[tuple[world.Scene, str, int]]:
    """Return (scene, prompt, seed) of ``count`` held-out combinations."""
    scenes = world.split("test")
    picks = np.random.default_rng((seed, 9)).permutation(len(scenes))
    return [(scenes[picks[i % len(scenes)]], world.caption(scenes[picks[i % len(scenes)]], seed + i), seed + i) for i in range(count)]


def runner_command(runner: str, model: str, prompt: str, seed: int, out: Path) -> list[str]:
    """Return the command line that writes one clip to ``out``. Change it here if the runner's changes."""
    return [runner, "generate", "--model", model, "-p", prompt, "--seed", str(seed), "-o", str(out)]


def read_clip(path: Path) -> np.ndarray:
    """Return the clip [t, h, w, 3] in [0, 1] of a folder of PNG files or a video file."""
    if path.is_dir():
        from PIL import Image

        frames = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(path.glob("*.png"))]
    else:
        import av

        with av.open(str(path)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    if not frames:
        raise FileNotFoundError(f"no frames in {path}")
    return np.stack(frames).astype(np.float32) / 255


def run_native(args: argparse.Namespace, work: list) -> list[np.ndarray]:
    """Generate all clips with the native runner; frames go through lossless PNG files."""
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (_, prompt, seed) in enumerate(work):
            out = Path(folder) / f"clip_{i:04d}"
            out.mkdir()
            command = runner_command(args.runner, args.model, prompt, seed, out) + args.extra
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            clips.append(read_clip(out))
    return clips


def run_python(args: argparse.Namespace, work: list) -> list[np.ndarray]:
    """Generate all clips with the Python sampler, eight at a time."""
    import torch

    from .sample import Pipeline

    torch.set_num_threads(args.threads)
    pipeline, clips = Pipeline(args.model), []
    options = {k: getattr(args, k) for k in ("steps", "cfg_scale", "sampler") if getattr(args, k) is not None}
    for i in range(0, len(work), 8):
        part = work[i : i + 8]
        clips += list(pipeline([p for _, p, _ in part], [s for _, _, s in part], **options))
    return clips


def half_width(share: float, count: int) -> float:
    """Return the half width of the 95 % Wilson interval of a share."""
    z = 1.96
    return z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))


def main() -> None:
    """Generate, detect and print the accuracy per attribute as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("runner", "python"), default="runner")
    parser.add_argument("--runner", default="sla2", help="path of the sla2 program")
    parser.add_argument("--model", default="presets/models/small_world")
    parser.add_argument("--count", type=int, default=64, help="clips")
    parser.add_argument(
        "--proof", type=int, default=100, help="clean renders that the detectors must read right before anything is measured"
    )
    parser.add_argument("--seed", type=int, default=0, help="first seed; also chooses the prompts")
    parser.add_argument("--steps", type=int, help="Python engine only, as the next two")
    parser.add_argument("--cfg-scale", type=float)
    parser.add_argument("--sampler", choices=("euler", "unipc"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", help="picture to write: a row of frames a clip")
    parser.add_argument("--errors", action="store_true", help="print each wrong clip")
    parser.add_argument("extra", nargs="*", help="further arguments for the runner, after --")
    args = parser.parse_args()
    proof = prove(args.proof)
    work = tasks(args.count, args.seed)
    clips = (run_native if args.engine == "runner" else run_python)(args, work)
    pairs = [(scene, detect(clip)) for (scene, _, _), clip in zip(work, clips)]
    for (scene, prompt, seed), (_, seen) in zip(work, pairs):
        if args.errors and scene != seen:
            print(f"seed {seed}: {prompt!r}: " + ", ".join(f"{w}->{s}" for w, s in zip(scene, seen) if w != s))
    shares = accuracy(pairs)
    print(
        json.dumps(
            {
                "engine": args.engine,
                "count": args.count,
                "seed": args.seed,
                "detectors_on_clean_renders": proof,
                "accuracy": shares,
                "half_width_95": {k: round(half_width(v, args.count), 4) for k, v in shares.items()},
            }
        )
    )
    if args.sheet:
        from PIL import Image

        rows = [np.concatenate(list(c[::4]), 1) for c in clips[:24]]
        Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(args.sheet)


if __name__ == "__main__":
    main()

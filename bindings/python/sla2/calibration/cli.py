# SPDX-License-Identifier: Apache-2.0
"""The command `sla2-calibrate`: a model folder and a few prompts in, a router pack out."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from sla2.errors import ArgumentError, Error, FileWriteError

_EPILOG = """examples:
  sla2-calibrate presets/models/small_world -p "a large red ball moves left over a green field" \\
      -p "a small blue square rises over the sea" --block-q 32 --block-k 16 --sparsity 0.5 -o small_world.sla2.safetensors
  sla2-calibrate Wan2.1-T2V-1.3B-Diffusers --prompts prompts.txt --sparsity 0.9 --sparsity 0.8 --token-order tiles \\
      --router kl --max-error 0.25 -o wan-1.3b.sla2.safetensors

The last prompt is held out: nothing is fitted on it, and the errors written into the pack are measured on it.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        "sla2-calibrate", description="Make a router pack for a Wan model, without training.", epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("model", help="diffusers folder of Wan2.1 (text to video), or a folder with model.json")
    p.add_argument("-o", "--out", required=True, type=Path, help="pack to write, by custom NAME.sla2.safetensors")
    p.add_argument("-p", "--prompt", action="append", default=[], help="a prompt; two to four of them")
    p.add_argument("--prompts", type=Path, help="file with one prompt a line")
    p.add_argument("--sparsity", type=float, action="append", help="fraction of key blocks skipped; may be repeated (default 0.9)")
    p.add_argument("--block-q", type=int, default=128, choices=(32, 64, 128), help="queries per block (default %(default)s)")
    p.add_argument("--block-k", type=int, default=64, choices=(16, 32, 64, 128), help="keys per block (default %(default)s)")
    p.add_argument("--token-order", default="raster", choices=("raster", "tiles", "hilbert"), help="default %(default)s")
    p.add_argument("--alpha-mode", default="head_affine_lse", choices=("head_affine_lse", "head_scalar"), help="default %(default)s")
    p.add_argument("--router", default="none", choices=("none", "kl", "soft"),
                   help="none: mixing numbers alone; kl: routers fitted to the true block shares, one more run; soft: and refined"
                        " through a soft mask, one more (default %(default)s)")  # fmt: skip
    p.add_argument("--rank", type=int, default=16, help="of what a router adds to the identity (default %(default)s)")
    p.add_argument("--max-error", type=float, help="layers with a greater held-out error get pooled, sparse_only or full attention")
    p.add_argument("--start", type=Path, help="a pack whose routers and blocks stay, and whose mixing is fitted anew")
    p.add_argument("--steps", type=int, default=6, help="sampling steps of each run (default %(default)s)")
    p.add_argument("--frames", type=int, help="frames of the clips; width, height, guidance: the model's defaults where not given")
    p.add_argument("--width", type=int)
    p.add_argument("--height", type=int)
    p.add_argument("--guidance", type=float)
    p.add_argument("--blocks-per-call", type=int, default=4, help="query blocks measured of each call (default %(default)s)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=0, help="0: all CPUs")
    p.add_argument("--device", default="cpu", help="where the model runs (default %(default)s); the fit is on the CPU")
    p.add_argument("--dtype", default="bf16", choices=("bf16", "fp32"), help="of a diffusers model's weights (default %(default)s)")
    p.add_argument("--part", default="transformer", choices=("transformer", "transformer_2"), help="which one of a Wan2.2 model")
    p.add_argument("--licence", default="", help="of the pack, written into it")
    return p


def _prompts(args: argparse.Namespace) -> list[str]:
    prompts = list(args.prompt)
    if args.prompts is not None:
        try:
            prompts += [line.strip() for line in args.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            raise ArgumentError(f"--prompts {args.prompts}: {error.strerror}; expected a text file with one prompt a line") from error
    if len(dict.fromkeys(prompts)) < 2:
        raise ArgumentError(f"{len(prompts)} prompts; expected two to four different ones (-p), of which the last is held out")
    return list(dict.fromkeys(prompts))


def _check_out(out: Path) -> None:
    """Before minutes are spent: can the file be written?"""
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK) or out.is_dir():
        raise FileWriteError(f"{out}: cannot be written; expected a file's name in a folder that exists and is yours to write to")


def run(args: argparse.Namespace) -> None:
    """Calibrate as the command line says."""
    _check_out(args.out)
    prompts = _prompts(args)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    say(f"loading {args.model}")
    import torch

    from sla2.calibration import calibrate, models
    from sla2.packs import RouterPack

    if args.threads:
        torch.set_num_threads(args.threads)
    start = None if args.start is None else RouterPack.load(args.start)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[args.dtype]
    model = models.load(args.model, prompts, dtype=dtype, device=args.device, part=args.part)

    def sample(which: list[str]) -> None:
        for prompt in which:
            say(f'sampling {args.steps} steps of "{prompt[:60]}"')
            model.run(
                prompt, args.seed + prompts.index(prompt), num_inference_steps=args.steps, num_frames=args.frames,
                width=args.width, height=args.height, guidance_scale=args.guidance,
            )  # fmt: skip

    pack = calibrate(
        model.transformer,
        lambda: sample(prompts[:-1]),
        held_out=lambda: sample(prompts[-1:]),
        progress=say,
        sparsity=args.sparsity or 0.9,
        block_q=args.block_q,
        block_k=args.block_k,
        token_order=args.token_order,
        alpha_mode=args.alpha_mode,
        router=args.router,
        rank=args.rank,
        max_error=args.max_error,
        start=start,
        blocks_per_call=args.blocks_per_call,
        seed=args.seed,
        threads=args.threads,
        base=model.name,
        licence=args.licence,
        prompts="\n".join(prompts),
    )
    pack.save(args.out)
    for sparsity, errors in pack.errors["sparsity"].items():
        say(f"sparsity {sparsity}, relative error: " + ", ".join(f"{name} {value:.4f}" for name, value in errors["mean"].items()))
    if pack.schedule:
        say(f"schedule: {pack.schedule}")
    say(f"wrote {args.out} ({args.out.stat().st_size:,} bytes)")


def main(argv: list[str] | None = None) -> int:
    """Parse and run; 0, or 1 with one sentence on stderr."""
    args = parser().parse_args(argv)
    try:
        run(args)
    except Error as error:
        print(f"sla2-calibrate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("sla2-calibrate: stopped; nothing was written", file=sys.stderr)
        return 130
    return 0

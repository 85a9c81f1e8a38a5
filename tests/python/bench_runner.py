# SPDX-License-Identifier: Apache-2.0
"""One Wan2.1-1.3B block against diffusers, synthetic weights, dense attention: seconds and memory.

    python tests/python/bench_runner.py [--grid 5x16x16] [--layers 2] [--rounds 3] [--skip-fp32] [--json FILE]

Ours and theirs take turns in processes of their own, so that a busy machine disturbs both alike. A round is one pass of theirs
and one run of probe_dit; the figures are medians over all blocks of all rounds. 5x16x16 is 1,280 tokens, 5x36x36 is 6,480.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

DIM, HEADS, FFN, TEXT_LEN, TEXT_DIM = 1536, 12, 8960, 512, 4096
TIMESTEP, PROMPT_TOKENS = 500, 64
MIB = 2**20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(precision: str, grid: tuple[int, int, int], layers: int) -> None:
    """Diffusers: answers every line on stdin with one pass's block times."""
    import torch
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as many as ours takes
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    before = peak_bytes()
    torch.set_default_dtype(dtype)  # weights are made in this type: no second copy in memory
    model = WanTransformer3DModel(
        num_attention_heads=HEADS, attention_head_dim=DIM // HEADS, ffn_dim=FFN, num_layers=layers, text_dim=TEXT_DIM, cross_attn_norm=True
    ).eval()
    torch.set_default_dtype(torch.float32)
    frames, height, width = grid
    latent = torch.randn(1, 16, frames, 2 * height, 2 * width, dtype=dtype)
    text = torch.zeros(1, TEXT_LEN, TEXT_DIM, dtype=dtype)
    text[:, :PROMPT_TOKENS] = torch.randn(1, PROMPT_TOKENS, TEXT_DIM).to(dtype)
    started: list[float] = []
    spent: list[float] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
        block.register_forward_hook(lambda *_: spent.append(time.perf_counter() - started[-1]))
    for _line in sys.stdin:
        spent.clear()
        with torch.no_grad():
            start = time.perf_counter()
            model(latent, torch.tensor([TIMESTEP]), text, return_dict=False)
        result = {"blocks": spent, "pass": time.perf_counter() - start, "used": peak_bytes() - before, "peak": peak_bytes()}
        print(json.dumps(result), flush=True)


class Theirs:
    def __init__(self, precision: str, grid: str, layers: int):
        command = [sys.executable, __file__, "--worker", precision, "--grid", grid, "--layers", str(layers)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.results: list[dict] = []
        self.run()
        self.results.clear()  # the first pass warms up

    def run(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("diffusers stopped; its message is above")
        self.results.append(json.loads(line))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def block(self) -> float:
        return statistics.median(seconds for result in self.results for seconds in result["blocks"])


def ours(program: Path, stored: str, grid: str, layers: int, repeat: int) -> dict:
    command = [str(program), "bench", "--dim", str(DIM), "--heads", str(HEADS), "--ffn", str(FFN), "--layers", str(layers), "--grid", grid,
               "--stored", stored, "--prompt-tokens", str(PROMPT_TOKENS), "--repeat", str(repeat)]  # fmt: skip
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(program: Path, theirs_in: str, stored: str, args: argparse.Namespace) -> dict:
    theirs = Theirs(theirs_in, args.grid, args.layers)
    mine = []
    for _ in range(args.rounds):
        theirs.run()
        mine.append(ours(program, stored, args.grid, args.layers, args.repeat))
    theirs.close()
    block = statistics.median(result["block_seconds"] for result in mine)
    return {
        "stored": theirs_in,
        "tokens": mine[0]["tokens"],
        "isa": mine[0]["isa"],
        "threads": mine[0]["threads"],
        "ours_s": block,
        "diffusers_s": theirs.block(),
        "ratio": theirs.block() / block,
        "ours_attention_s": statistics.median(result["attention_seconds"] for result in mine),
        "planned": mine[0]["planned_bytes"],
        "ours_used": max(result["used_bytes"] for result in mine),
        "ours_peak": max(result["peak_bytes"] for result in mine),
        "diffusers_used": theirs.results[-1]["used"],
        "diffusers_peak": theirs.results[-1]["peak"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="5x16x16", help="tokens, frames x height x width")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=2, help="passes of ours in a round")
    parser.add_argument("--skip-fp32", action="store_true", help="compare with diffusers in bf16 only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=("bf16", "fp32"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, tuple(int(n) for n in args.grid.split("x")), args.layers)
    from conftest import find_program

    program = find_program("probe_dit")
    pairs = (("bf16", "bf16"), ("fp32", "f32"))[: 1 if args.skip_fp32 else 2]
    rows = [compare(program, theirs_in, stored, args) for theirs_in, stored in pairs]
    print(f"Wan2.1-1.3B block, {rows[0]['tokens']} tokens, {args.layers} layers, {rows[0]['threads']} threads, {rows[0]['isa']}")
    print("stored   ours s/block (attention)   diffusers s/block   ratio   peak ours / theirs MiB   used ours / planned / theirs MiB")
    for row in rows:
        print(
            f"{row['stored']:6}   {row['ours_s']:10.3f} ({row['ours_attention_s']:.3f})   {row['diffusers_s']:18.3f}   {row['ratio']:5.2f}"
            f"   {row['ours_peak'] / MIB:8.0f} / {row['diffusers_peak'] / MIB:.0f}"
            f"   {row['ours_used'] / MIB:12.0f} / {row['planned'] / MIB:.0f} / {row['diffusers_used'] / MIB:.0f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention forward or backward, ours against PyTorch's SDPA in the same run: one head of 128 channels a thread, medians, speed-ups.

    python tests/python/bench_attention.py [--tokens 1280 8192] [--sparsity 0 0.75 0.9 0.97] [--threads 1] [--rounds 5] [--json FILE] [--backward]

A round is one run of SDPA in fp32 and in bf16 and one of each of ours; they take turns, so that a busy machine disturbs all
alike. SDPA is dense: sparsity is ours alone. Inputs are fp32 in memory; `products` is what ours multiplies in.
--backward: gradients of q, k, v with out and log-sum-exp given to both; a GFLOP is then counted ten to a pair and channel. On one
thread CPU seconds are compared instead of seconds: they say more on a machine that others use.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

DIM = 128


class Sdpa:
    """PyTorch in a process of its own; answers a line "tokens dtype" with seconds."""

    def __init__(self, heads: int, threads: int, backward: bool):
        command = [sys.executable, __file__, "--worker", "--heads", str(heads), "--threads", str(threads)] + ["--backward"] * backward
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, tokens: int, dtype: str) -> float:
        self.process.stdin.write(f"{tokens} {dtype}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def worker(heads: int, threads: int, backward: bool) -> None:
    import torch

    torch.set_num_threads(threads)
    for line in sys.stdin:
        tokens, dtype = line.split()
        q, k, v = (torch.randn(1, heads, int(tokens), DIM).to(getattr(torch, dtype)) for _ in range(3))
        call = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
        if backward:
            out = torch.nn.functional.scaled_dot_product_attention(*(x.requires_grad_() for x in (q, k, v)))
            call = partial(torch.autograd.grad, out, (q, k, v), torch.randn_like(out), retain_graph=True)
        clock = time.process_time if backward and threads == 1 else time.perf_counter
        times = []
        for _ in range(2):  # the first warms up
            start = clock()
            call()
            times.append(clock() - start)
        print(min(times), flush=True)


def ours(program: Path, tokens: int, sparsity: float, products: str, args: argparse.Namespace) -> float:
    mode = ["--mode", "sla2", "--sparsity", str(sparsity)] if sparsity else ["--mode", "full"]
    command = [
        str(program),
        "bench",
        *mode,
        "--heads",
        str(args.heads),
        "--dim",
        str(DIM),
        "--query-tokens",
        str(tokens),
        "--key-tokens",
        str(tokens),
        "--threads",
        str(args.threads),
        "--repeats",
        "2",
        "--products",
        products,
    ]
    if args.backward and products == "bf16":
        command += ["--dtype", "bf16"]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result["cpu_seconds" if args.backward and args.threads == 1 else "best"]


def measure(program: Path, tokens: int, args: argparse.Namespace, sdpa: Sdpa) -> list[dict]:
    """Return a row per sparsity and kind of product."""
    theirs: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    mine: dict[tuple[float, str], list[float]] = {(s, p): [] for s in args.sparsity for p in args.products}
    for _ in range(args.rounds):
        for dtype, times in theirs.items():
            times.append(sdpa.seconds(tokens, dtype))
        for (sparsity, products), times in mine.items():
            times.append(ours(program, tokens, sparsity, products, args))
    peer = {dtype: statistics.median(times) for dtype, times in theirs.items()}
    dense = (10 if args.backward else 4) * args.heads * tokens**2 * DIM / 1e9
    return [
        {
            "tokens": tokens,
            "sparsity": sparsity,
            "products": products,
            "seconds": (own := statistics.median(times)),
            "gflops": dense / own,
            "sdpa_fp32_s": peer["float32"],
            "sdpa_bf16_s": peer["bfloat16"],
            "sdpa_bf16_gflops": dense / peer["bfloat16"],
            "over_fp32": peer["float32"] / own,
            "over_bf16": peer["bfloat16"] / own,
        }
        for (sparsity, products), times in mine.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1280, 8192])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.75, 0.9, 0.97])
    parser.add_argument("--products", nargs="+", choices=("f32", "bf16"), default=["f32", "bf16"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--heads", type=int, help="default: one a thread")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.heads = args.heads or args.threads
    if args.worker:
        return worker(args.heads, args.threads, args.backward)
    from conftest import find_program

    program, sdpa = find_program("probe_backward" if args.backward else "probe_attention"), Sdpa(args.heads, args.threads, args.backward)
    print(f"{args.heads} heads of {DIM}, {args.threads} threads, medians of {args.rounds} rounds")
    print(" tokens  sparsity  products     ours s   GFLOP/s of dense work   over SDPA fp32   over SDPA bf16")
    rows = []
    for tokens in args.tokens:
        for row in measure(program, tokens, args, sdpa):
            rows.append(row)
            print(
                f"{row['tokens']:7}  {row['sparsity']:8.0%}  {row['products']:>8}  {row['seconds']:9.4f}   {row['gflops']:21.0f}"
                f"   {row['over_fp32']:14.1f}   {row['over_bf16']:14.1f}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

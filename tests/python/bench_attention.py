#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention, ours against PyTorch's SDPA in the same run: one head of 128 channels a thread, medians, speed-ups.

    python tests/python/bench_attention.py                         forward: 16 and 8 bits, 0 to 97 % sparse, four lengths
    python tests/python/bench_attention.py --backward              gradients of q, k, v; out and log-sum-exp given to both
    python tests/python/bench_attention.py --docs --json FILE      both, and docs/kernels/speed.md with its picture from them

A round is one run of SDPA in fp32 and in bf16 and one of each of ours; they take turns, so that a busy machine disturbs all alike.
SDPA is dense: sparsity is ours alone. Inputs are bf16 in memory for ours and for SDPA bf16. "over" divides the faster SDPA's seconds
by ours. Routing, packing, quantising, both branches and mixing are all in our seconds. "of peak": the least time in which this CPU's
multiply-add instructions, measured in the same rounds (probe_peak), do the products of the call, by the time it took.
--json keeps each length as it is measured; started again with the same file, lengths that are in it are not measured again.
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
KINDS = {"fp32": ("f32", 16), "16 bits": ("bf16", 16), "8 bits": ("bf16", 8)}  # products, bits


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
    warm = set()
    for line in sys.stdin:
        tokens, dtype = line.split()
        q, k, v = (torch.randn(1, heads, int(tokens), DIM).to(getattr(torch, dtype)) for _ in range(3))
        call = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
        if backward:
            out = torch.nn.functional.scaled_dot_product_attention(*(x.requires_grad_() for x in (q, k, v)))
            call = partial(torch.autograd.grad, out, (q, k, v), torch.randn_like(out), retain_graph=True)
        if dtype not in warm:
            torch.nn.functional.scaled_dot_product_attention(*(torch.randn(1, heads, 1024, DIM).to(q.dtype) for _ in range(3)))
            warm.add(dtype)
        start = time.perf_counter()
        call()
        print(time.perf_counter() - start, flush=True)


def ours(program: Path, tokens: int, kind: str, args: argparse.Namespace, *mode: str) -> dict:
    products, bits = KINDS[kind]
    shape = ["--heads", str(args.heads), "--dim", str(DIM), "--query-tokens", str(tokens), "--key-tokens", str(tokens)]
    how = ["--threads", str(args.threads), "--repeats", "1", "--products", products, "--dtype", "f32" if products == "f32" else "bf16"]
    words = [str(program), "bench", *mode, *shape, *how, *(["--bits", str(bits)] if bits != 16 else [])]
    result: dict = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return result


def mode_of(sparsity: float) -> list[str]:
    return ["--mode", "sla2", "--sparsity", str(sparsity)] if sparsity else ["--mode", "full"]


def least_seconds(tokens: int, sparsity: float, kind: str, peaks: dict, args: argparse.Namespace) -> dict[str, float]:
    """What the products alone take at the CPU's peak: the tiles of kept blocks, and h_j with φ(Q)·H of the linear branch."""
    wide = peaks["fp32"] if kind == "fp32" else peaks["bf16"] or peaks["fp32"]
    scores = peaks["int8"] or wide if kind == "8 bits" else wide
    product = 2e-9 * args.heads * DIM  # giga-operations of one product of one token by one token
    pairs = tokens * tokens * (1 - sparsity)
    if args.backward:  # S, dP, dV, dQ, dK; its linear branch is not counted
        return {"sparse": 5 * product * pairs / wide, "linear": 0.0}
    linear = 2 * product * tokens * DIM / wide if sparsity else 0.0
    return {"sparse": product * pairs * (1 / scores + 1 / wide), "linear": linear}


def measure(programs: dict[str, Path], tokens: int, args: argparse.Namespace, sdpa: Sdpa) -> list[dict]:
    """A row per sparsity and kind."""
    theirs: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    mine: dict[tuple[float, str], list[dict]] = {(s, kind): [] for s in args.sparsity for kind in args.kinds}
    seen = []
    for _ in range(args.rounds):
        peak = subprocess.run([str(programs["peak"]), "--threads", str(args.threads)], capture_output=True, text=True, check=True)
        seen.append(json.loads(peak.stdout))
        for dtype, times in theirs.items():
            times.append(sdpa.seconds(tokens, dtype))
        for (sparsity, kind), results in mine.items():
            results.append(ours(programs["backward" if args.backward else "forward"], tokens, kind, args, *mode_of(sparsity)))
    peer = {dtype: statistics.median(times) for dtype, times in theirs.items()}
    peaks = {name: statistics.median(one[name] for one in seen) for name in ("fp32", "bf16", "int8")}
    dense = (10 if args.backward else 4) * args.heads * tokens**2 * DIM / 1e9
    rows = []
    for (sparsity, kind), results in mine.items():
        seconds = statistics.median(result["best"] for result in results)
        row = {"direction": "backward" if args.backward else "forward", "tokens": tokens, "sparsity": sparsity, "kind": kind}
        row |= {"seconds": seconds, "dense_gflops": dense / seconds, "over": min(peer.values()) / seconds}
        row |= {"sdpa_fp32_s": peer["float32"], "sdpa_bf16_s": peer["bfloat16"], "peaks": peaks}
        row |= {"workspace": results[0]["workspace_bytes"] / (3 * 4 * args.heads * tokens * DIM)}
        row["parts"] = {part: statistics.median(result["parts"][part] for result in results) for part in results[0]["parts"]}
        least = least_seconds(tokens, results[0]["sparsity"] if sparsity else 0.0, kind, peaks, args)
        row["of_peak"] = {part: least[part] / row["parts"][part] for part in least if least[part] and row["parts"][part]}
        row["of_peak"]["all"] = sum(least.values()) / seconds
        rows.append(row)
    return rows


def run(programs: dict[str, Path], args: argparse.Namespace, kept: list[dict]) -> None:
    """Adds to `kept` the rows that it lacks."""
    direction = "backward" if args.backward else "forward"
    kinds = [kind for kind in args.kinds if kind != "8 bits" or not args.backward]  # gradients are in 16 bits whatever the bits
    here = argparse.Namespace(**vars(args) | {"kinds": kinds})
    print(f"{direction}, {args.heads} heads of {DIM}, {args.threads} threads, {args.rounds} rounds")
    print(" tokens  sparsity     kind     ours s   GFLOP/s of dense work   over SDPA   of peak   SDPA fp32 s   SDPA bf16 s")
    sdpa = None
    for tokens in args.tokens:
        rows = [row for row in kept if (row["direction"], row["tokens"]) == (direction, tokens)]
        if not rows:
            sdpa = sdpa or Sdpa(args.heads, args.threads, args.backward)
            rows = measure(programs, tokens, here, sdpa)
            kept += rows
            if args.json:
                args.json.write_text(json.dumps(kept, indent=2) + "\n")
        for row in rows:
            print(
                f"{row['tokens']:7}  {row['sparsity']:8.0%}  {row['kind']:>7}  {row['seconds']:9.4f}   {row['dense_gflops']:21,.0f}"
                f"   {row['over']:9.1f}   {row['of_peak']['all']:7.0%}   {row['sdpa_fp32_s']:11.3f}   {row['sdpa_bf16_s']:11.3f}",
                flush=True,
            )
    if sdpa:
        sdpa.process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 32760, 75600])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.5, 0.75, 0.9, 0.95, 0.97])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["16 bits", "8 bits"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--heads", type=int, help="default: one a thread")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="the rows, kept as they are measured")
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--docs", action="store_true", help="measure both directions and write docs/kernels/speed.md with its picture")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.heads = args.heads or args.threads
    if args.worker:
        return worker(args.heads, args.threads, args.backward)
    from conftest import find_program

    programs = {"forward": find_program("probe_attention"), "backward": find_program("probe_backward"), "peak": find_program("probe_peak")}
    rows: list[dict] = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    for backward in (False, True) if args.docs else (args.backward,):
        args.backward = backward
        run(programs, args, rows)
    if args.docs:
        import attention_docs

        attention_docs.write(rows, find_program("sla2"), args.threads, args.rounds)


if __name__ == "__main__":
    main()

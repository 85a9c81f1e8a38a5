#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Attention, ours against PyTorch's SDPA in the same run: one head of 128 channels a thread, medians, speed-ups.

    python tests/python/bench_attention.py                         forward: 16 and 8 bits, 0 to 97 % sparse, three lengths
    python tests/python/bench_attention.py --backward              gradients of q, k, v; out and log-sum-exp given to both
    python tests/python/bench_attention.py --docs                  what stands in docs/kernels/speed.md, with its picture

A round is one run of SDPA in fp32 and in bf16 and one of each of ours; they take turns, so that a busy machine disturbs all alike.
SDPA is dense: sparsity is ours alone. Inputs are bf16 in memory for ours and for SDPA bf16. "over" divides the faster SDPA's seconds
by ours. Routing, packing, quantising, both branches and mixing are all in our seconds.
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
ROOT = Path(__file__).resolve().parents[2]


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


def measure(program: Path, tokens: int, args: argparse.Namespace, sdpa: Sdpa) -> list[dict]:
    """A row per sparsity and kind."""
    theirs: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    mine: dict[tuple[float, str], list[dict]] = {(s, kind): [] for s in args.sparsity for kind in args.kinds}
    for _ in range(args.rounds):
        for dtype, times in theirs.items():
            times.append(sdpa.seconds(tokens, dtype))
        for (sparsity, kind), results in mine.items():
            results.append(ours(program, tokens, kind, args, *mode_of(sparsity)))
    peer = {dtype: statistics.median(times) for dtype, times in theirs.items()}
    dense = (10 if args.backward else 4) * args.heads * tokens**2 * DIM / 1e9
    rows = []
    for (sparsity, kind), results in mine.items():
        seconds = statistics.median(result["best"] for result in results)
        row = {"tokens": tokens, "sparsity": sparsity, "kind": kind, "seconds": seconds, "dense_gflops": dense / seconds}
        row |= {"sdpa_fp32_s": peer["float32"], "sdpa_bf16_s": peer["bfloat16"], "over": min(peer.values()) / seconds}
        row |= {"workspace": results[0]["workspace_bytes"] / (3 * 4 * args.heads * tokens * DIM)}
        rows.append(row)
    return rows


def parts(program: Path, tokens: int, kind: str, sparsity: float, args: argparse.Namespace) -> dict:
    """Seconds of the parts of one sparse forward, by difference: routing alone; with the softmax branch; with the linear branch."""
    at = ["--sparsity", str(sparsity)]
    found: dict[str, list[float]] = {"route": [], "sparse": [], "whole": []}
    for _ in range(args.rounds):
        found["route"].append(ours(program, tokens, kind, args, "--mode", "sla2", *at, "--route")["best"])
        found["sparse"].append(ours(program, tokens, kind, args, "--mode", "sparse_only", *at)["best"])
        found["whole"].append(ours(program, tokens, kind, args, "--mode", "sla2", *at)["best"])
    route, sparse, whole = (statistics.median(found[name]) for name in found)
    return {"router": route, "packing and softmax branch": sparse - route, "linear branch and mix": whole - sparse, "all": whole}


def table(rows: list[dict], sparsities: list[float]) -> str:
    """Markdown: a line per length and kind, a column per sparsity: times SDPA's speed, GFLOP/s of dense work."""
    head = "| tokens | | " + " | ".join("dense" if not s else f"{s:.0%}" for s in sparsities) + " | workspace |\n"
    lines = [head + "|---|---|" + "---|" * (len(sparsities) + 1)]
    for tokens, kind in dict.fromkeys((row["tokens"], row["kind"]) for row in rows):
        mine = {row["sparsity"]: row for row in rows if (row["tokens"], row["kind"]) == (tokens, kind)}
        cells = [f"**{mine[s]['over']:.1f}** ({mine[s]['dense_gflops']:,.0f})" if s in mine else "" for s in sparsities]
        most = max(row["workspace"] for row in mine.values())
        lines.append(f"| {tokens:,} | {kind} | " + " | ".join(cells) + f" | {most:.2f} |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict]) -> str:
    """SVG: speed-up over the faster SDPA against sparsity, a line per length, 8 bits."""
    width, height, left, bottom = 640, 360, 60, 50
    mine = [row for row in rows if row["kind"] == "8 bits"]
    top = max(row["over"] for row in mine) * 1.08
    xs = sorted({row["sparsity"] for row in mine})
    x = {s: left + i * (width - left - 130) / max(1, len(xs) - 1) for i, s in enumerate(xs)}
    y = {row["over"]: height - bottom - row["over"] / top * (height - bottom - 30) for row in mine}
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">']
    out.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    out.append(f'<text x="{left}" y="18" font-weight="bold">times the speed of PyTorch SDPA, 8 bits, everything included</text>')
    for step in range(0, int(top) + 1, 10):
        line = height - bottom - step / top * (height - bottom - 30)
        out.append(f'<line x1="{left}" x2="{width - 120}" y1="{line:.1f}" y2="{line:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 8}" y="{line + 4:.1f}" text-anchor="end">{step}×</text>')
    for s, at in x.items():
        out.append(f'<text x="{at:.1f}" y="{height - 28}" text-anchor="middle">{"dense" if not s else f"{s:.0%}"}</text>')
    out.append(f'<text x="{(left + width - 130) / 2:.0f}" y="{height - 8}" text-anchor="middle">key blocks skipped</text>')
    for colour, tokens in zip(("#1b6ca8", "#d1495b", "#3a7d44", "#7a4e9f"), sorted({row["tokens"] for row in mine}), strict=False):
        line = sorted((row for row in mine if row["tokens"] == tokens), key=lambda row: row["sparsity"])
        points = " ".join(f"{x[row['sparsity']]:.1f},{y[row['over']]:.1f}" for row in line)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        end = line[-1]
        out.append(f'<text x="{x[end["sparsity"]] + 8:.1f}" y="{y[end["over"]] + 4:.1f}" fill="{colour}">{tokens:,} tokens</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def write_docs(rows: list[dict], pieces: dict, back: list[dict], args: argparse.Namespace) -> None:
    from conftest import find_program

    system = json.loads(subprocess.run([str(find_program("sla2")), "doctor", "--json"], capture_output=True, text=True, check=True).stdout)[
        "system"
    ]
    cpu = system["cpu"]
    text = f"""# Attention against PyTorch

Made by `./dev bench attention --docs`: {args.threads} threads, a head of {DIM} channels each, medians of {args.rounds} rounds in which ours and
PyTorch's `scaled_dot_product_attention` (the faster of fp32 and bf16 counts) take turns. {cpu}, {system["isa"]}.
Each cell: times PyTorch's speed, and GFLOP/s of dense work (4·N²·D a head). Routing, packing, quantising, both branches and
mixing are included. Workspace: share of Q+K+V in fp32.

![speed-up over sparsity](../images/attention_speed.svg)

{table(rows, args.sparsity)}
## Where the time goes

97 % sparse, by difference of whole runs: routing alone, `sparse_only`, `sla2`. Milliseconds.

| tokens | | router | packing and softmax branch | linear branch and mix | all |
|---|---|---|---|---|---|
"""
    for (tokens, kind), found in pieces.items():
        text += f"| {tokens:,} | {kind} | " + " | ".join(f"{1e3 * seconds:.1f}" for seconds in found.values()) + " |\n"
    text += f"""
## Backward

Gradients of q, k, v, against PyTorch's dense backward; `./dev bench attention --backward`.

{table(back, sorted({row["sparsity"] for row in back}))}"""
    (ROOT / "libsla2/docs/kernels/speed.md").write_text(text, encoding="utf-8")
    (ROOT / "libsla2/docs/images/attention_speed.svg").write_text(picture(rows), encoding="utf-8")


def run(program: Path, args: argparse.Namespace) -> list[dict]:
    sdpa = Sdpa(args.heads, args.threads, args.backward)
    print(f"{'backward' if args.backward else 'forward'}, {args.heads} heads of {DIM}, {args.threads} threads, {args.rounds} rounds")
    print(" tokens  sparsity     kind     ours s   GFLOP/s of dense work   over SDPA   SDPA fp32 s   SDPA bf16 s")
    rows = []
    for tokens in args.tokens:
        for row in measure(program, tokens, args, sdpa):
            rows.append(row)
            print(
                f"{row['tokens']:7}  {row['sparsity']:8.0%}  {row['kind']:>7}  {row['seconds']:9.4f}   {row['dense_gflops']:21,.0f}"
                f"   {row['over']:9.1f}   {row['sdpa_fp32_s']:11.3f}   {row['sdpa_bf16_s']:11.3f}",
                flush=True,
            )
    sdpa.process.stdin.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 8192, 32760])
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.5, 0.75, 0.9, 0.95, 0.97])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=["16 bits", "8 bits"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--heads", type=int, help="default: one a thread")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--backward", action="store_true")
    parser.add_argument("--docs", action="store_true", help="measure all and write docs/kernels/speed.md with its picture")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.heads = args.heads or args.threads
    if args.worker:
        return worker(args.heads, args.threads, args.backward)
    from conftest import find_program

    forward, backward = find_program("probe_attention"), find_program("probe_backward")
    if args.backward:
        args.kinds = [kind for kind in args.kinds if kind != "8 bits"]
    rows = run(backward if args.backward else forward, args)
    if args.docs:
        pieces = {(n, kind): parts(forward, n, kind, 0.97, args) for n in args.tokens for kind in args.kinds}
        args.backward, kinds, args.kinds = True, args.kinds, ["16 bits"]
        lengths, args.tokens, levels, args.sparsity = args.tokens, [8192], args.sparsity, [0.0, 0.9, 0.97]
        back = run(backward, args)
        args.backward, args.kinds, args.tokens, args.sparsity = False, kinds, lengths, levels
        write_docs(rows, pieces, back, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

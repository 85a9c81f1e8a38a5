# SPDX-License-Identifier: Apache-2.0
"""docs/kernels/speed.md and its picture, from the rows of bench_attention.py."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"router": "router", "pack": "packing, quantising", "sparse": "softmax branch", "linear": "linear branch", "mix": "mixing, writing"}


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


def parts_table(rows: list[dict], sparsity: float) -> str:
    """Markdown: milliseconds of each part, and of peak in brackets where a part has products."""
    head = f"| tokens | | {' | '.join(PARTS.values())} | all |\n|---|---|" + "---|" * (len(PARTS) + 1) + "\n"
    lines = []
    for row in rows:
        if row["sparsity"] != sparsity:
            continue
        share = row["of_peak"]
        cells = [f"{1e3 * row['parts'][part]:,.1f}" + (f" ({share[part]:.0%})" if part in share else "") for part in PARTS]
        lines.append(f"| {row['tokens']:,} | {row['kind']} | {' | '.join(cells)} | {1e3 * row['seconds']:,.1f} ({share['all']:.0%}) |")
    return head + "\n".join(lines) + "\n"


def write(rows: list[dict], program: Path, threads: int, rounds: int) -> None:
    told = subprocess.run([str(program), "doctor", "--json"], capture_output=True, text=True, check=True)
    system = json.loads(told.stdout)["system"]
    forward, backward = ([row for row in rows if row["direction"] == way] for way in ("forward", "backward"))
    levels = sorted({row["sparsity"] for row in rows})
    peaks = forward[-1]["peaks"]
    text = f"""# Attention against PyTorch

Made by `./dev bench attention --docs --json FILE`: {threads} threads, a head of 128 channels each, medians of {rounds} rounds in which ours
and PyTorch's `scaled_dot_product_attention` (the faster of fp32 and bf16 counts) take turns. {system["cpu"]}, {system["isa"]}.
Each cell: times PyTorch's speed, and GFLOP/s of dense work (4·N²·D a head). Routing, packing, quantising, both branches and
mixing are included. Workspace: share of Q+K+V in fp32.

![speed-up over sparsity](../images/attention_speed.svg)

{table(forward, levels)}
## Where the time goes, and what the machine could do

Milliseconds, threads together by their number; what is missing to the whole is waiting. In brackets the share of the peak that
the same rounds measured in multiply-add instructions from registers (`probe_peak`; both threads: fp32 {peaks["fp32"]:,.0f}, bf16 {peaks["bf16"]:,.0f},
int8 {peaks["int8"]:,.0f} GOP/s): the least time for a part's products by the time it took. Router, packing and mixing are passes over memory
and caches, without products to speak of.

Dense:

{parts_table(forward, levels[0])}
{levels[-1]:.0%} sparse:

{parts_table(forward, levels[-1])}
## Backward

Gradients of q, k, v, against PyTorch's dense backward; out and log-sum-exp given to both. GFLOP/s of 10·N²·D a head. Gradients are computed
in 16 bits whatever the bits of the forward pass.

{table(backward, levels)}
Milliseconds of its parts at {levels[-1]:.0%}; the softmax branch is S, dP, dS and the three gradients from them, and mixing holds the
statistics of the queries and the linear branch's gradients of φ(Q).

{parts_table(backward, levels[-1])}"""
    (ROOT / "libsla2/docs/kernels/speed.md").write_text(text, encoding="utf-8")
    (ROOT / "libsla2/docs/images/attention_speed.svg").write_text(picture(forward), encoding="utf-8")

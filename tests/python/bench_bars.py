#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The runner against diffusers, every bar the project sets itself, in one run: blocks of Wan2.1-1.3B, VAE decode, loading.

    python tests/python/bench_bars.py [--only 1280 6480 480p vae load] [--rounds 5] [--strict] [--json FILE]

"bound" is the best ratio that this CPU allows: diffusers' seconds by the least time in which its multiply-add instructions, measured
beside (probe_peak), do the products of the block. A bar above its bound cannot be met here, whatever the program.
--strict: exit code 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_runner
from bench_runner import DIM, FFN, PROMPT_TOKENS

# name: grid, layers (all that the model has where a pass takes seconds), rounds by which --rounds is cut, sparsity
CASES = {"1280": ("5x16x16", 30, 1.0, []), "6480": ("5x36x36", 4, 1.0, [0.9]), "480p": ("21x30x52", 1, 0.6, [0.97])}
# case, row: least ratio to diffusers in bf16
BARS = {
    ("1280", "bf16"): 2.0,
    ("6480", "bf16"): 2.5,
    ("6480", "bf16 90%"): 4.0,
    ("480p", "bf16 97%"): 12.0,
    ("480p", "8-bit 97%"): 20.0,
}
VAE_BAR, LOAD_BAR, PLAN_BAR = 2.0, 1.3, 0.10


def peaks() -> dict:
    from conftest import find_program

    return json.loads(subprocess.run([str(find_program("probe_peak"))], capture_output=True, text=True, check=True).stdout)


def least_seconds(tokens: int, row: str, sparsity: float, peak: dict) -> float:
    """Of a block's products alone, at the rate of the number format each row multiplies in."""
    wide = (peak["bf16"] or peak["fp32"]) * 1e9
    narrow = (peak["int8"] or 0) * 1e9 or wide
    linears = 2.0 * tokens * (6 * DIM * DIM + 2 * DIM * FFN)  # q, k, v, out; q, out of cross-attention; FFN
    pairs = 2.0 * tokens * DIM * (tokens * (1 - sparsity))  # of one of Q·K and P·V
    cross = 4.0 * tokens * DIM * PROMPT_TOKENS
    return linears / (narrow if row.startswith("8-bit") else wide) + pairs / (narrow if sparsity else wide) + (pairs + cross) / wide


class Verdicts:
    def __init__(self) -> None:
        self.rows: list[dict] = []
        print(f"{'what':44} {'ours':>9} {'theirs':>9} {'ratio':>6} {'bar':>6} {'bound':>6}", flush=True)

    def ratio(self, what: str, ours: float, theirs: float, bar: float, bound: float | None = None) -> None:
        word = "met" if theirs / ours >= bar else "out of reach here" if bound and bound < bar else "missed"
        limit = f"{bound:6.2f}" if bound else " " * 6
        print(f"{what:44} {ours:9.3f} {theirs:9.3f} {theirs / ours:6.2f} {bar:6.2f} {limit}  {word}", flush=True)
        self.rows.append(
            {"what": what, "ours": ours, "theirs": theirs, "ratio": theirs / ours, "bar": bar, "bound": bound, "verdict": word}
        )

    def most(self, what: str, ours: float, limit: float, unit: str) -> None:
        word = "met" if ours <= limit else "missed"
        print(f"{what:44} {ours:9.2f} {unit}, at most {limit:.2f} {unit}: {word}", flush=True)
        self.rows.append({"what": what, "ours": ours, "limit": limit, "unit": unit, "verdict": word})


def blocks(name: str, args: argparse.Namespace, verdicts: Verdicts) -> None:
    from conftest import find_program

    grid, layers, share, sparsities = CASES[name]
    how = argparse.Namespace(
        grid=grid, layers=layers, repeat=1, bits=8, linear_bits=8, sparsity=sparsities, rounds=max(3, round(args.rounds * share))
    )
    kinds = bench_runner.variants(how)
    if name == "480p":
        kinds = {kind: words for kind, words in kinds.items() if sparsities and words and "%" in kind}  # dense takes minutes and has no bar
    rows = bench_runner.compare(find_program("probe_dit"), "bf16", "bf16", kinds, how)
    peak = peaks()
    for row in rows:
        what = f"block, {row['tokens']:,} tokens, {row['stored']}"
        sparsity = float(row["stored"].split()[-1][:-1]) / 100 if "%" in row["stored"] else 0.0
        if (bar := BARS.get((name, row["stored"]))) is not None:
            bound = row["diffusers_s"] / least_seconds(row["tokens"], row["stored"], sparsity, peak)
            verdicts.ratio(f"{what}, s", row["ours_s"], row["diffusers_s"], bar, bound)
        verdicts.most(f"{what}, peak", row["ours_peak"] / 2**20, row["diffusers_peak"] / 2**20, "MiB")
        verdicts.most(f"{what}, plan off by", abs(row["planned"] / row["ours_used"] - 1) * 100, PLAN_BAR * 100, "%")


def output_of(script: str, *words: object) -> dict:
    command = [sys.executable, str(Path(__file__).with_name(script)), *map(str, words)]
    result: dict = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result


def vae(args: argparse.Namespace, verdicts: Verdicts) -> None:
    found = output_of("bench_vae.py", "--full", "--precision", "bfloat16", "--repeat", args.rounds, "--json")
    ours, theirs = found["ours bfloat16"], found["diffusers bfloat16"]
    verdicts.ratio("VAE decode, 256 x 256, 17 frames, s", ours["seconds"], theirs["seconds"], VAE_BAR)
    verdicts.most("VAE decode, peak", ours["peak_bytes"] / 2**20, min(theirs["peak_bytes"] / 2**20, 1024), "MiB")
    verdicts.most("VAE decode, plan off by", abs(ours["plan_bytes"] / ours["peak_bytes"] - 1) * 100, PLAN_BAR * 100, "%")


def load(args: argparse.Namespace, verdicts: Verdicts) -> None:
    found = output_of("bench_load.py", "--rounds", args.rounds, "--json")
    verdicts.most(f"{found['bytes'] / 1e9:.2f} GB ready to sample, by a plain read", found["ratio"], LOAD_BAR, "x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "vae", "load"], default=[*CASES, "vae", "load"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a bar is missed")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    peak = peaks()
    print(
        f"{peak['threads']} threads, peak GOP/s: bf16 {peak['bf16']:,.0f}, int8 {peak['int8']:,.0f}, fp32 {peak['fp32']:,.0f}; medians of {args.rounds} rounds"
    )
    verdicts = Verdicts()
    for name in args.only:
        blocks(name, args, verdicts) if name in CASES else {"vae": vae, "load": load}[name](args, verdicts)
    met = sum(row["verdict"] == "met" for row in verdicts.rows)
    print(f"{met} of {len(verdicts.rows)} bars met")
    if args.json:
        args.json.write_text(json.dumps({"peaks": peak, "rows": verdicts.rows}, indent=2) + "\n")
    if args.strict and met < len(verdicts.rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What the node costs and saves, through ComfyUI's own model class at the sizes of Wan2.1 1.3B, one block, on the CPU.

    SLA2_COMFYUI_DIR=... ./dev bench comfy [--runs 3] [--frames 81] [--threads 1]

Runs are interleaved; figures are medians, and ratios within one run. The report of the node itself is the clock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import comfy_process

# isort: split
import comfy.ldm.modules.attention as core_attention
import comfy.ldm.wan.model as wan
import comfy.ops
import torch

from comfy_nodes.sla2_nodes import attend, chain, wheel, wrapper
from comfy_nodes.sla2_nodes.engine import Plan
from comfy_nodes.sla2_nodes.settings import Settings


class Block:
    """WanModel of one block with random weights, called as core calls it."""

    def __init__(self, frames: int, width: int, height: int) -> None:
        words = dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=1, text_dim=4096, operations=comfy.ops.disable_weight_init)
        self.model = wan.WanModel(model_type="t2v", device="cpu", dtype=torch.float32, **words)
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, value in self.model.named_parameters():
                value.copy_(torch.randn(value.shape, generator=source) / max(4.0, value[0].numel() ** 0.5 if value.dim() > 1 else 4.0))
                if "norm" in name and name.endswith("weight"):
                    value.add_(1.0)
        self.x = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, generator=source)
        self.context = torch.randn(1, 512, 4096, generator=source)
        self.tokens = self.x.shape[2] * (height // 16) * (width // 16)

    def run(self, settings: Settings | None, previous: Any = None) -> tuple[float, dict[str, Any]]:
        """Seconds of one pass, and the report's totals."""
        options: dict[str, Any] = {} if previous is None else {chain.HOOK: previous}
        active = None
        if settings is not None:
            active = attend.Attend(wheel.need(), Plan(settings))
            chain.install(options, active)
            options["wrappers"] = {"diffusion_model": {"sla2": [wrapper.around_model]}}
        with torch.inference_mode():
            started = attend.clock()
            self.model(self.x, torch.tensor([500.0]), self.context, transformer_options=options)
            seconds = attend.clock() - started
        return seconds, {} if active is None else active.report.to_dict()["total"]


def torch_attention(_: Any, *args: Any, **kwargs: Any) -> Any:
    return core_attention.attention_pytorch(*args, **kwargs)


def overhead(runs: int) -> None:
    block, declined = Block(9, 256, 256), Settings(min_tokens=1 << 20)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for place, settings in enumerate((None, declined)):
            times[place].append(block.run(settings)[0])
    without, with_node = map(statistics.median, times)
    ratio = statistics.median(b / a for a, b in zip(*times))
    print(
        f"overhead, every call declined, {block.tokens} tokens: {without * 1e3:.2f} ms without, {with_node * 1e3:.2f} ms with, ratio {ratio:.4f}"
    )
    calls, started = 2000, time.perf_counter()
    small = attend.Attend(None, Plan(declined))
    options: dict[str, Any] = {}
    chain.install(options, small)
    q = torch.zeros(1, 8, 128)
    for _ in range(calls):
        options[chain.HOOK](lambda *_, **__: None, q, q, q, 1, transformer_options=options)
    print(f"a declined call costs {(time.perf_counter() - started) / calls * 1e6:.1f} µs of Python")


def speed(runs: int, frames: int, keep: list[float]) -> None:
    block = Block(frames, 832, 480)
    full = Settings(keep_percent=100.0, min_tokens=0)
    arms: dict[str, tuple[Settings, Any]] = {}
    for percent in keep:
        for bits in (16, 8):
            arms[f"SLA2, {percent:g} % kept, {bits} bits"] = (
                Settings(keep_percent=percent, bits=bits, min_tokens=0, start_percent=0.0),
                None,
            )
    peers = {f"core ({core_attention.optimized_attention.__name__})": None, "torch (scaled_dot_product_attention)": torch_attention}
    arms |= {name: (full, previous) for name, previous in peers.items()}
    print(f"{block.tokens} tokens, 12 heads of 128, fp32, {torch.get_num_threads()} thread(s), {runs} runs")
    attention: dict[str, list[float]] = {name: [] for name in arms}
    passes: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(runs):
        for name, (settings, previous) in arms.items():
            seconds, total = block.run(settings, previous)
            attention[name].append(total["sparse_seconds"] + total["dense_seconds"])
            passes[name].append(seconds)
            print(
                f"  run {number}: {name}: attention {attention[name][-1]:.2f} s, block {seconds:.2f} s, skipped {total['sparsity']:.4f}",
                flush=True,
            )
    first, second = peers
    print(f"{'':<38} {'attention s':>11} {'of core':>8} {'of torch':>8} {'block s':>8}")
    for name in arms:
        ratios = [statistics.median(a / b for a, b in zip(attention[base], attention[name])) for base in (first, second)]
        print(
            f"{name:<38} {statistics.median(attention[name]):>11.2f} {ratios[0]:>7.2f}x {ratios[1]:>7.2f}x {statistics.median(passes[name]):>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=float, nargs="+", default=[3.0])
    parser.add_argument("--only", choices=["overhead", "speed"])
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds: fair beside other programs, with one thread only")
    args = parser.parse_args()
    if args.cpu_time:
        attend.clock = time.process_time
    torch.set_num_threads(args.threads)
    assert comfy_process.nodes()
    if args.only != "speed":
        overhead(20 * args.runs)
    if args.only != "overhead":
        speed(args.runs, args.frames, args.keep)


if __name__ == "__main__":
    main()

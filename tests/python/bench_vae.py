#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Wan-VAE decode: ours against diffusers, fp32 and bf16, in the same run, same random weights, same sizes.

Each contender runs in a process of its own, so that peak memory is its own. `--full` takes the public sizes (base 96) at
256x256, 17 frames; without it base 32 at 128x128, 9 frames. SLA2_BUILD names the build folder. Contenders take turns `--repeat`
times, medians count. With `--threads 1` the ratio is that of CPU seconds, which other work on the machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from conftest import find_program

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}  # torch's name: ours


def make_weights(folder: Path, base: int) -> None:
    import torch
    from diffusers import AutoencoderKLWan
    from test_vae import randomise, save

    model = AutoencoderKLWan(base_dim=base)
    randomise(model, 1)
    torch.manual_seed(0)
    save(model, folder)


def run_diffusers(folder: Path, precision: str, height: int, width: int, frames: int, threads: int) -> None:
    """In a process of its own: load as that type, decode once, print JSON."""
    import time

    import torch
    from diffusers import AutoencoderKLWan

    if threads:
        torch.set_num_threads(threads)
    dtype = getattr(torch, precision)
    model = AutoencoderKLWan.from_pretrained(folder, torch_dtype=dtype).eval()
    latent = torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, generator=torch.Generator().manual_seed(1))
    start, cpu_start = time.perf_counter(), time.process_time()
    with torch.no_grad():
        decoded = model.decode(latent.to(dtype)).sample
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "frames": decoded.shape[2], "peak_bytes": peak}))


def output_of(*command: object) -> dict:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--precision", nargs="*", default=list(PRECISIONS), choices=tuple(PRECISIONS), help="only these")
    parser.add_argument("--frames", type=int, help="instead of the usual number, 4k+1")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--skip", nargs="*", default=[], choices=tuple(PRECISIONS), help="leave out diffusers in this type")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    base, height, width, frames = (96, 256, 256, 17) if options.full else (32, 128, 128, 9)
    frames = options.frames or frames
    threads = ["--threads", options.threads]
    if options.child:
        run_diffusers(Path(options.child[0]), options.child[1], height, width, frames, options.threads)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_weights(folder, base)
        weights = folder / "diffusion_pytorch_model.safetensors"
        size = ["--height", height, "--width", width, "--frames", frames]
        flags = ["--frames", frames, *threads, *(["--full"] if options.full else [])]
        runs: dict[str, list[dict]] = {}
        for _ in range(options.repeat):
            for precision in options.precision:
                ours = output_of(find_program("probe_vae"), "bench", weights, *size, *threads, "--precision", PRECISIONS[precision])
                runs.setdefault(f"ours {precision}", []).append(ours)
                if precision not in options.skip:
                    theirs = output_of(sys.executable, __file__, *flags, "--child", folder, precision)
                    runs.setdefault(f"diffusers {precision}", []).append(theirs)
    results = {who: {key: statistics.median(run[key] for run in all_runs) for key in all_runs[0]} for who, all_runs in runs.items()}
    if options.json:
        print(json.dumps(results))
        return
    print(f"Wan-VAE decode, base {base}, {height}x{width}, {frames} frames")
    clock = "cpu_seconds" if options.threads == 1 else "seconds"
    for who, result in results.items():
        ratio = result[clock] / results[f"ours {who.split()[1]}"][clock]
        print(
            f"{who:20} {result['seconds']:8.2f} s  CPU {result['cpu_seconds']:8.2f} s  {ratio:6.2f}x ours  "
            f"peak {result['peak_bytes'] / 2**20:7.0f} MiB"
        )
    for who, result in results.items():
        if "plan_bytes" in result:
            print(f"{who}: plan {result['plan_bytes'] / 2**20:.0f} MiB of the measured {result['peak_bytes'] / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

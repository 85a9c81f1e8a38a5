# SPDX-License-Identifier: Apache-2.0
"""One Wan2.1-1.3B block against diffusers, synthetic weights, dense attention: seconds and memory.

    python tests/python/bench_runner.py [--grid 5x16x16] [--layers 2] [--rounds 3] [--skip-fp32] [--linear-bits 8]
                                         [--sparsity 0.9 --bits 8] [--json FILE]

Ours and theirs take turns in processes of their own, so that a busy machine disturbs both alike. A round is one pass of theirs
and one run of probe_dit of each kind; the figures are medians over all blocks of all rounds. 5x16x16 is 1,280 tokens, 5x36x36 is 6,480,
21x30x52 is 480p with 32,760.
With --linear-bits 8 a row of ours with 8-bit Linears stands beside that in bf16, and both rows' errors against diffusers in fp32:
a block with random weights at these sizes, and the velocity of the small model in presets/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
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


def variants(args: argparse.Namespace) -> dict[str, list[str]]:
    """Rows of ours beside diffusers' bf16: a name, and what probe_dit is told."""
    found = {"bf16": []}
    eight = {"8-bit": ["--linear-bits", "8"]} if args.linear_bits == 8 else {}
    found |= eight
    for sparsity in args.sparsity:
        how = ["--sparsity", str(sparsity), "--bits", str(args.bits)]
        found |= {f"{name} {sparsity:.0%}": [*words, *how] for name, words in {"bf16": [], **eight}.items()}
    return found


def ours(program: Path, stored: str, words: list[str], args: argparse.Namespace) -> dict:
    command = [
        str(program),
        "bench",
        "--dim",
        str(DIM),
        "--heads",
        str(HEADS),
        "--ffn",
        str(FFN),
        "--layers",
        str(args.layers),
        "--grid",
        args.grid,
        "--stored",
        stored,
        "--prompt-tokens",
        str(PROMPT_TOKENS),
        "--repeat",
        str(args.repeat),
        *words,
    ]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(program: Path, theirs_in: str, stored: str, kinds: dict[str, list[str]], args: argparse.Namespace) -> list[dict]:
    """One row for each kind of ours; all beside the same passes of theirs."""
    theirs = Theirs(theirs_in, args.grid, args.layers)
    mine: dict[str, list[dict]] = {name: [] for name in kinds}
    for _ in range(args.rounds):
        theirs.run()
        for name, words in kinds.items():
            mine[name].append(ours(program, stored, words, args))
    theirs.close()
    return [row(name, results, theirs) for name, results in mine.items()]


def row(name: str, mine: list[dict], theirs: Theirs) -> dict:
    block = statistics.median(result["block_seconds"] for result in mine)
    return {
        "stored": name,
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


def errors(program: Path, bit_counts: list[int]) -> list[dict]:
    """Relative L1 and cosine against diffusers in fp32: of a block's output, of what the block added, and of a velocity."""
    import test_dit
    import torch
    from conftest import ROOT
    from safetensors.torch import load_file, save_file

    small_path = ROOT / "presets" / "models" / "small_world" / "dit.safetensors"
    small = test_dit.make_model(heads=3, head_dim=64, layers=5, ffn=512, text_dim=128)
    stored = load_file(str(small_path))
    small.load_state_dict(
        {name: stored[test_dit.original_name(name)].float().reshape(value.shape) for name, value in small.state_dict().items()}
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        big = test_dit.make_model(heads=HEADS, head_dim=DIM // HEADS, layers=1, ffn=FFN)
        cases = [
            (big, test_dit.save_model(big, Path(folder) / "big.safetensors"), test_dit.make_input((5, 8, 8)), test_dit.TEXT_LEN),
            (small, small_path, test_dit.make_input((5, 8, 8), text_rows=12, timestep=600.0, text_dim=128), 64),
        ]
        for model, path, inputs, text_len in cases:
            exact = test_dit.reference(model, inputs, text_len)
            save_file(inputs, f"{folder}/in.safetensors")
            for bits in bit_counts:
                subprocess.run(
                    [
                        str(program),
                        "forward",
                        "--model",
                        str(path),
                        "--input",
                        f"{folder}/in.safetensors",
                        "--output",
                        f"{folder}/out.safetensors",
                        "--precision",
                        "bf16",
                        "--linear-bits",
                        str(bits),
                    ],
                    capture_output=True,
                    check=True,
                )
                result = load_file(f"{folder}/out.safetensors")
                outputs = {"velocity": (result["velocity"], exact["velocity"])}
                if model is big:
                    outputs = {
                        "block": (result["block.0"], exact["block.0"]),
                        "its change": (result["block.0"] - result["block.-1"], exact["block.0"] - exact["block.-1"]),
                    }
                for what, (mine, truth) in outputs.items():
                    mine, truth = mine.double().flatten(), truth.double().flatten()
                    found.append(
                        {
                            "model": "random, 1.3B sizes" if model is big else "small_world",
                            "output": what,
                            "linear_bits": bits,
                            "relative_l1": ((mine - truth).abs().sum() / truth.abs().sum()).item(),
                            "cosine": torch.nn.functional.cosine_similarity(mine, truth, dim=0).item(),
                        }
                    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="5x16x16", help="tokens, frames x height x width")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=2, help="passes of ours in a round")
    parser.add_argument("--skip-fp32", action="store_true", help="compare with diffusers in bf16 only")
    parser.add_argument("--linear-bits", type=int, choices=(16, 8), default=16, help="8: also ours with 8-bit Linears, and the errors")
    parser.add_argument("--sparsity", type=float, nargs="*", default=[], help="also ours with sparse self-attention, at these sparsities")
    parser.add_argument("--bits", type=int, choices=(16, 8), default=8, help="of sparse attention")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=("bf16", "fp32"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.worker, tuple(int(n) for n in args.grid.split("x")), args.layers)
    from conftest import find_program

    program = find_program("probe_dit")
    pairs = (("bf16", "bf16"), ("fp32", "f32"))[: 1 if args.skip_fp32 else 2]
    bit_counts = [16, 8] if args.linear_bits == 8 else [16]
    rows = []
    for theirs_in, stored in pairs:
        rows += compare(program, theirs_in, stored, variants(args) if theirs_in == "bf16" else {theirs_in: []}, args)
    print(f"Wan2.1-1.3B block, {rows[0]['tokens']} tokens, {args.layers} layers, {rows[0]['threads']} threads, {rows[0]['isa']}")
    print("stored      ours s/block (attention)   diffusers s/block   ratio   peak ours / theirs MiB   used ours / planned / theirs MiB")
    for row in rows:
        print(
            f"{row['stored']:9}   {row['ours_s']:10.3f} ({row['ours_attention_s']:.3f})   {row['diffusers_s']:18.3f}   {row['ratio']:5.2f}"
            f"   {row['ours_peak'] / MIB:8.0f} / {row['diffusers_peak'] / MIB:.0f}"
            f"   {row['ours_used'] / MIB:12.0f} / {row['planned'] / MIB:.0f} / {row['diffusers_used'] / MIB:.0f}"
        )
    rest = errors(program, bit_counts) if args.linear_bits == 8 else []
    for error in rest:
        print(
            f"{error['model']}, {error['output']}, {error['linear_bits']} bits: relative L1 {error['relative_l1']:.5f}, cosine {error['cosine']:.7f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows + rest, indent=2) + "\n")


if __name__ == "__main__":
    main()

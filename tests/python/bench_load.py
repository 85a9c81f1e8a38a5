# SPDX-License-Identifier: Apache-2.0
"""Loading: seconds until a Wan2.1-1.3B checkpoint (bf16, 2.8 GB, synthetic) can sample, beside a plain read of the file.

    python tests/python/bench_load.py [--layers 30] [--rounds 3] [--file FILE] [--json]

The file is written to a temporary folder, or to FILE, where a second run finds it. The page cache is warm for both.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import subprocess
import tempfile
from pathlib import Path

from bench_runner import DIM, FFN, TEXT_DIM
from conftest import find_program

FREQUENCIES, CHANNELS, PATCH = 256, 16, 4


def shapes(layers: int) -> dict[str, list[int]]:
    tensors: dict[str, list[int]] = {
        "patch_embedding.weight": [DIM, CHANNELS, 1, 2, 2],
        "patch_embedding.bias": [DIM],
        "head.modulation": [1, 2, DIM],
    }

    def linear(name: str, out: int, into: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = [out, into], [out]

    linear("time_embedding.0", DIM, FREQUENCIES)
    linear("time_embedding.2", DIM, DIM)
    linear("time_projection.1", 6 * DIM, DIM)
    linear("text_embedding.0", DIM, TEXT_DIM)
    linear("text_embedding.2", DIM, DIM)
    linear("head.head", PATCH * CHANNELS, DIM)
    for layer in range(layers):
        block = f"blocks.{layer}."
        tensors[block + "modulation"] = [1, 6, DIM]
        for part in ("self_attn.", "cross_attn."):
            for which in "qkvo":
                linear(block + part + which, DIM, DIM)
            for norm in ("norm_q.weight", "norm_k.weight"):
                tensors[block + part + norm] = [DIM]
        tensors[block + "norm3.weight"] = tensors[block + "norm3.bias"] = [DIM]
        linear(block + "ffn.0", FFN, DIM)
        linear(block + "ffn.2", DIM, FFN)
    return tensors


def write(path: Path, layers: int) -> None:
    header, at = {}, 0
    for name, shape in shapes(layers).items():
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = b"".join(bytes([random.randrange(256), random.randrange(0x3A, 0x3D)]) for _ in range(1 << 20))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start in range(0, at, len(block)):
            file.write(block[: min(len(block), at - start)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "model.safetensors"
        if not path.exists():
            write(path, args.layers)
        done = subprocess.run(
            [find_program("probe_dit"), "load", path, "--rounds", str(args.rounds)], capture_output=True, text=True, check=True
        )
    if args.json:
        print(done.stdout.strip())
        return
    result = json.loads(done.stdout)
    print(
        f"{result['bytes'] / 1e9:.2f} GB, {result['threads']} threads, {result['isa']}: plain read {result['read_seconds']:.2f} s, "
        f"ready to sample {result['load_seconds']:.2f} s, ratio {result['ratio']:.2f}, peak {result['peak_bytes'] / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()

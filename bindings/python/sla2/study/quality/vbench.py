# SPDX-License-Identifier: Apache-2.0
"""Clips for VBench from a Wan model: not run for this study, whose machine has neither the weights nor a GPU.

python -m sla2.study.quality.vbench --prompts VBench_full_info.json --model WAN_FOLDER --out clips/full
python -m sla2.study.quality.vbench --prompts VBench_full_info.json --model WAN_FOLDER --out clips/sla2 -- --pack wan.sla2.safetensors
then, in VBench's repository: python evaluate.py --videos_path clips/sla2 --dimension subject_consistency ...

The prompt list is VBench's own file (its repository has it; it is not part of this one): a list of {"prompt_en", "dimension"}. Five
samples a prompt, named PROMPT-N.mp4 as its scripts expect. Every arm gets the same prompts and seeds; clips that exist are kept.
The dimensions reported in the papers on SLA and SLA2 are in DIMENSIONS; report every one of them, with intervals over prompts, for
full attention, full attention fine-tuned on the same data, and the sparse arm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
from pathlib import Path

DIMENSIONS = (
    "subject_consistency", "background_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality", "imaging_quality",
    "overall_consistency",
)  # fmt: skip
SAMPLES = 5


def read_prompts(path: Path, dimensions: tuple[str, ...] = ()) -> list[str]:
    """Return the prompts of the wanted dimensions (all, if none is named), each once, in the file's order."""
    rows = json.loads(path.read_text())
    chosen = [r["prompt_en"] for r in rows if not dimensions or set(r["dimension"]) & set(dimensions)]
    return list(dict.fromkeys(chosen))


def seed_of(prompt: str, sample: int) -> int:
    """Return a clip's seed: of prompt and sample number alone, so that every arm starts from the same noise."""
    return int.from_bytes(hashlib.sha256(f"{prompt}\n{sample}".encode()).digest()[:4], "big") >> 1


def commands(prompts: list[str], model: str, out: Path, samples: int, flags: list[str]) -> list[tuple[list[str], Path]]:
    """Return (command of the runner, clip) for every prompt and sample."""
    made = []
    for prompt in prompts:
        for i in range(samples):
            target = out / f"{re.sub(r'[/]', '_', prompt)[:180]}-{i}.mp4"
            command = ["sla2", "generate", "--model", model, "-p", prompt, "--seed", str(seed_of(prompt, i)), "-o", str(target), *flags]
            made.append((command, target))
    return made


def main() -> None:
    """Generate what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True, help="VBench_full_info.json")
    parser.add_argument("--dimensions", nargs="*", default=list(DIMENSIONS))
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    parser.add_argument("flags", nargs="*", help="further flags of `sla2 generate`, after --")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for command, target in commands(read_prompts(args.prompts, tuple(args.dimensions)), args.model, args.out, args.samples, args.flags):
        if args.dry_run:
            print(" ".join(command))
        elif not target.exists():
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

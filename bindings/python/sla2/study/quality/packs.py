# SPDX-License-Identifier: Apache-2.0
"""Router packs of the small world at the size it is shown at: 128 x 128 x 17, 5 x 8 x 8 = 320 tokens, 20 blocks of 16 keys.

There 90 % keeps two key blocks of a row and 95 % one: it shows the machinery, not a saving.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...packs import RouterPack
from ...training import export, fit, train
from ...training.data import write_shard
from .. import latents, world
from ..text import Encoder
from . import teacher

MODEL = Path("presets/models/small_world")
ATTENTION = {"mode": "sla2", "bits": 8, "block_q": 32, "block_k": 16}
LORA = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2"]
FIT = {
    "samples": 24,
    "held_out": 8,
    "levels": [0.9, 0.7, 0.4],
    "steps": 120,
    "kl_steps": 60,
    "evaluate_every": 60,
    "query_blocks": 10,
    "lr": 3e-3,
}


def shards(work: Path, fit_clips: int = 160, train_clips: int = 1600, check_clips: int = 32) -> None:
    """Write the trainer's shards from cached latents: to fit (its "test" clips choose among states, so they are training
    combinations) and to train (its "test" clips are held-out combinations)."""
    base, text = teacher.base(work), Encoder(work / "text.pt")
    plan = (("fit", "train", "train", 0, fit_clips), ("fit", "test", "train", fit_clips, fit_clips + check_clips),
            ("train", "train", "train", 0, train_clips), ("train", "test", "test", 0, check_clips))  # fmt: skip
    for purpose, split, source, first, last in plan:
        path = work / "quality" / f"shards_{purpose}" / f"{split}_0000.safetensors"
        if path.is_file():
            continue
        raw, scenes = latents.read(work / "latents", source)
        with torch.no_grad():
            context = text([world.caption(s, i) for i, s in enumerate(scenes[first:last])])
            empty = text([""])[0]
        write_shard(path, ((raw[first:last] - base["mean"]) / base["std"]).half(), context.half(), empty.half())


def config(work: Path, sparsity: float, stage: int) -> dict[str, Any]:
    """Return the trainer's configuration of a pack."""
    name = f"s{round(100 * sparsity)}"
    common = {
        "model": {"path": str(MODEL), "name": "small_world"},
        "data": {"path": str(work / "quality" / ("shards_fit" if stage == 1 else "shards_train"))},
        "attention": {**ATTENTION, "sparsity": sparsity},
        "export": {"licence": "Apache-2.0"},
    }
    if stage == 1:
        return common | {"fit": FIT, "output": {"path": str(work / "quality" / f"fit_{name}"), "tensorboard": False}}
    pack = work / "quality" / f"fit_{name}" / "router.sla2.safetensors"
    return common | {
        "attention": {**ATTENTION, "sparsity": sparsity, "pack": str(pack)},
        "train": {
            "what": "lora",
            "steps": 1500,
            "batch": 8,
            "lr": 1e-3,
            "attention_lr": 1e-2,
            "warmup": 20,
            "decay": "cosine",
            "autocast": "bf16",
            "shift": 5.0,
            "weight_decay": 0.0,
        },
        "lora": {"rank": 32, "alpha": 32.0, "targets": LORA},
        "evaluate": {"every": 150, "samples": 8, "levels": [0.9, 0.7, 0.5, 0.3, 0.1], "attention_samples": 0},
        "checkpoint": {"every": 150},
        "output": {"path": str(work / "quality" / f"train_{name}"), "tensorboard": False},
    }


def make(work: Path, out: Path = MODEL / "packs") -> dict[str, Any]:
    """Write packs of 90 and 95 %: of stage 1 (routers and mixing), and of stage 2 with the LoRA that was trained with it.

    Goes on where it was stopped: the trainer's checkpoints are under ``work``.
    """
    shards(work)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for sparsity in (0.9, 0.95):
        name = f"s{round(100 * sparsity)}"
        first = fit(config(work, sparsity, 1))
        RouterPack.load(first["pack"]).save(out / f"stage1_{name}.sla2.safetensors")
        found[name] = {"stage1": {k: first[k] for k in ("identity", "fitted", "by_layer", "layers")}}
    for sparsity in (0.9, 0.95):
        name = f"s{round(100 * sparsity)}"
        settings = config(work, sparsity, 2)
        last = train(settings)
        found[name]["stage2"] = {
            **last,
            "before": before(Path(settings["output"]["path"]) / "log.jsonl"),
            "steps": settings["train"]["steps"],
        }
        (files,) = export(config(work, sparsity, 2))["files"]
        shutil.copyfile(files["weights"], out / f"stage2_{name}.lora.safetensors")
        shutil.copyfile(files["pack"], out / f"stage2_{name}.sla2.safetensors")
    return found


def before(log: Path) -> float:
    """Return the velocity error of the evaluation before the first step."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return float(next(x["velocity_error"] for x in lines if x["kind"] == "evaluation" and x["step"] == 0))


def heads_improved(layers: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Return in how many heads the fitted router has less held-out hard-mask error than the identity's, and of how many."""
    pairs = [(a, b) for x in layers.values() for a, b in zip(x["identity_by_head"], x["fitted_by_head"], strict=True)]
    return int(np.sum([b < a for a, b in pairs])), len(pairs)


def write_summary(found: dict[str, Any], path: Path) -> None:
    """Keep what the page quotes."""
    path.write_text(json.dumps(found, indent=1) + "\n")

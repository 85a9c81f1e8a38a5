# SPDX-License-Identifier: Apache-2.0
"""A tiny Wan transformer and shards of noise for the tests of sla2.training, and runs of several processes."""

from __future__ import annotations

import copy
import json
import os
import socket
from pathlib import Path
from typing import Any

import torch
from conftest import build_dir
from diffusers import WanTransformer3DModel
from sla2.training import data

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(build_dir() / "bindings"), "OMP_NUM_THREADS": "1"}
SHAPE = (4, 3, 16, 16)  # 3 x 8 x 8 tokens: 6 query blocks of 32, 12 key blocks of 16


def make(root: Path, heads: int = 2, layers: int = 2) -> dict[str, Any]:
    """Write model and data under `root`; return a configuration of a few quick steps."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=heads, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=16, freq_dim=32,
        ffn_dim=96, num_layers=layers, cross_attn_norm=True, qk_norm="rms_norm_across_heads", rope_max_seq_len=64,
    )  # fmt: skip
    with torch.no_grad():  # as long as they are trained: sharp attention, blocks that matter
        for block in model.blocks:
            block.attn1.norm_q.weight.fill_(2.0)
            block.attn1.norm_k.weight.fill_(2.0)
    model.save_pretrained(root / "model")
    for split, count in (("train", 10), ("test", 3)):
        data.write_shard(
            root / "data" / f"{split}_0000.safetensors", torch.randn(count, *SHAPE), torch.randn(count, 6, 16), torch.zeros(6, 16)
        )
    return {
        "model": {"path": str(root / "model"), "name": "tiny"},
        "data": {"path": str(root / "data")},
        "attention": {"block_q": 32, "block_k": 16, "sparsity": 0.75},
        "train": {"steps": 3, "batch": 4, "lr": 1e-3, "ema": 0.9, "warmup": 2, "threads": 1},
        "fit": {"samples": 2, "held_out": 1, "levels": [0.6], "steps": 6, "evaluate_every": 3, "query_blocks": 4},
        "evaluate": {"every": 10, "samples": 2, "levels": [0.8, 0.4]},
        "checkpoint": {"every": 100},
        "output": {"path": str(root / "out"), "tensorboard": False},
    }


def changed(config: dict[str, Any], out: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A copy with other values, section by section, and a folder of its own."""
    found = copy.deepcopy(config)
    for section, values in sections.items():
        found[section] = {**found.get(section, {}), **values}
    found["output"]["path"] = str(out)
    return found


def records(out: Path, kind: str = "step") -> list[dict]:
    return [line for line in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if line["kind"] == kind]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in records(out)]


def group(count: int = 2) -> list[dict[str, str]]:
    """The environments of the processes of one group on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**place, "ACCELERATE_USE_CPU": "true", "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]

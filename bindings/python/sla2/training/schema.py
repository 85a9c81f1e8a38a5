# SPDX-License-Identifier: Apache-2.0
"""Every key of a training configuration: type, default, limits, meaning. The reference in docs/training.md is printed from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sla2.schedule import MODES


@dataclass(frozen=True)
class Key:
    """One key. `kind` is int, float, bool, text, ints, floats or texts (lists); None as default: the key may be left empty."""

    kind: str
    default: Any
    about: str
    low: float | None = None
    high: float | None = None
    words: tuple[Any, ...] = ()
    above: bool = False  # low itself is out of range


SCHEMA: dict[str, dict[str, Key]] = {
    "model": {
        "path": Key("text", "", "folder of a diffusers WanTransformer3DModel or pipeline, a model folder of sla2, or a Wan safetensors file"),
        "heads": Key("int", None, "heads of a safetensors file without configuration; empty: width / 128", 1),
        "name": Key("text", "", "base model's name, written into packs, as wan2.1-t2v-1.3b"),
    },
    "data": {
        "path": Key("text", "", "folder of shards train_*.safetensors and test_*.safetensors"),
        "drop_context": Key("float", 0.1, "share of samples that get the empty context, where shards hold one", 0, 1),
    },
    "attention": {
        "mode": Key("text", "sla2", "attention of the student", words=MODES),
        "router": Key("text", "sla2", "who picks the blocks", words=("sla2", "sla1", "vsa", "vmoba", "sparge")),
        "learned_router": Key("bool", None, "router matrices W; empty: in mode sla2"),
        "shared_router": Key("bool", False, "one W for all heads of a layer"),
        "sparsity": Key("float", 0.9, "fraction of key blocks skipped", 0, 1),
        "bits": Key("int", 16, "8: queries and keys are multiplied as bytes", words=(16, 8)),
        "qat_backward": Key("text", "hp_stats", "after 8 bits the backward pass takes the softmax's sums and output anew, in high precision, or as the forward pass left them", words=("hp_stats", "paper")),
        "products": Key("text", None, "what 16 bits multiply; empty: bf16 where inputs are", words=("fp32", "bf16")),
        "fp8_values": Key("bool", False, "with 8 bits: values as a GPU's fp8 units see them (slow)"),
        "block_q": Key("int", 128, "queries per block", words=(32, 64, 128)),
        "block_k": Key("int", 64, "keys per block", words=(16, 32, 64, 128)),
        "alpha_mode": Key("text", "head_affine_lse", "mixing of mode sla2", words=("head_affine_lse", "head_scalar", "block")),
        "linear_scope": Key("text", "complement", "keys of the linear branch in mode sla1", words=("complement", "global")),
        "smooth_k": Key("bool", True, "φ sees keys minus their mean"),
        "rule": Key("text", "topk", "router sparge: by count, by share, by either", words=("topk", "cdf", "hybrid")),
        "top_p": Key("float", 0.25, "routers vmoba and sparge: share to reach", 0, 1),
        "theta": Key("float", -1.0, "router sparge: blocks of lower mean cosine are always kept", -1, 1),
        "negligible": Key("float", 0.0, "mode sla1: share of blocks in neither branch", 0, 1),
        "gate": Key("bool", True, "router vsa: the coarse branch behind a learned gate"),
        "token_order": Key("text", "raster", "order of tokens inside attention", words=("raster", "tile:4x4x4", "hilbert")),
        "schedule": Key("text", "", "modes by layer, the last rule that fits decides: `layers 0,-1: full; layers 2-5: linear_only`"),
        "pack": Key("text", "", "router pack to begin with, as stage 1 writes it"),
    },
    "fit": {
        "samples": Key("int", 8, "training clips whose queries, keys and values are kept", 1),
        "held_out": Key("int", 2, "held-out clips", 1),
        "levels": Key("floats", [0.9, 0.7, 0.4], "noise levels σ of each clip", 0, 1),
        "layers": Key("ints", [], "layers to fit, from 0; empty: all that run sla2"),
        "query_blocks": Key("int", 16, "query blocks of a sample that one step sees", 1),
        "steps": Key("int", 150, "steps of Adam for each layer; 0: only the mixing numbers", 0),
        "evaluate_every": Key("int", 25, "steps between held-out errors; the best state is kept", 1),
        "lr": Key("float", 1e-3, "learning rate of W", 0, above=True),
        "alpha_lr": Key("float", 1e-2, "learning rate of the mixing numbers", 0, above=True),
        "taus": Key("floats", [0.3, 0.1, 0.05], "temperatures of SoftTop-k, an equal share of the steps each", 0, above=True),
        "straight_through": Key("bool", False, "hard mask forward, soft mask's gradient"),
        "kl_steps": Key("int", 0, "steps before those: towards the true mass of the blocks", 0),
        "keep_cache": Key("bool", True, "leave queries, keys and values on disk"),
    },
    "train": {
        "steps": Key("int", 500, "optimiser steps; 0: only the evaluation", 0),
        "batch": Key("int", 8, "samples of a step, over all processes", 1),
        "micro_batch": Key("int", None, "samples of a forward pass; empty: batch / processes", 1),
        "loss": Key("text", "distillation", "velocity of the full-attention teacher, or flow matching", words=("distillation", "flow")),
        "what": Key("text", "full", "what learns: all weights, a LoRA, or attention's own numbers", words=("full", "lora", "attention")),
        "optimizer": Key("text", "adamw", "muon: for matrices, AdamW for the rest", words=("adamw", "muon")),
        "lr": Key("float", 1e-5, "learning rate", 0, above=True),
        "attention_lr": Key("float", 1e-3, "learning rate of alpha, proj_l and gate", 0, above=True),
        "weight_decay": Key("float", 0.01, "decay of weights", 0),
        "betas": Key("floats", [0.9, 0.999], "AdamW's betas", 0, 1),
        "warmup": Key("int", 20, "steps of linear warm-up", 0),
        "decay": Key("text", "constant", "learning rate after it", words=("constant", "cosine")),
        "clip": Key("float", 1.0, "largest gradient norm; 0: unlimited", 0),
        "ema": Key("float", 0.0, "decay of averaged weights, used by evaluation and export; 0: none", 0, 1),
        "shift": Key("float", 5.0, "shift of the noise levels", 0, above=True),
        "autocast": Key("text", "none", "products of the model's own layers", words=("none", "bf16")),
        "shard": Key("text", "none", "with several processes: what each holds of weights, gradients and optimizer: all, or its share", words=("none", "fsdp2")),
        "checkpointing": Key("bool", False, "compute activations again in the backward pass"),
        "anneal_from": Key("float", None, "sparsity at the first step; empty: attention.sparsity throughout", 0, 1),
        "anneal_steps": Key("int", 0, "steps until attention.sparsity", 0),
        "anneal_every": Key("int", 10, "steps between changes", 1),
        "seed": Key("int", 0, "of order, noise and levels", 0),
        "threads": Key("int", None, "CPU threads; empty: torch's", 1),
        "device": Key("text", "auto", "where the model lives", words=("auto", "cpu", "cuda")),
    },
    "lora": {
        "rank": Key("int", 32, "rank", 1),
        "alpha": Key("float", 32.0, "scale is alpha / rank", 0, above=True),
        "targets": Key("texts", ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"], "ends of the names of Linears, as diffusers has them"),
    },
    "evaluate": {
        "every": Key("int", 50, "steps between evaluations; one before the first step and one after the last in any case", 1),
        "samples": Key("int", 16, "held-out clips", 1),
        "levels": Key("floats", [0.95, 0.8, 0.6, 0.4, 0.2], "noise levels σ of each", 0, 1),
        "attention_samples": Key("int", 1, "of these, for the error of attention layer by layer; 0: none", 0),
    },
    "sample": {
        "every": Key("int", 0, "steps between sample clips; 0: none", 0),
        "count": Key("int", 2, "clips, with the contexts of the first held-out ones", 1),
        "steps": Key("int", 16, "steps of the sampler (Euler)", 1),
        "cfg_scale": Key("float", 1.0, "guidance, where shards hold an empty context", 0),
        "seed": Key("int", 0, "of the first clip; the next ones count on", 0),
        "vae": Key("text", "", "folder of a diffusers AutoencoderKLWan or a model folder of sla2; empty: latents only"),
        "fps": Key("int", 8, "frames per second of the pictures", 1),
    },
    "schedule": {
        "modes": Key("texts", ["sla2@0.9", "linear_only"], "attention that a layer may get instead of full"),
        "budget": Key("float", 0.5, "time of attention over all layers, as a share of full attention everywhere", 0, 1),
        "rule": Key("text", "knapsack", "knapsack: least error within the budget; halo: the layers of the lowest HALO score get the first mode", words=("knapsack", "halo")),
        "repeats": Key("int", 3, "timings of each mode, median", 1),
    },
    "checkpoint": {
        "every": Key("int", 100, "steps between checkpoints", 1),
        "minutes": Key("float", 15.0, "and minutes", 0, above=True),
        "keep": Key("int", 2, "newest checkpoints kept", 1),
    },
    "export": {
        "naming": Key("texts", ["original"], "names of weights: original, comfyui, diffusers; a file and a pack each"),
        "what": Key("text", "auto", "a LoRA, the difference to the base, or whole weights; auto: the LoRA or the difference", words=("auto", "lora", "diff", "whole")),
        "licence": Key("text", "", "written into the files"),
    },
    "output": {
        "path": Key("text", "build/train", "folder of checkpoints, logs and results"),
        "tensorboard": Key("bool", True, "curves for TensorBoard beside the JSON lines"),
    },
}  # fmt: skip


def reference() -> str:
    """All keys as tables of Markdown, a section each."""
    parts = []
    for section, keys in SCHEMA.items():
        rows = [f"### {section}", "", "| key | default | |", "|---|---|---|"]
        rows += [f"| `{name}` | {_cell(key.default)} | {key.about}{_range(key)} |" for name, key in keys.items()]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    if value is None or value == "" or value == []:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`".replace("'", "")


def _range(key: Key) -> str:
    if key.words:
        return f" ({', '.join(f'`{word}`' for word in key.words)})"
    if key.low is None:
        return ""
    low = f"above {key.low:g}" if key.above else f"{key.low:g}"
    return f" ({low} to {key.high:g})" if key.high is not None else "" if key.low == 0 and not key.above else f" ({low} up)"

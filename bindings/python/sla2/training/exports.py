# SPDX-License-Identifier: Apache-2.0
"""A trained student as files for others: what changed in the weights, and the router pack that belongs to exactly those.

    NAME.NAMING.safetensors        the LoRA (`lora_A`, `lora_B`), the difference (`diff`, `diff_b`), or the whole weights
    NAME.NAMING.sla2.safetensors   the pack; `requires` is the SHA-256 of the file above

Averaged weights are taken where the run kept any.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sla2 import __version__
from sla2.errors import ArgumentError, FileMissingError
from sla2.packs import RouterPack, fingerprints
from sla2.training import arms, checkpoint, data, files, lora, models, names, optim
from sla2.training.config import Config, make
from sla2.training.stage2 import restore


def run(values: Mapping[str, Any] | Config) -> dict[str, Any]:
    """Write the files of the latest checkpoint into OUTPUT/export; returns their paths and hashes."""
    config = make(values)
    unknown = [naming for naming in config.export.naming if naming not in names.NAMINGS]
    if unknown:
        raise ArgumentError(f"export.naming: {', '.join(unknown)}; expected some of {', '.join(names.NAMINGS)}")
    base = models.load(config.model.path, config.model.heads)
    student, step, grid = load_student(config, base)
    kind = _kind(config)
    folder, written = config.folder() / "export", []
    name = config.model.name or "model"
    for naming in config.export.naming:
        requires, weights = "", None
        if kind != "none":
            weights = folder / f"{name}.{naming}.safetensors"
            files.save(weights, tensors(kind, naming, student, base), _metadata(config, kind, base, step))
            requires = hashlib.sha256(weights.read_bytes()).hexdigest()
        pack = folder / f"{name}.{naming}.sla2.safetensors"
        packed = make_pack(config, student, base, grid, requires, kind, step)
        if packed is not None:
            folder.mkdir(parents=True, exist_ok=True)
            packed.save(pack)
        written.append(
            {"naming": naming, "kind": kind, "weights": str(weights or ""), "sha256": requires, "pack": str(pack) if packed else ""}
        )
    return {"step": step, "files": written}


def load_student(config: Config, base: nn.Module) -> tuple[nn.Module, int, tuple[int, int, int]]:
    """The student of the latest checkpoint with its averaged weights, its step, and the tokens it was trained on."""
    state = checkpoint.load(config.folder(), config)
    if state is None:
        raise FileMissingError(f"{config.folder() / 'checkpoints'}: there is no checkpoint; run sla2-train train first")
    shape = data.Samples(config.data.path, "train").shape
    student = copy.deepcopy(base)
    grid = models.grid_of(student, torch.empty(shape, device="meta"))
    arms.install(student, config, grid)
    restore(optim.choose(student, config), state["ema"]["shadow"] or state["weights"])
    return student.requires_grad_(False), state["step"], grid


def _kind(config: Config) -> str:
    """lora, diff, whole, or none where the model's own weights did not change."""
    what, wanted = config.train.what, config.export.what
    if what == "attention":
        return "none" if wanted in ("auto", "lora", "diff") else str(wanted)
    if wanted == "auto":
        return "lora" if what == "lora" else "diff"
    if wanted == "lora" and what != "lora":
        raise ArgumentError(f"export.what is lora, but train.what is {what}: there is none; set export.what to diff or whole")
    return str(wanted)


@torch.no_grad()
def merged(student: nn.Module) -> dict[str, Tensor]:
    """The student's own weights by diffusers names, a LoRA added in; without attention's numbers."""
    pairs = lora.pairs(student)
    found = {}
    for name, value in student.state_dict().items():
        if ".sla2." in name or lora.is_lora(name):
            continue
        pair = pairs.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        found[name] = value if pair is None else value + pair[1] @ pair[0]
    return found


def tensors(kind: str, naming: str, student: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """The weight file's tensors."""
    # diffusers' own LoRA files name the pipeline's part; whole weights are the part itself.
    prefix = "transformer." if naming == "diffusers" and kind != "whole" else ""
    gates = {prefix + names.named(name, naming): value for name, value in student.state_dict().items() if ".sla2.gate." in name}
    if kind == "lora":
        found: dict[str, Tensor] = {}
        for name, (a, b) in lora.pairs(student).items():
            stem = prefix + names.named(name, naming)
            found |= {f"{stem}.lora_A.weight": a, f"{stem}.lora_B.weight": b}
        return found | gates
    if kind == "whole":
        return {names.named(name, naming): value for name, value in merged(student).items()} | gates
    first, found = base.state_dict(), {}
    for name, value in merged(student).items():
        if not torch.equal(value, first[name]):
            there = prefix + names.named(name, naming)
            key = there.removesuffix(".bias") + ".diff_b" if there.endswith(".bias") else there.removesuffix(".weight") + ".diff"
            found[key] = value - first[name]
    return found | gates


def _metadata(config: Config, kind: str, base: nn.Module, step: int) -> dict[str, str]:
    settings: Any = base.config
    found = {"format": "pt", "trained_by": f"sla2-train train, libsla2 {__version__}", "step": str(step), "kind": kind}
    if config.export.licence:
        found["licence"] = config.export.licence
    if kind == "whole":
        found["config"] = json.dumps(
            {key: value for key, value in dict(settings).items() if not key.startswith("_") or key == "_class_name"}
        )
    return found


def make_pack(
    config: Config, student: nn.Module, base: nn.Module, grid: tuple[int, int, int], requires: str, kind: str, step: int
) -> RouterPack | None:
    """The student's pack; None where the format has no word for its attention (full, router vsa)."""
    own = config.attention
    if own.mode == "full" or own.router == "vsa":
        return None
    layers, heads, head_dim = models.geometry(base)
    shapes, weights = fingerprints(merged(student) if kind == "whole" else base.state_dict())
    found = {
        f"blocks.{i}.self_attn.sla2.{name}": value.detach().float().cpu().numpy()
        for i, module in arms.modules(student).items()
        if module.mode == own.mode
        for name, value in module.state_dict().items()
    }
    return RouterPack(
        layers=layers, heads=heads, head_dim=head_dim, block_q=own.block_q, block_k=own.block_k, kappa=(round(1 - own.sparsity, 6),), mode=own.mode,
        alpha_mode=own.alpha_mode, linear_scope=own.linear_scope, smooth_k=own.smooth_k, token_order=own.token_order, router=own.router,
        bits=own.bits, stage=1 if kind == "none" else 2, grid=grid, schedule=own.schedule, base=config.model.name, base_shapes=shapes,
        base_weights=weights, requires=requires, errors=_errors(config), created_by=f"sla2-train train, libsla2 {__version__}, step {step}",
        licence=config.export.licence, seed=str(config.train.seed), tensors=found,
    )  # fmt: skip


def _errors(config: Config) -> dict[str, Any]:
    path = config.folder() / "result.json"
    if not path.is_file():
        return {}
    found = json.loads(path.read_text())
    return {key: found[key] for key in ("velocity_error", "flow_loss", "attention_error", "sparsity") if key in found}

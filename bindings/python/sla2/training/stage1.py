# SPDX-License-Identifier: Apache-2.0
"""Stage 1: routers and mixing numbers layer by layer, on the model's own queries, keys and values.

The loss is taken under a soft mask (SoftTop-k, whose temperature falls), but a flat router makes that loss small without choosing
anything. So states are compared by the error of the hard mask on held-out samples alone, each with mixing numbers fitted anew under
its own hard mask, and the untrained router is one of them. Heads are independent: each keeps its own best state.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from sla2 import __version__
from sla2._attention import token_order
from sla2.errors import ArgumentError, FileFormatError
from sla2.packs import RouterPack, fingerprints
from sla2.training import arms, collect, data, files, models
from sla2.training.config import Config, make
from sla2.training.router import LayerRouter, Piece


def run(values: Mapping[str, Any] | Config) -> dict[str, Any]:
    """Fit every layer that runs a mode with a router; write the pack and fit.json. Layers that are done are not done again."""
    config = make(values)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed)
    train, test = data.Samples(config.data.path, "train"), data.Samples(config.data.path, "test")
    model = models.load(config.model.path, config.model.heads)
    count, heads, head_dim = models.geometry(model)
    grid = models.grid_of(model, torch.empty(train.shape, device="meta"))
    layers = _layers(config, count)
    cache, out = config.folder() / "qkv", config.folder() / "fit"
    waiting = [i for i in layers if not (out / f"layer_{i:03d}.safetensors").is_file()]
    if waiting:
        for samples, clips in ((train, config.fit.samples), (test, config.fit.held_out)):
            collect.collect(model, samples, clips, config.fit.levels, waiting, cache, torch.device("cpu"))
    facts: dict[int, dict[str, Any]] = {}
    tensors: dict[str, Any] = {}
    for i in layers:
        path = out / f"layer_{i:03d}.safetensors"
        if not path.is_file():
            pieces = {split: _pieces(config, cache, split, i, samples, clips, grid)
                      for split, samples, clips in (("train", train, config.fit.samples), ("test", test, config.fit.held_out))}  # fmt: skip
            learned, found = fit_layer(config, heads, head_dim, pieces["train"], pieces["test"], i)
            files.save(path, learned, {"facts": json.dumps(found)})
        learned, facts[i] = _load(path)
        tensors |= {f"blocks.{i}.self_attn.sla2.{name}": value.numpy() for name, value in learned.items()}
        print(f"layer {i}: hard-mask error {facts[i]['fitted']:.4f} (identity {facts[i]['identity']:.4f})", flush=True)
        if not config.fit.keep_cache:
            for file in cache.glob(f"*/layer_{i:03d}.safetensors"):
                file.unlink()
    return _finish(config, model, grid, tensors, facts)


def _layers(config: Config, count: int) -> list[int]:
    modes = arms.layer_modes(config, count)
    able = [i for i, one in enumerate(modes) if one.mode in ("sla2", "sparse_only", "l_plus_s", "pooled")]
    chosen = config.fit.layers or able
    wrong = [i for i in chosen if i not in able]
    if wrong or not able or config.attention.router != "sla2":
        raise ArgumentError(f"stage 1 fits routers of mode sla2, sparse_only, l_plus_s or pooled with attention.router sla2; fit.layers {wrong or chosen} of {count} layers run {config.attention.mode} with router {config.attention.router}")  # fmt: skip
    return list(chosen)


def _pieces(
    config: Config, cache: Path, split: str, layer: int, samples: data.Samples, clips: int, grid: tuple[int, int, int]
) -> list[Piece]:
    kind, order = config.attention.token_order, None
    if kind != "raster":
        order = torch.from_numpy(token_order("tiles" if kind.startswith("tile") else "hilbert", grid)).long()
    return [
        Piece(collect.path_of(cache, split, clip, level, layer), order, config.attention.block_q)
        for clip in range(min(clips, len(samples)))
        for level in config.fit.levels
    ]


def fit_layer(
    config: Config, heads: int, head_dim: int, train: list[Piece], test: list[Piece], layer: int = 0
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Learned tensors of one layer (names of a pack) and its errors: identity and fitted, per head and as means.

    Errors are ‖O − O_full‖ / ‖O_full‖ of the hard mask over the held-out pieces.
    """
    own = config.fit
    router = LayerRouter(config, heads, head_dim)
    learns = own.steps > 0 and config.attention.learned_router is not False
    router.refit(train)
    best = first = router.hard_error(test)  # [H]
    state = router.state()
    if learns:
        weights = torch.optim.Adam([{"params": [router.proj_q, router.proj_k], "lr": own.lr}] + ([{"params": [router.alpha], "lr": own.alpha_lr}] if router.alpha is not None else []))  # fmt: skip
        total = own.kl_steps + own.steps
        for step in range(total):
            random = data.generator(config.train.seed, 17, layer, step)
            piece = train[int(torch.randint(len(train), (), generator=random))]
            tau = 0.0 if step < own.kl_steps else own.taus[min(len(own.taus) - 1, (step - own.kl_steps) * len(own.taus) // own.steps)]
            weights.zero_grad(set_to_none=True)
            loss = router.loss(piece, piece.some(own.query_blocks, random), tau, own.straight_through)
            loss.backward()  # type: ignore[no-untyped-call]
            weights.step()
            if (step + 1) % own.evaluate_every == 0 or step + 1 == total:
                trained = router.alpha.detach().clone() if router.alpha is not None else None
                router.refit(train)
                error = router.hard_error(test)
                state, best = _better(state, best, router.state(), error)
                if trained is not None and router.alpha is not None:
                    router.alpha.data.copy_(trained)  # the soft mask wants other mixing numbers than the hard one
    facts = {
        "identity_by_head": first.tolist(),
        "fitted_by_head": best.tolist(),
        "identity": float(first.mean()),
        "fitted": float(best.mean()),
    }
    return state, facts


def _better(state: dict[str, Tensor], best: Tensor, new: dict[str, Tensor], error: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Head by head the state of the lesser error; with one router for all heads, all of it or nothing."""
    if new["proj_q"].shape[0] == 1 and len(error) > 1:
        return (new, error) if error.mean() < best.mean() else (state, best)
    wins = error < best
    merged = {name: torch.where(wins.view(-1, *[1] * (value.ndim - 1)), value, state[name]) for name, value in new.items()}
    return merged, torch.where(wins, error, best)


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])
    except Exception as error:
        raise FileFormatError(f"{path}: cannot be read ({error}); remove the file and run again") from error


def _finish(config: Config, model: torch.nn.Module, grid: tuple[int, int, int], tensors: dict[str, Any], facts: dict[int, dict[str, Any]]) -> dict[str, Any]:  # fmt: skip
    errors = {
        "identity": float(np.mean([x["identity"] for x in facts.values()])),
        "fitted": float(np.mean([x["fitted"] for x in facts.values()])),
        "by_layer": {str(i): [round(x["identity"], 5), round(x["fitted"], 5)] for i, x in facts.items()},
    }
    layers, heads, head_dim = models.geometry(model)
    own = config.attention
    shapes, weights = fingerprints(model.state_dict())
    pack = RouterPack(
        layers=layers, heads=heads, head_dim=head_dim, block_q=own.block_q, block_k=own.block_k, kappa=(round(1 - own.sparsity, 6),), mode=own.mode,
        alpha_mode=own.alpha_mode, smooth_k=own.smooth_k, token_order=own.token_order, bits=own.bits, stage=1, grid=grid,
        schedule=own.schedule, base=config.model.name, base_shapes=shapes, base_weights=weights, errors=errors,
        created_by=f"sla2-train fit, libsla2 {__version__}", licence=config.export.licence, seed=str(config.train.seed), tensors=tensors,
    )  # fmt: skip
    path = config.folder() / "router.sla2.safetensors"
    pack.save(path)
    result = {**errors, "pack": str(path), "layers": {str(i): x for i, x in facts.items()}}
    (config.folder() / "fit.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(facts))
    return result


def table(facts: dict[int, dict[str, Any]]) -> str:
    """Errors of the hard mask head by head, as Markdown: identity router → fitted one."""
    rows = ["| layer | identity | fitted | heads: identity → fitted |", "|---|---|---|---|"]
    for i, x in facts.items():
        heads = ", ".join(f"{a:.3f}→{b:.3f}" for a, b in zip(x["identity_by_head"], x["fitted_by_head"], strict=True))
        rows.append(f"| {i} | {x['identity']:.4f} | {x['fitted']:.4f} | {heads} |")
    gain = [math.log(x["fitted"] / x["identity"]) for x in facts.values() if x["identity"] > 0 and x["fitted"] > 0]
    return "\n".join(rows) + (f"\nmean ratio {math.exp(sum(gain) / len(gain)):.4f}" if gain else "")

# SPDX-License-Identifier: Apache-2.0
"""Train and measure one arm after another; each (arm, seed) is one JSON file, and those that exist are not done again."""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..._attention import route
from ...diffusers import Attachment, attach
from ...nn import SparseAttention
from ..dit_train import flow_loss
from ..optim import MuonAdamW, save, schedule
from . import pool, stage1, teacher
from .arms import Arm, jobs
from .pool import Pair


@dataclass(frozen=True)
class Budget:
    """How much each arm gets. ``rate`` is for the model's weights (Muon), ``own_rate`` for the attention's own (Adam)."""

    name: str = "cpu"
    steps: int = 16
    batch: int = 2
    rate: float = 1e-3
    own_rate: float = 2e-3
    prompts: int = 20
    probes: int = 2
    seeds: int = 3


BUDGETS = {
    "smoke": Budget("smoke", steps=1, batch=1, prompts=5, probes=1, seeds=1),
    "cpu": Budget(),
    "gpu": Budget("gpu", steps=500, batch=64, rate=1e-3, own_rate=1e-3, prompts=30),
}


def modules(model) -> list[SparseAttention | None]:
    """Return each layer's attached module, None where attention is full."""
    return [getattr(block.attn1, "sla2", None) for block in model.blocks]


def student(work: Path, arm: Arm) -> tuple[nn.Module, Attachment]:
    """Return a trainable copy of the teacher with the arm's attention in it."""
    model, _, _ = teacher.load(work)
    attachment = attach(model, arm.make)
    for block in model.blocks:
        if hasattr(getattr(block.attn1, "sla2", None), "gate"):
            block.attn1.register_forward_pre_hook(_hand_over)
    return model.requires_grad_(True), attachment


def _hand_over(module: nn.Module, args: tuple) -> None:
    """The layer's input for its gate."""
    module.sla2.hidden = args[0]


def start(model, arm: Arm, work: Path) -> dict:
    """Run the arm's first stage; its results are cached by start and layer options. Returns the validation errors."""
    if arm.start == "default":
        return {}
    own = modules(model)
    keys = [(m.mode, m.sparsity, m.token_order, sorted(m.options.items())) for m in own if m]
    path = work / "quality" / f"start_{arm.start}_{hashlib.sha256(repr(keys).encode()).hexdigest()[:10]}.pt"
    if not path.exists():
        fit, check = stage1.capture_all(work)
        found, states = {}, {}
        for i, module in enumerate(own):
            if module is None:
                continue
            bits, module.bits = module.bits, 16
            if arm.start == "stage1":
                found[i] = {k: v.tolist() for k, v in stage1.fit_layer(module, fit[i], check[i], stage1.STEPS).items()}
            elif arm.start == "alpha":
                stage1.fit_alpha(module, fit[i], stage1.STEPS["alpha"])
                found[i] = {"identity": stage1.errors(module, check[i]).tolist()}
            else:
                stage1.fit_projection(module, fit[i][:6])
                found[i] = {"projection": stage1.errors(module, check[i]).tolist()}
            module.bits = bits
            states[i] = module.state_dict()
        save(path, {"found": found, "states": states})
    state = torch.load(path)
    for i, module in enumerate(own):
        if module is not None:
            module.load_state_dict(state["states"][i])
    return {str(i): v for i, v in state["found"].items()}


def train(model, arm: Arm, pairs: list[Pair], budget: Budget) -> list[float]:
    """Train all weights (the router stays: a hard mask gives it no gradient). Returns the loss of each step."""
    own = [p for m in modules(model) if m for n, p in m.named_parameters() if not n.startswith("proj_q") and not n.startswith("proj_k")]
    frozen = {id(p) for m in modules(model) if m for p in m.parameters()}
    named = [(n, p) for n, p in model.named_parameters() if id(p) not in frozen]
    matrices = [p for n, p in named if n.endswith("weight") and p.ndim == 2 and "proj_out" not in n]
    chosen = {id(p) for p in matrices}
    opt = MuonAdamW(matrices, [p for _, p in named if id(p) not in chosen], lr=budget.rate, adam_scale=0.4)
    own_opt = torch.optim.Adam(own, lr=budget.own_rate) if own else None
    log = []
    for step in range(budget.steps):
        factor = schedule(step / budget.steps, step, warmup=4)
        opt.set_rate(budget.rate * factor)
        model.zero_grad(set_to_none=True)
        total = 0.0
        for pair in pairs[step * budget.batch : (step + 1) * budget.batch]:
            if arm.loss == "velocity":
                loss = (pool.velocity(model, pair) - pair.teacher).square().mean() / budget.batch
            else:
                loss = flow_loss(model, pair.x0, pair.context, torch.tensor([pair.sigma]), pair.noise).mean() / budget.batch
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        opt.step()
        if own_opt is not None:
            own_opt.param_groups[0]["lr"] = budget.own_rate * factor
            own_opt.step()
        log.append(round(total, 5))
    return log


@torch.no_grad()
def evaluate(model, pairs: list[Pair]) -> list[dict[str, float]]:
    """Return per pair: squared velocity error and the teacher's own square (means over elements), and the flow loss."""
    rows = []
    for pair in pairs:
        u = pool.velocity(model, pair)
        rows.append(
            {
                "prompt": pair.prompt,
                "bin": pair.bin,
                "velocity": float((u - pair.teacher).square().mean()),
                "power": float(pair.teacher.square().mean()),
                "flow": float((u - (pair.noise - pair.x0)).square().mean()),
            }
        )
    return rows


@torch.no_grad()
def probe(model, pairs: list[Pair]) -> list[dict[str, list[float]] | None]:
    """Return per layer and head: the attention's relative error on the arm's own activations, the mass its mask keeps, its sparsity."""
    seen: list[list[tuple[Tensor, Tensor, float]]] = [[] for _ in modules(model)]
    handles = []

    def hook(layer: int):
        def look(module: SparseAttention, args: tuple, kwargs: dict, out: Tensor) -> None:
            q, k, v = args
            wanted, mass = stage1.full(q, k, v)
            mask = _mask(module, q, k, kwargs.get("grid"))
            if mask is None:
                held, sparsity = torch.full((module.heads,), float("nan")), 1.0
            elif module.token_order == "raster":
                held, sparsity = stage1.recall(mask, mass), 1 - mask.float().mean().item()
            else:
                held, sparsity = torch.full((module.heads,), float("nan")), 1 - mask.float().mean().item()
            seen[layer].append((stage1.head_errors(out, wanted), held, sparsity))

        return look

    for i, module in enumerate(modules(model)):
        if module is not None:
            handles.append(module.register_forward_hook(hook(i), with_kwargs=True))
    for pair in pairs:
        pool.velocity(model, pair)
    for handle in handles:
        handle.remove()
    out: list[dict[str, list[float]] | None] = []
    for rows in seen:
        if not rows:
            out.append(None)
            continue
        held = torch.stack([r[1] for r in rows]).mean(0)
        row = {"error": _numbers(torch.stack([r[0] for r in rows]).mean(0)), "sparsity": [round(sum(r[2] for r in rows) / len(rows), 4)]}
        out.append(row if held.isnan().any() else row | {"recall": _numbers(held)})
    return out


def _numbers(x: Tensor) -> list[float]:
    return [round(v, 5) for v in x.tolist()]


def _mask(module: SparseAttention, q: Tensor, k: Tensor, grid: tuple[int, int, int] | None) -> Tensor | None:
    """The hard mask [H, T_m, T_n] that the module's router chooses; None for modes without one."""
    if module.mode == "linear_only":
        return None
    if module.token_order != "raster":
        order, _ = module._permutation(grid, q.device)
        q, k = q.index_select(1, order), k.index_select(1, order)
    options = {n: v for n, v in module.options.items() if n in ("block_q", "block_k", "rule", "top_p", "theta")}
    if hasattr(module, "proj_q"):
        options |= {"router_q": module.proj_q.detach(), "router_k": module.proj_k.detach()}
    index, count = route(q.bfloat16(), k.bfloat16(), sparsity=module.sparsity, router=module.router, layout="BNHD", **options)
    mask = torch.zeros(q.shape[2], index.shape[2], -(-k.shape[1] // module.options["block_k"]), dtype=torch.bool)
    for h in range(mask.shape[0]):
        for i in range(mask.shape[1]):
            mask[h, i, torch.from_numpy(index[0, h, i, : count[0, h, i]]).long()] = True
    return mask


def do(work: Path, out: Path, arm: Arm, seed: int, budget: Budget) -> dict:
    """Run one (arm, seed) and return its record."""
    begin = time.time()
    model, attachment = student(work, arm)
    record: dict = {"arm": arm.name, "what": arm.what, "seed": seed, "budget": asdict(budget), "loss": arm.loss, "start": arm.start}
    training = pool.training(work, seed, budget.steps * budget.batch, budget.batch) if arm.loss != "none" else []
    weights = work / "quality" / f"weights_{budget.name}_{arm.weights_of or arm.name}_{seed}.pt"
    if arm.weights_of:
        model.load_state_dict(torch.load(weights))
    else:
        record["first_stage"] = start(model, arm, work)
    record["seconds_start"], begin = round(time.time() - begin, 1), time.time()
    if arm.loss != "none":
        record["train_loss"] = train(model, arm, training, budget)
        save(weights, model.state_dict())
    record["seconds_train"], begin = round(time.time() - begin, 1), time.time()
    model.eval().requires_grad_(False)
    pairs = pool.held_out(work, budget.prompts)
    record["pairs"] = evaluate(model, pairs)
    record["attention"] = probe(model, pairs[: budget.probes])
    record["seconds_measure"] = round(time.time() - begin, 1)
    attachment.detach()
    return record


def run(work: Path, out: Path, budget: Budget, only: list[str], parts: int = 1) -> None:
    """Do every job that has no result yet; a job that fails leaves its traceback as the result."""
    out.mkdir(parents=True, exist_ok=True)
    for arm, seed in jobs(budget.seeds):
        path = out / f"{arm.name}_{seed}.json"
        claim = work / "quality" / f"{budget.name}_{arm.name}_{seed}.claim"
        source = work / "quality" / f"weights_{budget.name}_{arm.weights_of}_{seed}.pt"
        if path.exists() or (only and arm.name not in only) or (arm.weights_of and not source.exists()):
            continue
        if parts > 1 and not _claim(claim):
            continue
        try:
            record = do(work, out, arm, seed, budget)
        except Exception:
            record = {"arm": arm.name, "seed": seed, "budget": asdict(budget), "failed": traceback.format_exc(limit=4)}
        part_path = path.with_suffix(".part")
        part_path.write_text(json.dumps(record, separators=(",", ":")) + "\n")
        os.replace(part_path, path)
        print(f"{time.strftime('%H:%M:%S')} {arm.name} {seed} {'FAILED' if 'failed' in record else _line(record)}", flush=True)


def _claim(path: Path) -> bool:
    """Take a job for this process; several may share the list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def _line(record: dict) -> str:
    rows = record["pairs"]
    share = sum(r["velocity"] for r in rows) / sum(r["power"] for r in rows)
    flow = sum(r["flow"] for r in rows) / len(rows)
    return f"velocity error {share:.5f} flow {flow:.4f} seconds {record['seconds_start']} {record['seconds_train']} {record['seconds_measure']}"

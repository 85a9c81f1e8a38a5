# SPDX-License-Identifier: Apache-2.0
"""Every gradient of the library against PyTorch's autograd in fp64, on the formulas of test_attention_oracle.py."""

from __future__ import annotations

import subprocess

import pytest
import torch
from conftest import find_program
from safetensors.torch import load_file, save_file
from test_attention_oracle import Formula

torch.set_num_threads(1)
# Largest error over largest gradient. fp32: some hundred additions of products; bf16: operands of 8 bits, errors that average out.
CLOSE = {"f32": 1e-5, "bf16": 2e-2}
DEFAULTS = dict(mode="full", router="sla2", a="head_affine_lse", scope="complement", rule="topk", block_q="32", block_k="16", sparsity="0",
                scale="0", smooth_k="1", negligible="0", tau="0", top_p="0.25", theta="-1", protect_first="0", protect_last="0",
                protect_near="-1")  # fmt: skip
CASES = [
    "mode=full",
    "mode=full grouped=1",
    "mode=full products=bf16",
    "mode=sla2 sparsity=0.7",
    "mode=sla2 sparsity=0.7 smooth_k=0 grouped=1 a=block",
    "mode=sla2 sparsity=0.3 a=head_scalar",
    "mode=sla2 sparsity=0.6 a=const",
    "mode=sla2 sparsity=0.7 products=bf16",
    "mode=sla2 sparsity=0.7 tau=0.3 weights=1",
    "mode=sla2 sparsity=0.6 tau=0.7 weights=1 a=block smooth_k=0 grouped=1",
    "mode=sla1 sparsity=0.7",
    "mode=sla1 sparsity=0.8 negligible=0.3 router=sla1",
    "mode=sla1 sparsity=0.7 scope=global grouped=1",
    "mode=sla1 sparsity=0.7 tau=0.4 weights=1",
    "mode=sparse_only sparsity=0.6",
    "mode=sparse_only sparsity=0.6 tau=0.3 weights=1",
    "mode=sparse_only sparsity=0.6 router=vsa weights=1 grouped=1",
    "mode=linear_only",
    "mode=l_plus_s sparsity=0.6",
    "mode=pooled sparsity=0.7",
    "mode=pooled sparsity=0.7 tau=0.5 weights=1",
    "mode=sla2 sparsity=0.7 tau=0.3 weights=1 min_tokens=151 a=block",
    "mode=pooled sparsity=0.7 min_tokens=151 grouped=1",
]


def inputs(case: dict, heads: int = 2, nq: int = 70, nk: int = 150, dim: int = 32) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(7)
    blocks = -(-nq // int(case["block_q"]))
    kv = heads // 2 if "grouped" in case else heads
    normal = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    x = dict(q=normal(1, heads, nq, dim), k=normal(1, kv, nk, dim) + 0.3, v=normal(1, kv, nk, dim), d_out=normal(1, heads, nq, dim))
    x["k"] += normal(1, kv, nk // 30, dim).repeat_interleave(30, 2)
    if case["mode"] == "sla2":
        shape = {"head_affine_lse": (heads, 2), "const": (1,), "head_scalar": (heads,), "block": (heads, blocks)}[case["a"]]
        x["mix"] = normal(*shape) * 0.3 + 0.4
    if case["mode"] == "sla1":
        x["proj"], x["proj_bias"] = normal(dim, dim) / dim**0.5, normal(dim) * 0.1
    if "weights" in case:
        x["w_q"], x["w_k"] = (torch.eye(dim) + 0.5 * normal(heads, dim, dim) / dim**0.5 for _ in range(2))
    if case["router"] == "vsa":
        x["gate"] = normal(1, heads, nq, dim)
    return {name: value.contiguous() for name, value in x.items()}


def head_of(case: dict, x: dict[str, torch.Tensor], h: int) -> dict[str, torch.Tensor]:
    """What Formula takes of one head: parts of the leaves in x, so that gradients reach them."""
    group = x["q"].shape[1] // x["k"].shape[1]
    one = dict(q=x["q"][0, h], k=x["k"][0, h // group], v=x["v"][0, h // group])
    if "mix" in x:
        a = x["mix"] if case["a"] == "const" else x["mix"][h]
        one["a"] = a.reshape(1, -1)
    if "w_q" in x:
        one["w_q"], one["w_k"] = x["w_q"][h], x["w_k"][h]
    if "proj" in x:
        one["proj"], one["proj_bias"] = x["proj"], x["proj_bias"].reshape(1, -1)
    if "gate" in x:
        one["gate"] = x["gate"][0, h]
    return one


@pytest.mark.parametrize("line", CASES)
def test_gradients_agree_with_autograd(line, tmp_path):
    case = DEFAULTS | dict(word.split("=") for word in line.split())
    products = case.pop("products", "f32")
    stored = inputs(case)
    if products == "bf16":
        stored = {name: value.bfloat16() if value.dim() == 4 else value for name, value in stored.items()}
    leaves = {name: value.double().requires_grad_(name != "d_out") for name, value in stored.items()}
    total, masks = 0.0, []
    formula = case | ({"mode": "full", "tau": "0"} if "min_tokens" in case else {})  # too short to be sparse: forward runs in full
    for h in range(stored["q"].shape[1]):
        out, _, mask = Formula(formula, head_of(case, leaves, h)).forward()
        total = total + (out * leaves["d_out"][0, h]).sum()
        masks.append(mask.detach())
    names = [name for name in leaves if name != "d_out"]
    truth = dict(zip(names, torch.autograd.grad(total, [leaves[name] for name in names], allow_unused=True), strict=True))

    mask = torch.cat(masks)
    soft = float(case["tau"]) > 0
    if case["mode"] not in ("full", "linear_only") and not soft:
        stored["count"] = mask.sum(1).int()
        stored["list"] = torch.stack(
            [torch.nn.functional.pad(row.nonzero()[:, 0], (0, mask.shape[1] - int(row.sum()))) for row in mask]
        ).int()
    if case["a"] == "const":
        case["mix_bias"] = str(float(stored.get("mix", torch.zeros(1))[0]))
    save_file({name: value.contiguous() for name, value in stored.items()}, tmp_path / "in.safetensors")
    options = {"mode": "mode", "a": "mix", "router": "router", "scope": "scope", "block_q": "block-q", "block_k": "block-k",
               "sparsity": "sparsity", "smooth_k": "smooth-k", "negligible": "negligible", "tau": "tau", "mix_bias": "mix-bias", "min_tokens": "min-tokens"}  # fmt: skip
    words = [word for key, option in options.items() if key in case for word in (f"--{option}", case[key])]
    command = [find_program("probe_backward"), "run", tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--products", products]
    subprocess.run([*command, *words, "--threads", "2"], check=True, timeout=120)
    ours = load_file(tmp_path / "out.safetensors")
    assert set(ours) == {f"d_{name}" for name in names}
    for name, expected in truth.items():
        found = ours[f"d_{name}"].double()
        if expected is None:  # a hard mask has no gradient
            assert not found.any(), f"d_{name} is not zero"
            continue
        assert expected.abs().max() > 0, f"the true d_{name} is zero everywhere: the case proves nothing"
        error = float((found - expected).abs().max() / expected.abs().max())
        assert error < CLOSE[products], f"d_{name} is off by {error:.1e} of its largest number"

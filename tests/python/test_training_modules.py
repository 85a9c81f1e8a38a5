# SPDX-License-Identifier: Apache-2.0
"""sla2.nn in every arm: shapes, and gradients against the fp64 formulas of test_attention_oracle.py."""

from __future__ import annotations

import pytest
import sla2
import torch
from sla2 import nn
from sla2.training import arms, config
from test_attention_backward import DEFAULTS
from test_attention_oracle import Formula

torch.set_num_threads(1)
HEADS, TOKENS, DIM, WIDTH = 2, 150, 32, 48
# mode and router of the module, and the same in the words of the formula
ARMS = {
    "sla2": ({}, {}),
    "sla2 head_scalar, shared router": ({"alpha_mode": "head_scalar", "shared_router": True}, {"a": "head_scalar"}),
    "sla2 block": ({"alpha_mode": "block", "query_blocks": 5}, {"a": "block"}),
    "sla1": ({"mode": "sla1"}, {"mode": "sla1"}),
    "sla1 global": ({"mode": "sla1", "scope": "global"}, {"mode": "sla1", "scope": "global"}),
    "sparse_only": ({"mode": "sparse_only"}, {"mode": "sparse_only"}),
    "linear_only": ({"mode": "linear_only"}, {"mode": "linear_only"}),
    "l_plus_s": ({"mode": "l_plus_s"}, {"mode": "l_plus_s"}),
    "pooled": ({"mode": "pooled"}, {"mode": "pooled"}),
    "vsa": ({"mode": "sparse_only", "router": "vsa", "gate_dim": WIDTH}, {"mode": "sparse_only", "router": "vsa"}),
    "vmoba": ({"mode": "sparse_only", "router": "vmoba", "top_p": 0.4}, {"mode": "sparse_only", "router": "vmoba", "top_p": "0.4"}),
    "sparge": (
        {"mode": "sparse_only", "router": "sparge", "rule": "hybrid", "top_p": 0.3},
        {"mode": "sparse_only", "router": "sparge", "rule": "hybrid", "top_p": "0.3"},
    ),
}


def inputs() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, TOKENS, HEADS, DIM, generator=random) for _ in range(3))
    k = k + torch.randn(1, TOKENS // 30, HEADS, DIM, generator=random).repeat_interleave(30, 1)
    return [x.requires_grad_() for x in (q, k, v, torch.randn(1, TOKENS, WIDTH, generator=random))]


@pytest.mark.parametrize("arm", ARMS)
def test_output_and_gradients_are_the_formulas(arm):
    options, words = ARMS[arm]
    layer = nn.SparseAttention(HEADS, DIM, sparsity=0.7, block_q=32, block_k=16, layout="BNHD", **options)
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():  # away from zeros and identities, which hide swapped tensors
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=random) / parameter.shape[-1] ** 0.5)
    leaves = inputs()
    out = layer(*leaves[:3], hidden=leaves[3])
    assert out.shape == leaves[0].shape
    d_out = torch.randn(out.shape, generator=random)
    learned = dict(layer.named_parameters())
    found = torch.autograd.grad(out, [*leaves, *learned.values()], d_out, allow_unused=True)

    wide = {
        name: x.detach().double().requires_grad_() for name, x in zip(("q", "k", "v", "hidden", *learned), [*leaves, *learned.values()])
    }
    case = DEFAULTS | {"sparsity": "0.7"} | ({"mode": "sla2"} | words)
    total = 0.0
    for h in range(HEADS):
        x = {name: wide[name][0, :, h] for name in ("q", "k", "v")}
        if "proj_q" in wide:
            x |= {short: wide[name][min(h, len(wide[name]) - 1)] for short, name in (("w_q", "proj_q"), ("w_k", "proj_k"))}
        if "alpha" in wide:
            x["a"] = wide["alpha"][h].reshape(1, -1)
        if "proj_l.weight" in wide:
            x |= {"proj": wide["proj_l.weight"], "proj_bias": wide["proj_l.bias"].reshape(1, -1)}
        if "gate.weight" in wide:
            rows = slice(h * DIM, (h + 1) * DIM)
            x["gate"] = wide["hidden"][0] @ wide["gate.weight"][rows].T + wide["gate.bias"][rows]
        truth = Formula(case, x).forward()[0]
        assert (out[0, :, h] - truth).abs().max() < 2e-5
        total = total + (truth * d_out[0, :, h].double()).sum()
    expected = torch.autograd.grad(total, list(wide.values()), allow_unused=True)
    for name, mine, theirs in zip(wide, found, expected, strict=True):
        if theirs is None:  # a hard mask has no gradient by W, and nothing but a gate reads the layer's input
            assert mine is None or not mine.any(), name
            continue
        assert theirs.abs().max() > 0, f"the true gradient of {name} is zero everywhere: the case proves nothing"
        assert (mine - theirs).abs().max() <= 2e-5 * theirs.abs().max(), name


def test_names_are_those_of_a_pack():
    names = lambda **options: set(nn.SparseAttention(2, 32, **options).state_dict())  # noqa: E731
    assert names() == {"proj_q", "proj_k", "alpha"}
    assert names(mode="sla1") == {"proj_l.weight", "proj_l.bias"}
    assert names(mode="sparse_only", learned_router=True) == {"proj_q", "proj_k"}
    assert names(mode="sparse_only", router="vsa", gate_dim=64) == {"gate.weight", "gate.bias"}
    assert names(mode="linear_only") == names(mode="pooled") == set()


def test_sla1_and_vsa_begin_as_sparse_only():
    leaves = inputs()
    plain = nn.SparseAttention(HEADS, DIM, mode="sparse_only", sparsity=0.75, block_q=32, block_k=16, layout="BNHD")(*leaves[:3])
    sla1 = nn.SparseAttention(HEADS, DIM, mode="sla1", sparsity=0.75, block_q=32, block_k=16, layout="BNHD")(*leaves[:3])
    vsa = nn.SparseAttention(
        HEADS, DIM, mode="sparse_only", router="vsa", gate_dim=WIDTH, sparsity=0.75, block_q=32, block_k=16, layout="BNHD"
    )(*leaves[:3], hidden=leaves[3])
    assert torch.allclose(sla1, plain, atol=1e-6) and torch.allclose(vsa, plain, atol=1e-6)


@pytest.mark.parametrize("order", ["tile:2x2x2", "hilbert"])
def test_a_token_order_is_a_permutation_before_and_its_inverse_after(order):
    grid = (5, 5, 6)
    leaves = inputs()[:3]
    layer = nn.SLA2Attention(HEADS, DIM, sparsity=0.7, block_q=32, block_k=16, layout="BNHD", token_order=order)
    plain = nn.SLA2Attention(HEADS, DIM, sparsity=0.7, block_q=32, block_k=16, layout="BNHD")
    way = torch.from_numpy(sla2.token_order("hilbert" if order == "hilbert" else "tiles", grid, (2, 2, 2))).long()
    expected = torch.empty_like(leaves[0])
    expected[:, way] = plain(*(x[:, way] for x in leaves))
    assert torch.equal(layer(*leaves, grid=grid), expected)
    with pytest.raises(ValueError, match="needs the call's grid"):
        layer(*leaves)


@pytest.mark.parametrize("way", ["hp_stats", "paper"])
def test_the_training_key_qat_backward_reaches_the_layer(way):
    values = config.make({"attention": {"bits": 8, "qat_backward": way}})
    layer = arms.make_layer(values, arms.LayerMode("sla2", 0.5), HEADS, DIM, WIDTH, (1, 10, 15))
    assert layer.arguments()["qat_backward"] == way
    leaves = [x.detach().requires_grad_() for x in inputs()[:3]]
    layer(*leaves).sum().backward()
    assert all(x.grad.isfinite().all() for x in leaves)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="gate_dim belongs to router 'vsa'"):
        nn.SparseAttention(2, 32, gate_dim=64)
    with pytest.raises(ValueError, match="give hidden"):
        nn.SparseAttention(2, 32, mode="sparse_only", router="vsa", gate_dim=64)(*(torch.zeros(1, 2, 64, 32) for _ in range(3)))
    with pytest.raises(ValueError, match="token_order is 'spiral'"):
        nn.SparseAttention(2, 32, token_order="spiral")

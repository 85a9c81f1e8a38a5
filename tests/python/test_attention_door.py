# SPDX-License-Identifier: Apache-2.0
"""attention.h as a foreign language meets it: modes and routers through libsla2.so against PyTorch in fp64."""

from __future__ import annotations

import ctypes as C
import math

import numpy as np
import pytest
import torch
from sla2_ctypes import AttentionConfigStruct, AttentionOutputsStruct, AttentionParamsStruct, BlockListStruct, QkvStruct, Sla2, TensorStruct

FULL, SLA2, SLA1, SPARSE_ONLY, LINEAR_ONLY, L_PLUS_S, POOLED = range(1, 8)
ROUTER_GIVEN = 6
FLOAT, UINT = 2, 1
BLOCK_Q, BLOCK_K = 64, 32


def aligned(shape, dtype) -> np.ndarray:
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(count + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + count].view(dtype).reshape(shape)


class Door:
    """One plan and the arrays of its calls."""

    def __init__(self, sla2: Sla2, **settings):
        self.sla2, self.kept_alive = sla2, []
        config = AttentionConfigStruct()
        sla2.check(sla2.c.sla2_attention_config_init(C.byref(config), C.sizeof(config)))
        for name, value in settings.items():
            setattr(config, name, value)
        self.plan = C.c_void_p()
        sla2.check(sla2.c.sla2_attention_create(C.byref(config), C.byref(self.plan)))
        size = C.c_uint64()
        sla2.check(sla2.c.sla2_attention_workspace_size(self.plan, C.byref(size)))
        self.workspace = aligned(size.value, np.uint8)
        blocks = [C.c_int64() for _ in range(3)]
        sla2.check(sla2.c.sla2_attention_blocks(self.plan, *map(C.byref, blocks)))
        self.query_blocks, self.key_blocks, self.max_kept = (b.value for b in blocks)

    def close(self) -> None:
        self.sla2.c.sla2_attention_destroy(self.plan)

    def tensor(self, values: np.ndarray) -> int:
        data = aligned(values.shape, values.dtype)
        data[...] = values
        t = TensorStruct()
        self.sla2.check(self.sla2.c.sla2_tensor_init(C.byref(t), C.sizeof(t)))
        code = FLOAT if values.dtype == np.float32 else UINT
        shape = (C.c_int64 * values.ndim)(*values.shape)
        self.sla2.check(
            self.sla2.c.sla2_tensor_set_contiguous(
                C.byref(t), C.c_void_p(data.ctypes.data), C.c_uint8(code), C.c_uint8(values.dtype.itemsize * 8), values.ndim, shape
            )
        )
        self.kept_alive.append((t, data))
        return C.addressof(t)

    def struct(self, kind, init: str, **members):
        s = kind()
        self.sla2.check(getattr(self.sla2.c, init)(C.byref(s), C.sizeof(s)))
        for name, value in members.items():
            setattr(s, name, value)
        self.kept_alive.append(s)
        return s

    def run(self, q, k, v, **params):
        """@return out, lse, mask of the blocks kept"""
        qkv = self.struct(QkvStruct, "sla2_qkv_init", **{n: self.tensor(x.numpy()) for n, x in {"q": q, "k": k, "v": v}.items()})
        learned = self.struct(AttentionParamsStruct, "sla2_attention_params_init", **{n: self.tensor(x) for n, x in params.items()})
        out, lse = np.zeros(q.shape, np.float32), np.zeros(q.shape[:3], np.float32)
        rows = (*q.shape[:2], self.query_blocks)
        index, count = np.full((*rows, self.max_kept), -1, np.int32), np.zeros(rows, np.int32)
        kept = self.struct(
            BlockListStruct, "sla2_block_list_init", index=index.ctypes.data, count=count.ctypes.data, capacity=self.max_kept
        )
        at_out, at_lse = self.tensor(out), self.tensor(lse)
        arrays = [data for t, data in (x for x in self.kept_alive if isinstance(x, tuple)) if C.addressof(t) in (at_out, at_lse)]
        outputs = self.struct(AttentionOutputsStruct, "sla2_attention_outputs_init", out=at_out, lse=at_lse, list=C.addressof(kept))
        self.sla2.check(
            self.sla2.c.sla2_attention_run(
                self.plan,
                None,
                C.byref(qkv),
                C.byref(learned),
                C.c_void_p(self.workspace.ctypes.data),
                C.c_uint64(self.workspace.size),
                C.byref(outputs),
            )
        )
        mask = np.zeros((*rows, self.key_blocks), bool)
        for row in np.ndindex(*rows):
            mask[row][index[row][: count[row]]] = True
        return *(torch.from_numpy(a.copy()) for a in arrays), torch.from_numpy(mask)


@pytest.fixture(scope="module")
def sla2() -> Sla2:
    return Sla2()


def make(heads, key_heads, queries, keys, dim):
    g = torch.Generator().manual_seed(5)
    drift = torch.randn(1, key_heads, keys // 48 + 1, dim, generator=g).repeat_interleave(48, dim=2)[:, :, :keys]
    return (
        torch.randn(1, heads, queries, dim, generator=g),
        torch.randn(1, key_heads, keys, dim, generator=g) + drift,
        torch.randn(1, key_heads, keys, dim, generator=g),
    )


def means(x, block):
    return torch.stack([part.mean(dim=-2) for part in x.split(block, dim=-2)], dim=-2)


def formula(mode, q, k, v, mask, proj=None, proj_bias=None):
    """O and the log-sum-exps of unsmoothed keys, in fp64, given which blocks are kept."""
    q, k, v = (
        q.double(),
        k.double().repeat_interleave(q.shape[1] // k.shape[1], 1),
        v.double().repeat_interleave(q.shape[1] // v.shape[1], 1),
    )
    rows, cols = torch.arange(q.shape[2]) // BLOCK_Q, torch.arange(k.shape[2]) // BLOCK_K
    tokens = mask[..., rows, :][..., cols]
    scale = 1 / math.sqrt(q.shape[-1])
    logits = (q @ k.transpose(-1, -2) * scale).masked_fill(~tokens, -math.inf)
    if mode == POOLED:
        sizes = torch.bincount(cols).double()
        tail = (q @ means(k, BLOCK_K).transpose(-1, -2) * scale + sizes.log()).masked_fill(mask[..., rows, :], -math.inf)
        logits, v = torch.cat([logits, tail], -1), torch.cat([v, means(v, BLOCK_K)], -2)
    sparse, lse = torch.softmax(logits, -1) @ v, torch.logsumexp(logits, -1)
    if mode in (FULL, SPARSE_ONLY, POOLED):
        return sparse, lse
    feature = torch.softmax(q, -1) @ torch.softmax(k - k.mean(-2, keepdim=True), -1).transpose(-1, -2)
    if mode == SLA1:
        feature = feature.masked_fill(tokens, 0)
    linear = feature @ v / feature.sum(-1, keepdim=True)
    if mode == SLA1:
        linear = linear @ proj.double().T + proj_bias.double()
    return (linear if mode == LINEAR_ONLY else sparse + linear), lse


@pytest.mark.parametrize("mode", [FULL, SLA1, SPARSE_ONLY, LINEAR_ONLY, L_PLUS_S, POOLED])
def test_modes_match_the_formulas(sla2, mode):
    q, k, v = make(4, 2, 150, 300, 64)
    door = Door(
        sla2, mode=mode, heads=4, kv_heads=2, query_tokens=150, key_tokens=300, head_dim=64, sparsity=0.7, block_q=BLOCK_Q, block_k=BLOCK_K
    )
    g = torch.Generator().manual_seed(6)
    proj, bias = torch.randn(64, 64, generator=g) / 8, torch.randn(64, generator=g)
    params = {"proj": proj.numpy(), "proj_bias": bias.numpy()} if mode == SLA1 else {}
    out, lse, mask = door.run(q, k, v, **params)
    truth, true_lse = formula(mode, q, k, v, mask, proj, bias)
    assert (out.double() - truth).abs().max() < 2e-5 * truth.abs().max()
    if mode != LINEAR_ONLY:
        assert (lse.double() - true_lse).abs().max() < 2e-5
        assert int(mask.sum()) == mask.numel() if mode == FULL else int(mask.sum()) == 4 * 3 * 3
    door.close()


def test_a_given_mask_is_kept(sla2):
    q, k, v = make(2, 2, 150, 300, 64)
    door = Door(
        sla2,
        mode=SPARSE_ONLY,
        router=ROUTER_GIVEN,
        heads=2,
        query_tokens=150,
        key_tokens=300,
        head_dim=64,
        block_q=BLOCK_Q,
        block_k=BLOCK_K,
    )
    g = torch.Generator().manual_seed(7)
    given = torch.rand(1, 2, door.query_blocks, door.key_blocks, generator=g) < 0.4
    given[..., 0] = True
    out, _, mask = door.run(q, k, v, given_mask=given.to(torch.uint8).numpy())
    assert torch.equal(mask, given)
    truth, _ = formula(SPARSE_ONLY, q, k, v, given)
    assert (out.double() - truth).abs().max() < 1e-5
    door.close()

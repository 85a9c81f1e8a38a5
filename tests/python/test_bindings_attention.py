# SPDX-License-Identifier: Apache-2.0
"""sla2.attention on arrays of NumPy and, where it is installed, torch: numbers, memory, errors. Truth is PyTorch's SDPA, or fp64 NumPy."""

from __future__ import annotations

import gc
import sys
import threading
import weakref

import numpy as np
import pytest
from conftest import need_package

sla2 = need_package()

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
RNG = np.random.default_rng(5)


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def softmax_attention(q, k, v):
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    s = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ v


def test_full_attention_is_softmax_attention():
    q, k, v = normal(2, 3, 75, 40), normal(2, 3, 130, 40), normal(2, 3, 130, 40)
    out = sla2.attention(q, k, v, mode="full")
    assert out.dtype == np.float32 and np.abs(out - softmax_attention(q, k, v)).max() < 1e-5


def test_layouts_strides_and_read_only_inputs_give_the_same_bits():
    q, k, v = (normal(2, 3, 100, 64) for _ in range(3))
    expected = sla2.attention(q, k, v, sparsity=0.5)
    turned = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v)]
    assert np.array_equal(sla2.attention(*turned, sparsity=0.5, layout="BNHD").swapaxes(1, 2), expected)
    assert np.array_equal(sla2.attention(*(x.swapaxes(1, 2) for x in turned), sparsity=0.5), expected)  # strided views
    fused = np.stack([x.swapaxes(1, 2) for x in (q, k, v)], axis=2)  # [B, N, 3, H, D]
    parts = [fused[:, :, i] for i in range(3)]
    assert np.array_equal(sla2.attention(*parts, sparsity=0.5, layout="BNHD").swapaxes(1, 2), expected)
    for x in (q, k, v):
        x.flags.writeable = False
    assert np.array_equal(sla2.attention(q, k, v, sparsity=0.5), expected)


def test_info_says_what_ran():
    q, k, v = (normal(1, 1, 100, 64) for _ in range(3))
    plain, eight, soft = (
        sla2.attention(q, k, v, sparsity=0.5, return_info=True, **asked)[1] for asked in ({}, {"bits": 8}, {"bits": 8, "tau": 0.5})
    )
    isa = sla2.system_info()["isa"]
    ran = [(info["bits_used"], info["products_used"]) for info in (plain, eight, soft)]
    assert ran == [(16, "fp32"), (16, "fp32") if isa == "scalar" else (8, "bf16"), (16, "fp32")]
    _, info = sla2.attention(q, k, v, products="bf16", return_info=True)
    assert info["products_used"] == ("bf16" if isa == "avx512_bf16" else "fp32")


def test_info_lists_and_route_agree():
    q, k, v = (normal(1, 2, 300, 64) for _ in range(3))
    _, info = sla2.attention(q, k, v, sparsity=0.6, block_q=64, block_k=32, return_info=True, probe=0.3)
    index, count = info["blocks"]
    assert info["mode_used"] == "sla2" and index.shape[:3] == (1, 2, 5) and (count == 4).all()
    assert info["sparsity"] == pytest.approx(0.6) and info["probe_blocks"] >= 2 and 0 < info["probe_relative_l1"] < 2
    s = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) / 8
    kept = np.zeros((1, 2, 300, 300), bool)
    for h in range(2):
        for b in range(5):
            for j in index[0, h, b, : count[0, h, b]]:
                kept[0, h, 64 * b : 64 * (b + 1), 32 * j : 32 * (j + 1)] = True
    lse = np.log(np.where(kept, np.exp(s), 0).sum(-1))
    assert np.abs(info["lse"] - lse).max() < 1e-4
    again, counts = sla2.route(q, k, sparsity=0.6, block_q=64, block_k=32)
    assert np.array_equal(again, index) and np.array_equal(counts, count)
    masked, _ = sla2.attention(q, k, v, mode="sparse_only", router="given", blocks=(index, count), block_q=64, block_k=32, return_info=True)
    p = np.where(kept, np.exp(s), 0)
    assert np.abs(masked - p / p.sum(-1, keepdims=True) @ v).max() < 1e-4


def test_a_mask_permuted_with_its_tokens_changes_nothing():
    blocks, size = 12, 16
    q, k, v = (normal(1, 1, blocks * size, 32) for _ in range(3))
    mask = RNG.random((1, 1, 6, blocks)) < 0.5
    mask[..., 0] = True
    order = RNG.permutation(blocks)
    tokens = (order[:, None] * size + np.arange(size)).ravel()
    options = {"router": "given", "block_q": 32, "block_k": size, "mode": "sla2"}
    one = sla2.attention(q, k, v, mask=mask.astype(np.uint8), **options)
    two = sla2.attention(
        q, np.ascontiguousarray(k[:, :, tokens]), np.ascontiguousarray(v[:, :, tokens]), mask=mask[..., order].astype(np.uint8), **options
    )
    assert np.abs(one - two).max() < 1e-5


def test_learned_tensors_are_read():
    q, k, v = (normal(1, 2, 200, 32) for _ in range(3))
    plain = sla2.attention(q, k, v, sparsity=0.7, block_q=32, block_k=16)
    eye = np.eye(32, dtype=np.float32)[None]
    assert np.array_equal(sla2.attention(q, k, v, sparsity=0.7, block_q=32, block_k=16, router_q=eye, router_k=eye), plain)
    turned = normal(2, 32, 32)
    assert not np.array_equal(sla2.attention(q, k, v, sparsity=0.7, block_q=32, block_k=16, router_q=turned, router_k=turned), plain)
    much = np.array([[0, 50], [0, 50]], np.float32)  # a = 1: the softmax branch alone
    alone = sla2.attention(q, k, v, mode="sparse_only", sparsity=0.7, block_q=32, block_k=16)
    assert np.abs(sla2.attention(q, k, v, sparsity=0.7, block_q=32, block_k=16, mix_values=much) - alone).max() < 1e-5


def test_gradients_against_finite_differences():
    q, k, v = (normal(1, 1, 40, 32) for _ in range(3))
    d = normal(1, 1, 40, 32)
    plan = sla2.Attention(mode="full", heads=1, query_tokens=40, key_tokens=40, head_dim=32)
    grads = {name: np.empty_like(q) for name in "qkv"}
    plan.backward({"q": q, "k": k, "v": v}, {"d_out": d}, grads)
    for name, x in zip("qkv", (q, k, v), strict=True):
        step = normal(*x.shape).astype(np.float64)
        values = {"q": q, "k": k, "v": v}

        def loss(scale, name=name, step=step, values=values):
            moved = {**values, name: values[name].astype(np.float64) + scale * step}
            return float((softmax_attention(**moved) * d).sum())

        numeric = (loss(1e-4) - loss(-1e-4)) / 2e-4
        assert float((grads[name] * step).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_token_orders():
    order = sla2.token_order("hilbert", (4, 6, 8))
    assert sorted(order) == list(range(4 * 6 * 8))
    q, k, v = (normal(1, 1, 192, 32) for _ in range(3))
    back = np.argsort(order)
    moved = sla2.attention(*(np.ascontiguousarray(x[:, :, order]) for x in (q, k, v)), mode="full")[:, :, back]
    assert np.abs(moved - sla2.attention(q, k, v, mode="full")).max() < 1e-5
    with pytest.raises(sla2.ArgumentError):
        sla2.token_order("hilbert", (0, 6, 8))
    with pytest.raises(ValueError, match="expected one of raster"):
        sla2.token_order("zigzag", (1, 6, 8))


@pytest.mark.parametrize(
    ("change", "kinds", "words"),
    [
        ({"sparsity": 1.5}, sla2.ArgumentError, "sparsity is 1.5"),
        ({"block_k": 48}, sla2.ArgumentError, "block_k is 48"),
        ({"mode": "dense"}, ValueError, "mode is 'dense'; expected one of full"),
        ({"speed": 9}, TypeError, "no option speed"),
        ({"gate": np.zeros((1, 1, 20, 32), np.float32)}, sla2.ArgumentError, "gate"),
        ({"bits": 4}, sla2.ArgumentError, "bits"),
        ({"q": np.zeros((1, 1, 20, 32))}, sla2.UnsupportedError, "q"),
        ({"q": np.zeros((1, 1, 20, 33), np.float32)}, sla2.ArgumentError, "head_dim is 33"),
        ({"q": np.zeros((1, 20, 32), np.float32)}, ValueError, "four axes"),
        ({"q": np.zeros((1, 1, 20, 64), np.float32)[..., ::2]}, sla2.ArgumentError, "stride"),
        ({"k": np.zeros((1, 1, 20, 40), np.float32)}, sla2.ArgumentError, "k"),
        ({"v": "text"}, TypeError, "__dlpack__"),
        ({"q": np.zeros((1, 1, 20, 32), complex)}, TypeError, "complex"),
    ],
)
def test_mistakes_are_named(change, kinds, words):
    arguments = {name: np.zeros((1, 1, 20, 32), np.float32) for name in "qkv"} | change
    with pytest.raises(kinds, match=words.replace("(", r"\(")):
        sla2.attention(**arguments)


def test_out_must_be_writable_and_apart():
    q, k, v = (normal(1, 1, 50, 32) for _ in range(3))
    out = np.empty_like(q)
    assert sla2.attention(q, k, v, mode="full", out=out) is out
    with pytest.raises(sla2.ArgumentError, match="overlap"):
        sla2.attention(q, k, v, mode="full", out=q)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        sla2.attention(q, k, v, mode="full", out=out)


def test_threads_share_a_plan_and_get_their_own_results():
    inputs = [tuple(normal(1, 2, 200, 64) for _ in range(3)) for _ in range(4)]
    expected = [sla2.attention(*x, sparsity=0.5, threads=1) for x in inputs]
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = sla2.attention(*inputs[i], sparsity=0.5, threads=1)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


def test_nothing_is_kept_alive():
    class Array(np.ndarray):  # a plain one takes no weak reference
        pass

    q = normal(1, 1, 50, 32).view(Array)
    gone = weakref.ref(q)
    sla2.attention(np.asarray(q), q, np.asarray(q), mode="full")
    del q
    gc.collect()
    assert gone() is None
    sla2.clear_plans()


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_tensors_go_in_and_come_out(dtype):
    torch.manual_seed(3)
    q, k, v = (torch.randn(1, 4, 130, 64).to(getattr(torch, dtype)) for _ in range(3))
    out = sla2.attention(q, k, v, mode="full")
    assert isinstance(out, torch.Tensor) and out.dtype == q.dtype
    truth = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in (q, k, v)))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v).double()
    assert (out.double() - truth).abs().max() <= 2 * (theirs - truth).abs().max() + 1e-6
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(sla2.attention(*turned, mode="full"), out)


@needs_torch
def test_torch_says_no_for_itself():
    q = torch.randn(1, 1, 40, 32, requires_grad=True)
    with pytest.raises(Exception, match="grad"):
        sla2.attention(q, q, q, mode="full")
    with pytest.raises(sla2.UnsupportedError):
        sla2.attention(*[torch.zeros(1, 1, 40, 32, dtype=torch.float64)] * 3, mode="full")


@needs_torch
def test_dlpack_memory_is_given_back():
    counts = []
    for _ in range(3):
        x = torch.randn(1, 1, 64, 32)
        sla2.attention(x, x, x, mode="full")
        counts.append(sys.getrefcount(x))
    storage = weakref.ref(x)
    del x
    gc.collect()
    assert storage() is None and len(set(counts)) == 1


@needs_torch
def test_eight_bits_and_bf16_keep_their_promise():
    torch.manual_seed(4)
    q, k, v = (torch.randn(1, 2, 1024, 128) for _ in range(3))
    k[..., 7] += 8  # an outlier channel
    truth = sla2.attention(q, k, v, sparsity=0.75)
    blocks = sla2.route(q, k, sparsity=0.75)
    assert (blocks[1] == 4).all()
    for bits, limit in ((16, 0.005), (8, 0.03)):
        out = sla2.attention(q, k, v, sparsity=0.75, bits=bits, products="bf16")
        error = ((out - truth).abs().sum() / truth.abs().sum()).item()
        cosine = torch.nn.functional.cosine_similarity(out.flatten(), truth.flatten(), dim=0).item()
        assert error <= limit and cosine >= 0.9995, (bits, error, cosine)

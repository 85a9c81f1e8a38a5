# SPDX-License-Identifier: Apache-2.0
"""Attention on torch's CUDA tensors. Without a GPU: what is said then, and that nothing falls back. With one: the CPU's results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import need_package

sla2 = need_package()

CONFIG = {
    "mode": "sla2", "router": "sla2", "layout": "BHND", "products": "bf16", "batch": 1, "heads": 2, "query_tokens": 512, "key_tokens": 512,
    "head_dim": 64, "sparsity": 0.7,
}  # fmt: skip
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class Elsewhere:
    """An array of somebody else's on a GPU."""

    shape, dtype = (1, 2, 64, 64), "float32"

    def __init__(self, kind: int) -> None:
        self.kind = kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **_) -> None:
        raise AssertionError("must not be asked for")


@pytest.mark.parametrize("kind", [2, 10, 13])
def test_arrays_of_other_devices_are_named(kind: int) -> None:
    array = Elsewhere(kind)
    with pytest.raises(sla2.UnsupportedError, match=f"device type {kind}; expected arrays on the CPU or torch tensors"):
        sla2.attention(array, array, array)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_the_plan_says_what_is_missing() -> None:
    with pytest.raises(sla2.DeviceError) as caught:
        sla2.Attention(**CONFIG, device_id=0)
    assert "CUDA" in str(caught.value) or "driver" in str(caught.value)


def test_lists_are_checked() -> None:
    plan = sla2.Attention(**CONFIG)
    q, k, v = (np.zeros((1, 2, 512, 64), np.float32) for _ in range(3))
    index, count = plan.new_list()
    plan.run({"q": q, "k": k, "v": v}, {"out": np.zeros_like(q), "index": index, "count": count})
    plan.run({"q": q, "k": k, "v": v}, {"out": np.zeros_like(q), "index": torch.from_numpy(index), "count": torch.from_numpy(count)})
    for wrong in (index.astype(np.int64), np.asfortranarray(index), index.astype(np.float32)):
        with pytest.raises(TypeError, match="index: expected a contiguous array of int32"):
            plan.run({"q": q, "k": k, "v": v}, {"out": np.zeros_like(q), "index": wrong, "count": count})
    index.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        plan.run({"q": q, "k": k, "v": v}, {"out": np.zeros_like(q), "index": index, "count": count})


@on_gpu
@pytest.mark.parametrize("mode", ["full", "sla2", "sparse_only", "linear_only", "l_plus_s"])
@pytest.mark.parametrize("bits", [16, 8])
def test_equals_the_cpu(mode: str, bits: int) -> None:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 4, 1000, 128, generator=generator).bfloat16() for _ in range(3))
    ours, facts = sla2.attention(q.cuda(), k.cuda(), v.cuda(), mode=mode, sparsity=0.8, bits=bits, return_info=True)
    theirs, told = sla2.attention(q, k, v, mode=mode, sparsity=0.8, bits=bits, return_info=True)
    assert ours.is_cuda and facts["mode_used"] == told["mode_used"]
    assert float((ours.cpu().float() - theirs.float()).norm() / theirs.float().norm()) < 2e-2
    for gpu, cpu in zip(facts["blocks"], told["blocks"], strict=True):
        assert torch.equal(gpu.cpu(), torch.from_numpy(cpu))


@on_gpu
def test_runs_on_the_current_stream() -> None:
    stream = torch.cuda.Stream()
    q = torch.randn(1, 2, 4096, 64, device="cuda")
    with torch.cuda.stream(stream):
        late = q * 2  # the call must see it
        ours = sla2.attention(late, late, late, sparsity=0.5)
    stream.synchronize()
    again = sla2.attention(late, late, late, sparsity=0.5)
    torch.cuda.synchronize()
    assert torch.equal(ours, again)


@on_gpu
@pytest.mark.parametrize("mode", ["full", "sla2", "sparse_only", "linear_only", "l_plus_s"])
def test_gradients_equal_the_cpus(mode: str) -> None:
    from sla2 import autograd

    generator = torch.Generator().manual_seed(4)
    q, k, v, d_out = (torch.randn(1, 2, 700, 128, generator=generator).bfloat16() for _ in range(4))
    mix = torch.tensor([[0.6, 0.5], [0.4, -0.2]]) if mode == "sla2" else None

    def gradients(device: str) -> list[torch.Tensor]:
        inputs = [x.detach().to(device).requires_grad_() for x in (q, k, v)]
        learned = None if mix is None else mix.to(device).requires_grad_()
        out = autograd.attention(*inputs, mode=mode, sparsity=0.75, mix=learned)
        return [x.cpu().float() for x in torch.autograd.grad(out, [*inputs, *([] if learned is None else [learned])], d_out.to(device))]

    for ours, theirs in zip(gradients("cuda"), gradients("cpu"), strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 3e-2

# SPDX-License-Identifier: Apache-2.0
"""Attention from Python at any shape against the formula in fp64, and in a forked child."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest
from conftest import need_package
from hypothesis import given, settings
from hypothesis import strategies as st

sla2 = need_package()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 2),
    group=st.integers(1, 3),
    queries=st.integers(1, 300),
    keys=st.integers(1, 300),
    dim=st.integers(4, 20).map(lambda n: 8 * n),
    layout=st.sampled_from(["BHND", "BNHD"]),
    kind=st.sampled_from([np.float32, np.float16]),
    seed=st.integers(0, 99),
)
def test_full_attention_of_any_shape(batch, kv_heads, group, queries, keys, dim, layout, kind, seed) -> None:
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((batch, kv_heads * group, queries, dim)).astype(kind)
    k, v = (rng.standard_normal((batch, kv_heads, keys, dim)).astype(kind) for _ in range(2))
    wide_q, wide_k, wide_v = (x.astype(np.float64) for x in (q, np.repeat(k, group, 1), np.repeat(v, group, 1)))
    scores = wide_q @ wide_k.swapaxes(-1, -2) / dim**0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ wide_v
    turned = [x.swapaxes(1, 2) if layout == "BNHD" else x for x in (q, k, v)]  # views: strides are part of the shape
    got = sla2.attention(*turned, mode="full", layout=layout, threads=1)
    got = got.swapaxes(1, 2) if layout == "BNHD" else got
    assert np.abs(got - want).max() < (2e-5 if kind is np.float32 else 4e-3)


@pytest.mark.parametrize("threads", [1, 2, 0])
def test_a_forked_child_computes_the_same(threads: int) -> None:
    """OpenMP's threads are gone in a child; it must neither wait for them nor give other bits."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((1, 2, 600, 64)).astype(np.float32) for _ in range(3))
    want = sla2.attention(q, k, v, sparsity=0.5, threads=threads)
    child = os.fork()
    if child == 0:
        same = np.array_equal(sla2.attention(q, k, v, sparsity=0.5, threads=threads), want)
        os._exit(0 if same else 3)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child waits for threads that are not there")

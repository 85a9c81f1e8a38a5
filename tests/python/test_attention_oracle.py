# SPDX-License-Identifier: Apache-2.0
"""The fp64 oracle of sla2_check against PyTorch: forward and every gradient, from formulas written here on their own.

Whole matrices, one head at a time; torch's autograd is the truth. A soft mask's shift is found by bisection and then given
its gradient by one Newton step on the equation it solves, which differentiates to the implicit function theorem.
"""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import find_program

torch.set_num_threads(1)
CLOSE = dict(rtol=1e-9, atol=1e-10)  # fp64 sums in another order, and sums that cancel


def dump(line: str, folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    subprocess.run([find_program("sla2_check"), "--dump-oracle", line, folder], check=True, timeout=120)
    manifest = json.loads((folder / "manifest.json").read_text())
    arrays = {
        name: torch.from_numpy(np.fromfile(folder / f"{name}.f64", "<f8").reshape(shape)) for name, shape in manifest["arrays"].items()
    }
    return manifest["case"], arrays


def parts(x: torch.Tensor, size: int) -> torch.Tensor:
    """Means of consecutive groups of rows, the last one as long as it is."""
    return torch.stack([piece.mean(0) for piece in torch.split(x, size)])


class Formula:
    """One head. `case` is the text of every key; `x` holds the head's tensors."""

    def __init__(self, case: dict, x: dict[str, torch.Tensor]):
        self.case, self.x = case, x
        self.bq, self.bk = int(case["block_q"]), int(case["block_k"])
        self.nq, self.nk = x["q"].shape[0], x["k"].shape[0]
        self.tm, self.tn = math.ceil(self.nq / self.bq), math.ceil(self.nk / self.bk)
        self.scale = float(case["scale"]) or x["q"].shape[1] ** -0.5
        self.row_block = torch.arange(self.nq) // self.bq
        self.col_block = torch.arange(self.nk) // self.bk
        self.length = torch.bincount(self.col_block, minlength=self.tn).double()
        self.centred = x["k"] - x["k"].mean(0)

    def routes(self) -> torch.Tensor:
        q, k = parts(self.x["q"], self.bq), parts(self.centred, self.bk)
        if "w_q" in self.x:
            q, k = q @ self.x["w_q"], k @ self.x["w_k"]
        return (q @ k.T) * self.scale

    def count(self) -> int:
        return min(self.tn, max(1, math.floor((1 - float(self.case["sparsity"])) * self.tn + 0.5)))

    def soft_mask(self, r: torch.Tensor) -> torch.Tensor:
        tau, k = float(self.case["tau"]), self.count()
        z = r / tau
        low, high = torch.full((self.tm, 1), -1e4, dtype=z.dtype), torch.full((self.tm, 1), 1e4, dtype=z.dtype)
        with torch.no_grad():
            for _ in range(100):
                mid = (low + high) / 2
                below = torch.sigmoid(z + mid).sum(1, keepdim=True) < k
                low, high = torch.where(below, mid, low), torch.where(below, high, mid)
            found = torch.sigmoid(z + mid)
            slope = (found * (1 - found)).sum(1, keepdim=True)
        newton = mid - (torch.sigmoid(z + mid).sum(1, keepdim=True) - k) / slope  # moves nothing, differentiates rightly
        return torch.sigmoid(z + newton)

    def hard_mask(self, r: torch.Tensor) -> torch.Tensor:
        """Row by row from the rules' definitions; lists of indices, no arithmetic shared with the oracle."""
        c, n, top_p = self.case, self.count(), float(self.case["top_p"])
        mask = torch.zeros_like(r)
        unit_k, unit_q = F.normalize(self.centred, dim=1), F.normalize(self.x["q"], dim=1)
        alike_k = [(u @ u.T).mean().item() for u in torch.split(unit_k, self.bk)]
        alike_q = [(u @ u.T).mean().item() for u in torch.split(unit_q, self.bq)]
        near = int(c["protect_near"])
        if c["router"] == "vmoba":
            near = max(near, 0)
        for i, row in enumerate(r.tolist()):
            own = {t // self.bk for t in range(i * self.bq, min((i + 1) * self.bq, self.nq))}
            forced = {j for j in range(self.tn) if j < int(c["protect_first"]) or j >= self.tn - int(c["protect_last"])}
            if near >= 0:
                forced |= {j for o in own for j in range(o - near, o + near + 1) if 0 <= j < self.tn}
            ranked = sorted(range(self.tn), key=lambda j: (-row[j], j))
            if c["router"] in ("sla2", "sla1", "vsa"):
                k = n if c["router"] != "vsa" else min(self.tn, max(1, math.ceil((1 - float(c["sparsity"])) * self.tn - 1e-9)))
                kept = forced | set([j for j in ranked if j not in forced][: max(0, k - len(forced))])
            elif c["router"] == "vmoba":
                low, high = min(row), max(row)
                share = [(x - low) / (high - low) for x in row]
                share = [x / sum(share) for x in share]
                kept, total = set(forced), 0.0
                for j in ranked:
                    if total >= top_p:
                        break
                    kept.add(j)
                    total += share[j]
            else:
                odd = {j for j in range(self.tn) if alike_k[j] < float(c["theta"])}
                rest = [j for j in ranked if j not in odd]
                weight = torch.softmax(torch.tensor([row[j] for j in rest], dtype=torch.float64), 0).tolist()
                sums = np.cumsum(weight)
                top_k = min(n, len(rest))
                if c["rule"] == "topk":
                    m = top_k
                elif c["rule"] == "cdf":
                    m = max(1, int((sums <= top_p).sum()))
                else:
                    m = max(top_k, min(len(rest), int((sums < top_p).sum()) + 1))
                kept = forced | odd | set(rest[:m])
                if alike_q[i] < float(c["theta"]):
                    kept = set(range(self.tn))
            for j in kept:
                mask[i, j] = 1.0
        return mask

    def forward(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """O, log-sum-exp of raw keys, mask."""
        c, x, mode = self.case, self.x, self.case["mode"]
        q, k, v = x["q"], x["k"], x["v"]
        r = self.routes()
        if mode == "full":
            m = torch.ones_like(r)
        elif c["router"] == "given":
            m = x["given"]
        else:
            m = self.soft_mask(r) if float(c["tau"]) > 0 else self.hard_mask(r.detach())
        logits = q @ k.T * self.scale
        if "key_bias" in x:
            logits = logits + x["key_bias"]
        if mode == "linear_only":
            o_sparse, lse = torch.zeros_like(q), torch.full((self.nq,), -math.inf, dtype=q.dtype)
        else:
            weighted = logits + torch.log(m)[self.row_block][:, self.col_block]
            values = v
            if mode == "pooled":
                mean_k, mean_v = parts(k, self.bk), parts(v, self.bk)
                tail = q @ mean_k.T * self.scale + (self.length.log() + torch.log1p(-m))[self.row_block]
                weighted, values = torch.cat([weighted, tail], 1), torch.cat([v, mean_v])
            lse = torch.logsumexp(weighted, 1)
            o_sparse = torch.softmax(weighted, 1) @ values
        out = o_sparse
        if mode in ("sla2", "sla1", "linear_only", "l_plus_s"):
            wanted = torch.ones_like(m)
            if mode == "sla2" or (mode == "sla1" and c["scope"] == "complement"):
                wanted = 1 - m
            dropped = round(float(c["negligible"]) * self.tn) if mode == "sla1" else 0
            for i in range(self.tm if dropped else 0):
                ranked = sorted(range(self.tn), key=lambda j: (-float(r[i, j]), j))
                free = [j for j in ranked if m[i, j] == 0]
                for j in free[max(0, len(free) - dropped) :]:
                    wanted = wanted.clone()
                    wanted[i, j] = 0
            phi = torch.softmax(q, 1) @ torch.softmax(self.centred if c["smooth_k"] == "1" else k, 1).T
            kernel = phi * wanted[self.row_block][:, self.col_block]
            o_linear = kernel @ v / torch.maximum(kernel.sum(1), 1e-6 * phi.sum(1))[:, None]
            if mode == "linear_only":
                out = o_linear
            elif mode == "l_plus_s":
                out = o_sparse + o_linear
            elif mode == "sla1":
                out = o_sparse + F.linear(o_linear, x["proj"], x["proj_bias"][0])
            else:
                out = self.mixed(o_sparse, o_linear, m, lse)
        if c["router"] == "vsa":
            out = out + x["gate"] * (torch.softmax(r, 1) @ parts(v, self.bk))[self.row_block]
        return out, lse, m

    def mixed(self, o_sparse, o_linear, m, lse) -> torch.Tensor:
        a, q, k = self.x["a"][0], self.x["q"], self.x["k"]
        if self.case["a"] == "head_affine_lse":
            pooled = parts(q, self.bq) @ parts(self.centred, self.bk).T * self.scale
            rest = torch.logsumexp(pooled + self.length.log() + torch.log1p(-m), 1)[self.row_block]
            on_centred = lse - self.scale * (q @ k.mean(0))  # the same shift as the pooled scores
            logit = a[0] * (on_centred - rest).detach() + a[1]
        elif self.case["a"] == "block":
            logit = a[self.row_block]
        else:
            logit = a[0].expand(self.nq)
        share = torch.sigmoid(logit)[:, None]
        return share * o_sparse + (1 - share) * o_linear


FORWARD_AND_GRADIENTS = [
    "mode=full N=37 N_kv=53 D=16 H=2",
    "mode=full N=9 N_kv=70 D=8 scale=0.7 bias=normal",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.7 H=2 B=2",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.7 smooth_k=0 weights=normal scale=0.4",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.5 a=const a_bias=-0.4",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.5 a=head_scalar H=2",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.5 a=block",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.7 tau=0.1 weights=normal",
    "mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.6 tau=0.7 a=block weights=normal smooth_k=0",
    "mode=sla1 router=sla1 N=50 N_kv=90 D=8 block_q=32 block_k=16 sparsity=0.7",
    "mode=sla1 router=sla1 N=50 N_kv=170 D=8 block_q=32 block_k=16 sparsity=0.8 negligible=0.3",
    "mode=sla1 router=sla1 N=50 N_kv=90 D=8 block_q=32 block_k=16 sparsity=0.7 scope=global smooth_k=0",
    "mode=sla1 router=sla1 N=50 N_kv=90 D=8 block_q=32 block_k=16 sparsity=0.7 tau=0.4 weights=normal",
    "mode=sparse_only N=60 N_kv=99 D=8 block_q=32 block_k=16 sparsity=0.6",
    "mode=sparse_only N=60 N_kv=99 D=8 block_q=32 block_k=16 sparsity=0.6 tau=0.3 weights=normal",
    "mode=linear_only N=60 N_kv=99 D=8",
    "mode=l_plus_s N=60 N_kv=99 D=8 block_q=32 block_k=16 sparsity=0.6",
    "mode=pooled N=60 N_kv=150 D=8 block_q=32 block_k=16 sparsity=0.8",
    "mode=pooled N=60 N_kv=150 D=8 block_q=32 block_k=16 sparsity=0.8 tau=0.5 weights=normal",
    "mode=sparse_only router=vsa N=128 D=8 block_q=64 block_k=64 sparsity=0.5",
    "mode=sparse_only router=vsa N=130 D=8 block_q=32 block_k=16 sparsity=0.75",
    "mode=sparse_only router=vmoba N=130 D=8 block_q=32 block_k=16 top_p=0.4",
    "mode=sparse_only router=sparge N=130 D=8 block_q=32 block_k=16 sparsity=0.8",
    "mode=sparse_only router=sparge rule=cdf N=130 D=8 block_q=32 block_k=16 top_p=0.6 theta=0.1",
    "mode=l_plus_s router=sparge rule=hybrid N=130 D=8 block_q=32 block_k=16 sparsity=0.9 top_p=0.5 theta=0.12",
    "mode=sla2 router=given N=130 D=8 block_q=32 block_k=16 sparsity=0.6",
    "mode=sla2 N=150 D=8 block_q=32 block_k=16 sparsity=0.6 protect_first=1 protect_last=1 protect_near=0",
    "mode=sparse_only N=150 D=8 block_q=32 block_k=16 sparsity=0.9 protect_near=1",
]


@pytest.mark.parametrize("line", FORWARD_AND_GRADIENTS)
def test_oracle_agrees_with_autograd(line, tmp_path):
    case, arrays = dump(line, tmp_path)
    inputs = [name for name in ("q", "k", "v", "w_q", "w_k", "proj", "proj_bias", "gate", "a") if name in arrays]
    for head in range(arrays["q"].shape[0]):
        x = {name: value[head].clone() for name, value in arrays.items()}
        for name in inputs:
            x[name].requires_grad_(True)
        out, lse, mask = Formula(case, x).forward()
        torch.testing.assert_close(mask.detach(), x["mask"], **CLOSE)
        torch.testing.assert_close(out.detach(), x["o"], **CLOSE)
        torch.testing.assert_close(lse.detach(), x["lse"][0], **CLOSE)
        found = torch.autograd.grad(out, [x[name] for name in inputs], x["d_out"], allow_unused=True)
        for name, gradient in zip(inputs, found, strict=True):
            expected = torch.zeros_like(x[name]) if gradient is None else gradient
            torch.testing.assert_close(
                x[f"d_{name}"], expected, **CLOSE, msg=lambda text, name=name, head=head: f"d{name} of head {head}: {text}"
            )
            if gradient is not None and name != "a":
                assert float(expected.abs().max()) > 0, f"d{name} is zero everywhere: the case proves nothing"


def test_soft_mask_rows_sum_to_the_count(tmp_path):
    _, arrays = dump("mode=sla2 N=70 N_kv=150 D=16 block_q=32 block_k=16 sparsity=0.7 tau=0.1", tmp_path)
    assert torch.allclose(arrays["mask"].sum(-1), torch.tensor(3.0, dtype=torch.float64), atol=1e-12)  # round(0.3 · 10)


@pytest.mark.parametrize(("word", "said"), [("mode=slaX", "key 'mode'"), ("N=-3", "key 'N'"), ("pace=fast", "key 'pace' is unknown")])
def test_mistakes_end_with_2_and_name_the_key(word, said):
    done = subprocess.run([find_program("sla2_check"), "--case", word], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr

# SPDX-License-Identifier: Apache-2.0
"""The arms of the study: what stands where the teacher has full attention, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...nn import SparseAttention
from .claims import CLAIMS

Layer = dict[str, Any]  # keywords of SparseAttention; None in its place: full attention
BLOCKS = {"block_q": 32, "block_k": 16}
CUBES = "tile:2x4x4"  # 32 tokens a query block, halves of it the key blocks


@dataclass(frozen=True)
class Arm:
    """One arm.

    layers      keywords of each layer's SparseAttention, by the number of layers; {}: full attention
    loss        velocity: to the teacher's; flow: to the data's; none: no training
    start       what the attention's own parameters start from: default, alpha (closed form, identity router), stage1 (router, then
                alpha), proj (least squares of the projection of O_l; mode sla1)
    weights_of  take the trained weights of this arm and evaluate only
    seeds       training seeds, key arms three
    """

    name: str
    what: str
    layer: Layer | None = None
    loss: str = "velocity"
    start: str = "default"
    weights_of: str = ""
    seeds: int = 1
    per_layer: dict[int, Layer] = field(default_factory=dict)

    def layer_options(self, index: int) -> Layer | None:
        """Keywords of layer ``index``; None for full attention."""
        return self.per_layer.get(index, self.layer)

    def make(self, index: int, heads: int, head_dim: int) -> SparseAttention | None:
        """A new attention module for `sla2.diffusers.attach`; None for full attention."""
        options = self.layer_options(index)
        if options is None:
            return None
        options = {**BLOCKS, **options}
        gate = heads * head_dim if options.pop("gate", False) else None
        return SparseAttention(heads, head_dim, layout="BNHD", gate_dim=gate, **options)


def sla2(sparsity: float, **more: Any) -> Layer:
    """SLA2's layer."""
    return {"mode": "sla2", "sparsity": sparsity, **more}


def sparse(sparsity: float, router: str = "sla1", **more: Any) -> Layer:
    """Block-sparse softmax alone, by any router."""
    return {"mode": "sparse_only", "router": router, "sparsity": sparsity, **more}


SLA = {"mode": "sla1", "router": "sla1"}
VMOBA_SHARE, SPARGE_SHARE = 0.16, 0.35  # top_p of the two routers that keep a share; the achieved sparsity is reported
ENDS = {0: sparse(0.75), 4: sparse(0.75)}  # of the static schedule

ARMS = (
    Arm("full", "the teacher itself", loss="none"),
    Arm("full_ft", "full attention, trained on", loss="flow", seeds=3),
    Arm("sla2_95", "SLA2, 95 %", sla2(0.95), start="stage1", seeds=3),
    Arm("sla_95", "SLA, 95 %", {**SLA, "sparsity": 0.95}, seeds=3),
    Arm("sparse_95", "block-sparse softmax alone, 95 %", sparse(0.95), seeds=3),
    Arm("topk_95", "SLA2 with the identity router (Topk), 95 %", sla2(0.95), start="alpha", seeds=3),
    Arm("sla_90", "SLA, 90 %", {**SLA, "sparsity": 0.90}),
    Arm("sparse_90", "block-sparse softmax alone, 90 %", sparse(0.90)),
    Arm("linear", "linear attention alone", {"mode": "linear_only"}),
    Arm("l_plus_s_90", "O_l + O_s, no mixing, 90 %", {"mode": "l_plus_s", "sparsity": 0.90}),
    Arm("vsa_90", "VSA, cubes, 90 %", sparse(0.90, "vsa", gate=True, token_order=CUBES)),
    Arm("vmoba_90", "VMoBA's rule on query blocks", sparse(0.90, "vmoba", top_p=VMOBA_SHARE)),
    Arm("sparge_90", "SpargeAttention2's Top-k with Top-p", sparse(0.95, "sparge", rule="hybrid", top_p=SPARGE_SHARE)),
    Arm("sla2_95_int8", "SLA2, 95 %, 8 bits in training and after", sla2(0.95, bits=8), start="stage1", seeds=3),
    Arm("sla2_95_ptq", "SLA2, 95 %, 8 bits after training only", sla2(0.95, bits=8), weights_of="sla2_95", seeds=3, loss="none"),
    Arm("sla2_90_int8", "SLA2, 90 %, 8 bits in training and after", sla2(0.90, bits=8), start="stage1"),
    Arm("sla2_90_ptq", "SLA2, 90 %, 8 bits after training only", sla2(0.90, bits=8), weights_of="sla2_90", loss="none", seeds=3),
    Arm("sla2_90", "SLA2, 90 %", sla2(0.90), start="stage1", seeds=3),
    Arm("sla2_97", "SLA2, 97 %", sla2(0.97), start="stage1", seeds=3),
    Arm("static", "ends sparse at 75 %, linear between", {"mode": "linear_only"}, per_layer=ENDS),
    Arm("sla2_95_flow", "SLA2, 95 %, flow loss", sla2(0.95), loss="flow", start="stage1", seeds=3),
    Arm("sla_95_flow", "SLA, 95 %, flow loss", {**SLA, "sparsity": 0.95}, loss="flow"),
    Arm("pooled_95", "softmax with pooled tail (not of the paper), 95 %", {"mode": "pooled", "sparsity": 0.95, "router": "sla1"}),
    Arm("sla2_95_cubes", "SLA2, 95 %, cubes (not of the paper)", sla2(0.95, token_order=CUBES), start="alpha"),
    Arm("sla_95_fit", "SLA, 95 %, projection started by least squares", {**SLA, "sparsity": 0.95}, start="proj"),
    Arm("sla2_95_plain", "SLA2, 95 %, no first stage at all", sla2(0.95)),
    Arm("free_sla2_90", "untrained: identity router, default mixing, 90 %", sla2(0.90), loss="none"),
    Arm("free_sla2_95", "untrained: identity router, default mixing, 95 %", sla2(0.95), loss="none"),
    Arm("free_alpha_95", "untrained: identity router, fitted mixing, 95 %", sla2(0.95), start="alpha", loss="none"),
    Arm("free_stage1_95", "first stage only: fitted router and mixing, 95 %", sla2(0.95), start="stage1", loss="none"),
    Arm("free_sparse_95", "untrained: block-sparse softmax alone, 95 %", sparse(0.95), loss="none"),
    Arm("free_sparse_90", "untrained: block-sparse softmax alone, 90 %", sparse(0.90), loss="none"),
    Arm("free_pooled_95", "untrained: pooled tail, 95 %", {"mode": "pooled", "sparsity": 0.95, "router": "sla1"}, loss="none"),
    Arm("free_linear", "untrained: linear attention alone", {"mode": "linear_only"}, loss="none"),
)  # fmt: skip
BY_NAME = {arm.name: arm for arm in ARMS}


def jobs(most_seeds: int = 3) -> list[tuple[Arm, int]]:
    """(arm, seed) in the order of work: arms of the claims, untrained ones (cheap), the others; then further seeds."""
    claimed = {name for claim in CLAIMS for name in (claim.better, claim.worse)}

    def turn(job: tuple[Arm, int]) -> tuple[int, int]:
        arm, seed = job
        return seed, 0 if arm.name in claimed or arm.name == "full" else 1 if arm.loss == "none" and not arm.weights_of else 2

    return sorted(((arm, seed) for arm in ARMS for seed in range(min(arm.seeds, most_seeds))), key=turn)

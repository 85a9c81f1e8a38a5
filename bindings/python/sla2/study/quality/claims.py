# SPDX-License-Identifier: Apache-2.0
"""The registered list: what the papers say, as comparisons between two arms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """``better`` has less of ``metric`` than ``worse``; with a margin: not more than the margin above it."""

    name: str
    text: str
    better: str
    worse: str
    metric: str = "velocity"
    margin: float | None = None


CLAIMS = (
    Claim("sla", "SLA2 is better than SLA at equal sparsity (95 %)", "sla2_95", "sla_95"),
    Claim("sla_90", "SLA2 is better than SLA at equal sparsity (90 %)", "sla2_90", "sla_90"),
    Claim("sla_97", "SLA2 at 97 % is better than SLA at 90 %", "sla2_97", "sla_90"),
    Claim("vsa", "SLA2 at 97 % is better than VSA at 90 %", "sla2_97", "vsa_90"),
    Claim("vmoba", "SLA2 at 97 % is better than VMoBA's rule at 90 %", "sla2_97", "vmoba_90"),
    Claim("router", "a learned router is better than Topk", "sla2_95", "topk_95"),
    Claim("qat", "8 bits are better with quantisation in training than without", "sla2_95_int8", "sla2_95_ptq"),
    Claim("less", "SLA2 is better at 90 % than at 95 %", "sla2_90", "sla2_95"),
    Claim("branch", "SLA is better than its sparse branch alone", "sla_95", "sparse_95"),
    Claim("linear", "SLA is better than linear attention alone, at any sparsity", "sla_95", "linear"),
    Claim("sum", "SLA is better than the plain sum of both branches (90 %)", "sla_90", "l_plus_s_90"),
    Claim("full", "SLA2 at 95 % is not worse than full attention, both trained alike", "sla2_95_flow", "full_ft", "flow", 0.01),
)

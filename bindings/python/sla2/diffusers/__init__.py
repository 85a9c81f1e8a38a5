# SPDX-License-Identifier: Apache-2.0
"""SLA2 attention inside the transformers of diffusers' Wan pipelines. Needs torch and diffusers.

>>> attachment = sla2.diffusers.attach(transformer, lambda layer, heads, head_dim: my_attention)
>>> attachment.detach()
"""

from __future__ import annotations

from sla2.diffusers.attach import Attachment, AttentionLayer, Call, attach, find_layers
from sla2.diffusers.steps import StepInfo

__all__ = ["Attachment", "AttentionLayer", "Call", "StepInfo", "attach", "find_layers"]

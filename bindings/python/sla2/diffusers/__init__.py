# SPDX-License-Identifier: Apache-2.0
"""SLA2 attention inside the transformers of diffusers' Wan pipelines. Needs torch and diffusers.

>>> sla2.diffusers.apply(pipe, preset="balanced")
>>> video = pipe("a red balloon rises over the sea", num_frames=81).frames
>>> print(sla2.diffusers.report(pipe))
>>> sla2.diffusers.restore(pipe)

`attach` is what apply is built on: any callable or module of yours as attention of each layer.
"""

from __future__ import annotations

from sla2.diffusers.applied import apply, report, restore, transformers_of
from sla2.diffusers.attachment import Attachment, AttentionLayer, Call, attach, find_layers
from sla2.diffusers.reports import LayerReport, Report
from sla2.diffusers.steps import StepInfo

__all__ = [
    "Attachment",
    "AttentionLayer",
    "Call",
    "LayerReport",
    "Report",
    "StepInfo",
    "apply",
    "attach",
    "find_layers",
    "report",
    "restore",
    "transformers_of",
]

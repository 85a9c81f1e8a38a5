# SPDX-License-Identifier: Apache-2.0
"""The list of nodes, and what is said once when they are registered."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..sla2_nodes import wheel
from . import core
from .attention import SLA2Attention
from .calibrate import SLA2Calibrate
from .generate import SLA2WanGenerate
from .mask_view import SLA2MaskView
from .report import SLA2Report


class SLA2Extension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        core.register_folder()
        wheel.load()  # a wheel that does not fit is said now, in the console, and again in the node
        return [SLA2Attention, SLA2Report, SLA2Calibrate, SLA2MaskView, SLA2WanGenerate]

# SPDX-License-Identifier: Apache-2.0
"""SLA2 Report: what happened in the run before."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..sla2_nodes import picture
from . import core, patching


class SLA2Report(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return core.schema(
            node_id="SLA2Report",
            display_name="SLA2 Report",
            category=core.CATEGORY,
            description="A table of the last run: calls, share of key blocks skipped, reasons for staying dense, time, probe error per layer.",
            search_aliases=["sparse attention report", "statistics"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that leaves SLA2 Attention."),
                io.AnyType.Input("after", tooltip="What the sampler or decoder returns, so that this node runs after it."),
            ],
            outputs=[
                io.String.Output(display_name="text"),
                io.String.Output(display_name="json"),
                io.Image.Output(display_name="image"),
            ],
        )

    @classmethod
    def execute(cls, model: Any, after: Any) -> io.NodeOutput:
        import torch

        active = patching.active_of(model)
        if active is None:
            text = "SLA2 is not on this model: connect the MODEL that leaves SLA2 Attention. If it comes from there, see its message.\n"
            facts: dict[str, Any] = {"total": None, "layers": [], "notes": [text.strip()]}
        else:
            text, facts = str(active.report), active.report.to_dict()
        image = torch.from_numpy(picture.of_text(text)).unsqueeze(0)
        return io.NodeOutput(text, json.dumps(facts), image, ui=ui.PreviewText(text))

# SPDX-License-Identifier: Apache-2.0
"""SLA2 Mask View: which parts of the video a query sees."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..sla2_nodes import mask, picture, wheel
from ..sla2_nodes.engine import Plan
from ..sla2_nodes.settings import Settings
from . import core, patching, sampling


class SLA2MaskView(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def position(name: str, what: str) -> Any:
            return io.Float.Input(
                name, default=0.5, min=0.0, max=1.0, step=0.01, tooltip=f"Where the query lies: {what}, as a fraction.", **core.ADVANCED
            )

        return core.schema(
            node_id="SLA2MaskView",
            display_name="SLA2 Mask View",
            category=core.CATEGORY,
            description="Runs one pass of the model on the latent, noised back to a point of the schedule, and draws over the video grid "
            "which key blocks one query block keeps in a layer and head. Green: kept; orange: the query; grey: left to the linear part.",
            search_aliases=["attention mask", "sparse mask", "visualize attention"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that leaves SLA2 Attention; without one, 10 % of the blocks are kept."),
                io.Conditioning.Input("positive", tooltip="The prompt."),
                io.Latent.Input("latent", tooltip="A finished latent, or an empty one for pure noise."),
                io.Int.Input("layer", default=0, min=-1000, max=1000, tooltip="Transformer block; -1 is the last."),
                io.Int.Input("head", default=0, min=0, max=1000, tooltip="Attention head."),
                io.Float.Input(
                    "step_percent", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Point of the schedule: 0 is pure noise, 1 the end."
                ),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, tooltip="Of the noise.", control_after_generate=True),
                position("query_frame", "frame"),
                position("query_height", "from the top"),
                position("query_width", "from the left"),
            ],
            outputs=[io.Image.Output(display_name="image")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: Any,
        layer: int,
        head: int,
        step_percent: float,
        seed: int,
        query_frame: float = 0.5,
        query_height: float = 0.5,
        query_width: float = 0.5,
    ) -> io.NodeOutput:
        import torch

        sla2 = wheel.need()
        active = patching.active_of(model)
        plan = Plan(Settings()) if active is None else active.plan
        look = mask.Look(sla2, plan, layer, head, (query_frame, query_height, query_width))
        sigma = float(model.get_model_object("model_sampling").percent_to_sigma(min(step_percent, 0.999)))
        watched = sampling.watched(model, sla2, plan, look, "SLA2 Mask View")
        sampling.run(watched, positive, positive, latent, [sigma, 0.0], cfg=1.0, seed=seed)
        if look.seen is None:
            raise ValueError(f"layer {layer} was not seen; this model showed {look.layers} layers of video self-attention")
        image = picture.of_blocks(look.seen.kept, look.seen.grid, look.seen.query, look.seen.title)
        tensor = torch.from_numpy(image).unsqueeze(0)
        return io.NodeOutput(tensor, ui=ui.PreviewImage(tensor, cls=cls))

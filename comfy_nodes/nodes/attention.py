# SPDX-License-Identifier: Apache-2.0
"""SLA2 Attention: MODEL in, MODEL out."""

from __future__ import annotations

import logging
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..sla2_nodes import attend, packs, settings, table, wheel
from ..sla2_nodes.engine import Plan
from . import core, patching

LOG = logging.getLogger("sla2")
_ONLY_CUSTOM = "Read with preset custom only."


class SLA2Attention(io.ComfyNode):
    """Names, units and defaults are those of core's Model Sparse Attention where both nodes have an input."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        steps = {**table.limits("dense_steps_first", 0, 1000, 1), "default": 0, **core.ADVANCED}
        return core.schema(
            node_id="SLA2Attention",
            display_name="SLA2 Attention",
            category=core.CATEGORY,
            description="Makes Wan video models faster: the strongest key blocks are computed exactly, the rest in linear time. "
            "Whatever cannot be done sparsely stays dense, with the reason in the console, in this node and in SLA2 Report.",
            search_aliases=["sparse attention", "SLA", "sparse linear attention", "sage", "radial"],
            inputs=[
                io.Model.Input("model", tooltip="The model to make faster. It is not changed; a patched copy leaves the node."),
                io.Combo.Input(
                    "preset",
                    options=[*settings.PRESETS, "custom"],
                    default="balanced",
                    tooltip="safe skips half of the key blocks, balanced 72 %, fast 85 % (look at the result), max 97 % (for models "
                    "trained for it). All keep the first fifth, the last step, the first and the last block dense. custom: the inputs below.",
                ),
                io.Float.Input(
                    "keep_percent",
                    default=10.0,
                    min=0.5,
                    max=100.0,
                    step=0.5,
                    tooltip="Percent of key blocks each query block keeps. 100 switches the node off: the same bits as without it. "
                    + _ONLY_CUSTOM,
                ),
                io.Combo.Input(
                    "bits", options=["16", "8"], default="16", tooltip=table.help_of("bits", "Bits of the products.", _ONLY_CUSTOM)
                ),
                core.combo_of_options(
                    "mode",
                    {
                        "auto": [],
                        "sla2": [],
                        "sla1": [],
                        "pooled": [],
                        "sparse_only": [
                            io.Combo.Input(
                                "selection",
                                options=["top_k", "top_p"],
                                default="top_k",
                                tooltip="top_k: keep_percent of the blocks. top_p: as many as reach a share of the probability.",
                            ),
                            io.Float.Input("top_p", default=0.9, min=0.0, max=1.0, step=0.01, tooltip="The share of top_p."),
                        ],
                    },
                    "auto",
                    "What is done with the blocks not kept. auto: as the router pack says, else sla2. sla2: linear attention, mixed in by "
                    "a learned or default amount. pooled: one mean key per block. sparse_only: dropped. sla1: needs a pack. "
                    + _ONLY_CUSTOM,
                ),
                io.Combo.Input(
                    "router_pack",
                    options=[packs.NONE, *core.files(core.FOLDER)],
                    default=packs.NONE,
                    tooltip="What was learned for one model, from models/sla2. Made by SLA2 Calibrate or by training.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Point of the schedule when sparse attention begins; dense before it. " + _ONLY_CUSTOM,
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Point of the schedule when sparse attention ends; dense after it. " + _ONLY_CUSTOM,
                ),
                io.Int.Input(
                    "dense_first_steps",
                    tooltip=table.help_of(
                        "dense_steps_first", "First steps that keep full attention.", "Counted per sampler. " + _ONLY_CUSTOM
                    ),
                    **steps,
                ),
                io.Int.Input(
                    "dense_last_steps",
                    tooltip=table.help_of(
                        "dense_steps_last", "Last steps that keep full attention.", "Counted per sampler. " + _ONLY_CUSTOM
                    ),
                    **steps,
                ),
                io.String.Input(
                    "dense_blocks",
                    default="",
                    tooltip="Transformer blocks that always run dense, such as '0, 1, 47-49'; -1 is the last. " + _ONLY_CUSTOM,
                    **core.ADVANCED,
                ),
                io.Int.Input(
                    "min_tokens",
                    default=12288,
                    min=0,
                    max=1 << 20,
                    step=512,
                    tooltip="Sequences shorter than this stay dense: sparse attention would not pay.",
                    **core.ADVANCED,
                ),
                io.Combo.Input(
                    "token_order",
                    options=list(settings.ORDERS),
                    default="auto",
                    tooltip=table.help_of("token_order", "Order of the tokens.", "auto: as the router pack says, else raster."),
                    **core.ADVANCED,
                ),
                io.Float.Input(
                    "probe_percent",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Percent of query blocks that are also computed densely, to report the error per layer. Costs that share.",
                    **core.ADVANCED,
                ),
                io.Boolean.Input("verbose", default=False, tooltip="Log every reason for staying dense, once.", **core.ADVANCED),
                core.PackType.Input(
                    "calibrated", optional=True, tooltip="A router pack straight from SLA2 Calibrate; goes before router_pack."
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="The model with SLA2 attention.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, dense_blocks: Any = None, mode: Any = None) -> bool | str:
        """mode is named because newer cores hand choices with inputs of their own to every validator."""
        try:
            settings.parse_blocks(dense_blocks or "")
            settings.Settings(mode=core.choice_and_options("mode", mode or "auto")[0])
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Any, preset: str, mode: Any = "auto", router_pack: str = packs.NONE, calibrated: Any = None, **given: Any
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id if cls.hidden else None
        given["mode"], given["mode_options"] = core.choice_and_options("mode", mode)
        given["bits"] = int(given.get("bits", 16))
        chosen = settings.resolve(preset, **given)
        sla2, reason = wheel.load()
        if sla2 is None:
            core.say_in_node(node_id, f"SLA2 is off: {reason}")
            return io.NodeOutput(model)
        pack = calibrated
        if pack is None and router_pack != packs.NONE:
            pack = sla2.RouterPack.load(folder_paths.get_full_path_or_raise(core.FOLDER, router_pack))
        if pack is not None:
            packs.check(sla2, pack, model.get_model_object("diffusion_model"))
        return io.NodeOutput(patching.apply(model, attend.Attend(sla2, Plan(chosen, pack)), node_id))

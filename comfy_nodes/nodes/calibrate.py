# SPDX-License-Identifier: Apache-2.0
"""SLA2 Calibrate: learn a model's router pack from a few prompts, in closed form."""

from __future__ import annotations

import json
import os
from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
from comfy_api.latest import io, ui

from ..sla2_nodes import packs, wheel
from ..sla2_nodes.engine import Plan
from ..sla2_nodes.settings import Settings
from . import core, sampling


class SLA2Calibrate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        prompt = "A further prompt; two to four that differ make a better pack."
        return core.schema(
            node_id="SLA2Calibrate",
            display_name="SLA2 Calibrate",
            category=core.CATEGORY,
            description="Runs the model on your prompts with full attention, fits how the sparse and the linear part are mixed in each head, "
            "and writes a router pack with its measured errors to models/sla2. Connect it to SLA2 Attention, or choose the file there.",
            search_aliases=["router pack", "train sparse attention"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model as your workflow uses it, LoRAs included."),
                io.Conditioning.Input("positive", tooltip="The first prompt."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; not used at cfg 1."),
                io.Latent.Input("latent", tooltip="An empty latent of the size you generate at: a pack is best at its own size."),
                io.String.Input("name", default="my-model", tooltip="File name of the pack in models/sla2."),
                io.String.Input("keep_percent", default="28", tooltip="Percent of key blocks kept, one or several: '28' or '50, 28, 15'."),
                io.Int.Input("steps", default=6, min=1, max=100, tooltip="Steps of each run; all of them are looked at."),
                io.Float.Input("cfg", default=5.0, min=0.0, max=30.0, step=0.1, tooltip="Guidance, as in your workflow."),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=True, tooltip="Of the noise."),
                io.Combo.Input(
                    "router",
                    options=["none", "kl", "soft"],
                    default="none",
                    tooltip="none: only the mixing, one run per prompt. kl: the choice of blocks is fitted too, two runs. soft: refined, three.",
                    **core.ADVANCED,
                ),
                io.Combo.Input(
                    "token_order",
                    options=["raster", "tiles", "hilbert"],
                    default="raster",
                    tooltip="Order of the tokens that the pack is made for; tiles and hilbert make key blocks compact.",
                    **core.ADVANCED,
                ),
                io.Float.Input(
                    "max_error",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Layers whose measured error is above stay dense, or take another mode that is below. 0: no bound.",
                    **core.ADVANCED,
                ),
                *(io.Conditioning.Input(f"positive_{i}", optional=True, tooltip=prompt) for i in (2, 3, 4)),
            ],
            outputs=[
                core.PackType.Output(display_name="pack", tooltip="For the input `calibrated` of SLA2 Attention."),
                io.String.Output(display_name="file"),
                io.String.Output(display_name="errors", tooltip="What was measured, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: Any,
        name: str,
        keep_percent: str,
        steps: int,
        cfg: float,
        seed: int,
        router: str = "none",
        token_order: str = "raster",
        max_error: float = 0.0,
        positive_2: Any = None,
        positive_3: Any = None,
        positive_4: Any = None,
    ) -> io.NodeOutput:
        sla2 = wheel.need()
        from sla2.calibration import Calibrator

        path = os.path.join(core.packs_folder(), packs.file_name(name))
        diffusion_model = model.get_model_object("diffusion_model")
        words = {**packs.geometry(diffusion_model), **packs.fingerprints(sla2, diffusion_model)}
        calibrator = Calibrator(
            sparsity=_sparsities(keep_percent), token_order=token_order, router=router, max_error=max_error or None, seed=seed,
            created_by="SLA2 Calibrate", **words,
        )  # fmt: skip

        def observe(call: Any, forward: Any, block: int | None) -> None:
            if block is None:
                raise ValueError("this model does not tell its blocks; under torch.compile older cores hide them: calibrate without it")
            video, start = forward.video_tokens or call.tokens, 0
            if forward.prefix:
                start = call.tokens - video
            q, k, v = (tensor[:, start : start + video] for tensor in (call.q, call.k, call.v))
            calibrator.observe(block, q, k, v, forward.grid)

        watched = sampling.watched(model, sla2, Plan(Settings()), observe, "SLA2 Calibrate")
        prompts = [prompt for prompt in (positive, positive_2, positive_3, positive_4) if prompt is not None]
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        bar = comfy.utils.ProgressBar(calibrator.passes * len(prompts) * steps)

        def step(*_: Any) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update(1)

        for _ in range(calibrator.passes):
            for number, prompt in enumerate(prompts):
                sampling.run(watched, prompt, negative, latent, sigmas, cfg=cfg, seed=seed + number, callback=step)
            calibrator.end_pass()
        pack = calibrator.finish()
        pack.save(path)
        errors = json.dumps(pack.errors, indent=1)
        return io.NodeOutput(pack, os.path.basename(path), errors, ui=ui.PreviewText(_say(pack, path)))


def _sparsities(text: str) -> tuple[float, ...]:
    try:
        kept = [float(part) for part in text.split(",")]
    except ValueError:
        kept = []
    if not kept or not all(0 < percent < 100 for percent in kept):
        raise ValueError(f"keep_percent is {text!r}; expected percentages above 0 and below 100, as '28' or '50, 28, 15'")
    return tuple(1 - percent / 100 for percent in kept)


def _say(pack: Any, path: str) -> str:
    """What was measured, for people: errors of the fitted mixing beside others, at each sparsity."""
    lines = [f"wrote {os.path.basename(path)}: relative error against full attention, mean over the layers"]
    for sparsity, found in pack.errors.get("sparsity", {}).items():
        means = ", ".join(f"{name} {value:.4f}" for name, value in found["mean"].items())
        lines.append(f"{1 - float(sparsity):.1%} kept: {means}")
    return "\n".join([*lines, *([f"schedule: {pack.schedule}"] if pack.schedule else [])])

# SPDX-License-Identifier: Apache-2.0
"""SLA2 Wan Generate (native): a whole clip on the CPU by libsla2's own runner, with no weights in ComfyUI's memory."""

from __future__ import annotations

import json
import os
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..sla2_nodes import native, table, wheel
from . import core

_NONE = "none"
_FOLDERS = ("diffusers", core.FOLDER)
_MARKS = ("model.json", "model_index.json")


def _model_folders() -> list[str]:
    """Folders of a whole model, as KIND/NAME."""
    found = []
    for kind in _FOLDERS:
        for base in folder_paths.folder_names_and_paths.get(kind, ([],))[0]:
            if os.path.isdir(base):
                names = sorted(name for name in os.listdir(base) if any(os.path.exists(os.path.join(base, name, mark)) for mark in _MARKS))
                found += [f"{kind}/{name}" for name in names]
    return found


def _model_path(chosen: str) -> str:
    kind, _, name = chosen.partition("/")
    if kind in _FOLDERS:
        for base in folder_paths.get_folder_paths(kind):
            if os.path.isdir(path := os.path.join(base, name)):
                return path
    return folder_paths.get_full_path_or_raise("diffusion_models", chosen)


class SLA2WanGenerate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def whole(name: str, otherwise: int, least: int, most: int, step: int, shown: int | None = None) -> Any:
            limits = table.limits(name, least, most, step)
            return io.Int.Input(name, default=shown or table.default(name, otherwise), tooltip=table.help_of(name, ""), **limits)

        def choice(name: str, otherwise: list[str]) -> Any:
            options = table.choices(name, otherwise)
            return io.Combo.Input(name, options=options, default=table.default(name, options[0]), tooltip=table.help_of(name, ""))

        models = [*_model_folders(), *core.files("diffusion_models")]
        return core.schema(
            node_id="SLA2WanGenerate",
            display_name="SLA2 Wan Generate (native)",
            category=core.CATEGORY,
            description="Loads Wan2.1 files by libsla2's own runner and makes a clip on the CPU: for little GPU memory, or none. "
            "Interrupt at any time; queueing the same settings again goes on where it stopped.",
            search_aliases=["wan cpu", "text to video cpu"],
            inputs=[
                io.Combo.Input("model", options=models or [_NONE], tooltip="A file of diffusion_models, or a folder of diffusers or sla2."),
                io.Combo.Input("vae", options=[_NONE, *core.files("vae")], default=_NONE, tooltip=table.help_of("vae", "VAE file.")),
                io.Combo.Input(
                    "text_encoder",
                    options=[_NONE, *core.files("text_encoders")],
                    default=_NONE,
                    tooltip=table.help_of("text_encoder", "UMT5 file."),
                ),
                io.String.Input("prompt", multiline=True, default="", tooltip=table.help_of("prompt", "")),
                io.String.Input(
                    "negative_prompt",
                    multiline=True,
                    default=table.default("negative_prompt", ""),
                    tooltip=table.help_of("negative_prompt", ""),
                ),
                whole("width", 832, 16, 8192, 16),
                whole("height", 480, 16, 8192, 16),
                whole("frames", 81, 1, 1021, 4),
                whole("steps", 50, 1, 1000, 1, shown=20),
                io.Float.Input("cfg_scale", default=5.0, min=0.0, max=30.0, step=0.1, tooltip=table.help_of("cfg_scale", "")),
                io.Float.Input("shift", default=5.0, min=0.01, max=100.0, step=0.01, tooltip=table.help_of("shift", "")),
                choice("sampler", ["unipc", "euler"]),
                io.Int.Input("seed", default=0, min=0, max=2**53 - 1, control_after_generate=True, tooltip=table.help_of("seed", "")),
                choice("attention", ["full", "sla2"]),
                io.Float.Input("sparsity", default=0.72, min=0.0, max=1.0, step=0.01, tooltip=table.help_of("sparsity", "")),
                choice("bits", ["16", "8"]),
                io.Boolean.Input(
                    "resume", default=True, tooltip="Go on from the state that an interrupted run with the same settings left."
                ),
                io.String.Input("tokenizer", default="", tooltip=table.help_of("tokenizer", "Path of spiece.model."), **core.ADVANCED),
                io.String.Input(
                    "attention_schedule",
                    default="steps 0-20%: full; layers 0,-1: full",
                    tooltip=table.help_of("attention_schedule", "") + " Read where attention is not full.",
                    **core.ADVANCED,
                ),
                whole("threads", 0, 0, 1024, 1),
                whole("memory_limit", 0, 0, 16777216, 1),
            ],
            outputs=[
                io.Image.Output(display_name="frames"),
                io.String.Output(display_name="report", tooltip="The run report as JSON."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: str, vae: str, text_encoder: str, resume: bool, tokenizer: str = "", **values: Any) -> io.NodeOutput:
        sla2 = wheel.need()
        if model == _NONE:
            raise ValueError(
                "no Wan model found: put a file into models/diffusion_models, or a folder into models/diffusers or models/sla2"
            )
        files = {name: folder_paths.get_full_path_or_raise(kind, chosen)
                 for name, kind, chosen in (("vae", "vae", vae), ("text_encoder", "text_encoders", text_encoder)) if chosen != _NONE}  # fmt: skip
        files |= {"tokenizer": tokenizer} if tokenizer else {}
        values["bits"] = int(values["bits"])
        if values["attention"] == "full":
            values["attention_schedule"] = ""
        bar = _Bar(cls.hidden.unique_id if cls.hidden else None)
        state = native.state_file(os.path.join(folder_paths.get_user_directory(), "sla2"), model, {**files, **values})
        try:
            frames, report = native.generate(
                sla2, _model_path(model), files, values, state,
                resume=resume, on_progress=bar.progress, on_preview=bar.preview, interrupted=comfy.model_management.processing_interrupted,
            )  # fmt: skip
        except sla2.CancelledError:
            comfy.model_management.throw_exception_if_processing_interrupted()
            raise
        import torch

        return io.NodeOutput(torch.from_numpy(frames).float() / 255.0, json.dumps(report, indent=1))


class _Bar:
    """Progress of the whole job, and a frame of each preview, in the node."""

    def __init__(self, node_id: Any) -> None:
        self.node_id, self.bar, self.image, self.done = node_id, comfy.utils.ProgressBar(1000), None, 0

    def progress(self, progress: Any) -> None:
        self.done = round(progress["fraction"] * 1000)
        self.bar.update_absolute(self.done, 1000, None)
        if progress["message"]:
            core.say_in_node(self.node_id, progress["message"])

    def preview(self, step: int, frames: Any) -> None:
        from PIL import Image

        frame = Image.fromarray(frames[len(frames) // 2])
        self.bar.update_absolute(self.done, 1000, ("JPEG", frame.resize((frame.width * 8, frame.height * 8)), 512))

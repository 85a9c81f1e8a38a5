# SPDX-License-Identifier: Apache-2.0
"""What differs between ComfyUI versions, and the few services of the server that several nodes use."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import os
from typing import Any

import folder_paths
from comfy_api.latest import io

LOG = logging.getLogger("sla2")
FOLDER = "sla2"  # models/sla2
CATEGORY = "SLA2"
PackType = io.Custom("SLA2_ROUTER_PACK")


def _advanced() -> dict[str, Any]:
    """How this core marks inputs that are folded away at first; older ones do not know the notion."""
    known = inspect.signature(io.Int.Input.__init__).parameters
    if "advanced" in known:
        return {"advanced": True}
    return {"extra_dict": {"advanced": True}} if "extra_dict" in known else {}


ADVANCED = _advanced()


def schema(**words: Any) -> io.Schema:
    """io.Schema of this core: words that it does not know yet are left out."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in words.items() if name in known})


def combo_of_options(name: str, options: dict[str, list[Any]], default: str, tooltip: str) -> Any:
    """A choice whose options bring inputs of their own; a plain choice on cores without DynamicCombo. The first option must be the
    default and bring none, so that a saved workflow's widget values lie at the same places on both."""
    assert next(iter(options)) == default and not options[default]
    if hasattr(io, "DynamicCombo"):
        return io.DynamicCombo.Input(
            name, options=[io.DynamicCombo.Option(key, inputs) for key, inputs in options.items()], tooltip=tooltip
        )
    return io.Combo.Input(name, options=list(options), default=default, tooltip=tooltip)


def choice_and_options(name: str, value: Any) -> tuple[str, dict[str, Any]]:
    """What execute() gets from combo_of_options()."""
    if isinstance(value, dict):
        return value[name], {key: item for key, item in value.items() if key != name}
    return value, {}


def say_in_node(node_id: Any, text: str) -> None:
    """Show a line inside the node; silently nothing where no server runs."""
    with contextlib.suppress(Exception):
        from server import PromptServer

        if node_id is not None and PromptServer.instance is not None:
            PromptServer.instance.send_progress_text(text, str(node_id))


def prompt_id() -> Any:
    """The prompt that is being executed, or None."""
    with contextlib.suppress(Exception):
        from comfy_execution.utils import get_executing_context

        context = get_executing_context()
        return None if context is None else context.prompt_id
    return None


def register_folder() -> None:
    """models/sla2, safetensors only. Called when the nodes are registered, not at import."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        folder_paths.folder_names_and_paths[FOLDER] = ([os.path.join(folder_paths.models_dir, FOLDER)], {".safetensors"})


def packs_folder() -> str:
    """Where new packs go; made when first needed."""
    path = folder_paths.get_folder_paths(FOLDER)[0]
    os.makedirs(path, exist_ok=True)
    return path


def files(kind: str) -> list[str]:
    """Files of a model folder; none where the core has no such folder."""
    try:
        return list(folder_paths.get_filename_list(kind))
    except KeyError:
        return []

# SPDX-License-Identifier: Apache-2.0
"""Attend on a MODEL: clone, hook, wrapper, callbacks. All of them look the active object up, so they are added once per model."""

from __future__ import annotations

import logging
from typing import Any

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ..sla2_nodes import attend, chain, wrapper
from . import core

LOG = logging.getLogger("sla2")
# A compiled model must not freeze the facts of one pass; what is inside it stays compiled.
AROUND = torch.compiler.disable(wrapper.around_model, recursive=False)


def apply(model: Any, active: attend.Attend, node_id: Any = None) -> Any:
    """A clone of the MODEL whose self-attention goes through `active`. The given model is not touched."""
    clone = model.clone()
    options = clone.model_options.setdefault("transformer_options", {})
    chain.install(options, active)
    active.node_id = node_id
    if not clone.get_wrappers(WrappersMP.DIFFUSION_MODEL, wrapper.NAME):
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, wrapper.NAME, AROUND)
        clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, wrapper.NAME, _begin)
        clone.add_callback_with_key(CallbacksMP.ON_CLEANUP, wrapper.NAME, _end)
    return clone


def active_of(model: Any) -> attend.Attend | None:
    """The Attend on a MODEL, if any."""
    found = model.model_options.get("transformer_options", {}).get(attend.KEY)
    return found if isinstance(found, attend.Attend) else None


def _begin(patcher: Any, *_: Any) -> None:
    active = active_of(patcher)
    if active is not None:
        settings, sampling = active.plan.settings, patcher.get_model_object("model_sampling")
        window = tuple(float(sampling.percent_to_sigma(percent)) for percent in (settings.start_percent, settings.end_percent))
        active.begin_run(core.prompt_id(), window)


def _end(patcher: Any, *_: Any) -> None:
    active = active_of(patcher)
    if active is None:
        return
    line = active.end_run()
    core.say_in_node(active.node_id, line)
    if active.report.to_dict()["total"]["sparse"] == 0 and active.observe is None:
        LOG.warning("%s: %s", active.name, line)
    elif active.plan.settings.verbose:
        LOG.info("%s: %s", active.name, line)

# SPDX-License-Identifier: Apache-2.0
"""SLA2 for ComfyUI. Importing this registers nothing and changes nothing; ComfyUI calls comfy_entrypoint()."""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes.extension import SLA2Extension

    return SLA2Extension()

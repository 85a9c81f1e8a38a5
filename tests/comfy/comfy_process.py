# SPDX-License-Identifier: Apache-2.0
"""ComfyUI's code in this process, on the CPU. Import this before anything of ComfyUI."""

from __future__ import annotations

import asyncio
import sys

from conftest import COMFYUI
from server import standins

sys.path[:0] = [*standins(), COMFYUI]
_argv, sys.argv = sys.argv, ["main.py", "--cpu"]
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
from comfy.cli_args import args  # noqa: E402

sys.argv = _argv
assert args.cpu

import comfy_nodes  # noqa: E402


def nodes() -> dict[str, type]:
    """The pack's nodes by id, through its entry point."""
    extension = asyncio.run(comfy_nodes.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}

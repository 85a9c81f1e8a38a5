# SPDX-License-Identifier: Apache-2.0
"""Write the pack's files that follow from its nodes: example workflows, and the English locale. Needs SLA2_COMFYUI_DIR.

./dev comfy files
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from conftest import COMFYUI, ROOT
from server import Server, make_base
from workflows import WORKFLOWS, inputs_of, translate

PACK = ROOT / "comfy_nodes"
NODES = ("SLA2Attention", "SLA2Report", "SLA2Calibrate", "SLA2MaskView", "SLA2WanGenerate")


def locale(info: dict[str, Any]) -> dict[str, Any]:
    """nodeDefs.json of the language the nodes are written in."""
    found = {}
    for name in NODES:
        facts = info[name]
        found[name] = {
            "display_name": facts["display_name"],
            "description": facts["description"],
            "inputs": {key: {"name": key, "tooltip": words["tooltip"]} for key, _, words, _ in inputs_of(facts)},
            "outputs": {str(i): {"name": key} for i, key in enumerate(facts["output_name"])},
        }
    return found


def as_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    if not COMFYUI:
        raise SystemExit("SLA2_COMFYUI_DIR is not set: no ComfyUI to ask")
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(COMFYUI), make_base(Path(scratch)))
        try:
            info = server.get("/object_info")
        finally:
            server.stop()
    (PACK / "locales" / "en" / "nodeDefs.json").write_text(as_text(locale(info)), encoding="utf-8")
    for name, nodes in WORKFLOWS.items():
        (PACK / "example_workflows" / f"{name}.json").write_text(as_text(translate(nodes, info)), encoding="utf-8")
    print(f"wrote {len(WORKFLOWS)} workflows and the English locale in {PACK}")


if __name__ == "__main__":
    main()

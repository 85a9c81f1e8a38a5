# SPDX-License-Identifier: Apache-2.0
"""Load every example workflow in ComfyUI's real front end, in a headless browser: no node may be missing, and what the front end would
send to the server must be what the workflow says. Writes pictures of the workflows for the docs.

    SLA2_COMFYUI_DIR=... ./dev comfy screenshots

Needs comfyui-frontend-package and playwright (PyPI), and a Chromium: Debian's `chromium`, or what SLA2_CHROMIUM names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from conftest import COMFYUI, ROOT
from server import Server, make_base

PACK = ROOT / "comfy_nodes"
PICTURES = PACK / "docs"
LOAD = """async (workflow) => {
  await window.app.loadGraphData(workflow);
  await new Promise((done) => setTimeout(done, 1200));
  const nodes = window.app.graph._nodes;
  const missing = nodes.filter((node) => !(node.type in window.LiteGraph.registered_node_types)).map((node) => node.type);
  const prompt = await window.app.graphToPrompt();
  const box = nodes.reduce((b, n) => [Math.min(b[0], n.pos[0]), Math.min(b[1], n.pos[1] - 34), Math.max(b[2], n.pos[0] + n.size[0]),
                                      Math.max(b[3], n.pos[1] + n.size[1])], [1e9, 1e9, -1e9, -1e9]);
  return {missing, prompt: prompt.output, box};
}"""
SHOW = """async ([box, width, height]) => {
  const view = window.app.canvas.ds;
  view.scale = Math.min((width - 80) / (box[2] - box[0] + 20), (height - 130) / (box[3] - box[1] + 20), 1);
  view.offset = [70 / view.scale - box[0], 120 / view.scale - box[1]];  // clear of the front end's own bars
  document.querySelectorAll('.p-dialog-mask, .p-toast, [class*=minimap]').forEach((element) => element.remove());
  window.app.canvas.show_info = false;
  window.app.canvas.setDirty(true, true);
  await new Promise((done) => setTimeout(done, 800));
  return 130 + (box[3] - box[1]) * view.scale;
}"""


def checked(name: str, facts: dict[str, Any], workflow: dict[str, Any]) -> None:
    """The front end's own reading of the workflow: our nodes are there, with every value under its name."""
    assert not facts["missing"], f"{name}: missing nodes {facts['missing']}"
    sent = {node["class_type"]: node["inputs"] for node in facts["prompt"].values()}
    for node in workflow["nodes"]:
        if node["type"] == "SLA2Attention":
            values = sent["SLA2Attention"]
            assert values["preset"] == node["widgets_values"][0] and values["mode"] == "auto" and values["router_pack"] == "none", values
            assert values["min_tokens"] == 12288 and values["verbose"] is False, values
        elif node["type"].startswith("SLA2"):
            assert node["type"] in sent, f"{name}: {node['type']} would not be sent"


def chromium() -> str:
    found = os.environ.get("SLA2_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        raise SystemExit("no Chromium: install Debian's package `chromium`, or set SLA2_CHROMIUM")
    return found


def main() -> None:
    from playwright.sync_api import sync_playwright

    package = importlib.util.find_spec("comfyui_frontend_package")
    if not COMFYUI or package is None or package.origin is None:
        raise SystemExit("SLA2_COMFYUI_DIR is not set, or comfyui-frontend-package is not installed")
    PICTURES.mkdir(exist_ok=True)
    width, height = 1700, 950
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(COMFYUI), make_base(Path(scratch)), web=Path(package.origin).parent / "static")
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(server.url, wait_until="domcontentloaded")
                page.wait_for_function(
                    "() => Boolean(window.app?.graph && window.LiteGraph?.registered_node_types['SLA2Attention'])", timeout=180000
                )
                page.wait_for_timeout(4000)
                page.keyboard.press("Escape")
                for path in sorted((PACK / "example_workflows").glob("*.json")):
                    workflow = json.loads(path.read_text(encoding="utf-8"))
                    facts = page.evaluate(LOAD, workflow)
                    checked(path.stem, facts, workflow)
                    page.keyboard.press("Escape")
                    bottom = min(height, page.evaluate(SHOW, [facts["box"], width, height]))
                    page.screenshot(path=PICTURES / f"{path.stem}.png", clip={"x": 54, "y": 92, "width": width - 54, "height": bottom - 92})
                    print(f"{path.stem}: {len(facts['prompt'])} nodes, none missing")
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The pack as the registry and the front end read it: metadata, help, languages, workflows, no side effects."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from sla2_nodes.settings import PRESETS, resolve
from workflows import WORKFLOWS

PACK = ROOT / "comfy_nodes"
NODES = {"SLA2Attention", "SLA2Report", "SLA2Calibrate", "SLA2MaskView", "SLA2WanGenerate"}
FILES = [
    ROOT / name
    for name in subprocess.run(["git", "ls-files", "comfy_nodes"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
]


def locale(language: str) -> dict:
    return json.loads((PACK / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def test_registry_metadata() -> None:
    facts = tomllib.loads((PACK / "pyproject.toml").read_text())
    project, comfy = facts["project"], facts["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower() and len(project["name"]) < 100
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and set(project["license"]) <= {"text", "file"}
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"]
    assert all((PACK / name).exists() for name in (comfy["Icon"], *comfy["includes"]))
    assert project["dependencies"] == ["sla2>=0.1,<0.2"]


def test_icon_is_square_and_small() -> None:
    from PIL import Image

    width, height = Image.open(PACK / "icon.png").size
    assert width == height <= 400


def test_no_links_no_bytecode_no_installer() -> None:
    assert FILES and not any(path.is_symlink() or path.suffix in {".pyc", ".so", ".dll"} for path in FILES)
    for path in FILES:
        if path.suffix == ".py":
            text = path.read_text(encoding="utf-8")
            assert "subprocess" not in text and "os.system" not in text and not re.search(r"\b(eval|exec)\(", text), path


def test_logic_knows_no_comfyui() -> None:
    for path in (PACK / "sla2_nodes").glob("*.py"):
        assert not re.search(r"^\s*(from|import) (comfy|folder_paths|server|nodes)\b", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_importing_the_pack_changes_nothing() -> None:
    code = "import sys; before = set(sys.modules); import comfy_nodes; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not re.search(r"sla2'|torch|numpy|logging", done.stdout), done.stdout


@pytest.mark.parametrize("name", sorted(NODES))
def test_help_for_every_node(name: str) -> None:
    assert (PACK / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8").startswith("# SLA2 ")


def test_languages_name_the_same_things() -> None:
    english, german = locale("en"), locale("de")
    assert set(english) == set(german) == NODES
    for name in NODES:
        for part in ("inputs", "outputs"):
            assert set(english[name][part]) == set(german[name][part]), f"{name}: {part}"


def test_workflows() -> None:
    """As the front end wrote them is the browser's business; here: whole, wired, and of nodes that exist."""
    files = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (PACK / "example_workflows").glob("*.json")}
    assert set(files) == set(WORKFLOWS)
    for name, workflow in files.items():
        nodes = {node["id"]: node for node in workflow["nodes"]}
        assert {node["type"] for node in nodes.values() if node["type"].startswith("SLA2")} <= NODES
        for identity, source, slot, target, place, kind in workflow["links"]:
            assert nodes[source]["outputs"][slot]["type"] == kind, name
            assert nodes[target]["inputs"][place]["link"] == identity, name


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_the_librarys(name: str) -> None:
    params = json.loads((ROOT / "presets" / f"{name}.json").read_text())["params"]
    ours = resolve(name)
    assert ours.sparsity == pytest.approx(params["sparsity"]) and ours.bits == params["bits"] and params["attention"] == "sla2"
    assert params["attention_schedule"] == f"steps 0-{ours.start_percent:.0%}: full" and ours.end_percent == 1.0
    assert ours.dense_last_steps == params["dense_steps_last"] and ours.dense_first_steps == 0
    assert ours.dense_blocks == "0, -1" and params["dense_layers_first"] == params["dense_layers_last"] == 1


@pytest.mark.parametrize("text", ["raise ImportError('x')", "__version__ = '9.0.0'", "__version__ = '0.1.0'"])
def test_a_wheel_that_does_not_fit_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "sla2.py").write_text(text)
    code = "from sla2_nodes import wheel, table; print(wheel.load()[1]); print(wheel.load()[0], table.help_of('bits', 'ours'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{PACK}", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert "install the wheel" in done.stdout and "None ours" in done.stdout
    assert done.stderr.count("install the wheel") == 1, "logged once"

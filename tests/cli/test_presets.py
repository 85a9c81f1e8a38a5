# SPDX-License-Identifier: Apache-2.0
"""Presets: found, listed, shown, checked, and what is said about a wrong one."""

from __future__ import annotations

import json

import pytest


@pytest.fixture()
def preset_environment(tmp_path, environment):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "quick.json").write_text('{"name": "quick", "description": "two steps", "params": {"steps": 2}}\n')
    return {**environment, "SLA2_PRESETS": str(folder)}


def test_list_show_check(sla2, preset_environment):
    listed = json.loads(sla2("presets", "list", "--json", env=preset_environment).stdout)
    mine = next(entry for entry in listed if entry["name"] == "quick")
    assert mine["description"] == "two steps" and mine["valid"]
    assert "two steps" in sla2("presets", "list", env=preset_environment).stdout
    assert json.loads(sla2("presets", "show", "quick", env=preset_environment).stdout)["params"] == {"steps": 2}
    assert "valid" in sla2("presets", "check", "quick", env=preset_environment).stdout


def test_unknown_preset_names_the_nearest(sla2, preset_environment):
    assert 'did you mean "quick"?' in sla2("presets", "show", "quik", env=preset_environment, code=3).stderr


def test_wrong_presets_are_named_with_the_place(sla2, tmp_path):
    head = '{"name": "a", "description": "b", '
    for text, words in (
        (head + '"params": {\n "stepz": 2}}', "steps"),
        (head + '"params": {\n "steps": 0}}', "1000"),
        ('{"params": ', ""),
        ('{"name": "a",\n "params": {"steps": 2}}', 'line 2, key "description"'),
        ('{"description": "a",\n\n "params": {"steps": 2}}', 'line 3, key "name"'),
        ('{"name": "a", "description": "b"}', '"params"'),
    ):
        path = tmp_path / "wrong.json"
        path.write_text(text)
        error = sla2("presets", "check", path, code=None)
        assert error.returncode in (2, 6)
        assert "wrong.json" in error.stderr and words in error.stderr


def test_shipped_presets_are_valid(sla2):
    listed = json.loads(sla2("presets", "list", "--json").stdout)
    assert all(entry["valid"] for entry in listed), listed


def test_a_preset_is_applied_and_flags_win(generate, preset_environment, tmp_path):
    report = tmp_path / "report.json"
    generate("--preset", "quick", "-o", tmp_path / "a.gif", "--report", report, env=preset_environment)
    assert json.loads(report.read_text())["settings"]["steps"] == 3  # the fixture's --steps 3

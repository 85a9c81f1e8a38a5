# SPDX-License-Identifier: Apache-2.0
"""Presets against their schema, and the schema against the parameter table it is made from."""

from __future__ import annotations

import json

import make_preset_schema
import pytest
from conftest import ROOT

PRESETS = sorted(path for path in (ROOT / "presets").glob("*.json") if path.name != "schema.json")


def test_schema_is_the_table() -> None:
    written = json.loads((ROOT / "presets" / "schema.json").read_text(encoding="utf-8"))
    assert written == make_preset_schema.make_schema(), "run tests/python/make_preset_schema.py > presets/schema.json"


def fits(value, rule: dict) -> bool:
    """The few words of JSON Schema that presets/schema.json uses."""
    if "enum" in rule:
        return value in rule["enum"]
    if rule["type"] == "array":
        return isinstance(value, list) and all(fits(item, rule["items"]) for item in value)
    kinds = {"integer": int, "number": (int, float), "boolean": bool, "string": str}[rule["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and rule["type"] != "boolean"):
        return False
    return rule.get("minimum", value) <= value <= rule.get("maximum", value)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_fit_the_schema(path) -> None:
    schema = json.loads((ROOT / "presets" / "schema.json").read_text(encoding="utf-8"))
    preset = json.loads(path.read_text(encoding="utf-8"))
    assert set(schema["required"]) <= set(preset) <= set(schema["properties"])
    rules = schema["properties"]["params"]["properties"]
    wrong = {name: value for name, value in preset["params"].items() if name not in rules or not fits(value, rules[name])}
    assert not wrong and preset["name"] == path.stem

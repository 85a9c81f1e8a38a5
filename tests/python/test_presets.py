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


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_fit_the_schema(path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "presets" / "schema.json").read_text(encoding="utf-8"))
    preset = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(preset, schema)
    assert preset["name"] == path.stem

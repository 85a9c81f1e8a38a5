# SPDX-License-Identifier: Apache-2.0
"""presets/schema.json from the parameter table of the built library.

SLA2_BUILD=build/dev python tests/python/make_preset_schema.py > presets/schema.json
"""

from __future__ import annotations

import json

import sla2_ctypes

INT, FLOAT, BOOL, STRING, CHOICE, PATH, FLOAT_LIST = range(1, 8)


def schema_of(row) -> dict:
    entry: dict = {"description": row.help.decode() + (f" [{row.unit.decode()}]" if row.unit else "")}
    if row.type in (INT, FLOAT):
        entry |= {"type": "integer" if row.type == INT else "number", "minimum": row.minimum, "maximum": row.maximum}
        if row.type == INT:
            entry |= {"minimum": int(row.minimum), "maximum": int(row.maximum)}
    elif row.type == BOOL:
        entry |= {"type": "boolean"}
    elif row.type == CHOICE:
        choices: list = row.choices.decode().split("|")
        entry |= {"enum": choices + [int(choice) for choice in choices if choice.isdigit()]}
    elif row.type == FLOAT_LIST:
        entry |= {"type": "array", "items": {"type": "number", "minimum": row.minimum, "maximum": row.maximum}}
    else:
        entry |= {"type": "string"}
    return entry


def make_schema() -> dict:
    rows = sla2_ctypes.Sla2().table()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sla2 preset",
        "description": "Made from the parameter table by tests/python/make_preset_schema.py; do not edit.",
        "type": "object",
        "required": ["name", "description", "params"],
        "additionalProperties": False,
        "properties": {
            "$schema": {"type": "string"},
            "name": {"type": "string"},
            "description": {"type": "string"},
            "params": {"type": "object", "additionalProperties": False, "properties": {row.name.decode(): schema_of(row) for row in rows}},
        },
    }


if __name__ == "__main__":
    print(json.dumps(make_schema(), indent=2, ensure_ascii=False))

# SPDX-License-Identifier: Apache-2.0
"""A configuration: YAML file, then `section.key=value` from the command line, all checked before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sla2.errors import ArgumentError, FileFormatError, FileMissingError
from sla2.training.schema import SCHEMA, Key

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "bool": (bool,), "text": (str,), "ints": (int,), "floats": (int, float), "texts": (str,)
}  # fmt: skip
_SAID = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "text": "a text", "ints": "a list of whole numbers",
    "floats": "a list of numbers", "texts": "a list of texts"
}  # fmt: skip


class Section:
    """The values of one section as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError as error:
            raise AttributeError(name) from error


class Config:
    """A checked configuration: `config.train.steps`; every key is there."""

    model: Section
    data: Section
    attention: Section
    fit: Section
    train: Section
    lora: Section
    evaluate: Section
    sample: Section
    schedule: Section
    checkpoint: Section
    export: Section
    output: Section

    def __init__(self, values: Mapping[str, Any], where: Mapping[str, str] | None = None) -> None:
        """`where` tells the place of a key for messages, as {"train.steps": "config.yaml line 7"}."""
        self._all = _checked(values, where or {})
        for name, section in self._all.items():
            setattr(self, name, Section(section))

    def as_dict(self) -> dict[str, dict[str, Any]]:
        return {name: dict(section) for name, section in self._all.items()}

    def as_yaml(self) -> str:
        return yaml.safe_dump(self.as_dict(), sort_keys=False, allow_unicode=True)

    def folder(self) -> Path:
        return Path(self.output.path)


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and lay `section.key=value` over it. Raises ArgumentError, FileMissingError, FileFormatError."""
    path = Path(path)
    if not path.is_file():
        raise FileMissingError(f"{path}: there is no such file; expected a configuration in YAML (sla2-train reference lists its keys)")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise FileFormatError(f"{path}: holds a {type(values).__name__}; expected sections as `train:`")
    where = _places(node, path.name)
    for text in overrides:
        name, sign, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (sign and dot):
            raise ArgumentError(f"command line {text!r}: expected section.key=value, as train.steps=100")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ArgumentError(f"command line {text!r}: the value is not YAML") from error
        values[section] = {**(values.get(section) or {}), key: parsed}
        where[f"{section}.{key}"] = where.setdefault(section, f"command line {text!r}")
        where[f"{section}.{key}"] = f"command line {text!r}"
    return Config(values, where)


def make(values: Mapping[str, Any] | Config) -> Config:
    """A Config of a dictionary; one that is already checked is returned as it is."""
    return values if isinstance(values, Config) else Config(values)


def _places(node: Any, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if isinstance(node, yaml.MappingNode):
        for section, content in node.value:
            found[section.value] = f"{name} line {section.start_mark.line + 1}"
            if isinstance(content, yaml.MappingNode):
                for key, _ in content.value:
                    found[f"{section.value}.{key.value}"] = f"{name} line {key.start_mark.line + 1}"
    return found


def _checked(values: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    for section, content in values.items():
        place = where.get(str(section), "configuration")
        if section not in SCHEMA:
            raise ArgumentError(f"{place}: section {section!r} is unknown; expected one of {', '.join(SCHEMA)}{_near(section, SCHEMA)}")
        if content is not None and not isinstance(content, Mapping):
            raise ArgumentError(f"{place}: section {section} is {content!r}; expected keys and values")
        for key in content or {}:
            if key not in SCHEMA[section]:
                place = where.get(f"{section}.{key}", place)
                raise ArgumentError(f"{place}: key {section}.{key} is unknown; expected one of {', '.join(SCHEMA[section])}{_near(key, SCHEMA[section])}")  # fmt: skip
    result: dict[str, dict[str, Any]] = {}
    for section, keys in SCHEMA.items():
        given = values.get(section) or {}
        result[section] = {
            name: _value(f"{section}.{name}", key, given[name], where.get(f"{section}.{name}", "configuration"))
            if name in given
            else key.default
            for name, key in keys.items()
        }
    return result


def _near(word: Any, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(words), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _value(name: str, key: Key, value: Any, place: str) -> Any:
    if value is None and key.default is None:
        return None
    listed = key.kind.endswith("s")
    # YAML reads 1e-5 as a text: it wants a dot. Everybody writes it without.
    items = [_number(x) if "float" in key.kind else x for x in (value if listed and isinstance(value, (list, tuple)) else [value])]
    good = isinstance(value, (list, tuple)) == listed
    good = good and all(isinstance(x, _TYPES[key.kind]) and (key.kind == "bool" or not isinstance(x, bool)) for x in items)
    if not good:
        raise ArgumentError(f"{place}: {name} is {value!r}; expected {_SAID[key.kind]}")
    for x in items:
        if key.words and x not in key.words:
            raise ArgumentError(f"{place}: {name} is {x!r}; expected one of {', '.join(map(str, key.words))}")
        low = key.low is not None and (x < key.low or (key.above and x == key.low))
        if low or (key.high is not None and x > key.high) or (isinstance(x, float) and x != x):
            limits = f"{'above ' if key.above else 'at least '}{key.low:g}" + (f" and at most {key.high:g}" if key.high is not None else "")
            raise ArgumentError(f"{place}: {name} is {x}; expected {limits}")
    if key.kind in ("float", "floats"):
        items = [float(x) for x in items]
    return items if listed else items[0]


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value

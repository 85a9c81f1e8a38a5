# SPDX-License-Identifier: Apache-2.0
"""What self-attention does in each layer of each step, from a preset, a router pack and settings. No torch.

>>> policy = sla2.policy.resolve(layers=30, heads=12, head_dim=128, preset="balanced")
>>> policy.at(step=4, steps=20, layer=7)
Choice(mode='sla2', sparsity=0.72)

The order of decisions is that of `sla2 generate`: mode, then the rules of the schedule, then dense guards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sla2 import schedule
from sla2.errors import ArgumentError, FileFormatError, FileMissingError
from sla2.packs import RouterPack

_ORDERS = ("raster", "tiles", "hilbert")
_PACK_ORDERS = {"raster": "raster", "tile:4x4x4": "tiles", "hilbert": "hilbert"}
_GUARDS = ("dense_steps_first", "dense_steps_last", "dense_layers_first", "dense_layers_last")
#: preset's word -> keyword of resolve()
_PRESET = {"attention": "mode", "attention_schedule": "schedule"} | {
    name: name for name in ("sparsity", "bits", "token_order", "block_q", "block_k", *_GUARDS)
}


class Choice(NamedTuple):
    """What one layer does in one step; `full` is the model's own attention."""

    mode: str
    sparsity: float


FULL = Choice("full", 0.0)


@dataclass(frozen=True)
class Policy:
    """Settings that agree with each other and with the model; made by `resolve`."""

    layers: int
    mode: str
    sparsity: float
    bits: int = 16
    block_q: int = 128
    block_k: int = 64
    token_order: str = "raster"
    min_tokens: int = 0
    rules: tuple[schedule.Rule, ...] = ()
    dense_steps_first: int = 0
    dense_steps_last: int = 0
    dense_layers_first: int = 0
    dense_layers_last: int = 0
    pack: RouterPack | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)  #: what the user should hear of

    @property
    def needs_step(self) -> bool:
        """Does anything depend on the number of the step?"""
        return self.dense_steps_first > 0 or self.needs_total or any(rule.steps is not None for rule in self.rules)

    @property
    def needs_total(self) -> bool:
        """Does anything depend on how many steps there are?"""
        return self.dense_steps_last > 0 or any(rule.of_all for rule in self.rules)

    def at(self, step: int, steps: int, layer: int) -> Choice:
        """The choice for `layer` in `step` of `steps`. Layers from `self.layers` on (VACE) obey steps, and rules that name them."""
        if step < self.dense_steps_first or (self.dense_steps_last > 0 and step >= steps - self.dense_steps_last):
            return FULL
        if layer < self.layers and (layer < self.dense_layers_first or layer >= self.layers - self.dense_layers_last):
            return FULL
        mode, sparsity = self.mode, self.sparsity
        for rule in self.rules:
            if rule.fits(step, steps, layer, self.layers):
                mode, sparsity = rule.mode, self.sparsity if rule.sparsity is None else rule.sparsity
        # Nothing skipped is the model's own attention; linear_only skips everything whatever the number says.
        return FULL if mode == "full" or (sparsity == 0 and mode != "linear_only") else Choice(mode, sparsity)

    def arguments(self, layer: int, choice: Choice) -> dict[str, Any]:
        """Keywords of sla2.attention() for a layer: options, and the pack's learned arrays."""
        out: dict[str, Any] = {"mode": choice.mode, "sparsity": choice.sparsity, "bits": self.bits}
        out |= {"block_q": self.block_q, "block_k": self.block_k}
        if self.pack is None:
            return out
        out["smooth_k"] = self.pack.smooth_k
        if choice.mode != "linear_only":
            out["router"] = self.pack.router
        learned = self.pack.layer(layer, choice.sparsity) if layer < self.pack.layers else {}
        if choice.mode == "sla2" and ("mix_values" in learned or self.pack.alpha_mode == "const"):
            out["mix"] = self.pack.alpha_mode
        if choice.mode == "sla1":
            out["scope"] = self.pack.linear_scope
        reads = {
            "router_q": choice.mode != "linear_only",
            "router_k": choice.mode != "linear_only",
            "mix_values": choice.mode == "sla2",
            "proj": choice.mode == "sla1",
            "proj_bias": choice.mode == "sla1",
        }
        return out | {name: value for name, value in learned.items() if reads[name]}

    def holds(self, layer: int, choice: Choice) -> bool:
        """False where the mode lives on learned numbers that there are none of: mode sla1 in a block the pack does not know."""
        return choice.mode != "sla1" or self.pack is None or layer < self.pack.layers


# ---- presets ------------------------------------------------------------------------------------------------------------------


def preset_folders() -> list[Path]:
    """Where presets are looked for by name: SLA2_PRESETS, then those that came with the package, then the source tree's."""
    named = [Path(part) for part in os.environ.get("SLA2_PRESETS", "").split(":") if part]
    here = Path(__file__).resolve()
    return [
        folder for folder in (*named, here.parent / "presets", here.parents[min(3, len(here.parents) - 1)] / "presets") if folder.is_dir()
    ]


def read_preset(preset: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The attention part of a preset: a name ("balanced"), a JSON file, or a mapping of its parameters. Keys are those of `resolve`."""
    if isinstance(preset, Mapping):
        params, where = dict(preset), "preset"
    else:
        text, where = os.fspath(preset), f"preset {os.fspath(preset)!r}"
        path = Path(text)
        if path.suffix != ".json" and path.name == text:
            path = next((folder / f"{text}.json" for folder in preset_folders() if (folder / f"{text}.json").is_file()), path)
        try:
            params = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            names = sorted({file.stem for folder in preset_folders() for file in folder.glob("*.json")} - {"schema"})
            raise FileMissingError(f"{where}: {error.strerror or error}; expected a JSON file or one of {', '.join(names)}") from error
        except ValueError as error:
            raise FileFormatError(f"{where}: is not JSON: {error}") from error
    params = params.get("params", params) if isinstance(params, dict) else params
    if not isinstance(params, dict):
        raise FileFormatError(f"{where}: holds no map of parameters; expected one as in presets/balanced.json")
    found = {_PRESET[name]: value for name, value in params.items() if name in _PRESET}
    if "mode" not in found:
        raise ArgumentError(f"{where}: has no attention part; expected `attention` and `sparsity`, as in presets/balanced.json")
    return found


# ---- one set of settings ------------------------------------------------------------------------------------------------------


def _check_range(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high and (not whole or value == int(value))
    if not good:
        raise ArgumentError(f"{name} is {value!r}; expected a {'whole ' if whole else ''}number from {low:g} to {high:g}")


def _check_word(name: str, value: Any, words: tuple[Any, ...]) -> None:
    if value not in words:
        raise ArgumentError(f"{name} is {value!r}; expected one of {', '.join(map(str, words))}")


def _check_rules(rules: tuple[schedule.Rule, ...], layers: int, extra: int) -> None:
    for rule in rules:
        if rule.bits is not None or rule.router is not None:
            raise ArgumentError(
                f'attention_schedule: in the rule "{rule.text}": bits= and router= are read by `sla2 generate` alone; leave them out'
            )
        for number in (number for pair in rule.layers for number in pair):
            if not -layers <= number < layers + extra:
                more = f", and {layers} to {layers + extra - 1} beside them" if extra else ""
                raise ArgumentError(
                    f'attention_schedule: in the rule "{rule.text}": layer {number} is unknown; the model has layers 0 to {layers - 1}{more}'
                )


def _check_pack(pack: RouterPack, asked: dict[str, Any], rules: tuple[schedule.Rule, ...]) -> None:
    """A setting that contradicts what the pack was made with is refused."""
    own = {"mode": pack.mode, "block_q": pack.block_q, "block_k": pack.block_k, "token_order": _PACK_ORDERS[pack.token_order]}
    for name, value in own.items():
        given = asked.get(name)
        if given is not None and given != value and not (name == "mode" and given == "full"):
            raise ArgumentError(
                f"{name} = {given!r} contradicts the router pack, which was made with {name} = {value!r}; leave {name} to the pack, or use"
                " none (sparsity, bits, and which layers and steps are full may be changed)"
            )
    for rule in rules:
        if rule.mode not in ("full", pack.mode):
            raise ArgumentError(
                f'attention_schedule: the rule "{rule.text}" contradicts the router pack, which was made for {pack.mode}; use that or full, or'
                " no pack"
            )


def resolve(
    *,
    layers: int,
    heads: int,
    head_dim: int,
    extra: int = 0,
    preset: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    pack: RouterPack | str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Policy:
    """Settings of keywords, else of the preset, else of the pack, checked against each other and against a model of these sizes.

    settings: mode, sparsity, bits, schedule, min_tokens, token_order, block_q, block_k, dense_steps_first and so on; None: not given.
    Raises ArgumentError (unknown, out of range, contradicting the pack; a layer that is not there), ModelMismatchError (a pack of
    another geometry), FileMissingError and FileFormatError (preset, pack).
    """
    known = {*_PRESET.values(), "min_tokens"}
    if set(settings) - known:
        raise ArgumentError(f"unknown setting {', '.join(sorted(set(settings) - known))}; expected {', '.join(sorted(known))}")
    asked = ({} if preset is None else read_preset(preset)) | {name: value for name, value in settings.items() if value is not None}
    loaded = pack if pack is None or isinstance(pack, RouterPack) else RouterPack.load(os.fspath(pack))
    if asked.get("mode") == "off":
        asked["mode"] = "full"
    for name in ("bits", "block_q", "block_k"):  # presets may hold choices as texts
        if isinstance(asked.get(name), str) and asked[name].isdigit():
            asked[name] = int(asked[name])

    _check_word("mode", asked.get("mode", "sla2"), schedule.MODES)
    _check_word("bits", asked.get("bits", 16), (16, 8))
    _check_word("block_q", asked.get("block_q", 128), (32, 64, 128))
    _check_word("block_k", asked.get("block_k", 64), (16, 32, 64, 128))
    _check_word("token_order", asked.get("token_order", "raster"), _ORDERS)
    _check_range("sparsity", asked.get("sparsity", 0.9), 0, 1)
    _check_range("min_tokens", asked.get("min_tokens", 0), 0, 2**62, whole=True)
    for name in _GUARDS:
        _check_range(name, asked.get(name, 0), 0, 1000, whole=True)
    rules = schedule.parse(asked.pop("schedule", ""))
    _check_rules(rules, layers, extra)
    if loaded is None:
        default: dict[str, Any] = {"mode": "sla2", "sparsity": 0.9}
        return Policy(layers, **(default | asked), rules=rules)

    loaded.check(layers=layers, heads=heads, head_dim=head_dim)
    made = schedule.parse(loaded.schedule)
    _check_rules(made, layers, extra)
    _check_pack(loaded, asked, rules)
    own: dict[str, Any] = {"mode": loaded.mode, "sparsity": 1 - loaded.kappa[0], "bits": loaded.bits, "block_q": loaded.block_q}
    own |= {"block_k": loaded.block_k, "token_order": _PACK_ORDERS[loaded.token_order]}
    values = own | asked
    notes = []
    nearest = loaded.nearest_kappa(values["sparsity"])
    if loaded.mode == "sla2" and values["mode"] == "sla2" and abs(1 - values["sparsity"] - nearest) > 1e-6:
        notes.append(f"sparsity {values['sparsity']:g} is none the pack was made for: the mixing numbers of {1 - nearest:g} are used")
    return Policy(layers, **values, rules=(*made, *rules), pack=loaded, notes=tuple(notes))

# SPDX-License-Identifier: Apache-2.0
"""Router packs: what SLA2 learned about one model, in one file (libsla2/docs/router_pack.md). NumPy alone.

>>> pack = sla2.RouterPack.load("wan-1.3b.sla2.safetensors")
>>> pack.check(layers=30, heads=12, head_dim=128)
>>> out = sla2.attention(q, k, v, **pack.options(), **pack.layer(7))
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sla2 import _safetensors
from sla2.errors import ArgumentError, FileFormatError, ModelMismatchError, VersionError

FORMAT, VERSION = "libsla2.router_pack", 1
_REQUIRED = ("layers", "heads", "head_dim", "block_q", "block_k", "kappa", "base_shapes")
_WORDS: dict[str, tuple[str, ...]] = {
    "mode": ("sla2", "sla1", "sparse_only", "linear_only", "l_plus_s", "pooled"),
    "alpha_mode": ("head_affine_lse", "head_scalar", "block", "const"),
    "linear_scope": ("complement", "global"),
    "token_order": ("raster", "tile:4x4x4", "hilbert"),
    "router": ("sla2", "sla1", "vmoba", "sparge"),
    "phi": ("softmax",),
    "rope": ("post",),
}
_NUMBERS: dict[str, tuple[int, ...]] = {"block_q": (32, 64, 128), "block_k": (16, 32, 64, 128), "bits": (16, 8), "stage": (0, 1, 2)}
_TENSOR = re.compile(r"blocks\.(\d+)\.self_attn\.sla2\.(proj_[qk](?:\.down|\.up)?|alpha(?:\.k\d{4,5})?|proj_l\.(?:weight|bias))")
_QK = re.compile(r"(?:.*\.)?blocks\.(\d+)\.(?:self_attn\.([qk])|attn1\.to_([qk]))(?:\.base_layer)?\.weight")


def _kappa_key(kappa: float) -> str:
    return f"alpha.k{round(kappa * 1e4):04d}"


@dataclass
class RouterPack:
    """A pack in memory. Fields are the metadata's keys; `tensors` has the file's full names, float32.

    Values are checked when the pack is made, loaded and saved. Raises FileFormatError (what, where, expected, got, remedy),
    VersionError for newer files, FileMissingError.
    """

    layers: int
    heads: int
    head_dim: int
    block_q: int = 128
    block_k: int = 64
    kappa: tuple[float, ...] = (0.1,)
    mode: str = "sla2"
    alpha_mode: str = "head_affine_lse"
    linear_scope: str = "complement"
    smooth_k: bool = True
    token_order: str = "raster"
    router: str = "sla2"
    bits: int = 16
    phi: str = "softmax"
    rope: str = "post"
    stage: int = 0
    grid: tuple[int, int, int] | None = None
    schedule: str = ""
    base: str = ""
    base_shapes: str = ""
    base_weights: str = ""
    requires: str = ""
    errors: dict[str, Any] = field(default_factory=dict)
    created_by: str = "sla2"
    licence: str = ""
    seed: str = ""
    prompts: str = ""
    tensors: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kappa = tuple(float(x) for x in self.kappa)
        self.tensors = {name: to_array(value).astype(np.float32) for name, value in self.tensors.items()}
        self.validate("router pack")

    # ---- the file -------------------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> RouterPack:
        """Read and check a pack, all of it."""
        file = _safetensors.TensorFile(path)
        where, meta = str(path), file.metadata
        if meta.get("format") != FORMAT:
            raise FileFormatError(
                f"{where}: metadata format is {meta.get('format')!r}; expected {FORMAT!r}: this is no router pack"
                " (weights of SLA or TurboDiffusion: sla2.load_sla1)"
            )
        if not meta.get("version", "").isdigit():
            raise FileFormatError(f"{where}: metadata version is {meta.get('version')!r}; expected a number")
        if int(meta["version"]) > VERSION:
            raise VersionError(f"{where}: version {meta['version']}; this library reads version {VERSION}: update libsla2")
        missing = [key for key in _REQUIRED if not meta.get(key)]
        if missing:
            raise FileFormatError(f"{where}: metadata lacks {', '.join(missing)}; the pack is incomplete: make it again")
        values: dict[str, Any] = {}
        for item in fields(cls):
            if item.name != "tensors" and meta.get(item.name):
                values[item.name] = _parse(where, item.name, meta[item.name])
        for name in file.shapes:
            _layer_of(where, name, values["layers"])
        pack = cls.__new__(cls)
        for item in fields(cls):  # defaults, then what the file says; one check with the file's name
            default = item.default_factory() if callable(item.default_factory) else item.default
            setattr(pack, item.name, values.get(item.name, default))
        pack.tensors = {name: file.read(name) for name in file.shapes}
        pack.validate(where)
        return pack

    def save(self, path: str | Path) -> None:
        """Write the pack: under another name, synced, renamed. Raises FileWriteError; an older file then stays as it was."""
        self.validate(str(path))
        if not self.base_shapes:
            raise ArgumentError(f"{path}: base_shapes is empty; expected the model's: pack.base_shapes, _ = sla2.packs.fingerprints(model)")
        text = {"format": FORMAT, "version": str(VERSION)}
        for item in fields(self):
            if item.name != "tensors":
                text[item.name] = _print(getattr(self, item.name))
        _safetensors.write(path, self.tensors, {key: value for key, value in text.items() if value})

    # ---- what attention takes -------------------------------------------------------------------------------------------------

    def nearest_kappa(self, sparsity: float | None = None) -> float:
        """The κ whose numbers serve this sparsity: the nearest one; of two equally near, the smaller. None: the pack's first."""
        if sparsity is None:
            return self.kappa[0]
        return min(self.kappa, key=lambda kappa: (round(abs(kappa - (1 - sparsity)), 12), kappa))

    def layer(self, i: int, sparsity: float | None = None) -> dict[str, NDArray[np.float32]]:
        """Learned arguments of sla2.attention() for layer i: router_q, router_k [1 or H,D,D], mix_values, proj [D,D], proj_bias [D].

        What the pack does not hold is left out, and so takes its default. Raises ArgumentError for a layer beyond the last.
        """
        if not 0 <= i < self.layers:
            raise ArgumentError(f"layer {i}: the pack has layers 0 to {self.layers - 1}")
        own = {name.split(".sla2.")[1]: value for name, value in self.tensors.items() if name.startswith(f"blocks.{i}.self_attn.")}
        out: dict[str, NDArray[np.float32]] = {}
        for part in ("q", "k"):
            if f"proj_{part}.up" in own:
                up, down = own[f"proj_{part}.up"], own[f"proj_{part}.down"]
                out[f"router_{part}"] = np.ascontiguousarray(np.eye(self.head_dim, dtype=np.float32) + up @ down)
            elif f"proj_{part}" in own:
                out[f"router_{part}"] = own[f"proj_{part}"]
        alpha = own.get("alpha" if len(self.kappa) == 1 else _kappa_key(self.nearest_kappa(sparsity)))
        if alpha is not None and self.mode == "sla2":
            out["mix_values"] = alpha
        if self.mode == "sla1" and "proj_l.weight" in own:
            out["proj"] = own["proj_l.weight"]
            if "proj_l.bias" in own:
                out["proj_bias"] = own["proj_l.bias"]
        return out

    def options(self, sparsity: float | None = None) -> dict[str, Any]:
        """The other arguments of sla2.attention(): mode, sparsity, block_q, block_k, router, smooth_k, mix, scope."""
        out: dict[str, Any] = {"mode": self.mode, "sparsity": 1 - self.kappa[0] if sparsity is None else float(sparsity)}
        out |= {"block_q": self.block_q, "block_k": self.block_k, "router": self.router, "smooth_k": self.smooth_k}
        if self.mode == "sla2":
            out["mix"] = self.alpha_mode
        if self.mode == "sla1":
            out["scope"] = self.linear_scope
        return out

    def check(
        self,
        *,
        layers: int,
        heads: int,
        head_dim: int,
        base_shapes: str | None = None,
        base_weights: str | None = None,
        grid: tuple[int, int, int] | None = None,
    ) -> list[str]:
        """Does the pack suit this model? Returns warnings; raises ModelMismatchError with both geometries where it cannot."""
        mine = f"{self.layers} layers of {self.heads} heads with {self.head_dim} channels"
        theirs = f"{layers} layers of {heads} heads with {head_dim} channels"
        name = f" ({self.base})" if self.base else ""
        remedy = "take a pack made for this model, or make one with sla2-calibrate"
        if (self.layers, self.heads, self.head_dim) != (layers, heads, head_dim):
            raise ModelMismatchError(f"the router pack was made for a model of {mine}{name}, this model has {theirs}; {remedy}")
        if base_shapes and self.base_shapes and base_shapes != self.base_shapes:
            raise ModelMismatchError(
                f"the router pack was made for weights of other shapes{name}: base_shapes {self.base_shapes[:12]}…,"
                f" this model has {base_shapes[:12]}… (both {theirs}); {remedy}"
            )
        if self.alpha_mode == "block" and grid is not None and self.grid != tuple(grid):
            made = "x".join(map(str, self.grid or ()))
            raise ModelMismatchError(
                f"the router pack holds a number for each query block of {made} tokens (alpha_mode block), this call has"
                f" {'x'.join(map(str, grid))}; generate at that size, or take a pack with alpha_mode head_affine_lse"
            )
        warnings = []
        if base_weights and self.base_weights and base_weights != self.base_weights:
            warnings.append(
                f"the router pack was trained together with other weights than these{name}: expect broken results; load the weights it"
                " was made with"
                if self.stage == 2
                else f"the router pack was made on other weights of the same shapes{name}: fine for a fine-tune of the same model"
            )
        return warnings

    # ---- checks ---------------------------------------------------------------------------------------------------------------

    def validate(self, where: str) -> None:
        """Raise FileFormatError for the first thing that is wrong."""
        for name in ("layers", "heads", "head_dim"):
            if not 1 <= getattr(self, name) <= 1 << 20:
                raise FileFormatError(f"{where}: {name} is {getattr(self, name)}; expected a count from 1")
        for name, words in {**_WORDS, **_NUMBERS}.items():
            if getattr(self, name) not in words:
                raise FileFormatError(f"{where}: {name} is {getattr(self, name)!r}; expected one of {', '.join(map(str, words))}")
        if not self.kappa or not all(0 < kappa <= 1 for kappa in self.kappa) or len(set(map(_kappa_key, self.kappa))) < len(self.kappa):
            raise FileFormatError(f"{where}: kappa is {self.kappa}; expected different fractions above 0, to 1, as 0.1 or 0.1,0.05")
        if self.alpha_mode == "block" and self.mode == "sla2" and self.grid is None:
            raise FileFormatError(f"{where}: alpha_mode block without a grid; expected the tokens it was made on, as 21x30x52")
        if self.grid is not None and not (len(self.grid) == 3 and all(n >= 1 for n in self.grid)):
            raise FileFormatError(f"{where}: grid is {self.grid}; expected three counts from 1, as 21x30x52")
        if not isinstance(self.errors, dict):
            raise FileFormatError(f"{where}: errors is {type(self.errors).__name__}; expected a JSON object")
        for name, value in self.tensors.items():
            self._validate_tensor(where, name, np.asarray(value))
        for i in {_layer_of(where, name, self.layers) for name in self.tensors}:
            self._validate_layer(where, f"blocks.{i}.self_attn.sla2.")

    def _shapes_of(self, kind: str) -> list[tuple[int, ...]]:
        heads, dim = self.heads, self.head_dim
        if kind.startswith("alpha"):
            if self.alpha_mode == "block":
                return [(heads, math.ceil(math.prod(self.grid or (0,)) / self.block_q))]
            if self.alpha_mode == "const":
                return []
            return [(heads, 2)] if self.alpha_mode == "head_affine_lse" else [(heads,)]
        if kind == "proj_l.weight":
            return [(dim, dim)]
        return [(dim,)] if kind == "proj_l.bias" else [(1, dim, dim), (heads, dim, dim)]

    def _validate_tensor(self, where: str, name: str, value: NDArray[Any]) -> None:
        _layer_of(where, name, self.layers)
        kind = name.split(".sla2.")[1]
        shape = value.shape
        if kind.endswith((".down", ".up")):
            inner = 1 if kind.endswith(".down") else 2
            good = (
                len(shape) == 3 and shape[0] in (1, self.heads) and shape[3 - inner] == self.head_dim and 1 <= shape[inner] <= self.head_dim
            )
            expected = "[1 or H, r, D]" if inner == 1 else "[1 or H, D, r]"
        else:
            allowed = self._shapes_of(kind)
            good, expected = shape in allowed, " or ".join(str(list(x)) for x in allowed) or f"none with alpha_mode {self.alpha_mode}"
        if not good:
            raise FileFormatError(f"{where}: {name} has shape {list(shape)}; expected {expected}: the pack is damaged, make it again")
        if not np.isfinite(value).all():
            raise FileFormatError(f"{where}: {name} holds NaN or infinity; the pack is damaged, make it again")
        if kind.startswith("proj_l") and self.mode != "sla1":
            raise FileFormatError(f"{where}: {name} belongs to mode sla1, the pack's mode is {self.mode}; make it again")
        wanted = ["alpha"] if len(self.kappa) == 1 else [_kappa_key(kappa) for kappa in self.kappa]
        if kind.startswith("alpha") and kind not in wanted:
            raise FileFormatError(f"{where}: {name} fits no kappa of {_print(self.kappa)}; expected {', '.join(wanted)}: make it again")

    def _validate_layer(self, where: str, prefix: str) -> None:
        own = {name[len(prefix) :] for name in self.tensors if name.startswith(prefix)}
        routers = own & {"proj_q", "proj_k", "proj_q.down", "proj_q.up", "proj_k.down", "proj_k.up"}
        pairs = ({"proj_q", "proj_k"}, {"proj_q.down", "proj_q.up", "proj_k.down", "proj_k.up"})
        if routers and routers not in pairs:
            raise FileFormatError(
                f"{where}: {prefix} has {', '.join(sorted(routers))}; expected proj_q and proj_k, or the .down and .up of both: make it again"
            )
        alphas = sum(name.startswith("alpha") for name in own)
        if 0 < alphas < len(self.kappa):
            raise FileFormatError(
                f"{where}: {prefix} has alpha for {alphas} of {len(self.kappa)} kappas; expected all or none: make it again"
            )
        if "proj_l.bias" in own and "proj_l.weight" not in own:
            raise FileFormatError(f"{where}: {prefix}proj_l.bias without proj_l.weight; the pack is damaged, make it again")
        if routers:
            firsts = {self.tensors[prefix + name].shape[0] for name in routers}
            ranks = {part: {self.tensors[f"{prefix}{part}.{end}"].shape[axis] for end, axis in (("down", 1), ("up", 2))}
                     for part in ("proj_q", "proj_k") if f"{part}.up" in routers}  # fmt: skip
            if len(firsts) > 1 or any(len(rank) > 1 for rank in ranks.values()):
                raise FileFormatError(f"{where}: the router tensors of {prefix} disagree in heads or rank; make it again")


def _layer_of(where: str, name: str, layers: int) -> int:
    found = _TENSOR.fullmatch(name)
    if found is None:
        raise FileFormatError(f"{where}: tensor {name!r} is unknown; expected names as blocks.0.self_attn.sla2.alpha: update libsla2")
    if int(found[1]) >= layers or found[1] != str(int(found[1])):
        raise FileFormatError(f"{where}: tensor {name!r} is of a layer beyond the last; the pack has layers 0 to {layers - 1}")
    return int(found[1])


def _parse(where: str, key: str, text: str) -> Any:
    """A metadata text as its field's value."""
    try:
        if key == "kappa":
            return tuple(float(x) for x in text.split(","))
        if key == "grid":
            return tuple(int(x) for x in text.split("x"))
        if key == "errors":
            return json.loads(text)
        if key == "smooth_k":
            return {"0": False, "1": True}[text]
        return int(text) if key in (*_NUMBERS, "layers", "heads", "head_dim") else text
    except (ValueError, KeyError) as error:
        raise FileFormatError(f"{where}: metadata {key} is {text!r}, which cannot be read; expected as in docs/router_pack.md") from error


def _print(value: Any) -> str:
    """A field's value as metadata text; empty: left out."""
    if value is None or value == {}:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, tuple):
        whole = all(isinstance(x, int) for x in value)
        return "x".join(map(str, value)) if whole else ",".join(f"{x:.6g}" for x in value)
    return str(value)


# ---- fingerprints -------------------------------------------------------------------------------------------------------------


def _bfloat16(value: NDArray[Any]) -> bytes:
    """Rounded to nearest even, row by row, little endian."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF).astype("<u2").tobytes()


def to_array(value: Any) -> NDArray[Any]:
    """NumPy from whatever it is; torch tensors of any element type and device included."""
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    return np.asarray(value)


def fingerprints(read: Mapping[str, Any] | str | Path) -> tuple[str, str]:
    """(base_shapes, base_weights) of a model: a state dict of NumPy arrays or torch tensors, a safetensors file, or a folder of such.

    Original, diffusers and ComfyUI names give the same. Raises FileFormatError where no self-attention weights are found.
    """
    shapes: dict[tuple[int, str], tuple[int, ...]] = {}
    first: Any = None
    where = "the state dict" if isinstance(read, Mapping) else str(read)
    sources: list[Any] = [read]
    if not isinstance(read, Mapping):
        path = Path(read)
        sources = [_safetensors.TensorFile(part) for part in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    for source in sources:
        names = source if isinstance(source, Mapping) else source.shapes
        for name in names:
            found = _QK.fullmatch(name)
            if found is None:
                continue
            key = (int(found[1]), found[2] or found[3])
            shapes[key] = tuple(source[name].shape) if isinstance(source, Mapping) else names[name]
            if key == (0, "q"):
                first = source[name] if isinstance(source, Mapping) else source.read(name)
    if first is None or any((i, part) not in shapes for i in range(len(shapes) // 2) for part in "qk"):
        raise FileFormatError(
            f"{where}: has no blocks.0.self_attn.q.weight and so on; expected a Wan transformer, original or diffusers names"
        )
    pairs = [(shapes[i, "q"], shapes[i, "k"]) for i in range(len(shapes) // 2)]
    return hash_shapes(pairs), hash_weight(first)


def load_sla1(path: str | Path, heads: int | None = None) -> RouterPack:
    """The `proj_l` layers of a weight file of SLA or TurboDiffusion as a pack of mode sla1; see sla2/_sla1.py."""
    from sla2 import _sla1

    return _sla1.load_sla1(path, heads)


def hash_shapes(shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """base_shapes from the (out, in) of each layer's q and k weights."""
    lines = (
        f"blocks.{i}.self_attn.{part}.weight:{shape[0]}x{shape[1]}\n"
        for i, pair in enumerate(shapes)
        for part, shape in zip("qk", pair, strict=True)
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_weight(weight: Any) -> str:
    """base_weights from blocks.0.self_attn.q.weight, a NumPy array or torch tensor."""
    return hashlib.sha256(_bfloat16(to_array(weight))).hexdigest()

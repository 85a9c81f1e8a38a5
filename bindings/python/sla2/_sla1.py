# SPDX-License-Identifier: Apache-2.0
"""SLA v1 projections out of the weight files of SLA, TurboDiffusion and FastVideo, as a router pack."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sla2 import _safetensors, packs
from sla2.errors import FileFormatError, FileMissingError, ModelMismatchError, UnsupportedError

# TurboDiffusion: blocks.0.self_attn.attn_op.local_attn.proj_l.weight, behind `net.` where it was trained;
# FastVideo: blocks.0.attn1.attn_impl.proj_l.weight; others put attention elsewhere below self_attn or attn1.
_PROJ = re.compile(r"(?:.*\.)?blocks\.(\d+)\.(?:self_attn|attn1)\.(?:\w+\.)*proj_l\.(weight|bias)")
_WIDTH = re.compile(r"(?:.*\.)?blocks\.\d+\.(?:self_attn|attn1)\.norm_q\.weight")
_QUERY = re.compile(r"(?:.*\.)?blocks\.(\d+)\.(?:self_attn\.q|attn1\.to_q)\.weight")
_PICKLES = (".pth", ".pt", ".ckpt", ".bin")
_REMEDY = "give the file that holds the whole transformer with its SLA layers"


class _Source:
    """Names, shapes and arrays of a weight file, whatever its kind."""

    def __init__(self, path: Path) -> None:
        self.shapes: dict[str, tuple[int, ...]]
        self._file: _safetensors.TensorFile | None = None
        self._state: dict[str, Any] = {}
        if path.suffix in _PICKLES:
            self._state = dict(_unpickled(path))
            self.shapes = {name: tuple(value.shape) for name, value in self._state.items()}
        else:
            self._file = _safetensors.TensorFile(path)
            self.shapes = self._file.shapes

    def read(self, name: str) -> NDArray[Any]:
        return self._file.read(name) if self._file is not None else packs.to_array(self._state[name])


def _unpickled(path: Path) -> Iterator[tuple[str, Any]]:
    """Tensors of a PyTorch checkpoint, read by torch with nothing but tensors allowed: no code of the file runs."""
    if not path.is_file():
        raise FileMissingError(f"{path}: there is no such file; check the path")
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"{path}: a PyTorch checkpoint can run code when it is opened; torch has a reader that does not, and torch is not installed:"
            " install it, or convert the file to safetensors"
        ) from error
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first = str(error).strip().split("\n")[0][:200]
        raise FileFormatError(
            f"{path}: is refused: it holds more than tensors, or is damaged ({first}); take a safetensors file, or one that was saved"
            " as a plain state dict"
        ) from error
    for key in ("state_dict", "model", "generator"):
        while isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise FileFormatError(f"{path}: holds a {type(state).__name__}; expected a state dict of tensors")
    for name, value in state.items():
        if isinstance(name, str) and hasattr(value, "shape"):
            yield name, value


def load_sla1(path: str | Path, heads: int | None = None) -> packs.RouterPack:
    """The `proj_l` layers of a weight file of SLA or TurboDiffusion (safetensors, .pth) as a pack of mode sla1, scope global.

    heads   of the model; None: seen from the width of its self-attention
    A .pth is read by torch with weights_only, which runs no code. Raises FileMissingError, FileFormatError (no projections, several
    of one layer, damaged, more than tensors), ModelMismatchError (shapes that disagree), UnsupportedError (a .pth, and no torch).
    """
    path = Path(path)
    source = _Source(path)
    tensors: dict[str, NDArray[np.float32]] = {}
    dim = 0
    for name, shape in source.shapes.items():
        found = _PROJ.fullmatch(name)
        if found is None:
            continue
        own = f"blocks.{int(found[1])}.self_attn.sla2.proj_l.{found[2]}"
        if own in tensors:
            raise FileFormatError(f"{path}: {name} is the second {own}; expected one projection a layer: {_REMEDY}")
        dim = dim or shape[0]
        if shape != ((dim, dim) if found[2] == "weight" else (dim,)):
            raise ModelMismatchError(f"{path}: {name} has shape {list(shape)}; expected a projection of {dim} channels, as in other layers")
        tensors[own] = source.read(name).astype(np.float32)
    if not tensors:
        raise FileFormatError(f"{path}: holds no proj_l weights, and so nothing of SLA v1; {_REMEDY}")
    layers = 1 + max(int(name.split(".")[1]) for name in tensors)
    missing = [i for i in range(layers) if f"blocks.{i}.self_attn.sla2.proj_l.weight" not in tensors]
    if missing:
        raise FileFormatError(f"{path}: layers {', '.join(map(str, missing))} have no proj_l.weight; {_REMEDY}")
    width = next((shape[0] for name, shape in source.shapes.items() if _WIDTH.fullmatch(name)), 0)
    width = next((shape[0] for name, shape in source.shapes.items() if _QUERY.fullmatch(name)), width)
    if heads is None and (not width or width % dim):
        raise ModelMismatchError(f"{path}: self-attention is {width or 'of unknown width'}, heads have {dim} channels; give heads=")
    heads = heads or width // dim
    width = width or heads * dim
    shapes, weights = packs.hash_shapes([((width, width), (width, width))] * layers), ""
    first = next((name for name in source.shapes if (found := _QUERY.fullmatch(name)) and found[1] == "0"), None)
    if first is not None:
        weights = packs.hash_weight(source.read(first))
    return packs.RouterPack(
        layers,
        heads,
        dim,
        kappa=(0.1,),
        mode="sla1",
        linear_scope="global",
        smooth_k=False,
        router="sla1",
        stage=2,
        base_shapes=shapes,
        base_weights=weights,
        created_by=f"load_sla1 of {path.name}",
        tensors=tensors,
    )

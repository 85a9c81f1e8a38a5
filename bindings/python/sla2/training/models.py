# SPDX-License-Identifier: Apache-2.0
"""The user's transformer, whatever it is stored as, in diffusers' form and float32."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sla2.errors import FileFormatError, FileMissingError, ModelMismatchError
from sla2.training import names

_HEAD_DIM = 128  # of every published Wan model


def load(path: str | Path, heads: int | None = None) -> nn.Module:
    """WanTransformer3DModel of a diffusers folder (or a pipeline's), a model folder of sla2, or a safetensors file; float32, frozen.

    Raises FileMissingError, FileFormatError, ModelMismatchError (names of weights that lack or are of another shape).
    """
    path = Path(path)
    if not str(path) or not path.exists():
        raise FileMissingError(f"model.path is {str(path)!r}, which does not exist; expected a model folder or a safetensors file")
    if path.is_dir():
        if (path / "model.json").is_file():
            return load(path / json.loads((path / "model.json").read_text())["dit"], heads)
        for folder in (path, path / "transformer"):
            if (folder / "config.json").is_file():
                return _from_diffusers(folder)
        raise FileFormatError(f"{path}: holds neither config.json, transformer/config.json nor model.json; expected a Wan model's folder")
    return _from_file(path, heads)


def _wan() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel


def _from_diffusers(folder: Path) -> nn.Module:
    name = json.loads((folder / "config.json").read_text()).get("_class_name")
    if name != "WanTransformer3DModel":
        raise ModelMismatchError(f"{folder}: holds a {name}; expected a WanTransformer3DModel (Wan2.1, text to video)")
    try:
        model: nn.Module = _wan().from_pretrained(str(folder), torch_dtype=torch.float32)
    except (OSError, ValueError, RuntimeError) as error:
        raise FileFormatError(f"{folder}: the transformer does not load: {' '.join(str(error).split())[:400]}") from error
    return model.eval().requires_grad_(False)


def _from_file(path: Path, heads: int | None) -> nn.Module:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"{path}: cannot be read as safetensors: {error}; copy it again from where it came") from error
    config = json.loads(metadata["config"]) if "config" in metadata else _guess(path, tensors, heads)
    model: nn.Module = _wan()(**{k: v for k, v in config.items() if k not in ("_class_name", "text_len")})
    fill(model, tensors, str(path))
    return model.eval().requires_grad_(False)


def fill(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Copy tensors of any naming into the model; all weights, of the right shapes."""
    own = model.state_dict()
    found = names.find(own, tensors)
    missing = [name for name in own if name not in found]
    if missing:
        shown = ", ".join(names.original(name) for name in missing[:4])
        raise ModelMismatchError(f"{where}: lacks {len(missing)} weights ({shown}{', …' if len(missing) > 4 else ''}); expected a whole Wan transformer")  # fmt: skip
    for name, value in own.items():
        if tensors[found[name]].shape != value.shape:
            raise ModelMismatchError(f"{where}: {found[name]} has shape {list(tensors[found[name]].shape)}; expected {list(value.shape)}")
    model.load_state_dict({name: tensors[there].float() for name, there in found.items()})


def _guess(path: Path, tensors: dict[str, Tensor], heads: int | None) -> dict[str, Any]:
    """The configuration by the weights' shapes; heads cannot be seen in them."""
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    keys = ("patch_embedding.weight", "blocks.0.ffn.0.weight", "text_embedding.0.weight", "time_embedding.0.weight", "head.head.weight")
    diffusers = {
        "blocks.0.ffn.0.weight": "blocks.0.ffn.net.0.proj.weight",
        "text_embedding.0.weight": "condition_embedder.text_embedder.linear_1.weight",
        "time_embedding.0.weight": "condition_embedder.time_embedder.linear_1.weight",
        "head.head.weight": "proj_out.weight",
    }
    found = names.find([diffusers.get(key, key) for key in keys], tensors)
    if len(found) < len(keys):
        raise ModelMismatchError(f"{path}: is no Wan transformer: it lacks one of {', '.join(keys)}")
    patch, ffn, text, time, head = (shapes[found[diffusers.get(key, key)]] for key in keys)
    width = patch[0]
    layers = 1 + max(int(name.split("blocks.")[1].split(".")[0]) for name in tensors if "blocks." in name)
    if heads is None and width % _HEAD_DIM:
        raise ModelMismatchError(f"{path}: width {width} is no multiple of {_HEAD_DIM} channels; give model.heads")
    return {
        "patch_size": patch[2:], "num_attention_heads": heads or width // _HEAD_DIM, "attention_head_dim": width // (heads or width // _HEAD_DIM),
        "in_channels": patch[1], "out_channels": head[0] // math.prod(patch[2:]), "text_dim": text[1], "freq_dim": time[1],
        "ffn_dim": ffn[0], "num_layers": layers, "cross_attn_norm": any(".norm3." in n or ".norm2." in n for n in tensors),
        "qk_norm": "rms_norm_across_heads",
    }  # fmt: skip


def geometry(model: nn.Module) -> tuple[int, int, int]:
    """Layers, heads, head_dim."""
    config: Any = model.config
    return config.num_layers, config.num_attention_heads, config.attention_head_dim


def grid_of(model: nn.Module, latents: Tensor) -> tuple[int, int, int]:
    """Tokens as frames, height, width of latents [..., F, H, W]."""
    patch: Any = model.config.patch_size  # type: ignore[union-attr]
    f, h, w = (n // p for n, p in zip(latents.shape[-3:], patch, strict=True))
    return f, h, w


def velocity(model: nn.Module, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
    """The model's velocity at x [B,C,F,H,W], noise levels sigma [B], context [B,L,D]; float32."""
    out: Tensor = model(x, 1000 * sigma, context, return_dict=False)[0]
    return out.float()

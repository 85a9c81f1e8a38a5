# SPDX-License-Identifier: Apache-2.0
"""Write the trained parts as three safetensors files with Wan's original names, and read them back."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open
from torch import Tensor
from transformers import UMT5EncoderModel

from ..training import files
from ..training.names import original as dit_name
from . import dit_train, text, vae_train

LICENCE = "Apache-2.0"
_RESIDUAL = (
    (r"\.norm1\.", ".residual.0."),
    (r"\.conv1\.", ".residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
_VAE = (
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
)


def vae_name(name: str, res_blocks: int) -> str:
    """Return Wan's name of a diffusers VAE weight for ``res_blocks`` residual blocks per level."""
    if "resnets." in name or re.search(r"down_blocks\.\d+\.(norm|conv)", name):
        for pattern, new in _RESIDUAL:
            name = re.sub(pattern, new, name)
    for pattern, new in _VAE:
        name = re.sub(pattern, new, name)
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".middle.{2 * int(m[1])}.", name)
    name = name.replace(".down_blocks.", ".downsamples.")
    level = res_blocks + 2
    name = re.sub(r"\.up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f".upsamples.{int(m[1]) * level + int(m[2])}.", name)
    return re.sub(r"\.up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f".upsamples.{int(m[1]) * level + level - 1}.", name)


def _write(path: Path, tensors: dict[str, Tensor], config: dict, command: str) -> None:
    """Write one file; its metadata holds the configuration as a JSON string."""
    files.save(path, tensors, {"format": "pt", "config": json.dumps(config), "licence": LICENCE, "trained_by": command})
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size / 2**20:.2f} MiB")


def _halve(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return matrices and convolutions in bfloat16; norms, biases and what is not a number of a weight stay as they are."""
    wide = {k for k, v in tensors.items() if v.is_floating_point() and v.ndim >= 2 and v.numel() > max(v.shape)}
    return {k: v.bfloat16() if k in wide else v for k, v in tensors.items()}


def export(work: Path, out: Path, vae_file: str, dit_file: str, defaults: dict) -> None:
    """Write ``dit``, ``vae`` and ``text_encoder`` and ``model.json`` from the checkpoints' averages."""
    out.mkdir(parents=True, exist_ok=True)
    state = torch.load(work / dit_file, weights_only=False)
    config = {"_class_name": "WanTransformer3DModel", **state["config"], "text_len": text.TEXT_LEN}
    tensors = {dit_name(k): v for k, v in state["ema"]["shadow"].items()}
    half = {k: v.bfloat16() if k.startswith("blocks.") and k.endswith("weight") and v.ndim == 2 else v for k, v in tensors.items()}
    _write(out / "dit.safetensors", half, config, "python -m sla2.study.dit_train")

    vae = torch.load(work / vae_file, weights_only=False)
    config = {
        "_class_name": "AutoencoderKLWan",
        **vae["config"],
        "attn_scales": [],
        "dropout": 0.0,
        "latents_mean": state["mean"].flatten().tolist(),
        "latents_std": state["std"].flatten().tolist(),
    }
    blocks = vae["config"]["num_res_blocks"]
    _write(
        out / "vae.safetensors",
        _halve({vae_name(k, blocks): v for k, v in vae["ema"]["shadow"].items()}),
        config,
        "python -m sla2.study.vae_train",
    )

    words = torch.load(work / "text.pt", weights_only=False)
    model = text.build()
    model.load_state_dict(words["model"])
    tensors = _halve({k: v for k, v in model.state_dict().items() if "embed_tokens" not in k})
    tensors["spiece_model"] = torch.frombuffer(bytearray(words["spiece"]), dtype=torch.uint8)
    config = {**model.config.to_dict(), "architectures": ["UMT5EncoderModel"]}
    _write(out / "text_encoder.safetensors", tensors, config, "python -m sla2.study.text")

    (out / "model.json").write_text(
        json.dumps(
            {
                "format": "sla2.model",
                "version": 1,
                "name": "small-world",
                "family": "wan2.1",
                "dit": "dit.safetensors",
                "vae": "vae.safetensors",
                "text_encoder": "text_encoder.safetensors",
                "defaults": defaults,
            },
            indent=2,
        )
        + "\n"
    )


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Return tensors (floating ones in float32) and configuration of an exported file."""
    with safe_open(path, "pt") as file:
        tensors = {k: file.get_tensor(k) for k in file.keys()}
        config = json.loads(file.metadata()["config"])
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, config


def load_dit(folder: Path) -> WanTransformer3DModel:
    """Return the exported transformer in diffusers' form."""
    tensors, config = _read(folder / "dit.safetensors")
    model = dit_train.build({k: v for k, v in config.items() if k not in ("_class_name", "text_len")})
    model.load_state_dict({k: tensors[dit_name(k)] for k in model.state_dict()})
    return model.eval().requires_grad_(False)


def load_vae(folder: Path) -> AutoencoderKLWan:
    """Return the exported VAE in diffusers' form (whole-clip path)."""
    tensors, config = _read(folder / "vae.safetensors")
    model = vae_train.build({k: v for k, v in config.items() if k != "_class_name"})
    model.load_state_dict({k: tensors[vae_name(k, config["num_res_blocks"])] for k in model.state_dict()})
    return model.eval().requires_grad_(False)


def load_text(folder: Path) -> tuple[UMT5EncoderModel, bytes]:
    """Return the exported text encoder and its sentencepiece model."""
    tensors, _ = _read(folder / "text_encoder.safetensors")
    spiece = tensors.pop("spiece_model").numpy().tobytes()
    model = text.build()
    model.load_state_dict({**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"]})
    return model.eval().requires_grad_(False), spiece


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/study"), help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=Path("presets/models/small_world"))
    parser.add_argument("--vae", default="vae.pt", help="VAE checkpoint's file name")
    parser.add_argument("--dit", default="dit.pt", help="transformer checkpoint's file name")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--cfg-scale", type=float, default=2.0)
    parser.add_argument("--sampler", default="euler", choices=("euler", "unipc"))
    args = parser.parse_args()
    export(
        args.work,
        args.out,
        args.vae,
        args.dit,
        {
            "width": 128,
            "height": 128,
            "frames": 17,
            "min_tokens": 0,  # 320 tokens: a model that shows sparse attention, not one that it makes faster
            "fps": 8,
            "steps": args.steps,
            "cfg_scale": args.cfg_scale,
            "shift": dit_train.SHIFT,
            "sampler": args.sampler,
            "negative_prompt": "",
        },
    )


if __name__ == "__main__":
    main()

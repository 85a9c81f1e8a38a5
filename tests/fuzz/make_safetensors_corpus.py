# SPDX-License-Identifier: Apache-2.0
"""Remake tests/fuzz/corpus/safetensors: tiny files, one per corner of the format. Needs the standard library only."""

from __future__ import annotations

import json
import struct
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "corpus" / "safetensors"
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F64": 8, "I8": 1, "U8": 1, "I16": 2, "I32": 4, "I64": 8, "BOOL": 1}


def safetensors(tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for extent in shape:
            size *= extent
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(i % 120 for i in range(at))


def linear(name: str, out: int, columns: int, dtype: str = "F32") -> dict[str, tuple[str, list[int]]]:
    return {f"{name}.weight": (dtype, [out, columns]), f"{name}.bias": (dtype, [out])}


DIT = {"head.modulation": ("F32", [1, 2, 4]), "blocks.0.modulation": ("F32", [1, 6, 4]), "blocks.0.cross_attn.k_img.weight": ("F32", [1])}
SEEDS = {
    "empty": b"",
    "no_tensors": safetensors({}),
    "every_type": safetensors({f"t{i}": (dtype, [2, 3]) for i, dtype in enumerate(SIZES)}, {"format": "pt"}),
    "scalar_and_nothing": safetensors({"s": ("F32", []), "n": ("BF16", [0, 7])}),
    "scaled": safetensors({"a.weight": ("F8_E4M3", [3, 2]), "a.weight_scale": ("F32", [3, 1]), "scaled_fp8": ("F8_E4M3", [2])}),
    "nvfp4": safetensors({"a.weight": ("U8", [3, 2]), "a.weight_scale_2": ("F32", [])}),
    "dit": safetensors({**DIT, **linear("time_projection.1", 24, 4), **linear("head.head", 64, 4, "BF16")}, {"config": '{"eps":1e-6}'}),
    "dit_comfy": safetensors({f"model.diffusion_model.{k}": v for k, v in {**DIT, **linear("time_projection.1", 1, 1)}.items()}),
    "dit_diffusers": safetensors(
        {
            "scale_shift_table": ("F16", [1, 2, 4]),
            "condition_embedder.time_proj.weight": ("F16", [1]),
            "blocks.0.attn2.to_out.0.bias": ("F16", [4]),
        }
    ),
    "vae": safetensors(
        {
            "decoder.mid_block.resnets.0.norm1.gamma": ("F32", [2, 1, 1, 1]),
            "decoder.norm_out.gamma": ("F32", [2, 1, 1, 1]),
            "decoder.up_blocks.1.resnets.2.conv1.weight": ("F32", [1]),
            "decoder.up_blocks.0.upsamplers.0.time_conv.bias": ("F32", [1]),
        }
    ),
    "umt5": safetensors(
        {
            "token_embedding.weight": ("BF16", [4, 2]),
            "blocks.0.pos_embedding.embedding.weight": ("BF16", [2, 2]),
            "spiece_model": ("U8", [3]),
        }
    ),
    "lora": safetensors({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": ("F32", [2, 2])}),
    "latent": safetensors({"latent": ("F32", [1])}, {"format": "sla2.latent"}),
    "header_only": b'{"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"__metadata__":{"k":"v"}}',
    "zip": b"PK\x03\x04........",
    "length_too_long": struct.pack("<Q", 1 << 40) + b"{}",
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()

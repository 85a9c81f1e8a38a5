# SPDX-License-Identifier: Apache-2.0
"""Remake tests/fuzz/corpus/router_pack: tiny packs, one per corner of libsla2/docs/router_pack.md. Standard library only."""

from __future__ import annotations

from pathlib import Path

from make_safetensors_corpus import safetensors

FOLDER = Path(__file__).resolve().parent / "corpus" / "router_pack"
BASE = {
    "format": "libsla2.router_pack",
    "version": "1",
    "layers": "2",
    "heads": "2",
    "head_dim": "32",
    "block_q": "32",
    "block_k": "16",
    "kappa": "0.1",
    "base_shapes": "a" * 64,
}
HEAD = "blocks.1.self_attn.sla2."


def pack(tensors: dict[str, tuple[str, list[int]]], **metadata: str) -> bytes:
    return safetensors({HEAD + name: value for name, value in tensors.items()}, {**BASE, **metadata})


SEEDS = {
    "plain": pack({"alpha": ("F32", [2, 2])}),
    "kappas": pack({"alpha.k1000": ("F16", [2, 2]), "alpha.k0500": ("BF16", [2, 2])}, kappa="0.1,0.05"),
    "block": pack({"alpha": ("F16", [2, 2])}, alpha_mode="block", grid="2x4x5"),
    "scalar": pack({"alpha": ("F32", [2])}, alpha_mode="head_scalar", schedule="layers 0: full", errors='{"a":[1]}'),
    "const": pack({}, alpha_mode="const", token_order="tile:4x4x4", smooth_k="0", bits="8", stage="2"),
    "router": pack({"proj_q": ("F16", [1, 32, 32]), "proj_k": ("F16", [1, 32, 32])}, router="sparge"),
    "low_rank": pack({f"proj_{w}.{p}": ("BF16", [2, 1, 32] if p == "down" else [2, 32, 1]) for w in "qk" for p in ("down", "up")}),
    "sla1": pack({"proj_l.weight": ("F16", [32, 32]), "proj_l.bias": ("F32", [32])}, mode="sla1", linear_scope="global"),
    "linear_only": pack({}, mode="linear_only", base="tiny", requires="b" * 64),
    "newer": pack({}, version="2"),
    "unknown_name": pack({"beta": ("F32", [1])}),
    "rank_0": pack({"proj_q.down": ("F32", [1, 0, 32]), "proj_q.up": ("F32", [1, 32, 0])}),
}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, data in SEEDS.items():
        (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()

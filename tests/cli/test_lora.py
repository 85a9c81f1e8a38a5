# SPDX-License-Identifier: Apache-2.0
"""LoRA files at the command line: a clip made with one is repeated with the same one, or says so."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

NOT_FOUND = 3


def write_lora(path, strength: float):
    save_file({"diffusion_model.blocks.0.self_attn.q.diff_b": torch.full((64,), strength)}, path)
    return path


def test_repeat_from_a_clip(sla2, generate, tmp_path):
    lora, clip = write_lora(tmp_path / "a.safetensors", 2), tmp_path / "a.gif"
    generate("--lora", f"{lora}@0.5", "-o", clip)
    sla2("generate", "--from", clip, "-o", tmp_path / "b.gif")
    assert clip.read_bytes() == (tmp_path / "b.gif").read_bytes()
    generate("-o", tmp_path / "plain.gif")
    assert clip.read_bytes() != (tmp_path / "plain.gif").read_bytes()
    write_lora(lora, 3)
    again = sla2("generate", "--from", clip, "-o", tmp_path / "c.gif").stderr
    assert "WARNING" in again and str(lora) in again
    assert clip.read_bytes() != (tmp_path / "c.gif").read_bytes()
    assert "WARNING" not in sla2("generate", "--from", clip, "--lora", f"{lora}@0.5", "-o", tmp_path / "c.gif").stderr
    lora.unlink()
    assert lora.name in sla2("generate", "--from", clip, "-o", tmp_path / "d.gif", code=NOT_FOUND).stderr

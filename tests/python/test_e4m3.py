# SPDX-License-Identifier: Apache-2.0
"""fp32 to FP8 e4m3 and back, against PyTorch's float8_e4m3fn."""

from __future__ import annotations

import torch
from safetensors.torch import load_file, save_file


def test_every_code_and_every_step(run_probe, tmp_path):
    # Rounding changes only at numbers of few mantissa bits: with every upper half of an fp32 number, itself and its neighbours
    # on both sides, all of these and their surroundings are there.
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    bits = torch.cat([upper + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    x = torch.where(bits < 1 << 31, bits, bits - (1 << 32)).to(torch.int32).view(torch.float32)
    save_file({"x": x}, tmp_path / "in.safetensors")
    run_probe("attend_kernels", "e4m3", tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    out = load_file(tmp_path / "out.safetensors")
    expected = x.to(torch.float8_e4m3fn).view(torch.uint8)
    large = x.abs() > 464  # older versions of PyTorch give NaN here, newer ones and GPUs (satfinite) the largest number
    expected = torch.where(large, torch.where(x > 0, 0x7E, 0xFE).to(torch.uint8), expected)
    wrong = (out["code"].to(torch.uint8) != expected).nonzero().flatten()
    assert len(wrong) == 0, [(x[i].item(), hex(int(out["code"][i])), hex(expected[i])) for i in wrong[:8]]
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    assert torch.equal(out["value"].isnan(), values.isnan())
    assert torch.equal(out["value"].nan_to_num(), values.nan_to_num())

# SPDX-License-Identifier: Apache-2.0
"""Every example printed in libsla2/docs/python.md runs, in order, with a small pipeline in the place of the great one."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
import torch
from conftest import ROOT, need_package

sla2 = need_package()
diffusers = pytest.importorskip("diffusers")
from sla2.calibration import cli  # noqa: E402
from test_diffusers import make_pack, make_pipe, make_transformer, parts  # noqa: E402, F401
from test_packs import sla1_state  # noqa: E402

PAGE = (ROOT / "libsla2/docs/python.md").read_text(encoding="utf-8")
SMALL = "num_frames=9, height=96, width=96, num_inference_steps=2, max_sequence_length=16, output_type='latent'"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run_as_printed(parts, tmp_path, monkeypatch, capsys):  # noqa: F811
    pipe = make_pipe(parts, make_transformer())
    pack, _ = make_pack(pipe.transformer, tmp_path, errors={"sparsity": {}})
    pack.save(tmp_path / "wan-1.3b.sla2.safetensors")
    torch.save({name: torch.from_numpy(x) for name, x in sla1_state("turbo").items()}, tmp_path / "TurboWan2.1-T2V-1.3B-480P.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diffusers.WanPipeline, "from_pretrained", lambda *_, **__: pipe)
    q, k, v = (np.random.default_rng(0).standard_normal((1, 2, 100, 32)).astype(np.float32) for _ in range(3))
    names = {"q": q, "k": k, "v": v, "sla2": sla2}
    for block in blocks("python"):
        exec(compile(block.replace("num_frames=81", SMALL), "python.md", "exec"), names)
    assert "blocks.2.attn1" in capsys.readouterr().out and names["out"].shape == q.shape
    assert sla2.RouterPack.load("mine.sla2.safetensors").base == "wan2.1-t2v-1.3b"
    (line,) = re.findall(r"`(sla2\.load_sla1.*?)`", PAGE)
    eval(line, names)
    assert sla2.RouterPack.load("turbo.sla2.safetensors").mode == "sla1"


def test_the_command_runs_as_printed(tmp_path, monkeypatch):
    (block,) = blocks("sh")
    program, *arguments = shlex.split(block)
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert program == "sla2-calibrate" and cli.main([*arguments, "--frames", "5", "--threads", "1"]) == 0
    assert sla2.RouterPack.load("small_world.sla2.safetensors").base == "small-world"


def test_every_keyword_of_apply_is_on_the_page():
    import inspect

    import sla2.diffusers

    for name in inspect.signature(sla2.diffusers.apply).parameters:
        assert name in ("pipe", "threads") or f"`{name}`" in PAGE, name

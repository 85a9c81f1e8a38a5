# SPDX-License-Identifier: Apache-2.0
"""docs/training.md: the reference is what the schema prints, and the example runs as printed."""

from __future__ import annotations

import json
import re
import shlex
import sys

import torch
from conftest import ROOT
from sla2 import RouterPack
from sla2.study import shards
from sla2.training import cli, schema

PAGE = (ROOT / "libsla2" / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_reference_is_up_to_date():
    printed = re.search(r"<!-- reference: begin -->\n(.*)<!-- reference: end -->", PAGE, re.DOTALL)
    assert printed and printed[1] == schema.reference(), "put the output of `sla2-train reference` between the two marks"


def test_the_example_runs_as_printed(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    (tmp_path / "build" / "train").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    example = PAGE[PAGE.index("## Example") : PAGE.index("## Data")]
    (text,) = re.findall(r"```yaml\n(.*?)```", example, re.DOTALL)
    (tmp_path / "build" / "train" / "small_world.yaml").write_text(text)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", example, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 4
    for line in commands:  # in this process: starting torch four times takes longer than the example
        words = shlex.split(line)
        if words[:3] == ["python", "-m", "sla2.study.shards"]:
            monkeypatch.setattr(sys, "argv", words[2:])
            shards.main()
        else:
            assert words[0] == "sla2-train" and cli.main(words[1:]) == 0, line
    out = tmp_path / "build" / "train" / "run"
    assert RouterPack.load(out / "router.sla2.safetensors").layers == 5
    assert json.loads((out / "result.json").read_text())["step"] == 2
    assert len(list((out / "export").glob("small-world.*.safetensors"))) == 6

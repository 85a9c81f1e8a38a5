# SPDX-License-Identifier: Apache-2.0
"""Stopped runs go on: kill -9, Ctrl-C, SIGTERM, an output that fails. The frames are those of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from conftest import leftovers

STEPS = 40
PROMPT = "a blue bird moves left in the city at night, snow"


@pytest.fixture(scope="module")
def whole(sla2, tiny_model, tmp_path_factory):
    """Frames of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "png"
    sla2("generate", "-m", tiny_model, "-p", PROMPT, "--steps", STEPS, "-o", folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_at(tool, environment, arguments, step: int, sent: int) -> tuple[int, str]:
    """Start a run and send a signal when that step is done. Exit code and the resume command of the error event."""
    command = [str(tool), *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        resume = ""
        for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "progress" and event["phase"] == "sample" and event["step"] == step:
                os.kill(process.pid, sent)
            if event["type"] == "error":
                resume = event["resume"]
        return process.wait(60), resume


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("step", [1, STEPS // 2])
def test_stop_and_resume(tool, environment, sla2, tiny_model, tmp_path, whole, sent, code, step):
    out = tmp_path / "png"
    got, command = stop_at(tool, environment, ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", STEPS, "-o", out], step, sent)
    assert got == code
    assert not out.exists()
    checkpoint = tmp_path / "png.sla2ckpt"
    assert checkpoint.is_file()
    if sent != signal.SIGKILL:
        assert command == f"sla2 resume {checkpoint}"
    else:  # as if killed while it wrote the next one
        (tmp_path / ".png.sla2ckpt.part").write_bytes(b"half of it")
    sla2("resume", checkpoint)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert leftovers(tmp_path) == ["png"]


def test_resume_of_8_bit_linears(tool, environment, sla2, tiny_model, tmp_path):
    run = ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", 12, "--linear-bits", 8, "-o"]
    sla2(*run, tmp_path / "whole")
    code, _ = stop_at(tool, environment, [*run, tmp_path / "png", "--threads", 1], 5, signal.SIGINT)
    assert code == 130
    sla2("resume", next(tmp_path.glob("*.sla2ckpt")), "--threads", 2)
    for frame in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "png" / frame.name).read_bytes() == frame.read_bytes()


def test_resume_of_a_sparse_run(tool, environment, sla2, tiny_model, tmp_path):
    """Also the metadata of the first frame, which tells the sparsity of the whole run."""
    run = ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", STEPS, "--width", 128, "--height", 128, "--frames", 1]
    run += ["--sparsity", 0.6, "--router", "vmoba", "--block-q", 32, "--block-k", 16]
    run += ["--attention-schedule", "steps 0-1: full", "--token-order", "tiles", "-o"]
    sla2(*run, tmp_path / "whole")
    code, _ = stop_at(tool, environment, [*run, tmp_path / "png"], 5, signal.SIGINT)
    assert code == 130
    sla2("resume", tmp_path / "png.sla2ckpt", "--report", tmp_path / "r.json")
    for frame in sorted((tmp_path / "whole").iterdir()):
        assert (tmp_path / "png" / frame.name).read_bytes() == frame.read_bytes()
    told = json.loads((tmp_path / "r.json").read_text())["attention"]
    assert (told["router"], told["forwards"], told["sparse_forwards"]) == ("vmoba", STEPS * 2 * 2, (STEPS - 2) * 2 * 2)


def test_another_instruction_set_is_told(tool, environment, sla2, tiny_model, tmp_path):
    command = ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", 12, "-o", tmp_path / "a.gif"]
    stop_at(tool, environment, command, 5, signal.SIGINT)
    lower = {**environment, "SLA2_ISA": "scalar"}
    said = sla2("resume", tmp_path / "a.gif.sla2ckpt", env=lower, timeout=300).stderr
    assert "WARNING" in said and "isa was" in said and "scalar" in said
    stop_at(tool, environment, command, 5, signal.SIGINT)
    assert "WARNING" not in sla2("resume", tmp_path / "a.gif.sla2ckpt").stderr


def test_resume_to_another_output(tool, environment, sla2, tiny_model, tmp_path, whole):
    stop_at(tool, environment, ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", STEPS, "-o", tmp_path / "a.mp4"], 5, signal.SIGKILL)
    (tmp_path / "a.mp4.sla2ckpt.json").unlink()
    assert "-o" in sla2("resume", tmp_path / "a.mp4.sla2ckpt", code=2).stderr
    sla2("resume", tmp_path / "a.mp4.sla2ckpt", "-o", tmp_path / "png", "--threads", 1, "--keep-checkpoint")
    assert {path.name: path.read_bytes() for path in (tmp_path / "png").iterdir()} == whole
    assert (tmp_path / "a.mp4.sla2ckpt").is_file()
    assert "checkpoint" in sla2("info", tmp_path / "a.mp4.sla2ckpt").stdout


def test_a_failed_output_can_be_resumed(tool, environment, sla2, tiny_model, tmp_path):
    """The final name turns into a folder while the run works, so the last rename fails; the work is not lost."""
    out = tmp_path / "a.gif"
    command = [str(tool), "generate", "-m", str(tiny_model), "-p", PROMPT, "--steps", str(STEPS), "-o", str(out), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "progress" and event["phase"] == "sample" and not out.exists():
                out.mkdir()
        assert process.wait(60) == 5
    assert event["type"] == "error" and event["resume"] == f"sla2 resume {out}.sla2ckpt"
    out.rmdir()
    sla2("resume", f"{out}.sla2ckpt")
    assert leftovers(tmp_path) == ["a.gif"]


def test_damaged_checkpoint(tool, environment, sla2, tiny_model, tmp_path):
    stop_at(tool, environment, ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", STEPS, "-o", tmp_path / "a.mp4"], 5, signal.SIGINT)
    checkpoint = tmp_path / "a.mp4.sla2ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    assert "a.mp4.sla2ckpt" in sla2("resume", checkpoint, code=6).stderr
    assert not (tmp_path / "a.mp4").exists()


def test_other_weights_are_refused(tool, environment, sla2, tiny_model, tmp_path):
    from make_tiny_model import make_tiny_model

    stop_at(tool, environment, ["generate", "-m", tiny_model, "-p", PROMPT, "--steps", STEPS, "-o", tmp_path / "a.mp4"], 5, signal.SIGINT)
    other = make_tiny_model(tmp_path / "other", seed=1)
    sla2("resume", tmp_path / "a.mp4.sla2ckpt", "-m", other, code=8)

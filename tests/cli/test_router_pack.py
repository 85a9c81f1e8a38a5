# SPDX-License-Identifier: Apache-2.0
"""Router packs at the command line: what a user reads when one does not fit, and that clips made with one can be repeated and
resumed."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest
from conftest import leftovers
from make_pack import random_tensors, write_pack

USAGE, NOT_FOUND, FORMAT, MISMATCH, UNSUPPORTED = 2, 3, 6, 8, 9


@pytest.fixture()
def pack(tiny_model, tmp_path):
    return write_pack(tmp_path / "a.sla2.safetensors", tiny_model, random_tensors([0, 1]), block_q="32", block_k="16", kappa="0.5")


@pytest.fixture()
def refused(generate, tmp_path):
    """refused(code, pack, *arguments): the message of a run that must not begin."""

    def run(code: int, pack, *arguments) -> str:
        done = generate("--pack", pack, "-o", tmp_path / "no.gif", *arguments, code=code)
        assert "terminate" not in done.stderr and not (tmp_path / "no.gif").exists()
        return done.stderr

    return run


def test_info(sla2, pack):
    text = sla2("info", pack).stdout
    for word in ("router pack", "mode sla2", "kappa 0.5", "stage 0", "tiny_random", "2 layers and 2 heads of 32", "relative_l1"):
        assert word in text, text
    told = json.loads(sla2("info", "--json", pack).stdout)
    assert told["kind"] == "router" and told["sizes"]["block_k"] == 16 and told["errors"] == {"relative_l1": 0.125}


def test_missing_corrupt_and_foreign(refused, pack, tiny_model, tmp_path):
    assert "nothing.safetensors" in refused(NOT_FOUND, tmp_path / "nothing.safetensors")
    assert "expected a router pack" in refused(FORMAT, tiny_model / "dit.safetensors")
    pickle = tmp_path / "weights.pth"
    pickle.write_bytes(b"PK\x03\x04" + bytes(64))
    assert "load_sla1" in refused(FORMAT, pickle)
    data = pack.read_bytes()
    pack.write_bytes(data[: len(data) // 2])
    assert "incomplete" in refused(FORMAT, pack)
    pack.write_bytes(b"\xff" * 6 + data[6:])
    assert "a.sla2.safetensors" in refused(FORMAT, pack)


def test_another_model(refused, tiny_model, tmp_path):
    path = tmp_path / "a.sla2.safetensors"
    text = refused(MISMATCH, write_pack(path, tiny_model, {}, layers=30, heads=12, head_dim=128))
    assert "30 layers, 12 heads of 128" in text and "2 layers, 2 heads of 32" in text
    assert "shapes" in refused(MISMATCH, write_pack(path, tiny_model, {}, base_shapes="ab" * 32))
    grid = write_pack(path, tiny_model, random_tensors([0], alpha_mode="block", blocks=6), alpha_mode="block", grid="4x6x8")
    assert "frames = 13, height = 96, width = 128" in refused(MISMATCH, grid)


def test_numbers_that_are_none(refused, tiny_model, tmp_path):
    tensors = random_tensors([0, 1])
    tensors["blocks.1.self_attn.sla2.alpha"][0, 1] = float("nan")
    text = refused(FORMAT, write_pack(tmp_path / "a.sla2.safetensors", tiny_model, tensors))
    assert "NaN" in text and "blocks.1.self_attn.sla2.alpha" in text


def test_versions_and_what_this_one_cannot_compute(refused, tiny_model, tmp_path):
    path = tmp_path / "a.sla2.safetensors"
    assert "newer" in refused(UNSUPPORTED, write_pack(path, tiny_model, {}, version=2))
    assert "phi" in refused(UNSUPPORTED, write_pack(path, tiny_model, {}, phi="relu"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--block-q", "64"), "block_q = 64 contradicts the router pack"),
        (("--block-k", "64"), "made for 16"),
        (("--mode", "sla1"), "attention = sla1"),
        (("--attention", "full"), "attention = full"),
        (("--token-order", "hilbert"), "made for raster"),
        (("--attention-schedule", "layers 0: sparse_only"), "sparse_only"),
    ],
)
def test_settings_that_contradict(refused, pack, flags, words):
    assert words in refused(USAGE, pack, *flags)


@pytest.mark.parametrize("flags", [("--block-q", "32"), ("--mode", "full", "--attention-schedule", "layers 1: sla2"), ("--bits", "8")])
def test_settings_that_agree(generate, pack, tmp_path, flags):
    report = tmp_path / "report.json"
    generate("--pack", pack, "-o", tmp_path / "a.gif", "--report", report, *flags)
    assert json.loads(report.read_text())["pack"]["name"] == pack.name


def test_other_weights_are_a_warning(generate, tiny_model, tmp_path):
    for stage, word in ((1, "fine-tune"), (2, "WARNING")):
        pack = write_pack(tmp_path / f"{stage}.safetensors", tiny_model, random_tensors([0]), base_weights="cd" * 32, stage=stage)
        report = tmp_path / "report.json"
        assert word in generate("--pack", pack, "-o", tmp_path / "a.gif", "--report", report).stderr
        assert any(word in warning for warning in json.loads(report.read_text())["pack"]["warnings"])


def test_repeat_from_a_clip(sla2, generate, pack, tiny_model, tmp_path):
    generate("--pack", pack, "-o", tmp_path / "a.gif")
    sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "b.gif")
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    generate("-o", tmp_path / "plain.gif")
    assert (tmp_path / "a.gif").read_bytes() != (tmp_path / "plain.gif").read_bytes()
    write_pack(pack, tiny_model, random_tensors([0, 1], seed=7), kappa="0.5")
    changed = sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "c.gif", code=MISMATCH).stderr
    assert "was changed" in changed and "--pack" in changed
    sla2("generate", "--from", tmp_path / "a.gif", "--pack", pack, "-o", tmp_path / "c.gif")
    pack.unlink()
    assert pack.name in sla2("generate", "--from", tmp_path / "a.gif", "-o", tmp_path / "d.gif", code=NOT_FOUND).stderr


def test_stop_and_resume(tool, environment, sla2, generate, pack, tmp_path):
    generate("--pack", pack, "-o", tmp_path / "first.gif")
    arguments = ["generate", "-p", "a ball", "--steps", "40", "--from", tmp_path / "first.gif", "-o"]
    sla2(*arguments, tmp_path / "whole")
    command = [str(tool), *map(str, arguments), str(tmp_path / "part"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "progress" and event["phase"] == "sample" and event["step"] == 20:
                process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    checkpoint = tmp_path / "part.sla2ckpt"
    moved = pack.rename(tmp_path / "moved.safetensors")
    told = sla2("resume", checkpoint, code=NOT_FOUND).stderr
    assert pack.name in told and "--pack" in told
    sla2("resume", checkpoint, "--pack", moved)
    frames = [sorted((tmp_path / name).iterdir()) for name in ("part", "whole")]
    assert len(frames[0]) == 9
    for part, whole in list(zip(*frames, strict=True))[1:]:  # the first one's comment names the pack's new place
        assert part.read_bytes() == whole.read_bytes()
    assert leftovers(tmp_path) == ["first.gif", "moved.safetensors", "part", "whole"]


def test_a_preset_names_a_pack_beside_it(sla2, tiny_model, pack, tmp_path):
    preset = tmp_path / "own.json"
    params = {"pack": pack.name, "steps": 2, "model": str(tiny_model), "min_tokens": 1000}
    preset.write_text(json.dumps({"name": "own", "description": "with a pack", "params": params}))
    report = tmp_path / "report.json"
    sla2("generate", "--preset", preset, "-p", "a ball", "-o", tmp_path / "a.gif", "--report", report)
    told = json.loads(report.read_text())
    assert told["pack"]["path"] == str(pack) and told["layers"][0]["sparse_forwards"] == 0
